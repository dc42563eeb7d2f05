"""Resampling of a label volume onto the canonical grid: the label that occupies most of a voxel gets it.

The indicator function of every source label, and of the background, is interpolated linearly at the centre
of the target voxel, and the largest of these weights wins. They are not computed label by label: a centre
lies in a cell of eight neighbouring source voxels, so at most eight labels have weight there, and in a cell
whose eight voxels are equal nothing needs computing. One nearest-neighbour pass of SimpleITK over the cells
settles those; the rest, the surfaces, are voted on voxel by voxel. The cost is that of the surface, whatever
the number of labels, and the structures' boxes enter as one, around all of them.

*Ties* are common: with 2:1 downsampling every centre is the corner of eight source voxels. The vote is then
repeated a hundredth of a voxel beside the centre, along a fixed skew direction, forward in every second
target voxel (checkerboard) and backward in the others. On a plane interface half of the tied voxels go to
each side; opposite faces of a body see the step from opposite sides; and neither the numbering nor the
storage order of the source enters. Only what is tied even there (some diagonal patterns) goes by number,
highest and lowest in turn.

*Volumes* keep their expectation but for curvature: where the half-weight surface is curved with radius r it lies
about s^2 / r inside the source's, s^2 being the variance (mm^2) of the interpolation kernel. That is nothing for
organs; ribs stored at 3 mm, or lesions of a few ml at 5 mm and more, lose up to a tenth. It is what the rule
says, not an effect of ties, and holes shrink alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atlas.harmonize.grid import Lattice, Shape, index_map, inside
from atlas.harmonize.resample import Matrix, Vector, extended, interpolate, memory_order, source_box
from atlas.harmonize.survival import restore

if TYPE_CHECKING:
    from collections.abc import Iterator

Labels = NDArray[Any]
Indices = NDArray[np.int_]

TIE = 1e-4  # weights closer than this are equal; float32 headers shift them by some 1e-5
TIE_AT_STEP = 1e-6  # the same beside the centre, where differences are of the order of the step
STEP = 0.01 * np.array([1.0, 0.618, 0.382])  # target voxels along (z, y, x); no symmetry plane contains it
NEAREST_STEP = 1e-6  # target voxels; exact ties of nearest neighbours all go to superior, anterior, right
SLAB_VOXELS = 4_000_000  # target voxels handled at a time
VOTE_VOXELS = 1 << 15  # voted on at a time: eight corners of them fit the cache


@dataclass(frozen=True)
class LabelCrop:
    """The part of a label volume on a grid that is not all background.

    Parameters
    ----------
    start
        Index (z, y, x) in the grid of the crop's first voxel.
    values
        (z, y, x) label values, of the source's type. Outside the crop everything is 0.
    """

    start: Shape
    values: Labels


def resample_labels(
    data: Labels, affine: ArrayLike, grid: Lattice, *, method: Literal["occupancy", "nearest"] = "occupancy"
) -> LabelCrop:
    """Resample a label volume.

    Parameters
    ----------
    data
        (i, j, k) unsigned integers, 0 is background.
    affine
        (4, 4): (i, j, k) to RAS millimetres.
    grid
        The target.
    method
        ``"occupancy"``: the largest linear weight wins, ties favour nobody, and no 26-connected component of
        a source label vanishes (see `atlas.harmonize.survival`). ``"nearest"``: the nearest source voxel.

    Returns
    -------
    LabelCrop
        Outside the source's outer edges there is background.
    """
    source, matrix, offset = memory_order(data, *index_map(affine, grid))
    box = _foreground_box(source)
    if box is None:
        return LabelCrop((0, 0, 0), np.zeros((0, 0, 0), dtype=data.dtype))
    low, high = box
    start, size = _target_box(low, high, matrix, offset, grid.shape)
    offset = offset + matrix @ start
    values = np.zeros(size, dtype=data.dtype)
    # A voxel of background around the box makes the crop's extended edge what lies there, except at the
    # border of the volume, where the edge is meant to be extended.
    low, high = np.maximum(low - 1, 0), np.minimum(high + 1, source.shape)
    crop = source[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    for first, last in _slabs(size):
        shift = offset + matrix[:, 0] * first
        shape: Shape = (last - first, size[1], size[2])
        known = inside(source.shape, matrix, shift, shape)
        if method == "occupancy":
            slab = _occupancy(crop, matrix, shift - low, shape, first + sum(start))
        else:
            slab = _nearest(crop, matrix, shift - low, shape)
        if known is not None:
            slab[~known] = 0
        values[first:last] = slab
    if method == "occupancy":
        restore(values, crop, matrix, offset - low)
    return LabelCrop(start, values)


def _foreground_box(source: Labels) -> tuple[Indices, Indices] | None:
    """First and one-past-last index of what is not background, or None. `source` is in memory order."""
    plane = np.zeros(source.shape[1:], dtype=source.dtype)
    rows = np.zeros(source.shape[0], dtype=np.bool_)
    for number, part in enumerate(source):  # one pass over memory
        rows[number] = part.max() > 0
        if rows[number]:
            np.maximum(plane, part, out=plane)
    used = [np.flatnonzero(rows), np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))]
    if not rows.any():
        return None
    return np.array([u[0] for u in used]), np.array([u[-1] + 1 for u in used])


def _target_box(low: Indices, high: Indices, matrix: Matrix, offset: Vector, shape: Shape) -> tuple[Shape, Shape]:
    """Start and size, within the grid, of the target box a source box has weight in, and a voxel to spare."""
    corners = np.array(list(product(*zip(low - 1, high, strict=True))))
    reached = np.linalg.solve(matrix, (corners - offset).T).T
    first = np.clip(np.floor(reached.min(axis=0)).astype(int) - 1, 0, np.array(shape) - 1)
    last = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 2, first + 1, shape)
    return tuple(first.tolist()), tuple((last - first).tolist())


def _slabs(size: Shape) -> Iterator[tuple[int, int]]:
    step = max(1, SLAB_VOXELS // prod(size[1:]))
    for first in range(0, size[0], step):
        yield first, min(first + step, size[0])


def _reach(crop: Labels, matrix: Matrix, offset: Vector, shape: Shape) -> tuple[Indices, Indices] | None:
    """Source box a target box needs, cut to the crop and one voxel around it; None where they do not meet."""
    low, high = source_box(matrix, offset, shape)
    low, high = np.maximum(low, -1), np.minimum(high, np.asarray(crop.shape) + 1)
    return None if (low >= high).any() else (low, high)


def _nearest(crop: Labels, matrix: Matrix, offset: Vector, shape: Shape) -> Labels:
    reach = _reach(crop, matrix, offset, shape)
    if reach is None:
        return np.zeros(shape, dtype=crop.dtype)
    nudged = offset + matrix.sum(axis=1) * NEAREST_STEP
    return interpolate(extended(crop, *reach), matrix, nudged - reach[0], shape, linear=False)


def _occupancy(crop: Labels, matrix: Matrix, offset: Vector, shape: Shape, parity: int) -> Labels:
    """Labels of a target slab; `parity`: of the sum of its first voxel's index in the grid."""
    reach = _reach(crop, matrix, offset, shape)
    if reach is None:
        return np.zeros(shape, dtype=crop.dtype)
    low, high = reach
    # one voxel more on either side, so that a cell begins at every voxel of the reach
    around = extended(crop, low - 1, high + 1)
    lowest, highest = _cells(around, np.minimum), _cells(around, np.maximum)
    # Cell c holds the source indices from c up to c + 1: the nearest cell centre is the cell a point is in.
    at_cell = offset - (low - 1) - 0.5
    result = interpolate(lowest, matrix, at_cell, shape, linear=False)
    mixed = interpolate((lowest != highest).view(np.uint8), matrix, at_cell, shape, linear=False)
    position = np.flatnonzero(mixed)
    flat = result.reshape(-1)
    for first in range(0, len(position), VOTE_VOXELS):
        some = position[first : first + VOTE_VOXELS]
        index = np.stack(np.unravel_index(some, shape))
        sign = 1 - 2 * ((index.sum(axis=0) + parity) & 1)
        flat[some] = _decide(crop, matrix, offset, index, sign)
    return result


def _cells(volume: Labels, extreme: np.ufunc) -> Labels:
    """Extreme of each 2 x 2 x 2 neighbourhood: one smaller along each axis."""
    volume = extreme(volume[1:], volume[:-1])
    volume = extreme(volume[:, 1:], volume[:, :-1])
    return np.asarray(extreme(volume[:, :, 1:], volume[:, :, :-1]))


def _decide(crop: Labels, matrix: Matrix, offset: Vector, index: Indices, sign: Indices) -> Labels:
    """Labels of the target voxels ``index`` (3, n); `sign` is the direction in which ties look."""
    at = matrix @ index + offset[:, None]
    winner, tied = _vote(*_corners(crop, at), sign, TIE)
    if tied.any():
        beside = at[:, tied] + (matrix @ STEP)[:, None] * sign[tied]
        winner[tied], _ = _vote(*_corners(crop, beside), sign[tied], TIE_AT_STEP)
    return winner


def _corners(crop: Labels, at: Vector) -> tuple[Labels, NDArray[np.float32]]:
    """Labels (8, n) around source points `at` (3, n), and their linear weights (8, n)."""
    shape = np.asarray(crop.shape)[:, None]
    at = np.clip(at, 0, shape - 1)  # the edge value extends outwards
    first = np.minimum(at.astype(np.intp), np.maximum(shape - 2, 0))
    second = np.minimum(first + 1, shape - 1)
    upper = (at - first).astype(np.float32)
    ends, weights = np.stack([first, second]), np.stack([1 - upper, upper])
    labels = np.empty((8, at.shape[1]), dtype=crop.dtype)
    weight = np.empty((8, at.shape[1]), dtype=np.float32)
    for corner, (a, b, c) in enumerate(product((0, 1), repeat=3)):
        labels[corner] = crop[ends[a, 0], ends[b, 1], ends[c, 2]]
        np.multiply(weights[a, 0] * weights[b, 1], weights[c, 2], out=weight[corner])
    return labels, weight


def _vote(labels: Labels, weights: NDArray[np.float32], sign: Indices, tie: float) -> tuple[Labels, NDArray[np.bool_]]:
    """Label of the largest summed weight, and where another comes within `tie` of it.

    Tied voxels get the highest of the tied labels where `sign` is positive, else the lowest.
    """
    low, high = labels.min(axis=0), labels.max(axis=0)
    weight_low = np.einsum("cn,cn->n", weights, labels == low)
    weight_high = np.einsum("cn,cn->n", weights, labels == high)
    tied = np.abs(weight_high - weight_low) <= tie
    winner = np.where((weight_high > weight_low) ^ (tied & ((sign > 0) != (weight_high > weight_low))), high, low)
    more = np.flatnonzero(weight_low + weight_high < 1 - tie / 2)  # a third label has a say
    if len(more):
        winner[more], tied[more] = _vote_many(labels[:, more], weights[:, more], sign[more], tie)
    return winner, tied


def _vote_many(
    labels: Labels, weights: NDArray[np.float32], sign: Indices, tie: float
) -> tuple[Labels, NDArray[np.bool_]]:
    """`_vote` for any number of labels a voxel."""
    total = weights.copy()
    for a, b in combinations(range(8), 2):
        same = labels[a] == labels[b]
        total[a] += weights[b] * same
        total[b] += weights[a] * same
    candidate = total >= total.max(axis=0) - tie
    high = np.where(candidate, labels, 0).max(axis=0)
    low = np.where(candidate, labels, np.iinfo(labels.dtype).max).min(axis=0)
    return np.where(sign > 0, high, low), high != low
