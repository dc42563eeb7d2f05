"""Downloading as a stage of the build's own graph.

Downloads wait for the network and cases for the processor, so they run on different workers of one Dask cluster: a
worker with many threads inside this process fetches and unpacks, and holds as many of a host's tokens (a Dask resource)
as there may be connections to it; the others build cases.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.build.cluster import FETCHER
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from distributed import Client, Future

    from atlas.fetch.download import Download, Progress
    from atlas.fetch.plan import Plan

TOPIC = "atlas-fetch"
"""Dask events of this topic say how far downloads are."""

EVENT_EVERY = 0.25
"""Seconds between two events of one file."""

UNPACK = "unpack"
UNPACKERS = 2
"""Archives unpacked at once: it is the disk that limits."""

MOST_THREADS = 64


@dataclass(frozen=True)
class Parcel:
    """What one task fetches: a file, or all files of a folder that is complete only with all of them."""

    dataset: str
    downloads: tuple[Download, ...]

    @property
    def name(self) -> str:
        """For messages."""
        first = self.downloads[0]
        return f"{self.dataset}/{first.group or first.target}"

    @property
    def host(self) -> str:
        """What its connections are counted by."""
        return self.downloads[0].host


@dataclass(frozen=True)
class Arrival:
    """What became of a parcel: how many bytes came in how long, or why it is not there."""

    parcel: Parcel
    transferred: int = 0
    seconds: float = 0.0
    error: str | None = None


def parcels(plan: Plan) -> list[Parcel]:
    """What a plan still has to fetch or unpack, one parcel a task."""
    groups: dict[str, list[Download]] = defaultdict(list)
    for download in plan.todo:
        groups[download.group or download.target].append(download)
    return [Parcel(plan.dataset, tuple(group)) for group in groups.values()]


@contextmanager
def fetcher(client: Client, wanted: Iterable[Parcel]) -> Iterator[None]:
    """Run the worker that fetches, as long as there is something to fetch."""
    from distributed import Worker

    connections: dict[str, int] = {}
    for parcel in wanted:
        allowed = parcel.downloads[0].connections
        connections[parcel.host] = min(connections.get(parcel.host, allowed), allowed)
    if not connections:
        yield
        return

    async def start() -> Worker:
        return await Worker(
            client.scheduler.address,
            name=FETCHER,
            nthreads=min(MOST_THREADS, sum(connections.values()) + UNPACKERS),
            resources={**{_token(host): n for host, n in connections.items()}, UNPACK: UNPACKERS},
            memory_limit=0,
            dashboard_address=None,
        )

    worker = client.sync(start)
    try:
        yield
    finally:
        client.sync(worker.close, executor_wait=False)


def send(client: Client, parcel: Parcel, folder: Path, mirror: str | None) -> Future:
    """Put a parcel into the graph; its result is an Arrival."""
    arrival = client.submit(_transferred, parcel, folder, mirror, resources={_token(parcel.host): 1}, pure=False)
    if not any(download.archive for download in parcel.downloads):
        return arrival
    return client.submit(_unpacked, arrival, folder, resources={UNPACK: 1}, pure=False)


def _token(host: str) -> str:
    return f"connection to {host}"


def _transferred(parcel: Parcel, folder: Path, mirror: str | None) -> Arrival:
    from atlas.fetch.http import transfer

    start, come = time.perf_counter(), 0
    try:
        for download in parcel.downloads:
            come += transfer(download, folder, mirror=mirror, progress=_reporter(parcel.dataset, "fetch")).transferred
    except (AtlasError, OSError) as error:
        return Arrival(parcel, come, time.perf_counter() - start, str(error) or type(error).__name__)
    return Arrival(parcel, come, time.perf_counter() - start)


def _unpacked(arrival: Arrival, folder: Path) -> Arrival:
    from atlas.fetch.unpack import unpack

    if arrival.error is not None:
        return arrival
    start = time.perf_counter()
    error: str | None = None
    try:
        for download in arrival.parcel.downloads:
            unpack(download, folder, progress=_reporter(arrival.parcel.dataset, "unpack"))
    except (AtlasError, OSError) as failed:
        error = str(failed) or type(failed).__name__
    seconds = arrival.seconds + time.perf_counter() - start
    return Arrival(arrival.parcel, arrival.transferred, seconds, error)


def _reporter(dataset: str, stage: str) -> Progress:
    """Send progress to whoever listens, not more often than anybody can read it."""
    from distributed import get_worker

    worker = get_worker()
    last: dict[str, float] = {}

    def report(target: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != total and now - last.get(target, 0.0) < EVENT_EVERY:
            return
        last[target] = now
        worker.log_event(TOPIC, {"stage": stage, "file": f"{dataset}/{target}", "done": done, "total": total})

    return report
