"""The fast path: one process, several batches being read at once, batches on the device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

import torch

from atlas.errors import AtlasError, SpecError
from atlas.spec.label_map import PROVENANCES
from atlas.stream.batch import WINDOW, Batch, PackedBatch, check_view
from atlas.stream.memory import HostMemory
from atlas.stream.reading import ReadAhead
from atlas.stream.run import Run
from atlas.stream.select import select
from atlas.stream.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.corpus import Corpus
    from atlas.stream.augment import Augmentation
    from atlas.stream.batch import Axes
    from atlas.stream.sampling import Sampling

LOCAL_THREADS, REMOTE_THREADS = 4, 32
"""At most: a disk wants no more than there are cores, a network waits."""


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
    rank, world_size, threads, ahead
        See `ReadAhead`.
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
        self.run, self.device, self.classes = run, device, run.classes
        self._view: dict[str, Any] = {"classes": run.classes, "window": window, "axes": axes}
        self._augmentation = augmentation
        self.rank, self.world_size = rank, world_size
        self._patch, self._stride = 0, batch_size * world_size
        cuda = torch.cuda.is_available() and (device is None or device.type == "cuda")
        self._reader = ReadAhead(
            run,
            HostMemory(pinned=cuda),
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            threads=threads,
            ahead=ahead,
        )
        self._transfer = Transfer(device, self._unpacked) if device is not None and device.type == "cuda" else None

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
            batch = self._next()
        except BaseException:
            self._drop()
            raise
        self._patch += self._stride
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
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> Batch | PackedBatch:
        if self._transfer is None:
            packed = self._reader.take()
            return packed if self.device is None else self._unpacked(packed)
        if not self._transfer:
            self._transfer.send(self._reader.take())
        batch = self._transfer.take()
        if self._reader.ready:  # the next one crosses while this one is used
            try:
                self._transfer.send(self._reader.take())
            except AtlasError:  # comes again when that batch is due
                self._reader.seek(self._patch + self._stride)
        return batch

    def _unpacked(self, packed: PackedBatch) -> Batch:
        parameters = self._augmentation and self._augmentation.draw(self.run.seed, packed.index, self.run.patch)
        return packed.to(self.device or "cpu", augmentation=parameters or None, **self._view)

    def _drop(self) -> None:
        """Forget what was read ahead."""
        self._reader.seek(self._patch)
        if self._transfer is not None:
            self._transfer.forget()


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
    provenance: str | Sequence[str] = PROVENANCES,
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
    split, datasets, available, present, licence, where, provenance
        Which cases, and which of their labels: see `atlas.stream.select.select`.
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
        corpus,
        split=split,
        datasets=datasets,
        available=available,
        present=present,
        licence=licence,
        where=where,
        provenance=provenance,
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
