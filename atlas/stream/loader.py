"""The fast path: one process, several batches being read at once, batches on the device."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch

from atlas.errors import CorpusError, SpecError
from atlas.stream.batch import WINDOW, Batch, PackedBatch, check_view
from atlas.stream.dataset import packed_batch
from atlas.stream.memory import HostMemory
from atlas.stream.run import Run
from atlas.stream.select import select

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from atlas.corpus import Corpus
    from atlas.stream.augment import Augmentation
    from atlas.stream.batch import Axes
    from atlas.stream.run import Aim, Patch
    from atlas.stream.sampling import Sampling

LOCAL_THREADS, REMOTE_THREADS = 4, 32
"""At most: a disk wants no more than there are cores, a network waits."""


class _Reading(NamedTuple):
    """A batch that is being read."""

    aims: list[Aim]
    ct: torch.Tensor
    codes: torch.Tensor
    patches: list[Future[Patch]]

    @property
    def good(self) -> bool:
        """Whether all of it is read; an error is for when the batch is due."""
        return all(patch.done() and patch.exception() is None for patch in self.patches)


class _Ready(NamedTuple):
    """A batch on its way to the device; what it is copied from must live until it is there."""

    batch: Batch
    source: PackedBatch
    arrived: torch.cuda.Event


class Stream:
    """Endless iterator over batches; see `stream`, which makes one.

    Parameters
    ----------
    run
        The patches.
    batch_size
        Patches a batch, of this rank.
    device
        Where to unpack; None: yield `PackedBatch`.
    augmentation
        What is done to the patches; None: nothing.
    window, axes
        See `PackedBatch.to`.
    rank, world_size
        Of how many processes this is which one; batch k of all ranks are consecutive patches of the run.
    threads
        That read.
    ahead
        Batches being read while one is used.
    """

    def __init__(
        self,
        run: Run,
        *,
        batch_size: int,
        device: torch.device | None,
        augmentation: Augmentation | None,
        window: tuple[float, float],
        axes: Axes,
        rank: int,
        world_size: int,
        threads: int,
        ahead: int,
    ) -> None:
        self.run, self.batch_size, self.device = run, batch_size, device
        self.classes = run.classes
        self.rank, self.world_size = rank, world_size
        self._view: dict[str, Any] = {"classes": run.classes, "window": window, "axes": axes}
        self._augmentation = augmentation
        self._threads, self._ahead = threads, ahead
        self._patch = self._due = 0
        """First patch of what is returned next, and of what is read next, on all ranks together."""
        self._reading: deque[_Reading] = deque()
        self._ready: deque[_Ready] = deque()
        self._sent: deque[tuple[PackedBatch, torch.cuda.Event]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0
        cuda = torch.cuda.is_available() and (device is None or device.type == "cuda")
        self._memory = HostMemory(pinned=cuda)
        self._copies: torch.cuda.Stream | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch | PackedBatch:
        """Next batch.

        Raises
        ------
        CorpusError
            If a case cannot be read; asked again, the stream tries that batch again. Also if the process was forked
            after the first batch.
        """
        try:
            batch = self._next_ready() if self.device is not None and self.device.type == "cuda" else self._next_plain()
        except BaseException:
            self._drop()
            raise
        self._patch += self.batch_size * self.world_size
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the run is; the same on all ranks, and for any number of them."""
        return {"seed": self.run.seed, "patch": self._patch, "run": self.run.fingerprint}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a run was, on as many ranks as there are now.

        Raises
        ------
        SpecError
            If the state is that of other patches: another seed, selection, patch size, sampling or classes.
        """
        expected = {"seed": self.run.seed, "run": self.run.fingerprint}
        if any(state.get(name) != value for name, value in expected.items()) or state.get("patch", -1) < 0:
            raise SpecError(
                f"the state {state} is that of another run than this, {expected}: seed, cases, patch size, sampling "
                "and classes must be the same to go on"
            )
        self._patch = state["patch"]
        self._drop()

    def close(self) -> None:
        """Stop reading; a stream may be used again afterwards."""
        self._drop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_plain(self) -> Batch | PackedBatch:
        packed = self._finish()
        return packed if self.device is None else self._unpacked(packed, self.device)

    def _next_ready(self) -> Batch:
        """On a GPU: what was sent ahead, after sending the next one if it is read already."""
        if not self._ready:
            self._send()
        ready = self._ready.popleft()
        batch = ready.batch
        self._sent.append((ready.source, ready.arrived))
        while self._sent and self._sent[0][1].query():  # type: ignore[no-untyped-call]
            self._sent.popleft()
        if self._reading and self._reading[0].good:
            self._send()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(ready.arrived)
        for tensor in (batch.image, batch.mask, batch.available, batch.unknown):
            if tensor is not None:
                tensor.record_stream(current)
        return batch

    def _send(self) -> None:
        device = torch.device(self.device or "cuda")
        packed = self._finish()
        self._copies = self._copies or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._copies):
            batch = self._unpacked(packed, device)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record(self._copies)
        self._ready.append(_Ready(batch, packed, arrived))

    def _unpacked(self, packed: PackedBatch, device: torch.device) -> Batch:
        parameters = self._augmentation and self._augmentation.draw(self.run.seed, packed.index, self.run.patch)
        return packed.to(device, augmentation=parameters or None, **self._view)

    def _finish(self) -> PackedBatch:
        """Wait for the batch that is due, while the next ones are read."""
        self._fill(self._ahead + 1)
        reading = self._reading.popleft()
        patches = [patch.result() for patch in reading.patches]
        self._fill(self._ahead)
        return packed_batch(self.run, reading.aims, patches, reading.ct, reading.codes)

    def _fill(self, count: int) -> None:
        """Have so many batches read."""
        pool = self._started()
        while len(self._reading) < count:
            first = self._due + self.rank * self.batch_size
            self._due += self.batch_size * self.world_size
            self._reading.append(self._read(pool, first))

    def _read(self, pool: ThreadPoolExecutor, first: int) -> _Reading:
        shape = (self.batch_size, *self.run.patch)
        aims = self.run.aims(first, self.batch_size)
        ct, codes = self._memory.lend(shape, np.dtype(np.int16)), self._memory.lend(shape, np.dtype(np.uint8))
        patches = [
            pool.submit(self.run.read, aim, a, b) for aim, a, b in zip(aims, ct.numpy(), codes.numpy(), strict=True)
        ]
        return _Reading(aims, ct, codes, patches)

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None:
            _ = self.run.source  # opened before there are threads: one for all of them
            self._pool, self._process = ThreadPoolExecutor(self._threads, "atlas-stream"), os.getpid()
        if self._process != os.getpid():
            raise CorpusError(
                f"{self.run.location}: the stream was read before this process was forked, and its threads stayed "
                'behind; start processes by "forkserver" or "spawn", or before the stream is first read'
            )
        return self._pool

    def _drop(self) -> None:
        """Forget what was read ahead."""
        if self._process == os.getpid():  # in a forked process a thread that is not there may hold a lock
            for reading in self._reading:
                for patch in reading.patches:
                    patch.cancel()
        self._reading.clear()
        self._ready.clear()
        self._due = self._patch


def stream(
    corpus: Corpus,
    *,
    batch_size: int,
    patch_size: int | Sequence[int] = 96,
    device: str | torch.device | None = "auto",
    split: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    available: str | Sequence[str] = (),
    present: str | Sequence[str] = (),
    licence: str | Sequence[str] | None = None,
    where: str | None = None,
    classes: Sequence[str] | None = None,
    sampling: Sampling | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    window: tuple[float, float] = WINDOW,
    axes: Axes = "zyx",
    rank: int | None = None,
    world_size: int | None = None,
    threads: int | None = None,
    ahead: int = 3,
) -> Stream:
    """Stream random patches out of a corpus, without end.

    Parameters
    ----------
    corpus
        Local or remote.
    batch_size
        Patches a batch, on this rank.
    patch_size
        Voxels, (z, y, x) or one number for all axes.
    device
        Where batches are unpacked: "cuda", "cpu" and so on; "auto" is a GPU where there is one. None: yield the
        packed batches, in pinned memory where there is a GPU.
    split, datasets, available, present, licence, where
        Which cases: see `atlas.stream.select.select`.
    classes
        Channels of the masks, in order, and what patches are aimed at. None: the classes that are available in any
        of the cases, in bit order.
    sampling, augmentation
        What patches are aimed at, and what is done to them; see `Sampling` and `Augmentation`.
    seed
        Patch i of a run depends on the seed and i alone: not on ranks, threads or interruptions.
    window
        HU that become 0 and 1.
    axes
        Order of the patch's axes in what is unpacked.
    rank, world_size
        Of how many processes this is which one. None: as torch.distributed or torchrun say, else one process.
    threads
        That read. None: as many as there are cores, at most 4; 32 if the corpus is remote.
    ahead
        Batches that are read while one is used.

    Raises
    ------
    CorpusError
        If no case is left; while streaming, if a case cannot be read.
    SpecError
        If a parameter is impossible.
    """
    index = select(
        corpus, split=split, datasets=datasets, available=available, present=present, licence=licence, where=where
    )
    run = Run(corpus, index, patch_size=patch_size, seed=seed, sampling=sampling, classes=classes)
    own_rank, size = _place(rank, world_size)
    check_view(window, axes)
    if augmentation is not None:
        augmentation.draw(seed, [], run.patch)  # refuses what the patch is too small for
    if batch_size < 1 or ahead < 0 or (threads is not None and threads < 1):
        raise SpecError(f"batch_size {batch_size}, ahead {ahead} and threads {threads}: at least 1, 0 and 1")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    most = REMOTE_THREADS if "://" in corpus.location else min(LOCAL_THREADS, os.cpu_count() or 1)
    return Stream(
        run,
        batch_size=batch_size,
        device=None if device is None else torch.device(device),
        augmentation=augmentation,
        window=window,
        axes=axes,
        rank=own_rank,
        world_size=size,
        threads=threads or most,
        ahead=ahead,
    )


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Rank and number of processes."""
    distributed = torch.distributed
    if rank is None and world_size is None:
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise SpecError(f"rank {rank} of world_size {world_size}: give both, the rank from 0 to world_size - 1")
    return rank, world_size
