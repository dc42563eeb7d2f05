"""Where the planes of a multi-frame object lie on a grid of voxels: exact index arithmetic, no resampling.

A plane is (3, 3) in LPS mm: the step from one column to the next, the step from one row to the next, and the
centre of the first pixel (row 0, column 0). Its pixels are (rows, columns), as DICOM stores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError
from atlas.ingest import geometry
from atlas.ingest.dicom.references import LPS_TO_RAS, ON_GRID, voxels_of
from atlas.ingest.values import volume_shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atlas.ingest.dicom.series import Series


@dataclass(frozen=True)
class Placement:
    """Where each plane goes in a volume.

    Parameters
    ----------
    shape, affine
        Of the volume, (i, j, k), and to RAS mm.
    axes
        Axis of the volume along which the columns, the rows and the planes are counted.
    backwards
        Whether columns and rows count against their axis.
    begin
        Lowest index along the axes of columns and rows.
    index
        (n,): index of each plane along its axis.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    axes: tuple[int, int, int]
    backwards: tuple[bool, bool]
    begin: tuple[int, int]
    index: NDArray[np.int64]

    def add(self, volume: NDArray[np.unsignedinteger], plane: int, pixels: NDArray[np.unsignedinteger]) -> None:
        """Set what is set in the pixels (rows, columns) of a plane in a volume as well."""
        columns, rows, planes = self.axes
        picture = pixels.T[:: -1 if self.backwards[0] else 1, :: -1 if self.backwards[1] else 1]
        where: list[slice | int] = [0, 0, 0]
        where[columns] = slice(self.begin[0], self.begin[0] + picture.shape[0])
        where[rows] = slice(self.begin[1], self.begin[1] + picture.shape[1])
        where[planes] = int(self.index[plane])
        volume[tuple(where)] |= picture if columns < rows else picture.T


def on_grid(planes: NDArray[np.float64], size: tuple[int, int], series: Series) -> Placement | None:
    """Find the voxels of a CT that the pixels of planes are.

    Rows and columns may run along any axes of the CT and either way. A pixel is a voxel if their centres are
    within `ON_GRID` voxels of each other at every corner of every plane.

    Parameters
    ----------
    planes
        (n, 3, 3), LPS mm.
    size
        Columns and rows of a plane.
    series
        The CT.

    Returns
    -------
    Placement or None
        None if the pixels are no voxels of it.

    Raises
    ------
    GeometryError
        If they are on its grid, but beyond its end.
    """
    to_voxels, drift = voxels_of(series)
    shape = series.shape
    voxels = to_voxels[:3, :3] @ planes
    voxels[:, :, 2] += to_voxels[:3, 3]
    whole = np.rint(voxels)
    steps = whole[0, :, :2]
    if not (np.abs(steps).sum(axis=0) == 1).all() or np.abs(steps).sum(axis=1).max() > 1:
        return None
    whole[:, :, :2] = steps
    corners = np.array([[x, y, 1] for x in (0, size[0] - 1) for y in (0, size[1] - 1)], dtype=float).T
    columns, rows = (int(axis) for axis in np.abs(steps).argmax(axis=0))
    third = 3 - columns - rows
    if third == 2:  # noqa: PLR2004 - parallel to the slices, which may lie a little off their places
        nearest = np.clip(whole[:, 2, 2], 0, shape[2] - 1).astype(np.int64)
        voxels[:, :, 2] -= drift[nearest]
    if not np.abs((voxels - whole) @ corners).max() <= ON_GRID:
        return None
    ends = (whole @ corners).astype(np.int64)
    lowest, highest = ends.min(axis=(0, 2)), ends.max(axis=(0, 2))
    if (lowest < 0).any() or (highest >= shape).any():
        raise GeometryError(
            f"frames reach from voxel {tuple(map(int, lowest))} to {tuple(map(int, highest))} on the grid of the CT, "
            f"which ends at {tuple(n - 1 for n in shape)}: they were drawn on another CT, or slices are missing"
        )
    backwards = (bool(steps[columns, 0] < 0), bool(steps[rows, 1] < 0))
    begin = (int(lowest[columns]), int(lowest[rows]))
    affine, _ = geometry.repaired(series.affine, shape)
    return Placement(shape, affine, (columns, rows, third), backwards, begin, ends[:, third, 0])


def own_grid(planes: NDArray[np.float64], size: tuple[int, int], spacing: float | None) -> Placement:
    """Make the regular volume that planes are slices of.

    Parameters
    ----------
    planes, size
        As in `on_grid`.
    spacing
        Distance between slices, mm, where it is known; else the least distance between planes.

    Raises
    ------
    GeometryError
        If they are not parallel, in line and in whole steps.
    """
    steps, origins = planes[0, :, :2], planes[:, :, 2]
    edges = np.linalg.norm(steps, axis=0)
    normal = np.cross(steps[:, 0], steps[:, 1])
    normal /= np.linalg.norm(normal)
    turned = np.abs((planes[:, :, :2] - steps) * size).max()
    heights = (origins - origins[0]) @ normal
    aside = np.linalg.norm(origins - origins[0] - heights[:, np.newaxis] * normal, axis=1).max()
    if not max(turned, aside) <= ON_GRID * edges.min():
        raise GeometryError(
            f"frames are not slices of one volume: rows turned by up to {turned:.2g} mm, moved aside by up to "
            f"{aside:.2g} mm. Convert the object to a volume, or leave the case out in the manifest"
        )
    index, step = _regular(heights, spacing)
    affine = np.eye(4)
    affine[:3, :2], affine[:3, 2] = steps, normal * step
    affine[:3, 3] = origins[0] + normal * heights.min()
    shape = volume_shape((*size, int(index.max()) + 1))
    square, _ = geometry.repaired(LPS_TO_RAS @ affine, shape)
    return Placement(shape, square, (0, 1, 2), (False, False), (0, 0), index)


def _regular(heights: NDArray[np.float64], spacing: float | None) -> tuple[NDArray[np.int64], float]:
    """Number of each height in whole steps from the lowest, and the step."""
    between = np.diff(np.unique(heights))
    between = between[between > geometry.UNMOVED_MM]
    if not spacing and not between.size:
        raise GeometryError("frames lie on one plane and say no distance between slices, so they fill no volume")
    step = spacing or float(between.min())
    least, most = geometry.SPACING_MM
    if not least <= step <= most:
        raise GeometryError(f"frames are {step:g} mm apart, which no CT is; the header is damaged. Fetch it again")
    index = np.rint((heights - heights.min()) / step)
    if index.any():
        # a rounded spacing adds up over many slices
        step = float(np.ptp(heights) / index.max())
    off = float(np.abs((heights - heights.min()) / step - index).max())
    if off > ON_GRID:
        raise GeometryError(
            f"frames are not in whole steps of {step:.4g} mm (off by {off:.2f} steps) and not on the grid of the CT: "
            "convert the object to a volume, or leave the case out in the manifest"
        )
    return index.astype(np.int64), step
