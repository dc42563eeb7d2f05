"""U-Net of nnU-Net's kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai.networks.nets import DynUNet

from atlas.errors import SpecError
from atlas.model.backbones.features import Backbone, Features, supervised

if TYPE_CHECKING:
    import torch

    from atlas.spec.training import UNetSpec

FEWEST = 3
"""Levels that MONAI's network takes at least."""


class UNet(Backbone):
    """MONAI's DynUNet: 3x3x3 convolutions, instance normalisation, leaky ReLU; every level half the size of the last.

    The deepest feature is the bottleneck's, the decoder's that of the last upsampling block, and the further ones are
    those of the coarser upsampling blocks. Parts keep MONAI's names, so that weights of a DynUNet fit, less its output
    layers and the second copy of all names below `skip_layers`.

    Parameters
    ----------
    spec
        Widths, one a level.
    deep_supervision
        Further decoder features to answer.

    Raises
    ------
    SpecError
        If there are fewer than three levels, or not that many further features.
    """

    least_deep = 2

    def __init__(self, spec: UNetSpec, deep_supervision: int = 0) -> None:
        super().__init__()
        widths, levels = spec.features, len(spec.features)
        if levels < FEWEST:
            raise SpecError(f"features: {list(widths)}; a U-Net has at least {FEWEST} levels")
        strides = (1,) + (2,) * (levels - 1)
        network = DynUNet(3, 1, 1, (3,) * levels, strides, strides[1:], filters=widths, res_block=spec.residual)
        self.input_block, self.downsamples = network.input_block, network.downsamples
        self.bottleneck, self.upsamples = network.bottleneck, network.upsamples
        self.deep_channels, self.decoder_channels = widths[-1], widths[0]
        self.level_channels = supervised(widths[1:-1], deep_supervision)
        self.divisor = 2 ** (levels - 1)

    def forward(self, image: torch.Tensor) -> Features:
        """Features of an image (B, 1, D, H, W).

        Raises
        ------
        SpecError
            See `Backbone.check_image`.
        """
        self.check_image(image)
        skips = [self.input_block(image)]
        for down in self.downsamples:
            skips.append(down(skips[-1]))
        deep = self.bottleneck(skips[-1])
        found = [deep]
        for up, skip in zip(self.upsamples, reversed(skips), strict=True):
            found.append(up(found[-1], skip))
        *coarse, decoder = found[1:]
        return Features(deep, decoder, tuple(coarse[::-1][: len(self.level_channels)]))
