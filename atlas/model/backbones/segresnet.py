"""SegResNet: residual blocks with group normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai.networks.nets import SegResNet as MonaiSegResNet

from atlas.errors import SpecError
from atlas.model.backbones.features import Backbone, Features, supervised

if TYPE_CHECKING:
    import torch

    from atlas.spec.training import SegResNetSpec


class SegResNet(Backbone):
    """MONAI's SegResNet without its output layers (`conv_final`).

    The deepest feature is that of the last layer down, the decoder's that of the last layer up, and the further ones
    are those of the layers up before it. Parts keep MONAI's names.

    Parameters
    ----------
    spec
        Width of the first level, doubled at each further one, and blocks of each.
    deep_supervision
        Further decoder features to answer.

    Raises
    ------
    SpecError
        If the levels up do not lead back to full resolution, or there are not that many further features.
    """

    def __init__(self, spec: SegResNetSpec, deep_supervision: int = 0) -> None:
        super().__init__()
        levels, width = len(spec.blocks_down), spec.init_filters
        if len(spec.blocks_up) != levels - 1:
            raise SpecError(
                f"blocks_up: {len(spec.blocks_up)} levels up after {levels} levels down; {levels - 1} lead back to "
                "full resolution"
            )
        network = MonaiSegResNet(
            init_filters=width, in_channels=1, out_channels=1, blocks_down=spec.blocks_down, blocks_up=spec.blocks_up
        )
        self.convInit, self.down_layers = network.convInit, network.down_layers
        self.up_samples, self.up_layers = network.up_samples, network.up_layers
        self.deep_channels, self.decoder_channels = width << (levels - 1), width
        self.level_channels = supervised(tuple(width << level for level in range(1, levels - 1)), deep_supervision)
        self.divisor = 1 << (levels - 1)

    def forward(self, image: torch.Tensor) -> Features:
        """Features of an image (B, 1, D, H, W).

        Raises
        ------
        SpecError
            See `Backbone.check_image`.
        """
        self.check_image(image)
        feature, skips = self.convInit(image), []
        for down in self.down_layers:
            feature = down(feature)
            skips.append(feature)
        found = [skips.pop()]
        for larger, up in zip(self.up_samples, self.up_layers, strict=True):
            found.append(up(larger(found[-1]) + skips.pop()))
        deep, *coarse, decoder = found
        return Features(deep, decoder, tuple(coarse[::-1][: len(self.level_channels)]))
