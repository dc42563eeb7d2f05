"""Do these slices make a volume? Pure arithmetic on the positions and directions in their headers.

Positions are in LPS millimetres, as DICOM has them; the affine that comes out is in RAS, as nibabel has it.
Slices are put in the order of growing distance along the normal, row direction x column direction, so that
the axes (column index i, row index j, slice k) are right-handed.

Limits, and why:

* `COSINES` (1e-3): header texts are rounded to six digits or more; a direction off by 1e-3 moves the far
  corner of a 500 mm slice by half a millimetre, which is less than a pixel.
* `PIXELS` (1e-3, relative): half a pixel at the far side of 512.
* `OFF_LINE_MM` (0.1) and `OFF_LINE` (0.05 of a step), whichever is more: how far a slice may lie from its place
  in an evenly spaced stack. Positions are published rounded to as little as 0.1 mm. A missing slice moves its
  neighbours by about half a step or more, whatever the step.
* `SAME_MM` (0.01): slices nearer to each other than any CT's step are one place.
* A tilted gantry leans by whole degrees; what `geometry.MOST_SHEAR_DEGREES` repairs passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError
from atlas.ingest.geometry import MOST_SHEAR_DEGREES

if TYPE_CHECKING:
    from numpy.typing import NDArray

COSINES = 1e-3
PIXELS = 1e-3
OFF_LINE_MM = 0.1
OFF_LINE = 0.05
SAME_MM = 0.01
GAP = 1.5
"""A step this many times the usual one is a gap where slices are missing, rather than uneven spacing."""

_UNIT = 0.01


def one_orientation(orientations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions that all slices share.

    Parameters
    ----------
    orientations
        (n, 6), direction of growing column index, then of growing row index; LPS cosines.

    Returns
    -------
    NDArray
        (3, 3), rows: direction of i, direction of j, normal; each of unit length.

    Raises
    ------
    GeometryError
        If the slices are turned against each other, or the cosines are not unit vectors square to each other.
    """
    apart = np.abs(orientations - orientations[0]).max(axis=1)
    if apart.max() > COSINES:
        n = int((apart > COSINES).sum())
        raise GeometryError(
            f"the slices are not parallel: {n} of {len(orientations)} are turned against the first "
            f"({_texts(orientations[0])} and {_texts(orientations[apart.argmax()])}). Split the series"
        )
    mean = orientations.mean(axis=0).reshape(2, 3)
    lengths = np.linalg.norm(mean, axis=1)
    if (np.abs(lengths - 1) > _UNIT).any():
        raise GeometryError(
            f"the directions ({_texts(orientations[0])}) are not of unit length; the header is damaged. Fetch it again"
        )
    i, j = mean / lengths[:, None]
    lean = float(np.degrees(np.arcsin(min(abs(float(i @ j)), 1.0))))
    if lean > MOST_SHEAR_DEGREES:
        raise GeometryError(f"rows and columns are {lean:.2f} degrees off square to each other; the header is damaged")
    normal = np.cross(i, j)
    return np.stack([i, j, normal / np.linalg.norm(normal)])


def one_pixel_size(spacings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spacing that all slices share: (n, 2) distances between rows and between columns, mm, to (2,)."""
    first: NDArray[np.float64] = spacings[0]
    if (np.abs(spacings - first) > PIXELS * first).any():
        other = spacings[np.abs(spacings - first).max(axis=1).argmax()]
        raise GeometryError(f"the slices have pixels of {_texts(first)} and of {_texts(other)} mm. Split the series")
    return first


def in_order(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices that sort slices along their normal; slices in one place keep their order."""
    return np.argsort(positions @ normal, kind="stable")


def in_one_place(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.intp]:
    """Of slices in order, the indices of those that lie where the one before them lies."""
    return np.flatnonzero(np.diff(positions @ normal) < SAME_MM) + 1


def affine_of(
    positions: NDArray[np.float64], directions: NDArray[np.float64], spacing: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Affine of slices that are in order, at different places.

    Parameters
    ----------
    positions
        (n, 3), centre of each slice's first pixel, LPS mm; n of 2 at least.
    directions
        (3, 3) of `one_orientation`.
    spacing
        (2,) between rows, between columns, mm.

    Returns
    -------
    NDArray
        (4, 4), (i, j, k) to RAS mm. The step along k is the mean one.

    Raises
    ------
    GeometryError
        If the steps differ, slices are missing, or the stack leans.
    """
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    checks = (_leaning(step, directions[2]), _uneven(positions, directions[2]), _out_of_line(positions, step))
    if found := [problem for problem in checks if problem is not None]:
        raise GeometryError(f"{'; and '.join(found)}. Fetch the series again, or leave the case out in the manifest")
    affine = np.eye(4)
    affine[:3, 0] = directions[0] * spacing[1]
    affine[:3, 1] = directions[1] * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _leaning(step: NDArray[np.float64], normal: NDArray[np.float64]) -> str | None:
    lean = float(np.degrees(np.arccos(min(float(step @ normal / np.linalg.norm(step)), 1.0))))
    if lean <= MOST_SHEAR_DEGREES:
        return None
    return (
        f"the slices are stacked {lean:.2f} degrees off their normal (at most {MOST_SHEAR_DEGREES:g} is repaired): "
        "the gantry was tilted, and the volume is sheared"
    )


def _uneven(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> str | None:
    along = positions @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    slack = max(OFF_LINE_MM, OFF_LINE * usual)
    ideal = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - ideal).max() <= slack and np.abs(steps - usual).max() <= 2 * slack:
        return None
    worst = int(steps.argmax())
    between = f"between {_texts(positions[worst])} and {_texts(positions[worst + 1])}"
    gaps = steps >= GAP * usual
    if gaps.any() and np.abs(steps[~gaps] - usual).max(initial=0) <= 2 * slack:
        return f"slices are missing: {steps[worst]:g} mm {between}, where the usual step is {usual:g} mm"
    return (
        f"the slices are not evenly spaced: steps from {steps.min():g} to {steps.max():g} mm, usually {usual:g}, "
        f"the widest {between}"
    )


def _out_of_line(positions: NDArray[np.float64], step: NDArray[np.float64]) -> str | None:
    """Look sideways only: how far along the line is `_uneven`'s."""
    apart = positions - positions[0]
    line = step / np.linalg.norm(step)
    off = np.linalg.norm(apart - np.outer(apart @ line, line), axis=1)
    slack = max(OFF_LINE_MM, OFF_LINE * float(np.linalg.norm(step)))
    if off.max() <= slack:
        return None
    worst = int(off.argmax())
    return (
        f"the slices are not stacked in a line: the one at {_texts(positions[worst])} lies {off[worst]:.2f} mm "
        f"beside its place (at most {slack:.2g} mm)"
    )


def _texts(numbers: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{number:g}" for number in numbers) + ")"
