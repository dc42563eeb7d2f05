"""How well a mask agrees with the truth.

Voxels about which the truth says nothing (`known` false) count nowhere. Where both masks are empty there is nothing to
agree about: the answer is NaN, to be counted apart and not averaged. Where only one is empty, it is 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

ROUNDING = 1e-6
"""mm by which a distance may exceed the tolerance: what is exactly there is within, whatever float64 makes of it."""


def dice(truth: Mask, predicted: Mask, known: Mask | None = None) -> float:
    """Dice similarity 2 |T and P| / (|T| + |P|), over the whole volume.

    Parameters
    ----------
    truth, predicted
        bool, of the same shape.
    known
        Where the truth is known; None: everywhere.

    Returns
    -------
    float
        In [0, 1]; NaN where both are empty.

    Raises
    ------
    SpecError
        If the arrays are not bool of one shape.
    """
    _check(truth, predicted, known)
    both = truth & predicted
    if known is None:
        total, common = np.count_nonzero(truth) + np.count_nonzero(predicted), np.count_nonzero(both)
    else:
        total = np.count_nonzero(truth & known) + np.count_nonzero(predicted & known)
        common = np.count_nonzero(both & known)
    return 2 * common / total if total else math.nan


def surface_dice(
    truth: Mask, predicted: Mask, spacing: Sequence[float], tolerance_mm: float, known: Mask | None = None
) -> float:
    """Normalised surface Dice: the part of both surfaces that lies within a tolerance of the other one.

    The surface is the voxels with a face on the background or on the end of the volume, each counted once
    (Nikolov et al., arXiv:1809.04430, without its areas; MONAI's `compute_surface_dice` without subvoxels). Faces
    between known and unknown voxels belong to no surface.

    Parameters
    ----------
    truth, predicted
        bool, of the same shape.
    spacing
        mm of a voxel, along the axes of the arrays.
    tolerance_mm
        Distance that still counts as agreement, itself included.
    known
        Where the truth is known; None: everywhere.

    Returns
    -------
    float
        In [0, 1]; NaN where neither has a surface, 0 where one has none.

    Raises
    ------
    SpecError
        If the arrays are not bool of one shape.
    """
    _check(truth, predicted, known)
    box = bounding_box([truth, predicted], margin=1)
    if box is None:
        return math.nan
    seen = None if known is None else known[box]
    first, second = (_points(mask[box], seen, spacing) for mask in (truth, predicted))
    total = len(first) + len(second)
    if not len(first) or not len(second):
        return 0.0 if total else math.nan
    return (_near(first, second, tolerance_mm) + _near(second, first, tolerance_mm)) / total


def bounding_box(masks: Sequence[Mask], margin: int = 0) -> tuple[slice, ...] | None:
    """Smallest box around the voxels of all masks, grown by a margin inside the volume; None if all are empty."""
    shape, low, high = masks[0].shape, [], []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(len(shape)) if a != axis)
        along = np.flatnonzero(np.logical_or.reduce([mask.any(axis=others) for mask in masks]))
        if not len(along):
            return None
        low.append(max(int(along[0]) - margin, 0))
        high.append(min(int(along[-1]) + 1 + margin, size))
    return tuple(map(slice, low, high))


def _points(mask: Mask, known: Mask | None, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Voxels of the surface of a mask, (n, 3), mm."""
    return np.argwhere(_surface(mask, known)).astype(np.float64) * np.asarray(spacing, np.float64)


def _surface(mask: Mask, known: Mask | None) -> Mask:
    """Voxels of a mask with a known neighbour outside it, or with none because the volume ends."""
    solid, looked_at = (mask, mask) if known is None else (mask | ~known, mask & known)
    surface: Mask = looked_at & ~binary_erosion(solid)
    return surface


def _near(points: NDArray[np.float64], others: NDArray[np.float64], tolerance: float) -> int:
    """How many points have one of the others within the tolerance."""
    distances, _ = KDTree(others).query(points, distance_upper_bound=tolerance + 2 * ROUNDING)  # farther ones: inf
    return int(np.count_nonzero(distances <= tolerance + ROUNDING))


def _check(truth: Mask, predicted: Mask, known: Mask | None) -> None:
    for name, mask in (("truth", truth), ("predicted", predicted), ("known", known)):
        if mask is not None and (mask.dtype != bool or mask.shape != truth.shape):
            raise SpecError(f"`{name}` is bool {truth.shape} here, not {mask.dtype} {mask.shape}")
