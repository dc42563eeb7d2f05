"""Is this affine the position of a CT volume in space? Pure arithmetic on a 4 x 4 matrix.

An affine maps voxel indices (i, j, k) to RAS millimetres, as nibabel does. Its columns are the steps along
the array axes; their lengths are the spacing, and divided by these they are the direction matrix. A scanner's
axes are square to each other, so the direction must be orthonormal; a left-handed one is an ordinary way of
storing and stays.

Limits, and why:

* `MOST_SHEAR_DEGREES` (1.0): direction cosines that some tool rounded to two decimals are off by up to
  0.01 * sqrt(3), which is 0.99 degrees; such files are sound and are repaired. A tilted gantry, where the
  anatomy really is sheared in the array, leans by whole degrees; those are refused.
* `UNMOVED_MM` (0.01): what single-precision headers lose. A repair below it is not worth a warning.
* `SPACING_MM` (0.05 to 50): finer than any micro-CT of a patient, coarser than any scout.
* `FARTHEST_MM` (1e6): a kilometre from the scanner's origin is a damaged header.
"""

from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np

from atlas.errors import GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

AffineSource = Literal["agree", "sform", "qform"]
"""Which of a NIfTI header's two affines counts: either, since they must agree, or the one named."""

MOST_SHEAR_DEGREES = 1.0
UNMOVED_MM = 0.01
SPACING_MM = (0.05, 50.0)
FARTHEST_MM = 1e6


def repaired(affine: "NDArray[np.float64]", shape: tuple[int, int, int]) -> "tuple[NDArray[np.float64], str | None]":
    """Check an affine and square up its axes where they are nearly so.

    The nearest rotation (or rotation and reflection) replaces the direction matrix. Spacing and the position
    of the volume's centre are kept: that moves the corners least.

    Parameters
    ----------
    affine
        (4, 4), (i, j, k) to RAS mm.
    shape
        Voxels along (i, j, k).

    Returns
    -------
    tuple
        The affine with orthonormal direction, and a sentence for the user if that moved anything noticeably.

    Raises
    ------
    GeometryError
        If the matrix is not finite, the spacing is impossible, or the axes are not square to each other.
    """
    _check_numbers(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    _check_spacing(spacing)
    direction = affine[:3, :3] / spacing
    shear = shear_degrees(direction)
    if shear > MOST_SHEAR_DEGREES:
        raise GeometryError(
            f"the axes of the volume are {shear:.2f} degrees away from square to each other "
            f"(at most {MOST_SHEAR_DEGREES:g} is repaired): the volume is sheared, as with a tilted gantry. "
            "Resample it onto an orthogonal grid, or leave the case out in the manifest"
        )
    if np.allclose(direction.T @ direction, np.eye(3), rtol=0, atol=1e-12):
        return affine, None
    u, _, vt = np.linalg.svd(direction)
    square = np.eye(4)
    square[:3, :3] = (u @ vt) * spacing
    centre = (np.array(shape) - 1) / 2
    square[:3, 3] = affine[:3, :3] @ centre + affine[:3, 3] - square[:3, :3] @ centre
    moved = largest_distance(affine, square, shape)
    if moved <= UNMOVED_MM:
        return square, None
    return square, (
        f"direction repaired to the nearest rotation (axes off by {shear:.2g} degrees, "
        f"corners moved by up to {moved:.2g} mm)"
    )


def shear_degrees(direction: "NDArray[np.float64]") -> float:
    """Tell by how much the angle between any two columns of unit length differs from 90 degrees, at most."""
    cosines = (direction.T @ direction)[np.triu_indices(3, k=1)]
    return float(np.degrees(np.arcsin(np.minimum(np.abs(cosines), 1.0)).max()))


def largest_distance(one: "NDArray[np.float64]", other: "NDArray[np.float64]", shape: tuple[int, int, int]) -> float:
    """Tell how far apart (mm) two affines put the same corner voxel of a volume, at most."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in shape))], dtype=float)
    return float(np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max())


def _check_numbers(affine: "NDArray[np.float64]") -> None:
    # written so that NaN fails too
    if not (np.abs(affine) <= FARTHEST_MM).all():
        rows = "; ".join(" ".join(f"{number:g}" for number in row) for row in affine[:3])
        raise GeometryError(
            f"the affine [{rows}] holds numbers that are not finite or beyond {FARTHEST_MM:g} mm; the header is "
            "damaged. Fetch the file again, or correct its header"
        )


def _check_spacing(spacing: "NDArray[np.float64]") -> None:
    least, most = SPACING_MM
    if not ((spacing >= least) & (spacing <= most)).all():
        found = " x ".join(f"{step:g}" for step in spacing)
        raise GeometryError(
            f"the spacing {found} mm is not that of a CT ({least:g} to {most:g} mm); the affine or the unit "
            "of length in the header is wrong. Correct the header, or leave the case out in the manifest"
        )
