"""atlas evaluate: how good a trained model is."""

from __future__ import annotations

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.cli.output import BLANK, emit, notes, print_grid
from atlas.cli.output import Format as TableFormat
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from atlas.train.evaluate import Evaluation
    from atlas.train.evaluation_files import Summary

FAILED = 3
"""Exit status: done, but some cases could not be evaluated."""

LINE_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""

SHOWN = 20
"""Entries of a list before the rest is only counted."""


class Format(StrEnum):
    """How the result is printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Provenance(StrEnum):
    """Who annotated."""

    manual = "manual"
    revised = "revised"
    pseudo = "pseudo"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the training run.")],
    corpus: Annotated[str, typer.Option(metavar="CORPUS", help="Folder or URL of the corpus.")],
    split: Annotated[list[str] | None, typer.Option(help="Cases of this split (repeatable).")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset (repeatable).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: RUN/evaluation-SPLIT.")] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Of the surface Dice, mm.")] = 2.0,
    overlap: Annotated[float, typer.Option(min=0, max=0.95, help="Of neighbouring windows.")] = 0.5,
    provenance: Annotated[
        list[Provenance] | None, typer.Option(help="Annotations that count as truth (default: manual, revised).")
    ] = None,
    minimum_ml: Annotated[float, typer.Option(min=0, help="Smaller predicted lesions do not count as found.")] = 0.0,
    postprocess: Annotated[bool, typer.Option(help="Post-process as the run's recipe says.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    form: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> None:
    """Predict held-out cases, and compare with every class that is annotated there."""
    from atlas.corpus import open_corpus
    from atlas.train.evaluate import evaluate as run_evaluation
    from atlas.train.evaluation_files import summarise, write_evaluation
    from atlas.train.ranks import joined
    from atlas.train.run import load_run
    from atlas.train.truth import TRUSTED

    splits = split or ["test"]
    folder = out or run / f"evaluation-{'-'.join(splits)}"
    with joined(device) as here, _Bar() as bar:
        trained = load_run(run, here.device)
        _make(folder)  # before the work, not after it
        evaluation = run_evaluation(
            trained,
            open_corpus(corpus),
            split=splits,
            datasets=dataset or None,
            tolerance_mm=tolerance,
            overlap=overlap,
            postprocess=postprocess,
            provenance=[str(p) for p in provenance] if provenance else TRUSTED,
            progress=bar,
        )
    summary = summarise(evaluation, minimum_ml)
    write_evaluation(folder, evaluation, summary)
    _print(evaluation, summary, form)
    notes.print(f"written: {folder}", soft_wrap=True)
    if evaluation.failures:
        raise typer.Exit(FAILED)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtlasError(f"{folder}: cannot be written to: {error}") from error


class _Bar:
    """Cases evaluated: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]evaluate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[case]}"), console=notes, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("evaluate", case="")

    def __enter__(self) -> Self:
        if notes.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, case: str) -> None:
        """Take note of one more case."""
        self._bar.update(self._task, completed=done, total=total, case=case)
        if not notes.is_terminal and (time.monotonic() - self._last > LINE_EVERY or done == total):
            self._last = time.monotonic()
            notes.print(f"{done}/{total} cases")


def _print(evaluation: Evaluation, summary: Summary, form: Format) -> None:
    if form is Format.json:
        print(json.dumps(summary.document, indent=1, allow_nan=False))
    elif form is Format.csv:
        emit(summary.classes, TableFormat.csv)
    else:
        print_summary(summary)
    if evaluation.unscored:
        notes.print(f"not scored, available in no case: {', '.join(evaluation.unscored)}", soft_wrap=True)
    if evaluation.unlabelled:
        notes.print(f"{len(evaluation.unlabelled)} cases have no class of the model that counts", soft_wrap=True)
    for case, reason in list(evaluation.failures.items())[:SHOWN]:
        notes.print(f"failed: {case}: {reason}", markup=False, soft_wrap=True)
    if len(evaluation.failures) > SHOWN:
        notes.print(f"failed: and {len(evaluation.failures) - SHOWN} more (see summary.json)")


def print_summary(summary: Summary) -> None:
    """Print the classes, and how well lesions are found."""
    tolerance = summary.document["tolerance_mm"]
    header = ["class", "cases", "present", "Dice", "95 %", "median", f"NSD {tolerance:g} mm", "95 %"]
    rows = [
        [
            row["class"], str(row["cases"]), str(row["present"]),
            _number(row["dice_mean"]), _interval(row, "dice"), _number(row["dice_median"]),
            _number(row["nsd_mean"]), _interval(row, "nsd"),
        ]
        for row in summary.classes.to_dict("records")
    ]  # fmt: skip
    print_grid(header, rows)
    if len(summary.detection):
        print()
        print_grid(
            ["lesion", "found", "sensitivity", "95 %", "cleared", "specificity", "95 %"],
            [
                [
                    row["class"],
                    f"{row['found']}/{row['present']}", _number(row["sensitivity"]), _interval(row, "sensitivity"),
                    f"{row['cleared']}/{row['absent']}", _number(row["specificity"]), _interval(row, "specificity"),
                ]
                for row in summary.detection.to_dict("records")
            ],
        )  # fmt: skip


def _number(value: float) -> str:
    return BLANK if value != value else f"{value:.3f}"  # noqa: PLR0124 - NaN


def _interval(row: Mapping[Hashable, float], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return BLANK if low != low else f"{low:.3f}-{high:.3f}"  # noqa: PLR0124 - NaN
