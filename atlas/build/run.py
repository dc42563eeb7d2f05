"""Build a corpus: plan the cases, run them on Dask, keep the books."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import atlas
from atlas.build.cluster import cluster
from atlas.build.context import Context
from atlas.build.delivery import Delivery
from atlas.build.feed import Feed
from atlas.build.graph import outcomes
from atlas.corpus import catalog
from atlas.corpus.corpus import open_corpus
from atlas.corpus.journal import journal
from atlas.corpus.write import PARTIAL, clean, write_root
from atlas.errors import BuildError, CorpusError, ScanError
from atlas.ingest.cases import find_cases
from atlas.spec import Recipe, Taxonomy, load_label_map, load_manifest, load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import TextIO

    from atlas.build.case import Outcome
    from atlas.build.delivery import FetchEvent


@dataclass
class BuildSummary:
    """What a build did.

    Attributes
    ----------
    missing
        Files that could not be fetched, and datasets that are not there because of it, with the reason.
    """

    built: int = 0
    kept: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cases: int = 0
    seconds: float = 0.0


def build(
    recipe: Recipe,
    sources: Path,
    corpus: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    only: Iterable[str] = (),
    limit: int | None = None,
    delivery: Delivery | None = None,
    progress: Callable[[int, int, Outcome], None] | None = None,
    fetching: Callable[[FetchEvent], None] | None = None,
) -> BuildSummary:
    """Build or bring up to date a corpus, and fetch what is missing meanwhile.

    Parameters
    ----------
    recipe
        What to build.
    sources
        Folder with a folder for each dataset, named by its id.
    corpus
        Folder to write; an existing corpus is continued, and only what changed is built again.
    workers, scheduler
        Where to run: see `atlas.build.cluster.cluster`.
    only
        Datasets to build now; the others stay as they are.
    limit
        At most so many cases of each dataset.
    delivery
        What is fetched meanwhile (`Delivery.planned`); None: nothing, what is there is built.
    progress
        Called after each case: how many are done, of how many, and what became of it.
    fetching
        Called as files come in, from several threads.

    Raises
    ------
    BuildError
        If the build cannot start: a dataset is not there, its licence forbids what the recipe demands, another build
        is at work, another corpus in the place.
    FetchError
        If the disk cannot hold what is missing.
    SpecError
        If a specification is wrong.
    """
    start = time.perf_counter()
    datasets = chosen(recipe, only)
    taxonomy = load_taxonomy()
    _check_existing(corpus, taxonomy, recipe)
    contexts = [_context(name, taxonomy, recipe, sources, corpus) for name in datasets]
    delivery = delivery or Delivery({}, sources)
    feeds = [Feed(context, delivery.pending(context.manifest), limit) for context in contexts]
    _check_sources(feeds)
    delivery.check_room()
    summary = BuildSummary()
    with (
        journal(corpus) as log,
        cluster(workers, scheduler) as client,
        closing(outcomes(client, feeds, delivery, summary.missing, fetching)) as results,
    ):
        clean(corpus)
        write_root(corpus, taxonomy, recipe, atlas.__version__)
        quarantine = catalog.read_quarantine(corpus)
        for done, outcome in enumerate(results, start=1):
            _account(summary, quarantine, outcome, log)
            if progress is not None:
                progress(done, sum(feed.total for feed in feeds), outcome)
        clean(corpus)
        catalog.write_quarantine(corpus, quarantine)
        summary.cases = catalog.write_catalog(corpus, taxonomy, recipe.splits)
        summary.seconds = time.perf_counter() - start
    return summary


def chosen(recipe: Recipe, only: Iterable[str] = ()) -> list[str]:
    """Datasets that a build is about, in the recipe's order.

    Raises
    ------
    BuildError
        If one is not in the recipe, or its licence forbids what the recipe demands.
    """
    only = tuple(only)
    strange = [name for name in only if name not in recipe.datasets]
    if strange:
        raise BuildError(
            f"{', '.join(strange)}: not in the recipe {recipe.name}, which has {', '.join(recipe.datasets)}"
        )
    names = [name for name in recipe.datasets if not only or name in only]
    _check_licences(recipe, names)
    return names


def _check_existing(corpus: Path, taxonomy: Taxonomy, recipe: Recipe) -> None:
    """Bits are append-only and a corpus has one grid: anything else would silently change what masks mean."""
    if not corpus.exists() or {p.name for p in corpus.iterdir()} <= {PARTIAL}:
        return
    if not (corpus / "zarr.json").exists():
        raise BuildError(f"{corpus}: there is something in this folder that is no corpus; choose another")
    try:
        existing = open_corpus(corpus)
    except CorpusError as error:
        raise BuildError(f"{error}; build elsewhere") from error
    if existing.taxonomy.names != taxonomy.names[: len(existing.taxonomy)]:
        raise BuildError(f"{corpus}: has other classes in the same bits, which are append-only; build elsewhere")
    if existing.recipe.grid != recipe.grid:
        raise BuildError(
            f"{corpus}: its grid is {existing.recipe.grid.spacing} mm, the recipe says "
            f"{recipe.grid.spacing} mm; build elsewhere"
        )


def _check_licences(recipe: Recipe, datasets: list[str]) -> None:
    if not recipe.licences.commercial:
        return
    manifests = [load_manifest(name) for name in datasets]
    refused = [f"{m.id} ({m.licence.id})" for m in manifests if m.licence.commercial is not True]
    if refused:
        raise BuildError(
            f"the recipe {recipe.name} demands licences that allow commercial use, which is not so, or not certain, "
            f"for {', '.join(refused)}; leave them out of the recipe, or name the others with --only"
        )


def _context(name: str, taxonomy: Taxonomy, recipe: Recipe, sources: Path, corpus: Path) -> Context:
    label_map = load_label_map(name)
    if not label_map.targets():
        raise BuildError(f"{name}: its label map names no class; say in it what at least one label means")
    return Context(load_manifest(name), label_map, taxonomy, recipe, sources.resolve() / name, corpus.resolve())


def _check_sources(feeds: list[Feed]) -> None:
    """Datasets that are not there and are not being fetched either are a mistake to hear of at once."""
    absent = {}
    for feed in feeds:
        if feed.waits:
            continue
        try:
            find_cases(feed.context.manifest, feed.context.sources)
        except ScanError as error:
            absent[feed.context.manifest.id] = str(error)
    if absent:
        first, *others = absent
        also = f"; nor is there {', '.join(others)}" if others else ""
        raise BuildError(
            f"{absent[first]}{also}. `atlas fetch {' '.join(absent)}` says how to get what is missing; to build "
            "without it, name the other datasets with --only"
        )


def _account(summary: BuildSummary, quarantine: dict[str, tuple[str, str]], outcome: Outcome, log: TextIO) -> None:
    log.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
    log.flush()
    if outcome.state == "quarantined":
        summary.quarantined[outcome.case_id] = outcome.reason or ""
        quarantine[outcome.case_id] = (outcome.dataset, outcome.reason or "")
        return
    quarantine.pop(outcome.case_id, None)
    if outcome.warnings:
        summary.warnings[outcome.case_id] = outcome.warnings
    summary.built += outcome.state == "built"
    summary.kept += outcome.state == "kept"
