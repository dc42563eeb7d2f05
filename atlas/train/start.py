"""What a training begins with: classes, their vectors, and a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import atlas
from atlas.errors import SpecError
from atlas.model.backbones import build_backbone
from atlas.model.backbones.pretrained import load_pretrained
from atlas.stream.run import annotated, patch_shape
from atlas.stream.select import select
from atlas.train.embed import embeddings_of
from atlas.train.run import CorpusRecord, RunDescription, network_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.corpus import Corpus
    from atlas.model.embeddings import ClassEmbeddings
    from atlas.model.network import UniversalNetwork
    from atlas.spec.training import TrainingRecipe
    from atlas.train.extend import Distillation


@dataclass(frozen=True, eq=False)
class Start:
    """A network to train, on the host.

    Attributes
    ----------
    description
        Of the run that is begun. What it says of the patches of the corpus is filled in by `atlas.train.loop.train`.
    network
        With its first weights. Parameters that are not to change do not require a gradient.
    embeddings
        Vectors of the classes; None: they are learned.
    teacher
        A model whose classes the network is to keep; None: it learns from labels alone.
    notes
        What the user should know.
    """

    description: RunDescription
    network: UniversalNetwork
    embeddings: ClassEmbeddings | None
    teacher: Distillation | None = None
    notes: tuple[str, ...] = ()


def fresh_start(recipe: TrainingRecipe, corpus: Corpus) -> Start:
    """The network of a recipe, with weights drawn by its seed.

    Parameters
    ----------
    recipe
        What to train.
    corpus
        Whose cases and taxonomy.

    Raises
    ------
    SpecError
        If the patch does not suit the network, or a class is not in the corpus or available in none of the cases.
    """
    check_patch(recipe)
    classes = trained_classes(recipe, corpus)
    embeddings = embeddings_of(recipe.embeddings, corpus.taxonomy, classes)
    description = RunDescription(
        version=atlas.__version__,
        recipe=recipe,
        classes=classes,
        heads=(len(classes),),
        taxonomy=corpus.taxonomy,
        corpus=CorpusRecord.of(corpus),
    )
    return first(description, embeddings)


def first(description: RunDescription, embeddings: ClassEmbeddings | None) -> Start:
    """The network of a run before any training: weights drawn by its seed, then those of a file where it has one.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or of another network.
    """
    recipe, notes = description.recipe, []
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(recipe.seed)
        network = network_of(description, embeddings)
    if recipe.model.weights is not None:
        loaded = load_pretrained(network.backbone, Path(recipe.model.weights))
        found = f"{recipe.model.weights}: {len(loaded.loaded)} tensors of the backbone begin with its weights"
        notes.append(f"{found}, {len(loaded.missing)} others are drawn" if loaded.missing else found)
    return Start(description, network, embeddings, notes=tuple(notes))


def check_patch(recipe: TrainingRecipe) -> None:
    """Raise SpecError if the sides of a patch are not multiples of what the backbone wants."""
    with torch.random.fork_rng(devices=()):
        divisor = build_backbone(recipe.model.backbone, recipe.model.deep_supervision).divisor
    patch = recipe.data.patch
    sides = patch_shape(patch)
    if any(side % divisor for side in sides):
        near = tuple(max(divisor, round(side / divisor) * divisor) for side in sides)
        raise SpecError(
            f"data.patch {patch}: the sides must be multiples of {divisor} for the backbone "
            f"{recipe.model.backbone.kind}, as in {near[0] if len(set(near)) == 1 else list(near)}"
        )


def trained_classes(recipe: TrainingRecipe, corpus: Corpus) -> tuple[str, ...]:
    """Channels of the model: those of the recipe, else all that are available in any case of the selection.

    Raises
    ------
    SpecError
        If a class of the recipe is not in the corpus's taxonomy, or available in no case of the selection.
    """
    if recipe.classes is not None:
        _check_names(recipe.classes, corpus)
    data = recipe.data
    index = select(corpus, split=data.split, datasets=data.datasets, where=data.where, provenance=data.provenance)
    available = annotated(index, corpus.taxonomy.names)
    if recipe.classes is None:
        return available
    if missing := [name for name in recipe.classes if name not in available]:
        raise SpecError(
            f"classes: {', '.join(missing)} available in none of the {len(index)} cases that the recipe selects; "
            f"available are: {', '.join(available)}"
        )
    return recipe.classes


def _check_names(classes: Sequence[str], corpus: Corpus) -> None:
    if not classes:
        raise SpecError("classes: an empty list; name some, or leave the entry out for all that are available")
    for name in classes:
        try:
            corpus.taxonomy.bit(name)
        except SpecError as error:
            raise SpecError(f"classes: {error}, which is that of {corpus.location}") from None
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise SpecError(f"classes: named more than once: {', '.join(twice)}")
