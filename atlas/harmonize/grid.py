"""The canonical grid: where the voxels of a harmonized volume lie, and how they relate to the source's.

Source arrays have axes (i, j, k) and an affine from (i, j, k) to RAS millimetres, as nibabel gives them;
canonical arrays have axes (z, y, x), and their indices grow to superior, anterior and the patient's right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Shape = tuple[int, int, int]

# All in target voxels. Directions whose tilt moves no corner of the volume further than this are called
# axis-aligned: what float32 headers and DICOM's printed cosines leave, far below what a resampling shows.
TILT_TOLERANCE = 0.01
# An extent this little short of a half voxel still rounds up: 512 * 0.7617188 is not the same in all headers.
ROUND_TOLERANCE = 0.001
# A voxel centre this little outside the source's outer edge still counts as inside; no less than the sum of
# the two above, so that an axis-aligned scan covers all of its grid.
EDGE_TOLERANCE = 0.02


HU_MIN, HU_MAX = -1024, 3071
"""Range of 12-bit CT, to which a canonical volume is clipped; what is outside the scan has the lowest value, air."""


class Lattice(Protocol):
    """Where the voxels (z, y, x) of a volume lie."""

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        ...

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4): (x, y, z) voxel indices to RAS millimetres."""
        ...


@dataclass(frozen=True)
class Grid:
    """Axis-aligned, isotropic RAS+ grid; array axes (z, y, x).

    Parameters
    ----------
    shape
        Number of voxels along (z, y, x).
    spacing
        Edge of a voxel, millimetres.
    origin
        RAS millimetres, in the order (x, y, z), of the centre of voxel [0, 0, 0].
    """

    shape: Shape
    spacing: float
    origin: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4): (x, y, z) voxel indices to RAS millimetres, as nibabel has it."""
        affine = np.diag([self.spacing, self.spacing, self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine


def canonical_grid(shape: Shape, affine: ArrayLike, spacing: float = 1.5) -> Grid:
    """Grid that holds a source volume: the same physical extent, the low outer corner in the same place.

    Along each axis ``n = max(1, round(extent / spacing))``, halves up. An axis-aligned source, whatever its
    storage order, has the extent of its outer edges, ``n_in * spacing_in``; an oblique one that of the
    axis-aligned box around it.

    Parameters
    ----------
    shape, affine
        Of the source as stored: voxels along (i, j, k); (4, 4) from (i, j, k) to RAS millimetres.
    spacing
        Edge of a target voxel, millimetres.
    """
    affine = np.asarray(affine, dtype=np.float64)
    low, extent = _bounding_box(np.asarray(shape), affine, TILT_TOLERANCE * spacing)
    count = np.maximum(1, np.floor(extent / spacing + 0.5 + ROUND_TOLERANCE)).astype(int)
    origin = low + spacing / 2
    return Grid(
        shape=(int(count[2]), int(count[1]), int(count[0])),
        spacing=float(spacing),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
    )


def _bounding_box(
    shape: NDArray[np.int_], affine: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low corner and extent (RAS mm) of the outer edges, small tilts left out of the extent."""
    edges = affine[:3, :3] * shape  # column a: the edge vector of the whole volume along source axis a
    main = np.argmax(np.abs(edges), axis=0)
    tilt = edges.copy()
    tilt[main, range(3)] = 0.0
    aligned = len(set(main.tolist())) == 3 and np.abs(tilt).sum(axis=1).max() <= tolerance  # noqa: PLR2004
    if aligned:
        extent = np.zeros(3)
        extent[main] = np.linalg.norm(edges, axis=0)
    else:
        extent = np.abs(edges).sum(axis=1)
    centre = affine[:3, :3] @ ((shape - 1) / 2) + affine[:3, 3]
    return centre - extent / 2, extent


def index_map(affine: ArrayLike, grid: Lattice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``matrix`` (3, 3) and ``offset`` (3,): source (i, j, k) = matrix @ target (z, y, x) + offset."""
    total = np.linalg.inv(np.asarray(affine, dtype=np.float64)) @ grid.affine
    return total[:3, 2::-1], total[:3, 3]


def inside(
    shape: Shape, matrix: NDArray[np.float64], offset: NDArray[np.float64], out_shape: Shape
) -> NDArray[np.bool_] | None:
    """Target voxels whose centre lies inside the source's outer edges; None if all do.

    Parameters
    ----------
    shape
        Of the source.
    matrix, offset
        Target index to source index, see `index_map`; the axes may be in any one order.
    out_shape
        Of the target.
    """
    low, high = limits(shape, matrix)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in out_shape], indexing="ij"), axis=-1).reshape(-1, 3)
    reached = corners @ matrix.T + offset
    if (reached >= low).all() and (reached <= high).all():  # the volume is convex: its corners tell all
        return None
    result = np.ones(out_shape, dtype=np.bool_)
    steps = [np.arange(n, dtype=np.float64) for n in out_shape]
    for row, start, lowest, highest in zip(matrix, offset, low, high, strict=True):
        plane = row[1] * steps[1][:, None] + row[2] * steps[2] + start
        for z in range(out_shape[0]):  # plane by plane keeps the float temporaries small
            at = plane + row[0] * z
            result[z] &= (at >= lowest) & (at <= highest)
    return result


def limits(shape: Shape, matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest source index (float) that still counts as inside."""
    slack = EDGE_TOLERANCE * np.linalg.norm(matrix, axis=1)
    return -0.5 - slack, np.asarray(shape) - 0.5 + slack


def covered(shape: Shape, affine: ArrayLike, grid: Lattice) -> NDArray[np.bool_] | None:
    """Target voxels whose centre lies inside the source volume's outer edges; None if all of them do.

    For label volumes cropped to a box smaller than the CT, and for oblique scans.

    Parameters
    ----------
    shape, affine
        Of the source as stored, see `canonical_grid`.
    grid
        The target.

    Returns
    -------
    bool (z, y, x), or None
    """
    return inside(shape, *index_map(affine, grid), grid.shape)
