"""Downloading as a stage of the build's own graph.

Downloads wait for the network and cases for the processor, so they run on different workers of one Dask cluster: a
worker with many threads inside this process fetches and unpacks, and holds as many of a host's tokens (a Dask resource)
as there may be connections to it; the others build cases.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from atlas.build.cluster import fetcher_name
from atlas.errors import AtlasError
from atlas.ingest.folders import INCOMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from distributed import Client, Future, Worker

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
    """What one task fetches: a file, or all files of a folder that is complete only with all of them.

    Attributes
    ----------
    name
        dataset/place, of the file or the folder; no two parcels have the same.
    """

    name: str
    downloads: tuple[Download, ...] = field(compare=False, repr=False)

    @property
    def dataset(self) -> str:
        """Into whose folder it goes."""
        return self.downloads[0].dataset

    @property
    def target(self) -> str:
        """Place of its first file below that folder."""
        return self.downloads[0].target


@dataclass(frozen=True)
class Arrival:
    """What became of a parcel: how many bytes came in how long, or why it is not there."""

    name: str
    transferred: int = 0
    seconds: float = 0.0
    error: str | None = None


class StoppedError(Exception):
    """Nobody waits for these files any more."""


def parcels(plan: Plan) -> list[Parcel]:
    """What a plan still has to fetch or unpack, one parcel a task."""
    groups: dict[str, list[Download]] = defaultdict(list)
    for download in plan.todo:
        groups[download.group or download.target].append(download)
    return [Parcel(f"{plan.dataset}/{place}", tuple(group)) for place, group in groups.items()]


@dataclass(frozen=True)
class Fetcher:
    """The worker that fetches, and where it looks first."""

    client: Client
    address: str
    sources: Path
    mirror: str | None

    def send(self, parcel: Parcel, turn: int) -> Future:
        """Put a parcel into the graph; its result is an Arrival. Of those that may start the first in turn does."""
        folder = self.sources / parcel.dataset
        here = {"workers": [self.address], "allow_other_workers": False, "pure": False, "priority": -turn}
        tokens = {_token(host): 1 for host in _connections(parcel, self.mirror)}
        arrival = self.client.submit(_transferred, parcel, folder, self.mirror, resources=tokens, **here)
        if not any(download.archive for download in parcel.downloads):
            return arrival
        return self.client.submit(_unpacked, arrival, parcel, folder, resources={UNPACK: 1}, **here)


@contextmanager
def fetcher(client: Client, wanted: Iterable[Parcel], sources: Path, mirror: str | None) -> Iterator[Fetcher]:
    """Run a worker that fetches.

    Parameters
    ----------
    client
        Of the cluster that it joins.
    wanted
        All that it will fetch.
    sources
        Folder of all datasets.
    mirror
        Where copies are tried first.
    """
    connections: dict[str, int] = {}
    for parcel in wanted:
        for host, allowed in _connections(parcel, mirror).items():
            connections[host] = min(connections.get(host, allowed), allowed)

    async def start() -> Worker:
        from distributed import Worker

        return await Worker(
            client.scheduler.address,
            name=fetcher_name(client),
            nthreads=min(MOST_THREADS, sum(connections.values()) + UNPACKERS),
            resources={**{_token(host): n for host, n in connections.items()}, UNPACK: UNPACKERS},
            memory_limit=0,
            dashboard_address=None,
        )

    worker = client.sync(start)
    try:
        yield Fetcher(client, worker.address, sources, mirror)
    finally:
        client.sync(worker.close, executor_wait=False)


def _connections(parcel: Parcel, mirror: str | None) -> dict[str, int]:
    """Hosts that a parcel may need a connection to, and how many each allows."""
    first = parcel.downloads[0]
    hosts = {first.host: first.connections}
    if mirror is not None and "://" in mirror:
        # it stands in for many hosts, and is one
        hosts[urlsplit(mirror).hostname or mirror] = first.connections
    return hosts


def _token(host: str) -> str:
    return f"connection to {host}"


def _transferred(parcel: Parcel, folder: Path, mirror: str | None) -> Arrival:
    from atlas.fetch.http import transfer

    start, come, error = time.perf_counter(), 0, None
    try:
        with _marked(parcel, folder):
            for download in parcel.downloads:
                reporter = _reporter(parcel.dataset, "fetch")
                come += transfer(download, folder, mirror=mirror, progress=reporter).transferred
    except (AtlasError, OSError, StoppedError) as failed:
        error = str(failed) or type(failed).__name__
    return Arrival(parcel.name, come, time.perf_counter() - start, error)


@contextmanager
def _marked(parcel: Parcel, folder: Path) -> Iterator[None]:
    """Leave a mark in a folder of slices until all of them are there, so that half of it is never taken for a scan."""
    from atlas.fetch.places import place

    if not parcel.downloads[0].group:
        yield
        return
    mark = place(parcel.downloads[0], folder).with_name(INCOMPLETE)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    yield
    mark.unlink()


def _unpacked(arrival: Arrival, parcel: Parcel, folder: Path) -> Arrival:
    from atlas.fetch.unpack import unpack

    if arrival.error is not None:
        return arrival
    start, error = time.perf_counter(), None
    try:
        for download in parcel.downloads:
            unpack(download, folder, progress=_reporter(parcel.dataset, "unpack"))
    except (AtlasError, OSError, StoppedError) as failed:
        error = str(failed) or type(failed).__name__
    seconds = arrival.seconds + time.perf_counter() - start
    return Arrival(parcel.name, arrival.transferred, seconds, error)


def _reporter(dataset: str, stage: str) -> Progress:
    """Send progress to whoever listens, not more often than anybody can read it; stop when the worker is closed."""
    from distributed import Status, get_worker

    worker = get_worker()
    last: dict[str, float] = {}

    def report(target: str, done: int, total: int | None) -> None:
        if worker.status is not Status.running:
            raise StoppedError("stopped")
        now = time.monotonic()
        if done != total and now - last.get(target, 0.0) < EVENT_EVERY:
            return
        last[target] = now
        worker.log_event(TOPIC, {"stage": stage, "file": f"{dataset}/{target}", "done": done, "total": total})

    return report
