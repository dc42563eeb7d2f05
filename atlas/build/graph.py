"""The Dask graph: fetch and unpack, and build every case as soon as its files are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.build.case import Outcome, build_case
from atlas.build.cluster import CASE
from atlas.corpus.write import remove_case
from atlas.errors import ScanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client, Future

    from atlas.build.context import Context
    from atlas.build.delivery import Delivery, FetchEvent
    from atlas.build.feed import Feed
    from atlas.ingest.cases import CaseFiles


def outcomes(
    client: Client,
    feeds: list[Feed],
    delivery: Delivery,
    missing: dict[str, str],
    listener: Callable[[FetchEvent], None] | None,
) -> Iterator[Outcome]:
    """Outcome of every case, as they come.

    Parameters
    ----------
    client
        Where to run.
    feeds
        Cases of each dataset.
    delivery
        What is fetched meanwhile.
    missing
        Gets what could not be fetched, and why.
    listener
        Called as files come in.

    Raises
    ------
    FetchError
        If the disk cannot hold what is missing.
    """
    from distributed import as_completed

    tasks: dict[Future, tuple[CaseFiles, Context]] = {}
    with delivery.running(client, listener) as coming:
        queue = as_completed(coming)
        coming.clear()  # whoever holds a future keeps its result on the worker that fetched, which is closed first
        # a task and not scattered data: when the worker that holds it dies, it is made again
        shared = [client.submit(_same, feed.context, pure=False, resources={CASE: 1}) for feed in feeds]

        def submit_ready() -> None:
            for feed, context in zip(feeds, shared, strict=True):
                for files in _ready(feed, missing):
                    future = client.submit(build_case, files, context, pure=False, resources={CASE: 1})
                    tasks[future] = (files, feed.context)
                    queue.add(future)

        submit_ready()
        for future in queue:
            if future in tasks:
                files, of = tasks.pop(future)
                yield future.result() if future.status == "finished" else _lost(files, of, future.exception())
                continue
            arrival = delivery.arrived(future)
            if arrival.error is not None:
                missing[arrival.parcel.name] = arrival.error
            for feed in feeds:
                feed.arrived(arrival)
            submit_ready()


def _ready(feed: Feed, missing: dict[str, str]) -> list[CaseFiles]:
    try:
        return feed.ready()
    except ScanError as error:
        missing[feed.context.manifest.id] = str(error)
        return []


def _same(context: Context) -> Context:
    return context


def _lost(files: CaseFiles, context: Context, error: BaseException | None) -> Outcome:
    """A case whose worker died each time it was tried."""
    case_id = f"{context.manifest.id}/{files.source_case}"
    remove_case(context.corpus, case_id)
    reason = f"the worker died on it each time ({type(error).__name__}); it may need more memory"
    return Outcome(case_id, context.manifest.id, "quarantined", reason)
