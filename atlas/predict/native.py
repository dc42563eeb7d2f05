"""From probabilities on the canonical grid to a mask on the grid of the scan, plane by plane.

Probabilities are interpolated, not masks: half-way between a voxel inside and one outside there is a surface, and a
finer native grid shows it instead of 1.5 mm steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.harmonize.grid import index_map
from atlas.harmonize.pieces import bounding_box
from atlas.harmonize.resample import extended, interpolate, source_box
from atlas.harmonize.separable import axis_order, planes, taps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid, Shape

    Matrix = NDArray[np.float64]
    Vector = NDArray[np.float64]
    Box = tuple[slice, slice, slice]

HALF = 127.5
"""Probability 0.5 as it is coded (x 255); a voxel belongs to the class above it."""

SLAB_VOXELS = 1 << 23
"""Of an oblique scan, handled at a time: 32 MB of float32."""

REACH = 1
"""Canonical voxels around those above one half in which the interpolated probability can still be. Native voxels
beyond the last canonical centre are no further from it either: the grids' ends differ by half a voxel at most."""


def native_planes(
    probability: NDArray[np.uint8], grid: Grid, affine: NDArray[np.float64], shape: Shape
) -> Iterator[NDArray[np.bool_]]:
    """Mask of a class on the grid of the scan.

    Parameters
    ----------
    probability
        uint8 (z, y, x) on `grid`, x 255.
    grid
        The canonical grid that was made for the scan.
    affine, shape
        Of the scan as stored: (4, 4), (i, j, k) to RAS mm; voxels along (i, j, k). Its outermost voxels may lie up
        to a canonical voxel beyond the last canonical centre: there the probability of that one counts.

    Yields
    ------
    bool (j, i), for each k: the planes of the file, in its order.
    """
    i, j, k = shape
    matrix, offset = _to_canonical(affine, grid)
    box = bounding_box(probability >= np.ceil(HALF))
    low, high = (0, 0, 0), (0, 0, 0)
    if box is not None:
        low, high = _reached(box, matrix, offset, (k, j, i))
    inner = _inner(probability, box, matrix, offset, low, high)
    for number in range(k):
        plane = np.zeros((j, i), bool)
        if low[0] <= number < high[0]:
            plane[low[1] : high[1], low[2] : high[2]] = next(inner) > HALF
        yield plane


def _inner(
    probability: NDArray[np.uint8], box: Box | None, matrix: Matrix, offset: Vector, low: Shape, high: Shape
) -> Iterator[NDArray[np.float32]]:
    """Interpolated planes of the native box from `low` to `high`, out of the canonical `box` and what is around it."""
    size = (high[0] - low[0], high[1] - low[1], high[2] - low[2])
    if box is None or 0 in size:  # of an oblique scan, the class may lie in what only the canonical grid holds
        yield from np.zeros(size, np.float32)
        return
    near = tuple(slice(max(0, s.start - REACH), s.stop + REACH) for s in box)
    start = [s.start for s in near]
    yield from _planes(probability[near], matrix, offset + matrix @ low - start, size)


def _to_canonical(affine: NDArray[np.float64], grid: Grid) -> tuple[Matrix, Vector]:
    """Canonical (z, y, x) = matrix @ native (k, j, i) + offset."""
    to_native, start = index_map(affine, grid)  # native (i, j, k) of a canonical (z, y, x)
    inverse = np.asarray(np.linalg.inv(to_native), dtype=np.float64)
    return inverse[:, ::-1], -inverse @ start


def _reached(box: Box, matrix: Matrix, offset: Vector, shape: Shape) -> tuple[Shape, Shape]:
    """First and one-past-last native (k, j, i) that may be in the class, where canonical voxels `box` are."""
    corners = np.stack(np.meshgrid(*[(s.start - REACH, s.stop - 1 + REACH) for s in box], indexing="ij"), axis=-1)
    native = (corners.reshape(-1, 3) - offset) @ np.linalg.inv(matrix).T
    low = np.clip(np.floor(native.min(axis=0)), 0, shape).astype(int).tolist()
    high = np.clip(np.ceil(native.max(axis=0)) + 1, low, shape).astype(int).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _planes(source: NDArray[np.uint8], matrix: Matrix, offset: Vector, shape: Shape) -> Iterator[NDArray[np.float32]]:
    """Linear interpolation at ``matrix @ (k, j, i) + offset``, edge values extended; float32 (j, i) for each k."""
    order = axis_order(matrix, shape)
    if order is None:
        yield from _oblique(source, matrix, offset, shape)
        return
    along = np.argsort(order)  # source axis that each target axis runs along
    step = matrix[along, range(3)].tolist()
    tap = [
        taps(s, o, count, length)
        for s, o, count, length in zip(
            step, offset[along].tolist(), shape, np.array(source.shape)[along].tolist(), strict=True
        )
    ]
    yield from planes(source.transpose(along), (tap[0], tap[1], tap[2]))


def _oblique(source: NDArray[np.uint8], matrix: Matrix, offset: Vector, shape: Shape) -> Iterator[NDArray[np.float32]]:
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], thickness):
        size = (min(thickness, shape[0] - first), shape[1], shape[2])
        start = offset + matrix[:, 0] * first
        low, high = source_box(matrix, start, size)
        low, high = np.maximum(low, -REACH), np.minimum(high, np.array(source.shape) + REACH)
        if (low >= high).any():
            yield from np.zeros(size, np.float32)
            continue
        yield from interpolate(extended(source, low, high), matrix, start - low, size, linear=True)
