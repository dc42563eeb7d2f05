"""Swin UNETR: a transformer with shifted windows as encoder, convolutions as decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import nn

from atlas.errors import SpecError
from atlas.model.backbones.features import Backbone, Features, supervised

if TYPE_CHECKING:
    from atlas.spec.training import SwinUNETRSpec


CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""Tokens that MONAI merged until 1.4: (1, 1, 0) and (0, 1, 1) are missing, two others come twice (its issue 4757)."""


class SwinUNETR(Backbone):
    """MONAI's Swin UNETR with windows of 7 x 7 x 7 tokens of 2 x 2 x 2 voxels, without its output layer.

    The deepest feature is that of `encoder10` (768 channels where `feature_size` is 48), the decoder's that of
    `decoder1`, as in the published Universal Model; the further ones are those of `decoder2` to `decoder5`. Parts keep
    MONAI's names.

    Parameters
    ----------
    spec
        Widths, depths and heads.
    deep_supervision
        Further decoder features to answer.

    Raises
    ------
    SpecError
        If the heads do not divide the widths, or there are not that many further features.
    """

    divisor = 32
    least_deep = 2

    def __init__(self, spec: SwinUNETRSpec, deep_supervision: int = 0) -> None:
        super().__init__()
        size = spec.feature_size
        for level, heads in enumerate(spec.heads):
            if (size << level) % heads:
                raise SpecError(f"heads: {heads} heads do not divide the {size << level} channels of level {level + 1}")
        with torch.device("cpu"):  # MONAI reads numbers of a tensor on the way, which the meta device has not
            network = MonaiSwinUNETR(
                in_channels=1,
                out_channels=1,
                feature_size=size,
                depths=spec.depths,
                num_heads=spec.heads,
                # by name, since what MONAI's default does has changed between versions
                downsample="mergingv2" if spec.corners == "all" else PublishedMerging,
                use_checkpoint=spec.checkpointing,
            )
        self.swinViT = network.swinViT
        self.encoder1, self.encoder2, self.encoder3 = network.encoder1, network.encoder2, network.encoder3
        self.encoder4, self.encoder10 = network.encoder4, network.encoder10
        self.decoder5, self.decoder4, self.decoder3 = network.decoder5, network.decoder4, network.decoder3
        self.decoder2, self.decoder1 = network.decoder2, network.decoder1
        self.deep_channels, self.decoder_channels = 16 * size, size
        self.level_channels = supervised((size, 2 * size, 4 * size, 8 * size), deep_supervision)
        self.to(torch.get_default_device())

    def forward(self, image: torch.Tensor) -> Features:
        """Features of an image (B, 1, D, H, W).

        Raises
        ------
        SpecError
            See `Backbone.check_image`.
        """
        self.check_image(image)
        half, fourth, eighth, sixteenth, last = self.swinViT(image, True)  # True: each layer's output normalised
        deep = self.encoder10(last)
        at_16 = self.decoder5(deep, sixteenth)
        at_8 = self.decoder4(at_16, self.encoder4(eighth))
        at_4 = self.decoder3(at_8, self.encoder3(fourth))
        at_2 = self.decoder2(at_4, self.encoder2(half))
        decoder = self.decoder1(at_2, self.encoder1(image))
        return Features(deep, decoder, (at_2, at_4, at_8, at_16)[: len(self.level_channels)])


class PublishedMerging(nn.Module):
    """Eight tokens become one of twice the channels, as in the networks whose weights are published.

    Parameters
    ----------
    dim
        Channels C.
    norm_layer
        What normalises the 8 C channels.
    spatial_dims
        3; MONAI gives it.
    """

    def __init__(self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3) -> None:
        super().__init__()
        self.reduction = nn.Linear((1 << spatial_dims) * dim, 2 * dim, bias=False)
        self.norm = norm_layer((1 << spatial_dims) * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, d, h, w, C) to (B, d / 2, h / 2, w / 2, 2 C), rounded up."""
        odd = [side % 2 for side in x.shape[1:4]]
        padded = nn.functional.pad(x, (0, 0, 0, odd[2], 0, odd[1], 0, odd[0]))
        merged = torch.cat([padded[:, i::2, j::2, k::2] for i, j, k in CORNERS], dim=-1)
        reduced: torch.Tensor = self.reduction(self.norm(merged))
        return reduced
