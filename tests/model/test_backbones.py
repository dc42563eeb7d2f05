"""Backbones: the taps are those of MONAI's own networks, every weight learns, files are read whole or not at all."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.networks.nets import BasicUNetPlusPlus, DynUNet, SegResNet, SwinUNETR
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import nn

from atlas.errors import CheckpointError, SpecError
from atlas.model.backbones import build_backbone
from atlas.model.backbones.pretrained import load_pretrained
from atlas.model.backbones.swin_unetr import PublishedMerging
from atlas.model.backbones.weight_files import read_weights
from atlas.model.class_vectors import LearnedVectors
from atlas.model.network import UniversalNetwork
from atlas.spec.training import BackboneSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from atlas.model.backbones import Backbone

SPECS: dict[str, dict[str, Any]] = {
    "unet": {"kind": "unet", "features": [8, 16, 24, 32]},
    "residual": {"kind": "unet", "features": [8, 16, 24], "residual": True},
    "swin_unetr": {"kind": "swin_unetr", "feature_size": 12},
    "segresnet": {"kind": "segresnet", "init_filters": 8},
    "unetpp": {"kind": "unetpp", "features": [8, 8, 16, 16, 32, 16]},
    "genesis_unet": {"kind": "genesis_unet"},
}
SIDES = {"swin_unetr": (64, 32, 32), "unetpp": (32, 16, 16), "genesis_unet": (16, 8, 8)}
MOST = {"unet": 2, "residual": 1, "swin_unetr": 4, "segresnet": 2, "unetpp": 3, "genesis_unet": 2}
"""Further decoder features that there are."""


def _spec(name: str, **changes: Any) -> BackboneSpec:
    return TypeAdapter(BackboneSpec).validate_python(SPECS[name] | changes)


def _built(name: str, deep_supervision: int = 0, **changes: Any) -> Backbone:
    torch.manual_seed(7)
    return build_backbone(_spec(name, **changes), deep_supervision)


def _image(name: str, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, 1, *SIDES.get(name, (32, 16, 16)), generator=generator)


def _monai(name: str) -> tuple[nn.Module, str, str, list[str], Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """A network of MONAI's own; its modules of the deepest and the full feature, and of the further ones from fine to
    coarse; and what its output layer makes of the full feature."""
    if name in {"unet", "residual"}:
        widths = SPECS[name]["features"]
        n = len(widths)
        network = DynUNet(3, 1, 3, [3] * n, [1] + [2] * (n - 1), [2] * (n - 1), widths, res_block=name == "residual")
        ups = [f"upsamples.{i}" for i in range(n - 1)]
        return network, "bottleneck", ups[-1], ups[-2::-1], lambda net, x: net.output_block(x)
    if name == "swin_unetr":
        swin = SwinUNETR(in_channels=1, out_channels=3, feature_size=12, downsample="mergingv2")
        coarse = [f"decoder{i}" for i in (2, 3, 4, 5)]
        return swin, "encoder10", "decoder1", coarse, lambda net, x: net.out(x)
    if name == "segresnet":
        seg = SegResNet(init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))
        return (
            seg,
            "down_layers.3",
            "up_layers.2",
            ["up_layers.1", "up_layers.0"],
            lambda net, x: net.conv_final(x.clone()),
        )
    plus = BasicUNetPlusPlus(3, 1, 3, SPECS["unetpp"]["features"])
    coarse = [f"upcat_0_{i}" for i in (3, 2, 1)]
    return plus, "conv_4_0", "upcat_0_4", coarse, lambda net, x: [net.final_conv_0_4(x)]  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["unet", "residual", "swin_unetr", "segresnet", "unetpp"])
def test_features_and_logits_are_those_of_monai(name: str) -> None:
    torch.manual_seed(5)
    network, deep, decoder, levels, output = _monai(name)
    network.eval()
    seen: dict[str, torch.Tensor] = {}
    for module in (deep, decoder, *levels):
        network.get_submodule(module).register_forward_hook(
            lambda _, __, value, key=module: seen.__setitem__(key, value.detach().clone())
        )
    ours = _built(name, len(levels)).eval()
    given = network.state_dict()
    left = set(given) - set(ours.state_dict())
    assert all(key.startswith(("out.", "output_block.", "skip_layers.", "conv_final.", "final_conv")) for key in left)
    ours.load_state_dict({key: value for key, value in given.items() if key not in left})
    with torch.no_grad():
        expected, found = network(_image(name)), ours(_image(name))
        logits = output(network, found.decoder)
    for value, module in zip((found.deep, found.decoder, *found.levels), (deep, decoder, *levels), strict=True):
        torch.testing.assert_close(value, seen[module])
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(("name", "axes"), [*((name, "zyx") for name in SPECS), ("unet", "xyz")])
def test_shapes_are_as_stated_and_every_weight_learns(name: str, axes: str) -> None:
    for count in {0, MOST[name]}:
        backbone = _built(name, count, axes=axes)
        image = _image(name)
        found = backbone(image)
        assert found.deep.shape[1] == backbone.deep_channels
        assert found.deep.shape[2:] == tuple(side // backbone.divisor for side in image.shape[2:])
        assert found.decoder.shape == (1, backbone.decoder_channels, *image.shape[2:])
        assert tuple(level.shape[1] for level in found.levels) == backbone.level_channels
        assert len(found.levels) == count
        sides = [level.shape[2] for level in found.levels]
        assert (
            sides == ([image.shape[2]] * 3 if name == "unetpp" else [image.shape[2] >> i + 1 for i in range(4)])[:count]
        )
        sum(feature.sum() for feature in (found.deep, found.decoder, *found.levels)).backward()
        assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SPECS)
def test_a_universal_network_leaves_no_parameter_without_gradient(name: str) -> None:
    network = UniversalNetwork(_built(name, MOST[name]), LearnedVectors(("a", "b"), 8))
    found = network(_image(name), levels=True)
    assert found.logits.shape == (2, *_image(name).shape[2:])
    (found.logits.square().mean() + sum(level.square().mean() for level in found.levels)).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", SPECS)
def test_a_network_is_built_on_the_device_that_is_chosen(name: str) -> None:
    with torch.device("meta"):
        backbone = _built(name)
    assert {tensor.device.type for tensor in backbone.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("name", SPECS)
def test_no_more_levels_than_there_are(name: str) -> None:
    with pytest.raises(SpecError, match=f"has {MOST[name]} further"):
        _built(name, MOST[name] + 1)


@pytest.mark.parametrize("name", SPECS)
def test_an_image_that_does_not_suit_is_refused(name: str) -> None:
    backbone = _built(name)
    side = 2 * backbone.divisor
    for shape in [(1, 2, side, side, side), (1, 1, side, side + 1, side), (1, side, side, side), (1, 1, 0, side, side)]:
        with pytest.raises(SpecError, match=f"multiples of {backbone.divisor}"):
            backbone(torch.zeros(shape))
    if name != "segresnet":
        with pytest.raises(SpecError, match="single one"):
            backbone(torch.zeros(2, 1, *(backbone.divisor,) * 3))


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("unet", {"features": [8, 16]}, "at least 3 levels"),
        ("segresnet", {"blocks_up": [1, 1]}, "3 lead back"),
        ("swin_unetr", {"heads": [3, 5, 12, 24]}, "5 heads do not divide the 24"),
    ],
)
def test_widths_that_do_not_fit(name: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        _built(name, **changes)


@pytest.mark.parametrize(
    ("spec", "millions", "output"),
    [
        ({"kind": "swin_unetr"}, 62.19, 48 * 32 + 32),
        ({"kind": "segresnet"}, 4.70, 2 * 16 + 16 * 25 + 25),
        ({"kind": "genesis_unet"}, 19.08, 64 * 32 + 32),
    ],
)
def test_sizes_are_the_published_ones_with_a_plain_output_layer(spec: Any, millions: float, output: int) -> None:
    backbone = build_backbone(TypeAdapter(BackboneSpec).validate_python(spec))
    count = sum(p.numel() for p in backbone.parameters()) + output
    assert round(count / 1e6, 2) == millions


def test_published_merging_takes_the_corners_that_old_monai_took() -> None:
    torch.manual_seed(1)
    merging = PublishedMerging(4)
    x = torch.randn(2, 5, 4, 3, 4)
    padded = torch.zeros(2, 6, 4, 4, 4)
    padded[:, :5, :, :3] = x
    found = merging(x)
    assert found.shape == (2, 3, 2, 2, 8)
    corners = ["000", "100", "010", "001", "101", "010", "001", "111"]
    for z, y, w in [(0, 0, 0), (2, 1, 1), (1, 0, 1)]:
        tokens = [padded[1, 2 * z + int(c[0]), 2 * y + int(c[1]), 2 * w + int(c[2])] for c in corners]
        expected = merging.reduction(merging.norm(torch.cat(tokens)))
        torch.testing.assert_close(found[1, z, y, w], expected)


def test_corners_are_a_choice_with_the_same_weights() -> None:
    plain, published = _built("swin_unetr").eval(), _built("swin_unetr", corners="published").eval()
    published.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert (plain(_image("swin_unetr")).deep - published(_image("swin_unetr")).deep).abs().max() > 1e-3


def test_axes_are_those_that_the_kernels_had() -> None:
    plain, turned = _built("unet", 2), _built("unet", 2, axes="xyz")
    state = {key: value.transpose(2, 4) if value.ndim == 5 else value for key, value in plain.state_dict().items()}
    turned.load_state_dict({f"network.{key}": value for key, value in state.items()})
    with torch.no_grad():
        expected, found = plain(_image("unet")), turned(_image("unet"))
    for one, other in zip((*expected[:2], *expected[2]), (*found[:2], *found[2]), strict=True):
        torch.testing.assert_close(one, other)


def test_instance_norm_is_batch_statistics_of_one_window() -> None:
    batch, instance = _built("genesis_unet").train(), _built("genesis_unet", norm="instance").eval()
    state = batch.state_dict()
    instance.load_state_dict({key: state[key] for key in instance.state_dict()})
    image = _image("genesis_unet", 2)
    with torch.no_grad():
        together = instance(image).decoder
        for i in range(2):
            torch.testing.assert_close(together[i : i + 1], batch(image[i : i + 1]).decoder)


# ---- weights from elsewhere


def _same(backbone: Backbone, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("prefix", "below"),
    [("", None), ("backbone.", "net"), ("module.backbone.", "state_dict"), ("backbone.network.", "model")],
)
def test_weights_are_found_behind_prefixes_and_below_names(tmp_path: Path, prefix: str, below: str | None) -> None:
    wanted = _built("residual").state_dict()
    named = {prefix + key: value for key, value in wanted.items()} | {"heads.0.text.weight": torch.ones(1)}
    torch.save({below: named, "epoch": 3, "optimizer": {"lr": 0.1}} if below else named, tmp_path / "weights.pth")
    save_file(named, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        backbone = build_backbone(_spec("residual", axes="xyz" if "network" in prefix else "zyx"))
        found = load_pretrained(backbone, tmp_path / name)
        inner = getattr(backbone, "network", backbone)
        assert _same(inner, wanted)
        assert found == (tuple(wanted), (), ("heads.0.text.weight",))


def test_half_precision_becomes_the_networks(tmp_path: Path) -> None:
    wanted = {key: value.half() for key, value in _built("residual").state_dict().items()}
    save_file(wanted, tmp_path / "w.safetensors")
    backbone = build_backbone(_spec("residual"))
    load_pretrained(backbone, tmp_path / "w.safetensors")
    assert _same(backbone, {key: value.float() for key, value in wanted.items()})


def _ssl(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of the encoder that MONAI published."""
    encoder = {key.removeprefix("swinViT."): value for key, value in state.items() if key.startswith("swinViT.")}
    return {f"module.{key.replace('mlp.linear', 'mlp.fc')}": value for key, value in encoder.items()}


def test_an_encoder_alone_starts_a_swin_unetr(tmp_path: Path) -> None:
    wanted = _built("swin_unetr").state_dict()
    extra = {"module.rotation_head.weight": torch.ones(2)}
    torch.save({"state_dict": _ssl(wanted) | extra}, tmp_path / "model_swinvit.pt")
    torch.manual_seed(11)
    backbone = build_backbone(_spec("swin_unetr"))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    found = load_pretrained(backbone, tmp_path / "model_swinvit.pt")
    assert set(found.loaded) == {key for key in wanted if key.startswith("swinViT.")}
    assert set(found.missing) == set(wanted) - set(found.loaded)
    assert found.unexpected == ("rotation_head.weight",)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, wanted[key] if key.startswith("swinViT.") else before[key])


def _refused(path: Path, name: str, reason: str) -> None:
    backbone = _built(name)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=reason) as raised:
        load_pretrained(backbone, path)
    assert str(path) in str(raised.value)
    assert _same(backbone, before)


def test_part_of_the_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = build_backbone(_spec("residual")).state_dict()
    last = list(state)[-1]
    save_file({key: value for key, value in state.items() if key != last}, path)
    _refused(path, "residual", rf"1 of its tensors are missing, {last}")
    first = next(iter(state))
    save_file(state | {first: torch.zeros(8, 1, 5, 5, 5)}, path)
    _refused(path, "residual", rf"{first} is float32 \(8, 1, 5, 5, 5\) in the file and float32 \(8, 1, 3, 3, 3\) here")
    save_file(state | {last: torch.full_like(state[last], torch.nan)}, path)
    _refused(path, "residual", rf"not finite in {last}")
    save_file(state | {f"module.{last}": state[last].clone()}, path)
    _refused(path, "residual", "twice")
    swin = build_backbone(_spec("swin_unetr")).state_dict()
    encoder = _ssl(swin)
    encoder.pop("module.layers2.0.blocks.1.norm2.bias")
    save_file(encoder, path)
    _refused(path, "swin_unetr", "tensors are missing")
    shifts = next(key for key in swin if key.endswith("relative_position_index"))
    save_file(swin | {shifts: swin[shifts].flip(0)}, path)
    _refused(path, "swin_unetr", "laid otherwise")


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("code out of a checkpoint ran",))


def test_hostile_and_broken_files_are_refused(tmp_path: Path) -> None:
    state = build_backbone(_spec("residual")).state_dict()
    _refused(tmp_path / "none.pth", "residual", "no such file")
    torch.save({"net": state, "args": _Evil()}, tmp_path / "evil.pth")
    _refused(tmp_path / "evil.pth", "residual", "never loaded")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Evil()))
    _refused(tmp_path / "bare.pth", "residual", "bare pickle is never loaded")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    _refused(tmp_path / "old.pth", "residual", "bare pickle is never loaded")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    _refused(tmp_path / "cut.safetensors", "residual", "cannot be read as weights")
    torch.save([1, 2], tmp_path / "list.pth")
    _refused(tmp_path / "list.pth", "residual", "holds a list")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    _refused(tmp_path / "empty.pth", "residual", "no tensors by name")
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "sparse.pth")
    _refused(tmp_path / "sparse.pth", "residual", "a is not a plain tensor")


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    with pytest.raises(CheckpointError, match="which torch never writes"):
        read_weights(tmp_path / "w.pth")


def test_a_huge_tensor_out_of_one_number_is_not_made(tmp_path: Path) -> None:
    state = build_backbone(_spec("residual")).state_dict()
    first = next(iter(state))
    torch.save(state | {first: torch.ones(1).expand(2**40)}, tmp_path / "w.pth")
    _refused(tmp_path / "w.pth", "residual", rf"{first} is float32 \(1099511627776,\)")
