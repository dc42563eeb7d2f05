"""How bright things are: noise, blur, brightness, contrast, shift, resolution and gamma of the windowed image.

The order is nnU-Net v2's (`nnUNetTrainer.get_training_transforms`), the shift after the contrast: noise, blur,
brightness, contrast, shift, low resolution, gamma on the inverted image, gamma. Axes are (z, y, x); an image for a
network that takes (x, y, z) is permuted afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import SpecError
from atlas.stream.augment.filters import blur, lower_resolution
from atlas.stream.augment.noise import gaussian

if TYPE_CHECKING:
    import torch

    from atlas.stream.augment.parameters import Parameters

_FLAT = 1e-7
"""Standard deviation below which an image is flat and cannot be stretched (nnU-Net's)."""

_KINDS = ("noise", "blur", "brightness", "contrast", "shift", "low_resolution", "inverted_gamma", "gamma")


def apply_intensity(image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
    """Change the intensity of patches on the device they are on.

    What comes out of a patch that anything happens to is clipped to [0, 1], the range that the window gives and the
    network is used to. Patches that nothing happens to are returned bit for bit; the input is not changed. The same
    patch gives the same bits in any batch; on another device, or with another number of threads, the last bits of
    means and powers may differ.

    Parameters
    ----------
    image
        float32 (B, 1, z, y, x), in [0, 1].
    parameters
        One row a patch.

    Returns
    -------
    float32 (B, 1, z, y, x); `image` itself if nothing happens to any patch.

    Raises
    ------
    SpecError
        If image and parameters are not of one batch.
    """
    if image.ndim != 5 or image.shape[1] != 1 or len(image) != len(parameters):  # noqa: PLR2004
        raise SpecError(
            f"image {tuple(image.shape)} and the parameters of {len(parameters)} patches are not of one batch "
            "(B, 1, z, y, x)"
        )
    rows = np.flatnonzero(parameters.acts(*_KINDS)).tolist()
    if not rows:
        return image
    changed = image.clone()
    for b in rows:
        changed[b, 0] = _changed(image[b, 0], parameters, b)
    return changed


def _changed(volume: torch.Tensor, parameters: Parameters, b: int) -> torch.Tensor:
    """One patch (z, y, x), changed and clipped."""
    volume = blur(_noisy(volume, float(parameters.noise[b]), parameters.noise_key[b]), parameters.blur[b].tolist())
    volume = _levels(volume, float(parameters.brightness[b]), float(parameters.contrast[b]), float(parameters.shift[b]))
    if parameters.low_resolution[b] < 1:
        volume = lower_resolution(volume, float(parameters.low_resolution[b]))
    volume = volume.clamp(0, 1)
    if parameters.inverted_gamma[b] != 1:
        volume = 1 - _gamma(1 - volume, float(parameters.inverted_gamma[b]))
    if parameters.gamma[b] != 1:
        volume = _gamma(volume, float(parameters.gamma[b]))
    return volume


def _noisy(volume: torch.Tensor, deviation: float, key: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> torch.Tensor:
    if not deviation:
        return volume
    return volume + gaussian(volume.numel(), key, volume.device).view(volume.shape).mul_(deviation)


def _levels(volume: torch.Tensor, brightness: float, contrast: float, shift: float) -> torch.Tensor:
    """Factor about 0, factor about the mean, and a constant."""
    if brightness != 1:
        volume = volume * brightness
    if contrast != 1:
        mean = volume.mean()
        volume = (volume - mean).mul_(contrast).add_(mean)
    return volume + shift if shift else volume


def _gamma(volume: torch.Tensor, exponent: float) -> torch.Tensor:
    """Power of an image in [0, 1] that keeps mean and standard deviation (`GammaTransform`, retain_stats), clipped."""
    mean, deviation = volume.mean(), volume.std(correction=0)
    bent = volume.pow(exponent)
    centre, width = bent.mean(), bent.std(correction=0).clamp_(min=_FLAT)
    return (bent - centre).mul_(deviation / width).add_(mean).clamp_(0, 1)
