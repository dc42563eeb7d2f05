"""UNet++: a U-Net whose skips are grids of convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.networks.nets import BasicUNetPlusPlus

from atlas.model.backbones.features import Backbone, Features, supervised

if TYPE_CHECKING:
    from atlas.spec.training import UNetPlusPlusSpec

LEVELS = 5


class UNetPlusPlus(Backbone):
    """MONAI's BasicUNetPlusPlus without its output layers (`final_conv_*`).

    Node X(i, j) is the j-th at level i (Zhou et al., DLMIA 2018). The deepest feature is X(4, 0), the decoder's
    X(0, 4). Deep supervision is that of the paper: the further features are the other full-resolution nodes X(0, 3),
    X(0, 2) and X(0, 1), from the longest way to the shortest; all are of the image's size. Parts keep MONAI's names.

    Parameters
    ----------
    spec
        Widths of the five levels, and of X(0, 4).
    deep_supervision
        Further decoder features to answer.

    Raises
    ------
    SpecError
        If there are not that many.
    """

    divisor = 1 << (LEVELS - 1)
    least_deep = 2

    def __init__(self, spec: UNetPlusPlusSpec, deep_supervision: int = 0) -> None:
        super().__init__()
        for name, part in BasicUNetPlusPlus(3, 1, 1, spec.features).named_children():
            if not name.startswith("final_conv"):
                self.add_module(name, part)
        self.deep_channels, self.decoder_channels = spec.features[4], spec.features[5]
        self.level_channels = supervised((spec.features[0],) * 3, deep_supervision)

    def forward(self, image: torch.Tensor) -> Features:
        """Features of an image (B, 1, D, H, W).

        Raises
        ------
        SpecError
            See `Backbone.check_image`.
        """
        self.check_image(image)
        nodes = [[self.get_submodule("conv_0_0")(image)]]
        for deepest in range(1, LEVELS):
            nodes.append([self.get_submodule(f"conv_{deepest}_0")(nodes[-1][0])])
            for column in range(1, deepest + 1):
                level = deepest - column
                before = torch.cat(nodes[level], dim=1)
                nodes[level].append(self.get_submodule(f"upcat_{level}_{column}")(nodes[level + 1][-1], before))
        *shorter, decoder = nodes[0][1:]
        return Features(nodes[-1][0], decoder, tuple(shorter[::-1][: len(self.level_channels)]))
