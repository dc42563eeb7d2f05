"""Whether a training may go on in a folder: the run there must be the same one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atlas.errors import TrainingError
from atlas.train.checkpoint import has_checkpoint
from atlas.train.run import DESCRIPTION, load_description, network_of
from atlas.train.start import Start, first

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from atlas.spec.taxonomy import Taxonomy
    from atlas.spec.training import TrainingRecipe
    from atlas.train.run import CorpusRecord, RunDescription

NONE = "nothing"
"""An entry that is not there."""


def begun(out: Path, recipe: TrainingRecipe, start: Start | None, *, resume: bool) -> Start | None:
    """The run that is in a folder, to go on with; None: there is none.

    Parameters
    ----------
    out
        The folder.
    recipe
        Of the training that is asked for.
    start
        What it is to begin with; None: what the run itself says.
    resume
        Whether to go on.

    Raises
    ------
    TrainingError
        If there is one and it is not to be resumed, or it is that of another recipe; says what differs.
    CheckpointError
        If its description is damaged.
    """
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out}: is a file; a run wants a folder of its own")
    if not (out / DESCRIPTION).exists():
        return None
    if not resume:
        raise TrainingError(f"{out}: holds a run already; --resume goes on with it, or choose another folder")
    description, embeddings = load_description(out)
    _check_recipe(out, description.recipe, recipe)
    if start is not None:
        return _given(out, description, start)
    if description.parent is not None:
        raise TrainingError(
            f"{out}: began with another model (sha256 {description.parent[:16]}); name it again to go on, with "
            "--extend or --finetune"
        )
    if not has_checkpoint(out):  # it was stopped before the first one
        return first(description, embeddings)
    return Start(description, network_of(description, embeddings), embeddings)


def _check_recipe(out: Path, then: TrainingRecipe, now: TrainingRecipe) -> None:
    changes = list(differences(then.model_dump(mode="json"), now.model_dump(mode="json")))
    if changes:
        raise TrainingError(
            f"{out}: was begun with another recipe ({'; '.join(changes)}); go on with the one it was begun with, or "
            "choose another folder"
        )


def _given(out: Path, description: RunDescription, start: Start) -> Start:
    then, now = ((d.parent, d.classes) for d in (description, start.description))
    if then != now:
        raise TrainingError(f"{out}: was begun with another model or for other classes; choose another folder")
    return replace(start, description=description)


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:  # noqa: ANN401
    """What differs between two trees of plain values, each as a sentence with the entry's name."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from differences(before.get(key, NONE), now.get(key, NONE), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name} was {before}, now is {now}"


def check_corpus(out: Path, description: RunDescription, now: CorpusRecord, taxonomy: Taxonomy) -> None:
    """Raise TrainingError if the patches would not be those that the run was begun with; says what differs.

    The corpus may have moved. The taxonomy may have grown, but each class must have its bit.
    """
    then = description.corpus
    moved = [name for name in description.classes if taxonomy.bit(name) != description.taxonomy.bit(name)]
    same = (then.fingerprint, then.spacing) == (now.fingerprint, now.spacing)
    if same and not moved:
        return
    what = [
        f"{label} was {before}, now is {after}"
        for label, before, after in (
            ("location", then.location, now.location),
            ("spacing in mm", then.spacing, now.spacing),
            ("cases selected", then.cases, now.cases),
            ("bits of classes", "as in run.json", f"others for {', '.join(moved)}" if moved else "as in run.json"),
        )
        if before != after
    ]
    raise TrainingError(
        f"{out}: was begun on another corpus ({'; '.join(what) or 'its cases have other shapes or classes'}); go "
        "on with the one it was begun on, or choose another folder"
    )
