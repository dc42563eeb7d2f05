"""Where a build runs: a local cluster of one process a core, or a Dask cluster that exists already."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from atlas.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client, Scheduler, Worker

MEMORY_LIMIT = 4 * 2**30
"""Bytes a worker may use before it is restarted; the largest cases take half of it (benchmarks/build.py)."""

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": 2**28, "MALLOC_MMAP_THRESHOLD_": 2**25}
"""Environment of a worker. Dask makes its workers give memory back at once; volumes come and go here, and having the
kernel clear fresh pages each time cost as much as all the computing."""

CONNECT_TIMEOUT = "20s"

_FETCHER = "atlas-fetch"


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
    with dask.config.set(settings), _quiet():
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=CONNECT_TIMEOUT)
            except (OSError, ValueError) as error:
                raise BuildError(f"no Dask scheduler answers at {scheduler} ({error})") from error
            with client, _case_slots(client):
                yield client
            return
        with (
            LocalCluster(
                n_workers=cores() if workers is None else workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=MEMORY_LIMIT,
                dashboard_address="127.0.0.1:0",  # any free port, and nobody from outside
                silence_logs=logging.CRITICAL,
            ) as local,
            Client(local) as client,
            _case_slots(client),
        ):
            yield client


def case_slot(client: Client) -> dict[str, int]:
    """Dask resource that a case takes, of this client's run: workers have as many as threads, the fetching one none."""
    return {f"case of {client.id}": 1}


def fetcher_name(client: Client) -> str:
    """Name of the worker that fetches for a client."""
    return f"{_FETCHER} for {client.id}"


def wake(client: Client) -> None:
    """Let the scheduler look once more for workers for the tasks that had none.

    It looks when a worker joins, which is before that worker has its slots (distributed.Scheduler.add_worker): what
    waited for the first worker of a cluster, or for one that was restarted, would wait for ever.
    """

    def look(dask_scheduler: Scheduler) -> None:
        waiting = {task.key: "waiting" for task in dask_scheduler.unrunnable if dask_scheduler.valid_workers(task)}
        dask_scheduler.transitions(waiting, "atlas-wake")

    client.run_on_scheduler(look)


@contextmanager
def _case_slots(client: Client) -> Iterator[None]:
    """Give the workers slots for cases, those that are there and those that come later, and take them back."""
    from distributed import Status, WorkerPlugin

    (slot,) = case_slot(client)

    class CaseSlots(WorkerPlugin):  # type: ignore[misc]
        name = slot

        async def setup(self, worker: Worker) -> None:
            if not str(worker.name).startswith(_FETCHER):
                await worker.set_resources(**{slot: worker.state.nthreads})

        async def teardown(self, worker: Worker) -> None:
            if worker.status is Status.running and slot in worker.state.total_resources:
                await worker.set_resources(**{slot: 0})

    client.register_plugin(CaseSlots())
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # the scheduler may be gone
            client.unregister_worker_plugin(slot)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's own log, which speaks of its parts; what became of a case or a file is in its outcome.

    A worker that closes while its heartbeat is under way logs that as an error with a traceback, however orderly the
    end (distributed.worker.Worker.heartbeat).
    """
    handlers = [(handler, handler.level) for handler in logging.getLogger("distributed").handlers]
    for handler, _ in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in handlers:
            handler.setLevel(level)
