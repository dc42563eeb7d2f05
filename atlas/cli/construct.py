"""atlas build, atlas verify: make a corpus and check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.obtain import show_licences
from atlas.cli.output import console, notes
from atlas.cli.progress import Display
from atlas.errors import AtlasError, FetchError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from atlas.build import BuildSummary
    from atlas.build.delivery import Delivery
    from atlas.spec import Recipe

QUARANTINED = 3
"""Exit status: done, but some cases were left out."""

SHOWN = 20
"""Entries of a list before the rest is only counted."""


def build(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or a .yaml file.")],
    sources: Annotated[Path, typer.Option(help="Folder with a folder for each dataset.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Corpus to write or to continue.", metavar="CORPUS")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core).")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask cluster to use instead.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this dataset (repeatable).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many cases of each dataset.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch nothing; build what is there.")] = False,
    mirror: Annotated[str | None, typer.Option(help="Copies to try first.", metavar="URL_OR_DIR")] = None,
) -> None:
    """Build a corpus, or bring one up to date; what is missing of its datasets is fetched."""
    from atlas.build.run import chosen
    from atlas.spec import load_recipe

    if workers is not None and scheduler is not None:
        raise typer.BadParameter("--workers is for a local cluster, --scheduler for another: give one")
    plan = load_recipe(recipe)
    delivery = None if offline else _planned(chosen(plan, only or ()), sources, mirror)
    summary = run(
        plan, sources, out, workers=workers, scheduler=scheduler, only=only or (), limit=limit, delivery=delivery
    )
    if summary.missing:
        raise AtlasError(f"{len(summary.missing)} files or datasets are missing (see above); run it again to go on")
    if summary.quarantined:
        raise typer.Exit(QUARANTINED)


def _planned(datasets: list[str], sources: Path, mirror: str | None) -> Delivery:
    from atlas.build.delivery import Delivery

    try:
        delivery = Delivery.planned(datasets, sources, mirror=mirror)
    except FetchError as error:
        raise FetchError(f"{str(error).rstrip('.')}. With --offline, what is there is built") from error
    show_licences(delivery)
    return delivery


def run(
    recipe: Recipe,
    sources: Path,
    out: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    only: Iterable[str] = (),
    limit: int | None = None,
    delivery: Delivery | None = None,
) -> BuildSummary:
    """Build with progress, and print what was done."""
    from atlas.build import build as build_corpus

    with Display(delivery) as display:
        summary = build_corpus(
            recipe,
            sources,
            out,
            workers=workers,
            scheduler=scheduler,
            only=only,
            limit=limit,
            delivery=delivery,
            progress=display.cases,
            fetching=display.files,
        )
    _list("warning", {case: "; ".join(w) for case, w in summary.warnings.items()})
    _list("quarantined", summary.quarantined)
    _list("missing", summary.missing)
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
