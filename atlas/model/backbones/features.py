"""What every backbone answers."""

from __future__ import annotations

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

    def check_image(self, image: torch.Tensor) -> None:
        """Raise SpecError if an image does not suit the network."""
        if image.ndim != 5 or image.shape[1] != 1 or any(n % self.divisor or not n for n in image.shape[2:]):  # noqa: PLR2004
            raise SpecError(
                f"an image is (B, 1, D, H, W) with sides that are multiples of {self.divisor} here, "
                f"not {tuple(image.shape)}"
            )
