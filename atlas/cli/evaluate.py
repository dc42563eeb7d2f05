"""atlas evaluate: how good a trained model is."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.bar import Bar
from atlas.cli.output import BLANK, emit, notes, print_grid
from atlas.cli.output import Format as TableFormat
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from atlas.corpus import Corpus
    from atlas.train.evaluation.files import Summary
    from atlas.train.evaluation.run import Evaluation, Scorer

FAILED = 3
"""Exit status: done, but some cases could not be evaluated."""

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
    native: Annotated[
        Path | None,
        typer.Option(metavar="SOURCES", help="Compare on the scans' own grids, with the publishers' files from here."),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> None:
    """Predict held-out cases, and compare with every class that is annotated there."""
    from atlas.corpus import open_corpus
    from atlas.train.evaluation.files import summarise, write_evaluation
    from atlas.train.evaluation.run import evaluate as run_evaluation
    from atlas.train.evaluation.truth import TRUSTED
    from atlas.train.ranks import joined
    from atlas.train.run import load_run

    splits = split or ["test"]
    folder = (out or run / f"evaluation-{'-'.join(splits)}") / ("native" if native else "")
    with joined(device) as here, Bar("evaluate", "cases") as bar:
        trained = load_run(run, here.device)
        _make(folder)  # before the work, not after it
        opened = open_corpus(corpus)
        evaluation = run_evaluation(
            trained,
            opened,
            split=splits,
            datasets=dataset or None,
            tolerance_mm=tolerance,
            overlap=overlap,
            postprocess=postprocess,
            provenance=[str(p) for p in provenance] if provenance else TRUSTED,
            progress=bar,
            scorer=_native_scorer(opened, native, folder) if native else None,
        )
    summary = summarise(evaluation, minimum_ml)
    write_evaluation(folder, evaluation, summary)
    _print(evaluation, summary, form)
    notes.print(f"written: {folder}", soft_wrap=True)
    if evaluation.failures:
        raise typer.Exit(FAILED)


def _native_scorer(corpus: Corpus, sources: Path, folder: Path) -> Scorer:
    from atlas.predict.evaluate import NativeScorer

    if not sources.is_dir():
        raise AtlasError(f"{sources}: no such folder; --native wants the folder that atlas build took as --sources")
    return NativeScorer(corpus, sources, folder)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtlasError(f"{folder}: cannot be written to: {error}") from error


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
