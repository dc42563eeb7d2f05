"""The Dask graph: fetch and unpack, and build every case as soon as its files are there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from atlas.build.case import Outcome, build_case
from atlas.build.cluster import case_slot, wake
from atlas.corpus.write import remove_case
from atlas.errors import ScanError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from distributed import Client, Future, as_completed

    from atlas.build.context import Context
    from atlas.build.delivery import Delivery, FetchEvent
    from atlas.build.feed import Feed
    from atlas.build.fetching import Arrival
    from atlas.ingest.cases import CaseFiles

POLL = 0.05
"""Seconds between two looks for what is done."""

WAKE_EVERY = 2.0
"""Seconds between two looks for workers that came."""


def outcomes(
    client: Client,
    feeds: list[Feed],
    delivery: Delivery,
    missing: dict[str, str],
    listener: Callable[[FetchEvent], None] | None,
) -> Generator[Outcome]:
    """Outcome of every case, as they come.

    Parameters
    ----------
    client
        Where to run.
    feeds
        Cases of each dataset.
    delivery
        What is fetched meanwhile; its room on the disk was checked.
    missing
        Gets what could not be fetched, and why.
    listener
        Called as files come in, from several threads.
    """
    from distributed import as_completed

    tasks: dict[Future, tuple[CaseFiles, Context]] = {}
    slot = case_slot(client)
    with delivery.running(client, listener) as coming:
        queue = as_completed(coming)
        # a task and not scattered data: when the worker that holds it dies, it is made again
        shared = [client.submit(_same, feed.context, pure=False, resources=slot) for feed in feeds]

        def submit_ready() -> None:
            for feed, context in zip(feeds, shared, strict=True):
                for files in _ready(feed, missing):
                    future = client.submit(build_case, files, context, pure=False, resources=slot)
                    tasks[future] = (files, feed.context)
                    queue.add(future)

        submit_ready()
        for future in _done(queue, client):
            if future in tasks:
                yield _outcome(future, *tasks.pop(future))
            elif future is not None:
                _account(delivery.arrived(future), feeds, missing)
            submit_ready()


def _done(queue: as_completed, client: Client) -> Iterator[Future | None]:
    """Futures as they are done, until all are; None now and then while there is none."""
    last = time.monotonic()
    while not queue.is_empty():
        if queue.has_ready():
            yield next(queue)
            continue
        yield None
        time.sleep(POLL)
        if time.monotonic() - last > WAKE_EVERY:
            wake(client)
            last = time.monotonic()


def _account(arrival: Arrival, feeds: list[Feed], missing: dict[str, str]) -> None:
    if arrival.error is not None:
        missing[arrival.name] = arrival.error
    for feed in feeds:
        feed.arrived(arrival)


def _outcome(future: Future, files: CaseFiles, context: Context) -> Outcome:
    if future.status != "finished":
        return _lost(files, context, future.exception())
    outcome: Outcome = future.result()
    return outcome


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
