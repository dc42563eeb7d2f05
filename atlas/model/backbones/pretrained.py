"""Start of a backbone from weights that were trained elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import torch

from atlas.errors import CheckpointError
from atlas.model.backbones.genesis_unet import GenesisUNet
from atlas.model.backbones.swin_unetr import SwinUNETR
from atlas.model.backbones.transposed import Transposed
from atlas.model.backbones.weight_files import read_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import nn

    from atlas.model.backbones.features import Backbone

WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|backbone|network|model)\.)+")
"""What trainings put before the names of a backbone's tensors."""

ENCODER = "swinViT."
"""Weights of Swin UNETR that were trained without labels are those of this part alone."""

POSITIONS = "relative_position_index"

_GENESIS = re.compile(r"^(down|up)_tr(\d+)\.(?:ops\.([01])\.(conv1|bn1)|(up_conv))\.")
_DOWN, _UP = ("64", "128", "256", "512"), ("256", "128", "64")
_SHOWN = 3


class Loaded(NamedTuple):
    """Names of tensors.

    Attributes
    ----------
    loaded
        Of the backbone, that the file gave.
    missing
        Of the backbone, that the file does not have: they stay as they were. Empty but for weights of an encoder.
    unexpected
        Of the file, that the backbone does not have: heads, output layers and so on.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def load_pretrained(backbone: Backbone, path: Path) -> Loaded:
    """Fill a backbone with the weights of a file: all of it, or nothing.

    Parameters
    ----------
    backbone
        Is changed in place.
    path
        See `read_weights`. Names may be those of a run of atlas, of the MONAI network of the same kind, of Models
        Genesis, of the published Universal Model or of SuPreM; docs/checkpoints.md lists what fits which.

    Returns
    -------
    Loaded
        Names of the backbone's tensors and of those left over. Of a Swin UNETR the file may hold the encoder alone;
        the caller says so to the user.

    Raises
    ------
    CheckpointError
        If the file cannot be read, a tensor has another shape or is not finite, or tensors are missing. Names the file
        and the first such tensors; the backbone is as it was.
    """
    network = backbone.network if isinstance(backbone, Transposed) else backbone
    try:
        given = backbone_names(read_weights(path), type(network))
    except CheckpointError as error:
        raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from None
    target = network.state_dict()
    missing = tuple(name for name in target if name not in given)
    _check_missing(path, network, target, missing)
    matched = {name: given[name] for name in target if name in given}
    _check_tensors(path, matched, target)
    with torch.no_grad():
        for name, tensor in matched.items():
            target[name].copy_(tensor)
    return Loaded(tuple(matched), missing, tuple(name for name in given if name not in target))


def backbone_names(state: Mapping[str, torch.Tensor], kind: type[nn.Module]) -> dict[str, torch.Tensor]:
    """The tensors by the names that they have in atlas.

    Parameters
    ----------
    state
        As a file holds them.
    kind
        Of the backbone whose names they shall get.

    Raises
    ------
    CheckpointError
        If two tensors would get the same name.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        short = _renamed(WRAPPERS.sub("", name), kind)
        if short in found:
            raise CheckpointError(f"holds {short} twice, once as {name}: which weights are meant is not clear")
        found[short] = tensor
    return found


def _renamed(name: str, kind: type[nn.Module]) -> str:
    if kind is SwinUNETR:
        # what MONAI published for the encoder alone
        name = re.sub(r"^(?=patch_embed\.|layers\d\.)", ENCODER, name)
        return re.sub(r"\.mlp\.fc([12])\.", r".mlp.linear\1.", name)
    if kind is GenesisUNet:
        return _GENESIS.sub(_of_genesis, name)
    return name


def _of_genesis(match: re.Match[str]) -> str:
    way, channels, block, part, grow = match.groups()
    order = _DOWN if way == "down" else _UP
    if channels not in order:
        return match.group()
    level = order.index(channels)
    return f"grow.{level}." if grow else f"{way}.{level}.{block}.{0 if part == 'conv1' else 1}."


def _check_missing(path: Path, network: nn.Module, target: Iterable[str], missing: tuple[str, ...]) -> None:
    encoder_alone = isinstance(network, SwinUNETR) and all(
        (name in missing) != name.startswith(ENCODER) for name in target
    )
    if missing and not encoder_alone:
        raise CheckpointError(
            f"{path}: not weights of this {type(network).__name__}: {len(missing)} of its tensors are missing, "
            f"{_some(missing)}"
        )


def _check_tensors(path: Path, given: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    other = [
        f"{name} is {_kind(tensor)} in the file and {_kind(target[name])} here"
        for name, tensor in given.items()
        if tensor.shape != target[name].shape or tensor.is_floating_point() != target[name].is_floating_point()
    ]
    if other:
        raise CheckpointError(f"{path}: not weights of this network: {_some(other)}")
    # says which row of a table is which shift of a window; out of another network, the rows mean something else
    shifts = [name for name in given if name.endswith(POSITIONS) and not torch.equal(given[name], target[name])]
    if shifts:
        raise CheckpointError(f"{path}: windows of attention laid otherwise than here: {_some(shifts)}")
    bad = [name for name, tensor in given.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"{path}: values that are not finite in {_some(bad)}")


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
