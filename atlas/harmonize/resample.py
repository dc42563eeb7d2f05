"""Linear resampling of a CT onto the canonical grid, and the interpolation that labels use too.

Scans along the body's axes go plane by plane (`separable`). Oblique ones, and those to be smoothed, go block by
block through SimpleITK, in index space: images have no geometry of their own, the transform takes a
target index to a source index. Number of threads: whatever the process has set for ITK.
"""

from __future__ import annotations

from math import log, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from atlas.harmonize.grid import HU_MAX, HU_MIN, Grid, Shape, index_map, inside, limits
from atlas.harmonize.separable import axis_order, picked, planes, taps

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 32 * 2**20  # temporaries of a block; smaller ones also stay closer to the cache
BLOCK_EDGE = 16  # target voxels below which a block is not cut along that axis

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


def interpolate(
    source: NDArray[Any], matrix: Matrix, offset: Vector, out_shape: Shape, *, linear: bool
) -> NDArray[Any]:
    """Sample a volume at ``matrix @ target index + offset``; 0 beyond half a voxel outside it.

    Parameters
    ----------
    source
        (a, b, c), any real type ITK knows.
    matrix, offset
        (3, 3) and (3,): target index to source index, both in array axis order.
    out_shape
        Of the result, array axis order.
    linear
        Linear, and float32 out; else the nearest voxel (halves up), and the source's type out.

    Returns
    -------
    Array of `out_shape`.
    """
    order = None if linear else axis_order(matrix, out_shape)
    if order is not None:
        result = np.zeros(out_shape, dtype=source.dtype)
        picked(source, _steps(matrix), offset.tolist(), result.transpose(order))
        return result
    image = sitk.GetImageFromArray(_plain(source))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[::-1, ::-1].ravel().tolist())  # ITK counts axes from the fastest
    transform.SetTranslation(offset[::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in out_shape[::-1]])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear if linear else sitk.sitkNearestNeighbor)
    if linear:
        resampler.SetOutputPixelType(sitk.sitkFloat32)
    return np.asarray(sitk.GetArrayFromImage(resampler.Execute(image)))


def _steps(matrix: Matrix) -> list[float]:
    """Source voxels a target voxel along each source axis, where no axis is oblique."""
    return [float(row[np.abs(row).argmax()]) for row in matrix]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """C-contiguous, native byte order, a type ITK has."""
    dtype = np.dtype(np.float32) if array.dtype == np.float16 else array.dtype.newbyteorder("=")
    return np.ascontiguousarray(array, dtype=dtype)


def memory_order(data: NDArray[Any], matrix: Matrix, offset: Vector) -> tuple[NDArray[Any], Matrix, Vector]:
    """View the source with its axes from slowest to fastest in memory, and the index map likewise."""
    order = np.argsort([-abs(stride) for stride in data.strides], kind="stable")
    return data.transpose(order), matrix[order], offset[order]


def source_box(
    matrix: Matrix, offset: Vector, out_shape: Shape, halo: NDArray[np.int_] | int = 1
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First and one-past-last source index that linear interpolation of a target box touches, and a halo."""
    span = matrix * (np.asarray(out_shape) - 1)
    low = np.floor(offset + np.minimum(span, 0).sum(axis=1)).astype(int) - halo
    high = np.ceil(offset + np.maximum(span, 0).sum(axis=1)).astype(int) + 1 + halo
    return low, high


def extended(data: NDArray[Any], low: NDArray[np.int_], high: NDArray[np.int_]) -> NDArray[Any]:
    """``data[low:high]``, with the edge value repeated where that reaches outside the volume."""
    shape = np.asarray(data.shape)
    first, last = np.clip(low, 0, shape - 1), np.clip(high, 1, shape)
    crop = data[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    pad = [(max(0, int(a - lo)), max(0, int(hi - b))) for lo, a, b, hi in zip(low, first, last, high, strict=True)]
    return np.pad(crop, pad, mode="edge") if np.any(pad) else crop


def resample_ct(data: NDArray[Any], affine: ArrayLike, grid: Grid, *, antialias: bool = False) -> NDArray[np.int16]:
    """Resample a CT linearly onto a grid.

    Inside the outer half voxel of the source the edge value is extended; outside the source there is air.

    Parameters
    ----------
    data
        (i, j, k) Hounsfield units, any real type, no NaN.
    affine
        (4, 4): (i, j, k) to RAS millimetres.
    grid
        The target.
    antialias
        Smooth with a Gaussian along each source axis that is sampled more coarsely than it is stored, see
        `antialias_sigma`.

    Returns
    -------
    int16 (z, y, x), rounded to the nearest HU and clipped to [-1024, 3071].
    """
    source, matrix, offset = memory_order(data, *index_map(affine, grid))
    order = None if antialias else axis_order(matrix, grid.shape)
    result = np.full(grid.shape, HU_MIN, dtype=np.int16)
    if order is not None:
        _by_planes(source, matrix, offset, result.transpose(order))
    else:
        _by_blocks(source, matrix, offset, result, antialias_sigma(matrix) if antialias else np.zeros(3))
    return result


def _by_planes(source: NDArray[Any], matrix: Matrix, offset: Vector, result: NDArray[np.int16]) -> None:
    """Fill `result`, whose axes are the source's, where no axis is oblique."""
    steps = _steps(matrix)
    along = [taps(*each) for each in zip(steps, offset.tolist(), result.shape, source.shape, strict=True)]
    for n, plane in enumerate(planes(source, (along[0], along[1], along[2]))):
        np.clip(plane, HU_MIN, HU_MAX, out=plane)
        result[n] = np.rint(plane, out=plane)
    for axis, (step, start) in enumerate(zip(steps, offset.tolist(), strict=True)):
        low, high = limits(source.shape, matrix)
        position = step * np.arange(result.shape[axis]) + start
        outside = (position < low[axis]) | (position > high[axis])
        result.swapaxes(0, axis)[outside] = HU_MIN


def _by_blocks(source: NDArray[Any], matrix: Matrix, offset: Vector, result: NDArray[np.int16], sigma: Vector) -> None:
    """Fill `result` (z, y, x) whatever the directions."""
    halo = 1 + np.ceil(4 * sigma).astype(int)  # four standard deviations, where scipy truncates
    for start, stop in _blocks(source, matrix, offset, (0, 0, 0), result.shape, halo):
        shift = offset + matrix @ start
        size: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
        low, high = _within(*source_box(matrix, shift, size, halo), source.shape)
        if (low >= high).any():
            continue
        crop = _smooth(extended(source, low, high), sigma)
        hounsfield = interpolate(crop, matrix, shift - low, size, linear=True)
        np.clip(hounsfield, HU_MIN, HU_MAX, out=hounsfield)
        np.rint(hounsfield, out=hounsfield)
        known = inside(source.shape, matrix, shift, size)
        if known is not None:
            hounsfield[~known] = HU_MIN
        result[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = hounsfield


def antialias_sigma(matrix: Matrix) -> Vector:
    """Gaussian sigma in source voxels along each source axis.

    Source and target voxels are taken for Gaussians whose full width at half maximum is their spacing; the
    filter makes one of the other: ``sigma^2 = (target^2 - source^2) / (8 ln 2)``, none where the target is
    the finer. Cardoso et al., Scale factor point spread function matching, MICCAI 2015; so do NiftyReg and
    TorchIO.
    """
    ratio = 1 / np.linalg.norm(np.linalg.inv(matrix), axis=0)  # target spacing over source spacing
    return np.asarray(np.sqrt(np.maximum(ratio**2 - 1, 0) / (8 * log(2))))


def _smooth(crop: NDArray[Any], sigma: Vector) -> NDArray[Any]:
    for axis in np.flatnonzero(sigma > 0):
        crop = gaussian_filter1d(crop, sigma[axis], axis=axis, output=np.float32, mode="nearest", truncate=4.0)
    return crop


def _within(
    low: NDArray[np.int_], high: NDArray[np.int_], shape: tuple[int, ...]
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Cut a source box to the volume and one voxel around it; empty (low >= high) where they do not meet."""
    return np.maximum(low, -1), np.minimum(high, np.asarray(shape) + 1)


def _blocks(
    source: NDArray[Any], matrix: Matrix, offset: Vector, start: Shape, stop: Shape, halo: NDArray[np.int_]
) -> Iterator[tuple[Shape, Shape]]:
    """Cut the target into boxes (start, stop), along z first, until each needs little temporary memory."""
    size: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    low, high = _within(*source_box(matrix, offset + matrix @ start, size, halo), source.shape)
    item = 2 * source.itemsize if (halo == 1).all() else 16  # crop and ITK's copy; float32 passes when smoothing
    needed = item * prod(np.maximum(high - low, 0).tolist()) + 12 * prod(size)
    axis = next((a for a in range(3) if size[a] > BLOCK_EDGE), None)
    if needed <= BLOCK_BYTES or axis is None:
        yield start, stop
        return
    middle = (start[axis] + stop[axis]) // 2
    first_stop = (*stop[:axis], middle, *stop[axis + 1 :])
    second_start = (*start[:axis], middle, *start[axis + 1 :])
    yield from _blocks(source, matrix, offset, start, first_stop, halo)  # type: ignore[arg-type]
    yield from _blocks(source, matrix, offset, second_start, stop, halo)  # type: ignore[arg-type]
