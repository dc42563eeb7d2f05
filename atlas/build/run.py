"""Build a corpus: plan the cases, run them on Dask, keep the books."""

from __future__ import annotations

import fcntl
import json
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import atlas
from atlas.build.case import Outcome, build_case
from atlas.build.cluster import cluster
from atlas.build.context import Context
from atlas.corpus import catalog
from atlas.corpus.corpus import open_corpus
from atlas.corpus.write import PARTIAL, clean, remove_case, write_root
from atlas.errors import BuildError, CorpusError, ScanError
from atlas.ingest.cases import CaseFiles, find_cases
from atlas.spec import Recipe, Taxonomy, load_label_map, load_manifest, load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

    from distributed import Client


@dataclass
class BuildSummary:
    """What a build did."""

    built: int = 0
    kept: int = 0
    quarantined: dict[str, str] = field(default_factory=dict)
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
    progress: Callable[[int, int, Outcome], None] | None = None,
) -> BuildSummary:
    """Build or bring up to date a corpus from local files.

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
    progress
        Called after each case: how many are done, of how many, and what became of it.

    Raises
    ------
    BuildError
        If the build cannot start: a dataset is not there, another build at work, another corpus in the place.
    SpecError
        If a specification is wrong.
    """
    start = time.perf_counter()
    datasets = _chosen(recipe, tuple(only))
    taxonomy = load_taxonomy()
    _check_existing(corpus, taxonomy, recipe)
    jobs = [_job(name, taxonomy, recipe, sources, corpus, limit) for name in datasets]
    total = sum(len(cases) for _, cases in jobs)
    summary = BuildSummary()
    with _log(corpus) as log, cluster(workers, scheduler) as client:
        clean(corpus)
        write_root(corpus, taxonomy, recipe, atlas.__version__)
        quarantine = catalog.read_quarantine(corpus)
        for done, outcome in enumerate(_outcomes(client, jobs), start=1):
            _account(summary, quarantine, outcome, log)
            if progress is not None:
                progress(done, total, outcome)
        clean(corpus)
        catalog.write_quarantine(corpus, quarantine)
        summary.cases = catalog.write_catalog(corpus, taxonomy, recipe.splits)
        summary.seconds = time.perf_counter() - start
    return summary


def _chosen(recipe: Recipe, only: tuple[str, ...]) -> list[str]:
    strange = [name for name in only if name not in recipe.datasets]
    if strange:
        raise BuildError(
            f"{', '.join(strange)}: not in the recipe {recipe.name}, which has {', '.join(recipe.datasets)}"
        )
    return [name for name in recipe.datasets if not only or name in only]


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


def _job(
    name: str, taxonomy: Taxonomy, recipe: Recipe, sources: Path, corpus: Path, limit: int | None
) -> tuple[Context, list[CaseFiles]]:
    manifest, label_map = load_manifest(name), load_label_map(name)
    folder = sources.resolve() / name
    try:
        cases = find_cases(manifest, folder)
    except ScanError as error:
        raise BuildError(f"{error}. To build without it, name the other datasets with --only") from error
    context = Context(manifest, label_map, taxonomy, recipe, folder, corpus.resolve())
    return context, cases[:limit]


def _outcomes(client: Client, jobs: list[tuple[Context, list[CaseFiles]]]) -> Iterator[Outcome]:
    """Outcome of every case, as they come."""
    from distributed import as_completed

    futures = {}
    for context, cases in jobs:
        # a task and not scattered data: when the worker that holds it dies, it is made again
        shared = client.submit(_same, context, pure=False)
        for files in cases:
            future = client.submit(build_case, files, shared, pure=False)
            futures[future] = (files, context)
    for future in as_completed(list(futures)):
        files, context = futures.pop(future)
        yield future.result() if future.status == "finished" else _lost(files, context, future.exception())


def _same(context: Context) -> Context:
    return context


def _lost(files: CaseFiles, context: Context, error: BaseException | None) -> Outcome:
    """A case whose worker died each time it was tried."""
    case_id = f"{context.manifest.id}/{files.source_case}"
    remove_case(context.corpus, case_id)
    reason = f"the worker died on it each time ({type(error).__name__}); it may need more memory"
    return Outcome(case_id, context.manifest.id, "quarantined", reason)


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


@contextmanager
def _log(corpus: Path) -> Iterator[TextIO]:
    """Log beside the corpus (durations and traces would make equal corpora differ); also the build's lock."""
    corpus.parent.mkdir(parents=True, exist_ok=True)
    path = corpus.with_name(f"{corpus.name}.log.jsonl")
    with path.open("a", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BuildError(f"{corpus}: another build is at work on it; wait for it, or stop it") from error
        corpus.mkdir(exist_ok=True)
        yield log
