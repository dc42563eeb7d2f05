"""What a training begins with when it begins with a trained model: more classes for it, or another task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import atlas
from atlas.errors import SpecError
from atlas.model.class_vectors import FixedVectors, LearnedVectors
from atlas.train.compatible import check_corpus
from atlas.train.embed import embeddings_of
from atlas.train.extend import Distillation, extended_network, finetuned_network, freeze_known
from atlas.train.run import CorpusRecord, RunDescription
from atlas.train.start import Start, check_patch, trained_classes

if TYPE_CHECKING:
    from atlas.corpus import Corpus
    from atlas.model.embeddings import ClassEmbeddings
    from atlas.spec.training import TrainingRecipe
    from atlas.train.run import Trained


def extended_start(trained: Trained, recipe: TrainingRecipe, corpus: Corpus) -> Start:
    """A trained model with the classes of a recipe that it does not have behind its own.

    Parameters
    ----------
    trained
        What is extended.
    recipe
        Whose classes (None: all that are available in its selection) are added, and how: see `ExtendSpec`. Network,
        embeddings and window are those of the trained model.
    corpus
        To train on. The classes that the model has need not be available in it.

    Raises
    ------
    SpecError
        If there is no class to add, or recipe, model and corpus do not fit each other.
    """
    _check(trained, recipe, corpus)
    names = tuple(name for name in trained_classes(recipe, corpus) if name not in trained.classes)
    if not names:
        raise SpecError(
            f"{trained.folder} has all classes of the recipe {recipe.name}, there is nothing to add; fine-tune it "
            "(--finetune) to train it further"
        )
    if recipe.embeddings.kind == "one-hot":
        raise SpecError(f"{trained.folder}: one-hot vectors have no room for more classes; fine-tune it (--finetune)")
    added = embeddings_of(recipe.embeddings, corpus.taxonomy, names)
    network = extended_network(trained, names, added, own_head=recipe.extend.own_head)
    teacher = None
    if recipe.extend.keep == "freeze":
        freeze_known(network)
    else:
        teacher = Distillation(trained.network, recipe.extend.weight)
    vectors = network.vectors
    description = _description(trained, recipe, corpus, vectors.names, network.counts)
    return Start(description, network, _given(vectors), teacher)


def finetuned_start(trained: Trained, recipe: TrainingRecipe, corpus: Corpus) -> Start:
    """A network for the classes of a recipe that begins with the weights of a trained model.

    Parameters
    ----------
    trained
        What to begin with.
    recipe
        Of the new task; its network and window are those of the trained model. A class that both have keeps its
        vector.
    corpus
        To train on.

    Raises
    ------
    SpecError
        If recipe, model and corpus do not fit each other.
    """
    _check(trained, recipe, corpus)
    classes = trained_classes(recipe, corpus)
    embeddings = embeddings_of(recipe.embeddings, corpus.taxonomy, classes)
    vectors = LearnedVectors(classes) if embeddings is None else FixedVectors(embeddings)
    network = finetuned_network(trained, vectors)
    description = _description(trained, recipe, corpus, classes, network.counts)
    return Start(description, network, embeddings)


def _given(vectors: FixedVectors | LearnedVectors) -> ClassEmbeddings | None:
    return vectors.embeddings if isinstance(vectors, FixedVectors) else None


def _check(trained: Trained, recipe: TrainingRecipe, corpus: Corpus) -> None:
    check_patch(recipe)
    check_corpus(trained, corpus)
    known = trained.description.recipe
    for name, before, now in (
        ("model.backbone", known.model.backbone, recipe.model.backbone),
        ("model.deep_supervision", known.model.deep_supervision, recipe.model.deep_supervision),
        ("embeddings", known.embeddings, recipe.embeddings),
        ("data.window", known.data.window, recipe.data.window),
    ):
        if before != now:
            raise SpecError(
                f"{name}: the recipe {recipe.name} has {now}, the trained model {trained.folder} {before}; the two "
                "must be the same to begin with its weights"
            )
    if recipe.model.weights is not None:
        raise SpecError("model.weights: the weights come from the trained model; leave the entry out")


def _description(
    trained: Trained, recipe: TrainingRecipe, corpus: Corpus, classes: tuple[str, ...], heads: tuple[int, ...]
) -> RunDescription:
    return RunDescription(
        version=atlas.__version__,
        recipe=recipe,
        classes=classes,
        heads=heads,
        taxonomy=corpus.taxonomy,
        corpus=CorpusRecord.of(corpus),
        parent=trained.digest,
    )
