"""The 3D U-Net of Models Genesis, which the published Universal Model and SuPreM have too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from atlas.model.backbones.features import Backbone, Features, supervised

if TYPE_CHECKING:
    from collections.abc import Callable

    from atlas.spec.training import GenesisUNetSpec

WIDTHS = (64, 128, 256, 512)
"""Channels that each level gives, from fine to coarse."""


class GenesisUNet(Backbone):
    """Four levels of two 3x3x3 convolutions with normalisation and ReLU each; 19.07 M parameters.

    The first convolution of a level down has half the channels of the second. Between levels lie maximum pooling and a
    transposed convolution of two voxels that keeps the channels; the skip is put behind what comes from below.

    The published code normalises by the mean and variance of the batch at hand in evaluation too, never by running
    ones, so that what it predicts for a window depends on the windows beside it in the batch; it was always run on one
    window at a time. `norm: instance`, where each sample is normalised by itself, gives just that for any batch.
    `norm: batch` is the usual batch normalisation: as the published code in training, by running statistics in
    evaluation, which the published checkpoints hold too but were never tested with.

    Parameters
    ----------
    spec
        Normalisation.
    deep_supervision
        Further decoder features to answer.

    Raises
    ------
    SpecError
        If there are not that many.
    """

    divisor = 1 << (len(WIDTHS) - 1)
    least_deep = 2

    def __init__(self, spec: GenesisUNetSpec, deep_supervision: int = 0) -> None:
        super().__init__()
        norm: Callable[[int], nn.Module] = nn.BatchNorm3d if spec.norm == "batch" else _instance_norm
        before = (1, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(_layer(given, wide // 2, norm), _layer(wide // 2, wide, norm))
            for given, wide in zip(before, WIDTHS, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        below, skips = WIDTHS[:0:-1], WIDTHS[-2::-1]
        self.grow = nn.ModuleList(nn.ConvTranspose3d(wide, wide, 2, stride=2) for wide in below)
        self.up = nn.ModuleList(
            nn.Sequential(_layer(wide + skip, skip, norm), _layer(skip, skip, norm))
            for wide, skip in zip(below, skips, strict=True)
        )
        self.deep_channels, self.decoder_channels = WIDTHS[-1], WIDTHS[0]
        self.level_channels = supervised(WIDTHS[1:-1], deep_supervision)

    def forward(self, image: torch.Tensor) -> Features:
        """Features of an image (B, 1, D, H, W).

        Raises
        ------
        SpecError
            See `Backbone.check_image`.
        """
        self.check_image(image)
        skips = [self.down[0](image)]
        for down in self.down[1:]:
            skips.append(down(self.pool(skips[-1])))
        found = [skips.pop()]
        for grow, up in zip(self.grow, self.up, strict=True):
            found.append(up(torch.cat([grow(found[-1]), skips.pop()], dim=1)))
        deep, *coarse, decoder = found
        return Features(deep, decoder, tuple(coarse[::-1][: len(self.level_channels)]))


def _instance_norm(channels: int) -> nn.Module:
    return nn.InstanceNorm3d(channels, affine=True)


def _layer(given: int, wide: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(given, wide, 3, padding=1), norm(wide), nn.ReLU(inplace=True))
