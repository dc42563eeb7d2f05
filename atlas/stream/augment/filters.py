"""Blur and loss of resolution of one volume."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence

TRUNCATE = 4.0
"""Standard deviations at which the Gaussian ends, as in `scipy.ndimage.gaussian_filter`."""


def blur(volume: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Gaussian blur, one axis after the other; the edge value goes on outside.

    Sums of shifted copies rather than a convolution: those may be computed in fewer bits (TF32), and which algorithm
    runs depends on the machine.

    Parameters
    ----------
    volume
        float32 (z, y, x).
    sigma
        Standard deviation along (z, y, x), voxels; 0 leaves the axis alone.
    """
    for axis, width in enumerate(sigma):
        if width > 0:
            volume = _blur_axis(volume, axis, width)
    return volume


def _blur_axis(volume: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    radius = int(TRUNCATE * sigma + 0.5)
    taps = [exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    count = volume.shape[axis]
    reach = torch.arange(-radius, count + radius, device=volume.device).clamp_(0, count - 1)
    wide = volume.index_select(axis, reach)
    blurred = wide.narrow(axis, radius, count) * (taps[0] / total)
    for k, tap in enumerate(taps[1:], start=1):
        blurred.add_(wide.narrow(axis, radius - k, count), alpha=tap / total)
        blurred.add_(wide.narrow(axis, radius + k, count), alpha=tap / total)
    return blurred


def lower_resolution(volume: torch.Tensor, left: float) -> torch.Tensor:
    """Pick the nearest of fewer voxels, then interpolate back linearly (nnU-Net's `SimulateLowResolutionTransform`).

    Parameters
    ----------
    volume
        float32 (z, y, x).
    left
        Voxels an axis that are left, of 1.
    """
    small = [max(1, round(n * left)) for n in volume.shape]
    picked = interpolate(volume[None, None], small, mode="nearest-exact")
    return interpolate(picked, list(volume.shape), mode="trilinear", align_corners=False)[0, 0]
