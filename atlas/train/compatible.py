"""Whether a model and a corpus speak of the same grid and the same classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.corpus import Corpus
    from atlas.train.run import Trained

SAME_MM = 1e-6


def check_corpus(trained: Trained, corpus: Corpus, classes: Sequence[str] | None = None) -> None:
    """See that a model and a corpus speak of the same grid and the same classes.

    Parameters
    ----------
    trained, corpus
        Which.
    classes
        Of the model, that the corpus must have; None: all.

    Raises
    ------
    CorpusError
        If they do not. Names both.
    """
    spacing, own = corpus.recipe.grid.spacing, trained.description.corpus.spacing
    if abs(spacing - own) > SAME_MM:
        raise CorpusError(
            f"{corpus.location}: its grid is {spacing:g} mm, that of the model in {trained.folder} is {own:g} mm; "
            "build a corpus on the model's grid (grid: spacing: of the recipe)"
        )
    classes = trained.classes if classes is None else classes
    ours, theirs = trained.description.taxonomy, corpus.taxonomy
    if missing := [name for name in classes if name not in theirs.by_name]:
        raise CorpusError(
            f"{corpus.location}: its taxonomy does not have {', '.join(missing)}, which the model in "
            f"{trained.folder} predicts; build the corpus with the taxonomy that the model was trained with"
        )
    if moved := [name for name in classes if ours.bit(name) != theirs.bit(name)]:
        raise CorpusError(
            f"{corpus.location}: {', '.join(moved)}: another bit than in the taxonomy of the model in "
            f"{trained.folder}; bits never change, so one of the two taxonomies is not to be trusted"
        )
