"""Batches read by threads, several at once, in the order in which they are due."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from atlas.errors import CorpusError
from atlas.stream.pack import pack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from atlas.stream.batch import PackedBatch
    from atlas.stream.memory import HostMemory
    from atlas.stream.run import Aim, Patch, Run


class _Reading(NamedTuple):
    """A batch that is being read."""

    aims: list[Aim]
    ct: torch.Tensor
    codes: torch.Tensor
    parts: list[Future[list[Patch]]]


class ReadAhead:
    """The batches of one rank, one after another.

    Parameters
    ----------
    run
        The patches.
    memory
        What they are read into.
    batch_size
        Patches a batch.
    rank, world_size
        Batch k of all ranks are consecutive patches of the run; this rank reads its own.
    threads
        That read.
    ahead
        Batches that are read while one is used.
    """

    def __init__(
        self, run: Run, memory: HostMemory, *, batch_size: int, rank: int, world_size: int, threads: int, ahead: int
    ) -> None:
        self.run, self._memory = run, memory
        self._size, self._rank, self._stride = batch_size, rank, batch_size * world_size
        self._threads, self._ahead = threads, ahead
        self._due = 0
        self._reading: deque[_Reading] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    @property
    def ready(self) -> bool:
        """Whether the batch that is due can be taken without waiting, and without an error."""
        return bool(self._reading) and all(p.done() and p.exception() is None for p in self._reading[0].parts)

    def seek(self, patch: int) -> None:
        """Make the batch that begins with a patch of the run (on rank 0) the one that is due."""
        if self._process == os.getpid():  # in a forked process a thread that is not there may hold a lock
            for reading in self._reading:
                for part in reading.parts:
                    part.cancel()
        self._reading.clear()
        self._due = patch

    def take(self) -> PackedBatch:
        """Wait for the batch that is due, while those after it are read.

        Raises
        ------
        CorpusError
            If a case cannot be read, or if the process was forked from one that has read.
        """
        self._fill(self._ahead + 1)
        reading = self._reading.popleft()
        patches = [patch for part in reading.parts for patch in part.result()]
        self._fill(self._ahead)
        return packed_batch(self.run, reading.aims, patches, reading.ct, reading.codes)

    def close(self) -> None:
        """Stop the threads; they start again when they are needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _fill(self, count: int) -> None:
        """Have so many batches read."""
        pool = self._started()
        while len(self._reading) < count:
            self._reading.append(self._read(pool, self._due + self._rank * self._size))
            self._due += self._stride

    def _read(self, pool: ThreadPoolExecutor, first: int) -> _Reading:
        shape = (self._size, *self.run.patch)
        aims = self.run.aims(first, self._size)
        ct, codes = self._memory.lend(shape, np.dtype(np.int16)), self._memory.lend(shape, np.dtype(np.uint8))
        size = -(-self._size // self._threads)  # a part for each thread: what passes between threads costs time
        parts = [
            pool.submit(read_patches, self.run, aims[i : i + size], ct[i : i + size], codes[i : i + size])
            for i in range(0, self._size, size)
        ]
        return _Reading(aims, ct, codes, parts)

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


def read_batch(run: Run, aims: Sequence[Aim], memory: HostMemory) -> PackedBatch:
    """Read patches one after another, in this thread."""
    ct = memory.lend((len(aims), *run.patch), np.dtype(np.int16))
    codes = memory.lend((len(aims), *run.patch), np.dtype(np.uint8))
    return packed_batch(run, aims, read_patches(run, aims, ct, codes), ct, codes)


def read_patches(run: Run, aims: Sequence[Aim], ct: torch.Tensor, codes: torch.Tensor) -> list[Patch]:
    """Read patches one after another into int16 and uint8 (B, z, y, x)."""
    return [run.read(aim, a, b) for aim, a, b in zip(aims, ct.numpy(), codes.numpy(), strict=True)]


def packed_batch(
    run: Run, aims: Sequence[Aim], patches: Sequence[Patch], ct: torch.Tensor, codes: torch.Tensor
) -> PackedBatch:
    """Batch of patches that were read into `ct` and `codes`."""
    if any(patch.wide is not None for patch in patches):
        parts = [c.numpy() if p.wide is None else p.wide for c, p in zip(codes, patches, strict=True)]
        codes = torch.from_numpy(np.stack([part.astype(np.uint16) for part in parts]))
    return pack(
        [patch.case for patch in patches],
        np.array([patch.origin for patch in patches], np.int64),
        ct,
        codes,
        target=[aim.target for aim in aims],
        index=np.array([aim.number for aim in aims], np.int64),
        taxonomy=run.taxonomy,
        counting=run.available(aims),
    )
