"""Where a build runs: a local cluster of one process a core, or a Dask cluster that exists already."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from atlas.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Worker, WorkerPlugin

MEMORY_LIMIT = 4 * 2**30
"""Bytes a worker may use before it is restarted; the largest cases take half of it (benchmarks/build.py)."""

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": 2**28, "MALLOC_MMAP_THRESHOLD_": 2**25}
"""Environment of a worker. Dask makes its workers give memory back at once; volumes come and go here, and having the
kernel clear fresh pages each time cost as much as all the computing."""

CONNECT_TIMEOUT = "20s"

CASE = "case"
"""Dask resource of the workers that build cases, as many as they have threads."""

FETCHER = "fetch"
"""Name of the worker that fetches files; it builds no cases."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def cluster(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """Client of a cluster; a local one is closed at the end.

    Parameters
    ----------
    workers
        Processes of the local cluster; None: one a core. 0: none, to fetch only.
    scheduler
        Address of an existing cluster instead.

    Raises
    ------
    BuildError
        If the existing cluster does not answer.
    """
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # a case is one task: there is nothing to spill, and a worker that is full must not take another
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        **{f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in ALLOCATOR.items()},
        "distributed.admin.log-format": "%(message)s",
        "logging": {"distributed": "error", "distributed.nanny": "critical"},
    }
    with dask.config.set(settings):
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=CONNECT_TIMEOUT)
            except (OSError, ValueError) as error:
                raise BuildError(f"no Dask scheduler answers at {scheduler} ({error})") from error
            with client:
                client.register_plugin(_case_slots())
                yield client
            return
        with (
            LocalCluster(
                n_workers=cores() if workers is None else workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=MEMORY_LIMIT,
                dashboard_address="127.0.0.1:0",  # any free port, and nobody from outside
            ) as local,
            Client(local) as client,
        ):
            client.register_plugin(_case_slots())
            yield client


def _case_slots() -> WorkerPlugin:
    """Give every worker but the fetching one its slots for cases: those that are there, and those that come later."""
    from distributed import WorkerPlugin

    class CaseSlots(WorkerPlugin):  # type: ignore[misc]
        name = "atlas-case-slots"

        async def setup(self, worker: Worker) -> None:
            if worker.name != FETCHER:
                await worker.set_resources(**{CASE: worker.state.nthreads})

    return CaseSlots()
