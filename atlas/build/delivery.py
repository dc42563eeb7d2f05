"""Everything that a run has to fetch: planned before it starts, sent into the graph, accounted for as it arrives."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from atlas.build.cluster import cluster
from atlas.build.fetching import TOPIC, Arrival, Parcel, fetcher, parcels, send
from atlas.spec import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from distributed import Client, Future

    from atlas.fetch.plan import Plan
    from atlas.spec import Manifest


@dataclass(frozen=True)
class FetchEvent:
    """How far one file is, or that it has arrived.

    Attributes
    ----------
    stage
        "fetch", "unpack", or "done".
    file
        dataset/place below its folder.
    done, total
        Bytes; of the file, or for "done" what came over the network.
    error
        Why it is not there.
    """

    stage: str
    file: str
    done: int
    total: int | None = None
    error: str | None = None


@dataclass
class Delivery:
    """Plans of the datasets of a run, and what has become of them.

    Attributes
    ----------
    plans
        By dataset; with those whose CT others share.
    sources
        Folder of all datasets.
    mirror
        Where copies are tried first.
    """

    plans: dict[str, Plan]
    sources: Path
    mirror: str | None = None
    _parcels: dict[str, set[Parcel]] = field(default_factory=dict)
    _coming: dict[Future, Parcel] = field(default_factory=dict)
    _listener: Callable[[FetchEvent], None] | None = None

    @classmethod
    def planned(cls, datasets: Iterable[str], sources: Path, *, mirror: str | None = None) -> Delivery:
        """Find out what is missing, datasets whose CT others share included.

        Raises
        ------
        FetchError
            If a source does not say what it holds.
        """
        from atlas.fetch.plan import plan

        sources = sources.resolve()
        plans = {name: plan(load_manifest(name), sources / name) for name in with_lenders(datasets)}
        return cls(plans, sources, mirror, {name: set(parcels(found)) for name, found in plans.items()})

    @property
    def parcels(self) -> list[Parcel]:
        """All that is to be fetched, in a lasting order."""
        return [parcel for group in self._parcels.values() for parcel in sorted(group, key=lambda p: p.name)]

    def fetch(self, listener: Callable[[FetchEvent], None] | None = None) -> list[Arrival]:
        """Fetch without building anything; what goes wrong with a file stands in its arrival."""
        from distributed import as_completed

        if not self.parcels:
            return []
        with cluster(0, None) as client, self.running(client, listener) as coming:
            queue = as_completed(coming)
            coming.clear()  # whoever holds a future keeps its result on the worker, which is closed first
            return [self.arrived(future) for future in queue]

    def pending(self, manifest: Manifest) -> set[Parcel]:
        """What is on its way for a dataset, its borrowed CT included."""
        names = with_lenders([manifest.id])
        return set().union(*(self._parcels.get(name, set()) for name in names))

    @contextmanager
    def running(self, client: Client, listener: Callable[[FetchEvent], None] | None) -> Iterator[list[Future]]:
        """Fetch on a cluster; the futures are to be handed to `arrived`.

        Raises
        ------
        FetchError
            If the disk cannot hold what is missing.
        """
        from atlas.fetch.space import check_space

        check_space(list(self.plans.values()), self.sources)
        self._listener, wanted = listener, self.parcels
        if listener is not None and wanted:
            client.subscribe_topic(TOPIC, lambda event: listener(FetchEvent(**event[1])))
        with fetcher(client, wanted):
            for parcel in wanted:
                self._coming[send(client, parcel, self.sources / parcel.dataset, self.mirror)] = parcel
            yield list(self._coming)

    def arrived(self, future: Future) -> Arrival:
        """Account for a future that is done."""
        parcel = self._coming.pop(future)
        if future.status == "finished":
            arrival: Arrival = future.result()
        else:
            arrival = Arrival(parcel, error=f"unexpected {type(future.exception()).__name__}: {future.exception()}")
        if self._listener is not None:
            self._listener(FetchEvent("done", parcel.name, arrival.transferred, None, arrival.error))
        return arrival


def with_lenders(datasets: Iterable[str]) -> list[str]:
    """Datasets, and those in whose folders the CT of some of them lies."""
    names: dict[str, None] = {}
    for name in datasets:
        names[name] = None
        lender = load_manifest(name).layout.image_of
        if lender is not None:
            names[lender] = None
    return list(names)
