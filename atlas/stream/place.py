"""Where a patch lies in its volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Triple = tuple[int, int, int]


def origin_around(
    shape: Sequence[int], patch: Sequence[int], voxel: Sequence[int], offset: Sequence[float], jitter: float
) -> Triple:
    """First voxel of a patch that holds a given voxel.

    The voxel lies in the middle of the patch, moved by up to `jitter` of the patch either way; the patch then
    moves as little as it must to stay inside the volume. The voxel never leaves the patch.

    Parameters
    ----------
    shape
        Of the volume, (z, y, x) voxels.
    patch
        Its size, (z, y, x) voxels.
    voxel
        (z, y, x), inside the volume.
    offset
        (z, y, x), in [0, 1): 0.5 is the middle. With a jitter of 0.5 and numbers that are uniform, so is the
        place of the voxel in the patch.
    jitter
        Fraction of the patch.

    Returns
    -------
    tuple
        (z, y, x); negative along axes where the volume is smaller than the patch: it is then centred in it.
    """
    return (
        _start_around(shape[0], patch[0], voxel[0], offset[0], jitter),
        _start_around(shape[1], patch[1], voxel[1], offset[1], jitter),
        _start_around(shape[2], patch[2], voxel[2], offset[2], jitter),
    )


def origin_in(shape: Sequence[int], patch: Sequence[int], box: Sequence[int], offset: Sequence[float]) -> Triple:
    """First voxel of a patch whose middle lies in a box.

    Parameters
    ----------
    shape
        Of the volume, (z, y, x) voxels.
    patch
        Its size, (z, y, x) voxels.
    box
        (z0, y0, x0, z1, y1, x1), half open.
    offset
        (z, y, x), in [0, 1): where in the box the middle is.

    Returns
    -------
    tuple
        (z, y, x), as of `origin_around`; near a face of the volume the patch moves inwards.
    """
    return (
        _start_in(shape[0], patch[0], box[0], box[3], offset[0]),
        _start_in(shape[1], patch[1], box[1], box[4], offset[1]),
        _start_in(shape[2], patch[2], box[2], box[5], offset[2]),
    )


# int() everywhere: unsigned numbers of NumPy, as the voxels of a corpus are, wrap when subtracted from
def _start_around(size: int, patch: int, voxel: int, offset: float, jitter: float) -> int:
    within = int(patch * (0.5 + (2 * offset - 1) * jitter))
    return _inside(int(size), int(patch), int(voxel) - min(max(within, 0), int(patch) - 1))


def _start_in(size: int, patch: int, low: int, high: int, offset: float) -> int:
    return _inside(int(size), int(patch), int(low) + int(offset * (int(high) - int(low))) - patch // 2)


def _inside(size: int, patch: int, start: int) -> int:
    if size < patch:
        return (size - patch) // 2
    return min(max(start, 0), size - patch)
