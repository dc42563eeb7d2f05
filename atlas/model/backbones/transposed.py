"""A network that sees x where others see z."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.model.backbones.features import Backbone, Features

if TYPE_CHECKING:
    import torch


class Transposed(Backbone):
    """Turns an image (B, 1, z, y, x) to (B, 1, x, y, z) for a network, and the network's features back.

    For weights that were trained on images with the axes (x, y, z), as MONAI reads them: convolutions and windows of
    attention are then laid as they were in training. Both turns are views.

    Parameters
    ----------
    network
        What sees the turned image.
    """

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network
        self.deep_channels, self.decoder_channels = network.deep_channels, network.decoder_channels
        self.level_channels, self.divisor, self.least_deep = network.level_channels, network.divisor, network.least_deep

    def forward(self, image: torch.Tensor) -> Features:
        """Features of an image (B, 1, D, H, W).

        Raises
        ------
        SpecError
            See `Backbone.check_image`.
        """
        self.check_image(image)
        deep, decoder, levels = self.network(_turned(image))
        return Features(_turned(deep), _turned(decoder), tuple(_turned(level) for level in levels))


def _turned(image: torch.Tensor) -> torch.Tensor:
    return image.transpose(2, 4)
