"""A batch of patches: packed on the host, as it is read; and unpacked on the device, as a network takes it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from atlas.errors import CorpusError, SpecError
from atlas.spec.taxonomy import Taxonomy
from atlas.stream import channels, unpack

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torchio
    from numpy.typing import NDArray

    from atlas.stream.augment import Parameters

WINDOW = (-175.0, 250.0)
"""HU that become 0 and 1: the window of the CLIP-driven universal model."""

Axes = Literal["zyx", "xyz"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches on a device, unpacked. *P is the patch, its axes in the order of `axes`.

    Attributes
    ----------
    image
        float32 (B, 1, *P), the window's HU as [0, 1].
    mask
        bool (B, C, *P). False where the class is unavailable.
    available
        bool (B, C): the class was annotated in the case; an empty mask then means absent.
    available_on_host
        The same in numpy: whoever chooses by it need not wait for the device.
    unknown
        bool (B, C, *P): an available class is not known there. None if all of the batch is known.
    case_id
        Of each patch.
    origin
        int64 (B, 3): the patch's first voxel in the case, always (z, y, x); negative where it is padded.
    affine
        float64 (B, 4, 4): (x, y, z) indices of the patch, as cut out of the case, to RAS mm. Augmentation that moves
        voxels leaves it alone.
    target
        Class that the patch was aimed at, None: background. In a mirrored patch, the class that is there now.
    index
        int64 (B,): number of the patch in its run.
    classes
        Channels of the masks, in order.
    axes
        "zyx" or "xyz".
    """

    image: torch.Tensor
    mask: torch.Tensor
    available: torch.Tensor
    available_on_host: NDArray[np.bool_]
    unknown: torch.Tensor | None
    case_id: tuple[str, ...]
    origin: NDArray[np.int64]
    affine: NDArray[np.float64]
    target: tuple[str | None, ...]
    index: NDArray[np.int64]
    classes: tuple[str, ...]
    axes: Axes

    def __len__(self) -> int:
        return len(self.case_id)

    def to_monai(self) -> list[dict[str, Any]]:
        """MONAI dictionaries, one a patch; see `atlas.stream.exchange.to_monai`."""
        from atlas.stream.exchange import to_monai

        return to_monai(self)

    def to_torchio(self) -> list[torchio.Subject]:
        """TorchIO subjects, one a patch; see `atlas.stream.exchange.to_torchio`."""
        from atlas.stream.exchange import to_torchio

        return to_torchio(self)


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Patches on the host as they are read, to be unpacked on a device.

    Attributes
    ----------
    ct
        int16 (B, z, y, x), HU; air outside the volume.
    codes
        uint8 or uint16 (B, z, y, x); 0, no class, outside the volume.
    tables
        uint32 (B, codes, 2, words): what each code of the case stands for, its classes (0) and the classes that are
        not known there (1). Bit j of word w is class 32 w + j. Shorter tables are filled with zeros.
    available
        uint32 (B, words), in the same layout.
    case_id, origin, affine, target, index
        As in `Batch`.
    taxonomy
        Of the corpus.
    """

    ct: torch.Tensor
    codes: torch.Tensor
    tables: NDArray[np.uint32]
    available: NDArray[np.uint32]
    case_id: tuple[str, ...]
    origin: NDArray[np.int64]
    affine: NDArray[np.float64]
    target: tuple[str | None, ...]
    index: NDArray[np.int64]
    taxonomy: Taxonomy

    def __len__(self) -> int:
        return len(self.case_id)

    def pin_memory(self) -> PackedBatch:
        """The batch in pinned memory; DataLoaders call this where they are made with ``pin_memory=True``."""
        return replace(self, ct=self.ct.pin_memory(), codes=self.codes.pin_memory())

    def __reduce__(self) -> tuple[Any, ...]:
        # workers send many batches, and the taxonomy has hundreds of objects: as text it is parsed but once
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "taxonomy"}
        return _received, (self.taxonomy.text, values)

    @property
    def nbytes(self) -> int:
        """Bytes that cross to the device: CT and codes. The look-up made of the tables is a few kilobytes more."""
        return self.ct.nbytes + self.codes.nbytes

    def to(
        self,
        device: str | torch.device,
        *,
        classes: Sequence[str] | None = None,
        window: tuple[float, float] = WINDOW,
        axes: Axes = "zyx",
        augmentation: Parameters | None = None,
    ) -> Batch:
        """Unpack on a device.

        Parameters
        ----------
        device
            "cpu", "cuda", "cuda:1" and so on. Out of pinned memory the copies do not wait; what is written to that
            memory before they are done, is what arrives.
        classes
            Channels of the masks, in order. None: all of the taxonomy, in bit order.
        window
            HU that become 0 and 1.
        axes
            Order of the patch's axes in what is returned.
        augmentation
            What is to be done to each patch; see `atlas.stream.Augmentation`. What it moves in from outside the patch
            is air, and unknown for every available class.

        Raises
        ------
        SpecError
            If a class is unknown or asked for twice, the window is empty, or there are no such axes.
        CorpusError
            If a voxel holds a code past the tables: the case is damaged.
        """
        names = channels.named(self.taxonomy, classes)
        check_view(window, axes)
        self._check_codes()
        mirrored = _mirrored(augmentation, len(self))
        bits = channels.bits(self.taxonomy, names, mirrored)
        available = unpack.lookup(self.available[:, None], bits)[..., 0]
        held, unknown = (unpack.lookup(self.tables[:, :, i], bits) & available[..., None] for i in (0, 1))
        if augmentation is not None and augmentation.resampled.any():
            unknown = np.concatenate([unknown, available[..., None]], axis=2)  # the code of what comes from outside
        image, codes = self._volumes(torch.device(device), window, augmentation)
        if axes == "xyz":
            image, codes = image.permute(0, 1, 4, 3, 2).contiguous(), codes.permute(0, 3, 2, 1).contiguous()
        return Batch(
            image=image,
            mask=unpack.expand(codes, held),
            available=torch.from_numpy(available).to(device, non_blocking=True),
            available_on_host=available,
            unknown=unpack.expand(codes, unknown) if unknown.any() else None,
            case_id=self.case_id,
            origin=self.origin,
            affine=self.affine,
            target=channels.aimed(self.taxonomy, self.target, mirrored),
            index=self.index,
            classes=names,
            axes=axes,
        )

    def _volumes(
        self, device: torch.device, window: tuple[float, float], augmentation: Parameters | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (B, 1, z, y, x) and codes (B, z, y, x) on the device, augmented."""
        ct, codes = self.ct.to(device, non_blocking=True), self.codes.to(device, non_blocking=True)
        if augmentation is None:
            return unpack.window(ct, *window)[:, None], codes
        from atlas.stream.augment import apply_intensity, apply_spatial

        outside = self.tables.shape[1]
        if outside > torch.iinfo(codes.dtype).max:
            codes = codes.to(torch.int32)
        ct, codes = apply_spatial(ct.to(torch.float32), codes, augmentation, outside)
        return apply_intensity(unpack.window(ct, *window)[:, None], augmentation), codes

    def _check_codes(self) -> None:
        # on the host, a few hundredths of a millisecond: on a GPU it would have to wait for the answer
        limit, codes = self.tables.shape[1], self.codes.numpy()
        if codes.max(initial=0) < limit:
            return
        case_id, code = next((c, int(p.max())) for c, p in zip(self.case_id, codes, strict=True) if p.max() >= limit)
        raise CorpusError(
            f"{case_id}: a voxel holds code {code}, but there are {limit} codes at most; "
            "the case is damaged, build it again"
        )


def _received(taxonomy: str, values: dict[str, Any]) -> PackedBatch:
    return PackedBatch(taxonomy=_parsed(taxonomy), **values)


@lru_cache(maxsize=4)
def _parsed(taxonomy: str) -> Taxonomy:
    return Taxonomy.model_validate_json(taxonomy)


def _mirrored(augmentation: Parameters | None, size: int) -> NDArray[np.bool_]:
    if augmentation is None:
        return np.zeros(size, bool)
    if len(augmentation) != size:
        raise SpecError(f"the augmentation is for {len(augmentation)} patches, the batch has {size}")
    return augmentation.mirror


def check_view(window: Sequence[float], axes: str) -> None:
    """Raise SpecError if a batch cannot be unpacked so; see `PackedBatch.to`."""
    if len(window) != 2 or not all(map(isfinite, window)) or window[0] >= window[1]:  # noqa: PLR2004
        raise SpecError(f"a window goes from a lower to a higher HU, as (-175, 250) does; not {window!r}")
    if axes not in {"zyx", "xyz"}:
        raise SpecError(f"axes are 'zyx' or 'xyz', not {axes!r}")
