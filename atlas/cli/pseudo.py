"""atlas pseudo: let a model label what cases of a corpus lack."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from atlas.cli.construct import QUARANTINED
from atlas.cli.output import console, notes
from atlas.cli.progress import LINE_EVERY
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from atlas.train.pseudo import Outcome


def pseudo(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    corpus: Annotated[str, typer.Option(help="Folder of the corpus to complete.", metavar="CORPUS")],
    split: Annotated[str | None, typer.Option(help="Only cases of this split.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset (repeatable).")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these, with commas between (default: all).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Label what cases of a corpus lack by a trained model; what people labelled stays as it is."""
    from atlas.train.pseudo import model_name, pseudo_label
    from atlas.train.ranks import joined
    from atlas.train.run import load_run

    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    with joined(device) as here, _Display() as display:
        trained = load_run(run, here.device)
        outcomes = pseudo_label(trained, corpus, split=split, datasets=dataset or None, classes=names, progress=display)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        notes.print(f"failed: {outcome.case_id}: {outcome.reason}", markup=False, soft_wrap=True)
    labelled = [outcome for outcome in outcomes if outcome.state == "labelled"]
    console.print(
        f"{corpus}: {sum(len(o.classes) for o in labelled)} masks in {len(labelled)} cases by {model_name(trained)}; "
        f"{len(outcomes) - len(labelled) - len(failed)} unchanged, {len(failed)} failed",
        markup=False,
        soft_wrap=True,
    )
    if failed and len(failed) == len(outcomes):
        raise AtlasError("no case could be labelled (see above)")
    if failed:
        raise typer.Exit(QUARANTINED)


class _Display:
    """Cases done: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("[bold]pseudo"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=notes,
            transient=True,
            disable=not notes.is_terminal,
        )
        self._task: TaskID | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, outcome: Outcome) -> None:
        """Take note of one more case."""
        if self._task is None:
            self._task = self._bar.add_task("pseudo")
        self._bar.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if not notes.is_terminal and (now - self._last > LINE_EVERY or done == total):
            self._last = now
            notes.print(f"{done}/{total} cases, the last one {outcome.case_id}", markup=False, soft_wrap=True)
