"""Resampling of a volume whose axes run along the target's: one axis after the other, plane by plane.

The same result as three-dimensional interpolation at a fraction of its cost: each stored plane is resampled once,
small, and the planes of the target are mixed from two of those. Temporaries are a few planes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

TILT = 1e-4
"""Source voxels by which the far end of an axis may be off the axis: the rounding of float32 headers."""


class Taps(NamedTuple):
    """Where each target index of an axis lies between two source indices: ``(1 - weight) low + weight high``."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]


def axis_order(matrix: NDArray[np.float64], out_shape: tuple[int, ...]) -> list[int] | None:
    """Target axis that each source axis runs along; None if the map (target to source index) is oblique."""
    along = np.abs(matrix).argmax(axis=1)
    off_axis = np.abs(matrix)
    off_axis[range(3), along] = 0
    aligned = len(set(along.tolist())) == len(along) and (off_axis @ out_shape <= TILT).all()
    return along.tolist() if aligned else None


def taps(step: float, offset: float, count: int, length: int) -> Taps:
    """Taps at ``step * i + offset``, i < `count`, on an axis of `length` voxels whose edge values extend outwards."""
    position = np.clip(step * np.arange(count) + offset, 0, length - 1)
    low = np.minimum(np.floor(position).astype(np.intp), max(length - 2, 0))
    return Taps(low, np.minimum(low + 1, length - 1), (position - low).astype(np.float32))


def planes(source: NDArray[Any], along: tuple[Taps, Taps, Taps]) -> Iterator[Plane]:
    """Resample a volume, yielding plane after plane of the target along the source's first axis.

    Parameters
    ----------
    source
        (a, b, c), any real type; fastest where a is the slowest in memory.
    along
        Taps of the three axes.

    Yields
    ------
    float32 (b', c'); valid until the next one is asked for.
    """
    first, second, third = along
    kept: dict[int, Plane] = {}
    for low, high, weight in zip(first.low.tolist(), first.high.tolist(), first.weight, strict=True):
        kept = {k: kept[k] if k in kept else _plane(source[k], second, third) for k in (low, high)}
        yield kept[low] + weight * (kept[high] - kept[low])


def picked(source: NDArray[Any], steps: list[float], offset: list[float], result: NDArray[Any]) -> None:
    """Fill `result` with the nearest voxels (halves up), 0 beyond half a voxel outside.

    Parameters
    ----------
    source
        (a, b, c); fastest where a is the slowest in memory.
    steps, offset
        Along each axis, target index `i` lies at source index ``step * i + offset``.
    result
        (a', b', c'), of the source's type, zero where nothing is to be written.
    """
    index, within = [], []
    for step, start, count, length in zip(steps, offset, result.shape, source.shape, strict=True):
        nearest = np.floor(step * np.arange(count) + (start + 0.5)).astype(np.intp)
        valid = np.flatnonzero((nearest >= 0) & (nearest < length))
        if not valid.size:
            return
        index.append(nearest[valid[0] : valid[-1] + 1])
        within.append(slice(int(valid[0]), int(valid[-1]) + 1))
    for plane, number in zip(result[within[0]], index[0].tolist(), strict=True):
        plane[within[1], within[2]] = source[number].take(index[1], axis=0).take(index[2], axis=1)


def _plane(plane: NDArray[Any], second: Taps, third: Taps) -> Plane:
    """One plane of the source, linearly resampled."""
    low, high = plane[second.low].astype(np.float32), plane[second.high].astype(np.float32)
    rows = low + second.weight[:, None] * (high - low)
    left, right = rows.take(third.low, axis=1), rows.take(third.high, axis=1)
    mixed: Plane = left + third.weight * (right - left)
    return mixed
