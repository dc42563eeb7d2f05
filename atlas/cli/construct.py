"""atlas build, atlas verify: make a corpus and check it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atlas.cli.output import console, notes
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.build import BuildSummary
    from atlas.build.case import Outcome
    from atlas.spec import Recipe

QUARANTINED = 3
"""Exit status: done, but some cases were left out."""

LINE_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""

SHOWN = 20
"""Entries of a list before the rest is only counted."""


class _Report:
    """Progress bar on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._bad = 0
        self._bar = Progress(
            TextColumn("[bold]build"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} cases/min"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[bad]} quarantined"),
            console=notes,
            transient=True,
        )
        self._task = self._bar.add_task("build", total=None, rate=0.0, bad=0)

    def __enter__(self) -> Self:
        if notes.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if notes.is_terminal:
            self._bar.stop()

    def __call__(self, done: int, total: int, outcome: Outcome) -> None:
        self._bad += outcome.state == "quarantined"
        now = time.monotonic()
        rate = 60 * done / max(now - self._start, 1e-3)
        self._bar.update(self._task, completed=done, total=total, rate=rate, bad=self._bad)
        if not notes.is_terminal and (now - self._last > LINE_EVERY or done == total):
            self._last = now
            left = (total - done) / rate if rate else 0.0
            notes.print(f"{done}/{total} cases, {rate:.1f} a minute, {left:.1f} minutes left, {self._bad} quarantined")


def build(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a .yaml file.")],
    sources: Annotated[Path, typer.Option(help="Folder with a folder for each dataset.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Corpus to write or to continue.", metavar="CORPUS")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core).")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask cluster to use instead.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this dataset (repeatable).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many cases of each dataset.")] = None,
) -> None:
    """Build a corpus, or bring one up to date."""
    from atlas.spec import load_recipe

    if workers is not None and scheduler is not None:
        raise typer.BadParameter("--workers is for a local cluster, --scheduler for another: give one")
    summary = run(load_recipe(recipe), sources, out, workers=workers, scheduler=scheduler, only=only or (), limit=limit)
    if summary.quarantined:
        raise typer.Exit(QUARANTINED)


def run(
    recipe: Recipe,
    sources: Path,
    out: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    only: Iterable[str] = (),
    limit: int | None = None,
) -> BuildSummary:
    """Build with progress, and print what was done."""
    from atlas.build import build as build_corpus

    with _Report() as report:
        summary = build_corpus(
            recipe,
            sources,
            out,
            workers=workers,
            scheduler=scheduler,
            only=only,
            limit=limit,
            progress=report,
        )
    _list("warning", {case: "; ".join(w) for case, w in summary.warnings.items()})
    _list("quarantined", summary.quarantined)
    console.print(
        f"{out}: {summary.cases} cases ({summary.built} built, {summary.kept} unchanged, "
        f"{len(summary.quarantined)} quarantined) in {summary.seconds:.1f} s",
        soft_wrap=True,
    )
    return summary


def _list(kind: str, entries: dict[str, str]) -> None:
    for case, text in sorted(entries.items())[:SHOWN]:
        notes.print(f"{kind}: {case}: {text}", markup=False, soft_wrap=True)
    if len(entries) > SHOWN:
        notes.print(f"{kind}: and {len(entries) - SHOWN} more (see the log beside the corpus)")


def verify(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of the corpus.")],
    rebuild_catalog: Annotated[bool, typer.Option("--rebuild-catalog", help="First make the tables again.")] = False,
) -> None:
    """Check a corpus: arrays against records, records against the catalog."""
    from atlas.corpus import verify as check

    if rebuild_catalog:
        console.print(f"catalog rebuilt from {check.rebuild_catalog(corpus)} cases")
    if not report_findings(corpus):
        raise AtlasError(f"{corpus}: not in order; build the cases above again, or rebuild the catalog")


def report_findings(corpus: Path) -> bool:
    """Check a corpus and print what is wrong; returns whether nothing is."""
    from atlas.corpus import verify as check

    checked, wrong = 0, 0
    for _, findings in check.verify(corpus):
        checked += 1
        wrong += bool(findings)
        for finding in findings:
            console.print(f"{finding.where}: {finding.problem}", markup=False, soft_wrap=True)
    console.print(f"{corpus}: {checked - 1} cases checked, {'all in order' if not wrong else f'{wrong} with problems'}")
    return not wrong
