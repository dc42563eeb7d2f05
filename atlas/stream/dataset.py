"""Patches as a map-style dataset, for any DataLoader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from atlas.errors import SpecError
from atlas.spec.label_map import PROVENANCES
from atlas.stream.batch import WINDOW, PackedBatch, check_view
from atlas.stream.memory import HostMemory
from atlas.stream.pack import join
from atlas.stream.reading import read_batch
from atlas.stream.run import Run
from atlas.stream.select import select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.corpus import Corpus
    from atlas.stream.augment import Augmentation
    from atlas.stream.batch import Axes
    from atlas.stream.sampling import Sampling

Item = dict[str, Any]


class PatchDataset(Dataset[Item]):
    r"""Patches 0, 1, 2, ... of a run.

    Item i is a dictionary that any collate function takes: image float32 (1, \*P) in [0, 1], mask and unknown bool
    (C, \*P), available bool (C,), case_id, origin (z, y, x), affine (4, 4), target ("" is background), index.

    With ``packed=True`` items are patches as they are stored, three bytes a voxel: give the DataLoader
    ``collate_fn=dataset.collate``, and unpack its batches with ``batch.to("cuda", classes=dataset.classes)``.

    Nothing is opened before the first item, so any start method of workers will do.

    Parameters
    ----------
    corpus
        Local or remote.
    patch_size
        Voxels, (z, y, x) or one number for all axes.
    split, datasets, available, present, licence, where, provenance
        Which cases, and which of their labels: see `atlas.stream.select.select`.
    classes
        Channels of the masks, and what is aimed at. None: those that are available in any of the cases.
    sampling
        What patches are aimed at.
    augmentation
        What is done to them; not for packed items, whose `to` takes it.
    seed
        Of the run.
    length
        Items of an epoch; None: as many as there are cases.
    window
        HU that become 0 and 1.
    axes
        Order of the patch's axes in items that are not packed.
    packed
        See above.

    Raises
    ------
    CorpusError
        If no case is left; while reading, if one cannot be read.
    SpecError
        If a parameter is impossible.
    """

    def __init__(
        self,
        corpus: Corpus,
        patch_size: int | Sequence[int] = 96,
        split: str | Sequence[str] | None = None,
        *,
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
        length: int | None = None,
        window: tuple[float, float] = WINDOW,
        axes: Axes = "zyx",
        packed: bool = False,
    ) -> None:
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
        self.run = Run(corpus, index, patch_size=patch_size, seed=seed, sampling=sampling, classes=classes)
        self.classes = self.run.classes
        check_view(window, axes)
        if augmentation is not None:
            self._check_augmentation(augmentation, packed=packed)
        if length is not None and length < 1:
            raise SpecError(f"length {length}: an epoch has at least one item")
        self.packed = packed
        self._length = len(index) if length is None else length
        self._window, self._axes, self._augmentation = window, axes, augmentation
        # in shared memory: workers that live on from epoch to epoch see it change
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Go on to other patches: epoch e has those from e * len(dataset) on."""
        self._epoch.fill_(epoch)

    def __getitem__(self, item: int) -> Item | PackedBatch:  # type: ignore[override]
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of {len(self)}")
        batch = self._read([item])
        return batch if self.packed else self._unpacked(batch)

    def __getitems__(self, items: list[int]) -> list[Item] | PackedBatch:
        """All items of a batch at once, as PyTorch's loaders ask for them."""
        return self._read(items) if self.packed else [self[i] for i in items]  # type: ignore[misc]

    def collate(self, items: PackedBatch | Sequence[PackedBatch]) -> PackedBatch:
        """Batch of packed items, for the DataLoader."""
        return items if isinstance(items, PackedBatch) else join(items)

    def _check_augmentation(self, augmentation: Augmentation, *, packed: bool) -> None:
        if packed:
            raise SpecError(
                "packed patches are not augmented by the dataset, but when they are unpacked: "
                "batch.to(device, augmentation=augmentation.draw(seed, batch.index, patch))"
            )
        augmentation.draw(self.run.seed, [], self.run.patch)  # refuses what the patch is too small for

    def _read(self, items: Sequence[int]) -> PackedBatch:
        first = int(self._epoch) * len(self)
        aims = [self.run.aims(first + i, 1)[0] for i in items]
        return read_batch(self.run, aims, _memory)

    def _unpacked(self, packed: PackedBatch) -> Item:
        parameters = self._augmentation and self._augmentation.draw(self.run.seed, packed.index, self.run.patch)
        batch = packed.to(
            "cpu", classes=self.classes, window=self._window, axes=self._axes, augmentation=parameters or None
        )
        unknown = torch.zeros_like(batch.mask) if batch.unknown is None else batch.unknown
        return {
            "image": batch.image[0],
            "mask": batch.mask[0],
            "available": batch.available[0],
            "unknown": unknown[0],
            "case_id": batch.case_id[0],
            "origin": torch.from_numpy(batch.origin[0]),
            "affine": torch.from_numpy(batch.affine[0]),
            "target": batch.target[0] or "",
            "index": int(batch.index[0]),
        }


_memory = HostMemory(pinned=False)
