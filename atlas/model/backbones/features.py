"""What every backbone answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from atlas.errors import SpecError

if TYPE_CHECKING:
    import torch


class Features(NamedTuple):
    """Features of an image.

    Attributes
    ----------
    deep
        The deepest, (B, deep_channels, d, h, w).
    decoder
        The decoder's at full resolution, (B, decoder_channels, D, H, W).
    levels
        Further ones of the decoder for deep supervision, from fine to coarse, (B, level_channels[i], ...).
    """

    deep: torch.Tensor
    decoder: torch.Tensor
    levels: tuple[torch.Tensor, ...] = ()


class Backbone(nn.Module):
    """What all backbones have in common: called with an image (B, 1, D, H, W), one answers `Features`."""

    deep_channels: int
    decoder_channels: int
    level_channels: tuple[int, ...]
    """Of the further decoder features that it was built to answer; empty without deep supervision."""
    divisor: int
    """The sides of an image must be multiples of it."""
    least_deep: int = 1
    """Voxels that the deepest feature must have: 2 where every channel is normalised over its own voxels."""

    def check_image(self, image: torch.Tensor) -> None:
        """Raise SpecError if an image does not suit the network."""
        if image.ndim != 5 or image.shape[1] != 1 or any(n % self.divisor or not n for n in image.shape[2:]):  # noqa: PLR2004
            raise SpecError(
                f"an image is (B, 1, D, H, W) with sides that are multiples of {self.divisor} here, "
                f"not {tuple(image.shape)}"
            )
        if math.prod(n // self.divisor for n in image.shape[2:]) < self.least_deep:
            raise SpecError(
                f"an image of {tuple(image.shape[2:])} voxels shrinks to a single one in this network, which cannot be "
                f"normalised: choose a larger patch (at least one side of {2 * self.divisor}) or fewer levels"
            )


def supervised(channels: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """Channels of the decoder features that deep supervision takes.

    Parameters
    ----------
    channels
        Of all further decoder features of a network, from fine to coarse.
    wanted
        How many are to be supervised; the finest are taken.

    Raises
    ------
    SpecError
        If the network has fewer.
    """
    if not 0 <= wanted <= len(channels):
        raise SpecError(f"deep_supervision: {wanted}, but this network has {len(channels)} further decoder features")
    return channels[:wanted]
