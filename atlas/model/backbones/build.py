"""The network that a recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.model.backbones.genesis_unet import GenesisUNet
from atlas.model.backbones.segresnet import SegResNet
from atlas.model.backbones.swin_unetr import SwinUNETR
from atlas.model.backbones.transposed import Transposed
from atlas.model.backbones.unet import UNet
from atlas.model.backbones.unetpp import UNetPlusPlus

if TYPE_CHECKING:
    from collections.abc import Callable

    from atlas.model.backbones.features import Backbone
    from atlas.spec.training import BackboneSpec

_NETWORKS: dict[str, Callable[..., Backbone]] = {
    "swin_unetr": SwinUNETR,
    "unet": UNet,
    "genesis_unet": GenesisUNet,
    "segresnet": SegResNet,
    "unetpp": UNetPlusPlus,
}


def build_backbone(spec: BackboneSpec, deep_supervision: int = 0) -> Backbone:
    """A backbone with fresh weights, drawn from the global generator.

    Parameters
    ----------
    spec
        Which network, its widths, and how its axes lie.
    deep_supervision
        Further decoder features, from fine to coarse, that it shall answer.

    Raises
    ------
    SpecError
        If the network has not that many, or its widths do not fit each other.
    """
    network = _NETWORKS[spec.kind](spec, deep_supervision)
    return network if spec.axes == "zyx" else Transposed(network)
