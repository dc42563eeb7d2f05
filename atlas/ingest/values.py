"""What the stored numbers of a volume mean: Hounsfield units or labels. The same rules for every file format.

Numbers are taken piece by piece out of the file into the result, so that a volume needs its own size in
memory and a few megabytes, whatever type the file stores it in.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import LabelError, ScanError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIECE = 1 << 18
"""Voxels handled at a time: 2 MB as float64, which stays in the processor's cache."""

MOST_VOXELS = 1 << 31
"""More than any CT has: 512 x 512 x 8192."""

MOST_LABEL = 65535
WHOLE_TOLERANCE = 1e-3
"""How far from an integer a label may lie: what float storage and scale factors lose, and no more."""

_SPATIAL = 3
_TELLING_VALUES = 5
_HOPELESS_VALUES = 100


@dataclass(frozen=True)
class Stored:
    """A volume as its file holds it: header read and checked, voxels yet to be read.

    Parameters
    ----------
    shape
        Voxels along (i, j, k).
    dtype
        Of the stored numbers, integer or float of at most 8 bytes, in any byte order.
    slope, inter
        A voxel's value is `slope * stored + inter`.
    affine
        (4, 4), (i, j, k) to RAS mm, as the header has it.
    notes
        Sentences about what was odd but usable.
    fill
        Puts the next stored numbers, i fastest, into a contiguous 1-D array of `dtype`.
    """

    shape: tuple[int, int, int]
    dtype: "np.dtype[Any]"
    slope: float
    inter: float
    affine: "NDArray[np.float64]"
    notes: tuple[str, ...]
    fill: "Callable[[NDArray[Any]], None]"

    @property
    def scaled(self) -> bool:
        """Whether slope and intercept change anything."""
        return (self.slope, self.inter) != (1.0, 0.0)


def volume_shape(sizes: Sequence[int]) -> tuple[int, int, int]:
    """Take the (i, j, k) shape from a header's sizes: three, or more where the further ones are 1."""
    text = " x ".join(str(size) for size in sizes)
    if len(sizes) < _SPATIAL:
        raise ScanError(f"holds an image of {len(sizes)} dimensions ({text}), not a volume")
    if min(sizes) < 1:
        raise ScanError(f"holds no voxels: its size is {text}. Fetch the file again, or leave the case out")
    volumes = math.prod(sizes[_SPATIAL:])
    if volumes > 1:
        raise ScanError(f"holds {volumes} volumes ({text}), not one; split it and name one in the manifest")
    if math.prod(sizes) > MOST_VOXELS:
        raise ScanError(f"claims {text} voxels, more than the {MOST_VOXELS} any CT has; the header is damaged")
    return sizes[0], sizes[1], sizes[2]


def number_type(dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    """Refuse what is not one real number a voxel."""
    if dtype.kind not in "iuf" or dtype.itemsize > np.dtype(np.float64).itemsize:
        raise ScanError(
            f"stores {dtype} voxels; a CT or a label volume holds one integer or one float of up to 64 bits "
            "in each. Convert the file"
        )
    return dtype


def hounsfield(stored: Stored) -> "NDArray[np.int16] | NDArray[np.float32]":
    """Read a CT.

    Integers without scaling become int16; those beyond its range saturate, which loses nothing, since the
    corpus clips to [-1024, 3071]. Everything else becomes float32.

    Returns
    -------
    NDArray
        (i, j, k), i fastest in memory, HU.
    """
    whole = stored.dtype.kind in "iu" and not stored.scaled
    out = np.empty(stored.shape, np.int16 if whole else np.float32, order="F")
    nans = infinities = 0
    for piece, target in _pieces(stored, out):
        if whole:
            if piece is not target:
                target[:] = _saturated(piece)
            continue
        # beyond the range of float32 means infinite here, and is reported as such
        with np.errstate(over="ignore", invalid="ignore"):
            if stored.scaled:
                target[:] = np.float64(stored.slope) * piece + stored.inter
            elif piece is not target:
                target[:] = piece
        if not np.isfinite(target).all():
            nans += int(np.isnan(target).sum())
            infinities += int(np.isinf(target).sum())
    if nans or infinities:
        raise ScanError(
            f"holds {nans} NaN and {infinities} infinite voxels of {out.size}; their HU are unknown. "
            "Mend the file, or leave the case out in the manifest"
        )
    return out


def labels(stored: Stored) -> "NDArray[np.uint8] | NDArray[np.uint16]":
    """Read a label volume.

    Values within `WHOLE_TOLERANCE` of an integer are that integer.

    Returns
    -------
    NDArray
        (i, j, k), i fastest in memory; uint8, or uint16 where a label is above 255 (while the one grows into
        the other, both are in memory).

    Raises
    ------
    LabelError
        If a value is no integer, negative, above 65535 or not finite.
    """
    out: NDArray[Any] = np.empty(stored.shape, np.uint8, order="F")
    judge = _LabelJudge(stored)
    done = 0
    for piece, target in _pieces(stored, out):
        if piece is not target:
            found = judge(piece)
            if out.dtype == np.uint8 and found.max() > np.iinfo(np.uint8).max:
                out = out.astype(np.uint16, order="F")
            out.reshape(-1, order="F")[done : done + len(piece)] = found
        done += len(piece)
    judge.conclude()
    return out


def _pieces(stored: Stored, out: "NDArray[Any]") -> "Iterator[tuple[NDArray[Any], NDArray[Any]]]":
    """Each piece of stored numbers, and where in `out` it belongs: one array if the types are the same."""
    flat = out.reshape(-1, order="F")
    direct = stored.dtype == out.dtype and not stored.scaled
    scratch = np.empty(0 if direct else min(PIECE, flat.size), stored.dtype)
    for start in range(0, flat.size, PIECE):
        target = flat[start : start + PIECE]
        piece = target if direct else scratch[: len(target)]
        stored.fill(piece)
        yield piece, target


def _saturated(piece: "NDArray[Any]") -> "NDArray[Any]":
    held, wanted = np.iinfo(piece.dtype), np.iinfo(np.int16)
    if held.min >= wanted.min and held.max <= wanted.max:
        return piece
    return np.asarray(np.clip(piece, max(held.min, wanted.min), min(held.max, wanted.max)))


class _LabelJudge:
    """Turns stored numbers into labels and remembers those that are none."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._refused: Counter[str] = Counter()
        # Of one-byte numbers there are only 256: judge each once, then look up. Masks stored as -128 and 127
        # with a slope of 1/255 are published by the ten thousand.
        one_byte = stored.dtype.itemsize == 1
        every = np.arange(256, dtype=np.uint8)
        self._table = self._judged(every.view(stored.dtype)) if one_byte else None

    def __call__(self, piece: "NDArray[Any]") -> "NDArray[Any]":
        """Labels of one piece, or the one label of all its voxels; those refused are negative."""
        with np.errstate(invalid="ignore"):
            uniform = piece.min() == piece.max()
        # most of a mask is background: there one voxel tells of all
        found = self._found(piece[:1] if uniform else piece)
        if found.min() < 0:
            self._remember(piece[np.broadcast_to(found < 0, piece.shape)])
        return found

    def conclude(self) -> None:
        """Raise what was found to be wrong."""
        if not self._refused:
            return
        most = self._refused.most_common(_TELLING_VALUES)
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in most)
        more = len(self._refused) - len(most)
        others = f" and at least {more} other values" if more else ""
        raise LabelError(
            f"holds values that are no labels: {listed}{others}. A label is a whole number from 0 to "
            f"{MOST_LABEL}. If this is a CT or a probability map, the manifest names the wrong file"
        )

    def _found(self, piece: "NDArray[Any]") -> "NDArray[Any]":
        if self._table is None:
            return self._judged(piece)
        return self._table.take(piece.view(np.uint8), mode="clip")  # "clip" spares NumPy a check of the indices

    def _judged(self, piece: "NDArray[Any]") -> "NDArray[Any]":
        """Labels of stored numbers, -1 for what is none."""
        if piece.dtype.kind in "iu" and not self._stored.scaled:
            if piece.min() >= 0 and piece.max() <= MOST_LABEL:
                return piece
            return np.where((piece >= 0) & (piece <= MOST_LABEL), piece, np.int64(-1)).astype(np.int32)
        values = self._values(piece)
        with np.errstate(invalid="ignore"):
            found = np.rint(values)
            fits = (np.abs(values - found) <= WHOLE_TOLERANCE) & (found >= 0) & (found <= MOST_LABEL)
        return np.where(fits, found, -1).astype(np.int32)

    def _values(self, piece: "NDArray[Any]") -> "NDArray[np.float64]":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.float64(self._stored.slope) * piece + self._stored.inter)

    def _remember(self, refused: "NDArray[Any]") -> None:
        for value, count in zip(*np.unique(self._values(refused), return_counts=True), strict=True):
            self._refused[f"{value:.6g}"] += int(count)
        if len(self._refused) > _HOPELESS_VALUES:
            self.conclude()
