"""Everything that a run has to fetch: planned before it starts, sent into the graph, accounted for as it arrives."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from atlas.build.cluster import cluster
from atlas.build.fetching import TOPIC, Arrival, Parcel, fetcher, parcels
from atlas.errors import FetchError
from atlas.ingest.cases import case_of
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

    @classmethod
    def of(cls, event: dict[str, Any]) -> FetchEvent:
        """Out of what a worker sent; the scheduler adds who it was."""
        return cls(event["stage"], event["file"], event["done"], event["total"])


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
    _parcels: dict[str, list[Parcel]] = field(default_factory=dict)
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
        sources = sources.resolve()
        plans = {name: _plan(load_manifest(name), sources) for name in with_lenders(datasets)}
        return cls(plans, sources, mirror, {name: _ordered(found) for name, found in plans.items()})

    @property
    def parcels(self) -> list[Parcel]:
        """All that is to be fetched, in order."""
        return [parcel for group in self._parcels.values() for parcel in group]

    def check_room(self) -> None:
        """Refuse to start what cannot be finished.

        Raises
        ------
        FetchError
            If the disk cannot hold what is missing.
        """
        from atlas.fetch.space import check_space

        check_space(list(self.plans.values()), self.sources)

    def fetch(self, listener: Callable[[FetchEvent], None] | None = None) -> list[Arrival]:
        """Fetch without building anything; what goes wrong with a file stands in its arrival.

        Parameters
        ----------
        listener
            Called as files come in, from several threads.

        Raises
        ------
        FetchError
            If the disk cannot hold what is missing.
        """
        from distributed import as_completed

        if not self.parcels:
            return []
        self.check_room()
        with cluster(0, None) as client, self.running(client, listener) as coming:
            return [self.arrived(future) for future in as_completed(coming)]

    def pending(self, manifest: Manifest) -> list[Parcel]:
        """What is on its way for a dataset, its borrowed CT included."""
        return [parcel for name in with_lenders([manifest.id]) for parcel in self._parcels.get(name, ())]

    @contextmanager
    def running(self, client: Client, listener: Callable[[FetchEvent], None] | None) -> Iterator[list[Future]]:
        """Fetch on a cluster; the futures are to be handed to `arrived`."""
        wanted, self._listener = self.parcels, listener
        if not wanted:
            yield []
            return
        if listener is not None:
            client.subscribe_topic(TOPIC, lambda event: listener(FetchEvent.of(event[1])))
        with fetcher(client, wanted, self.sources, self.mirror) as worker:
            self._coming = {worker.send(parcel, turn): parcel for turn, parcel in enumerate(wanted)}
            try:
                yield list(self._coming)
            finally:
                for future in self._coming:
                    future.release()
                self._coming.clear()

    def arrived(self, future: Future) -> Arrival:
        """Account for a future that is done."""
        parcel = self._coming.pop(future)
        if future.status == "finished":
            arrival: Arrival = future.result()
        else:
            error = future.exception()
            arrival = Arrival(parcel.name, error=f"unexpected {type(error).__name__}: {error}")
        # its result lies on the worker that fetched, and must be wanted by nobody when that is closed
        future.release()
        if self._listener is not None:
            self._listener(FetchEvent("done", parcel.name, arrival.transferred, None, arrival.error))
        return arrival


def _plan(manifest: Manifest, sources: Path) -> Plan:
    from atlas.fetch.plan import plan

    try:
        return plan(manifest, sources / manifest.id)
    except FetchError as error:
        text = str(error)
        raise FetchError(text if text.startswith(f"{manifest.id}:") else f"{manifest.id}: {text}") from error


def _ordered(plan: Plan) -> list[Parcel]:
    """Case by case, so that the first ones are complete early; before them what belongs to no case, such as tables."""
    layout = load_manifest(plan.dataset).layout
    return sorted(parcels(plan), key=lambda parcel: (case_of(layout, parcel.target) or "", parcel.name))


def with_lenders(datasets: Iterable[str]) -> list[str]:
    """Datasets, and those in whose folders the CT of some of them lies."""
    names: dict[str, None] = {}
    for name in datasets:
        names[name] = None
        lender = load_manifest(name).layout.image_of
        if lender is not None:
            names[lender] = None
    return list(names)
