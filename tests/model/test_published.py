"""Published checkpoints: a network written anew with the published names predicts what its translation predicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR
from monai.networks.nets.swin_unetr import PatchMergingV2
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

from atlas.errors import CheckpointError
from atlas.model.backbones import build_backbone
from atlas.model.backbones.pretrained import load_pretrained
from atlas.model.head import scatter
from atlas.model.network import UniversalNetwork
from atlas.model.published import load_published, translate
from atlas.spec import load_taxonomy
from atlas.spec.training import GenesisUNetSpec, SegResNetSpec, SwinUNETRSpec
from atlas.train.published import import_published
from atlas.train.run import load_run

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 12
"""Feature size of the small Swin UNETR."""

SHAPES = {"swin": (64, 32, 32), "unet": (16, 8, 24)}
"""Of an image (x, y, z)."""


class OldMerging(PatchMergingV2):  # type: ignore[misc]
    """The eight tokens of MONAI 0.9 to 1.4."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = slice(0, None, 2), slice(1, None, 2)
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, a, a, a], x[:, b, a, a], x[:, a, b, a], x[:, a, a, b]]
        parts += [x[:, b, a, b], x[:, a, b, a], x[:, a, a, b], x[:, b, b, b]]
        return self.reduction(self.norm(torch.cat(parts, -1)))  # type: ignore[no-any-return]


class Swin(SwinUNETR):  # type: ignore[misc]
    """Deepest and full feature, asked of MONAI's network by hooks."""

    def __init__(self, size: int) -> None:
        super().__init__(in_channels=1, out_channels=2, feature_size=size, downsample=OldMerging)
        self.channels = (16 * size, size)
        self.taps: dict[str, torch.Tensor] = {}
        self.encoder10.register_forward_hook(lambda _, __, value: self.taps.__setitem__("deep", value))
        self.decoder1.register_forward_hook(lambda _, __, value: self.taps.__setitem__("full", value.clone()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        super().forward(x)
        return self.taps["deep"], self.taps["full"]


class Step(nn.Module):
    def __init__(self, given: int, wide: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(given, wide, 3, padding=1), nn.BatchNorm3d(wide)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bn = self.bn1  # the statistics of the batch, in evaluation too
        return F.batch_norm(self.conv1(x), None, None, bn.weight, bn.bias, training=True, eps=bn.eps).relu()


class Level(nn.Module):
    def __init__(self, given: int, middle: int, wide: int, below: int | None = None) -> None:
        super().__init__()
        self.ops = nn.Sequential(Step(given, middle), Step(middle, wide))
        if below:
            self.up_conv = nn.ConvTranspose3d(below, below, 2, 2)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        return self.ops(x if skip is None else torch.cat((self.up_conv(x), skip), 1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    def __init__(self, outputs: int | None = None) -> None:
        super().__init__()
        self.channels = (512, 64)
        self.down_tr64, self.down_tr128 = Level(1, 32, 64), Level(64, 64, 128)
        self.down_tr256, self.down_tr512 = Level(128, 128, 256), Level(256, 256, 512)
        self.up_tr256, self.up_tr128 = Level(768, 256, 256, 512), Level(384, 128, 128, 256)
        self.up_tr64 = Level(192, 64, 64, 128)
        if outputs:
            self.out_tr = nn.ModuleDict({"final_conv": nn.Conv3d(64, outputs, 1)})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.down_tr64(x)
        second = self.down_tr128(F.max_pool3d(first, 2))
        third = self.down_tr256(F.max_pool3d(second, 2))
        deep = self.down_tr512(F.max_pool3d(third, 2))
        return deep, self.up_tr64(self.up_tr128(self.up_tr256(deep, third), second), first)


class Universal(nn.Module):
    """The published model by its formula, with its names."""

    def __init__(self, backbone: Any, classes: int, *, words: bool) -> None:
        super().__init__()
        deep, full = backbone.channels
        groups = math.gcd(16, deep, full)
        self.backbone = backbone
        self.precls_conv = nn.Sequential(nn.GroupNorm(groups, full), nn.ReLU(), nn.Conv3d(full, 8, 1))
        self.GAP = nn.Sequential(
            nn.GroupNorm(groups, deep), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Conv3d(deep, 256, 1)
        )
        self.controller = nn.Conv3d(512, 153, 1)
        if words:
            self.register_buffer("organ_embedding", torch.randn(classes, 512))
            self.text_to_vision = nn.Linear(512, 256)
        else:
            self.organ_embedding = nn.Embedding(classes, 256)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        deep, full = self.backbone(image)
        if isinstance(self.organ_embedding, nn.Embedding):
            of_class = self.organ_embedding.weight
        else:
            of_class = self.text_to_vision(self.organ_embedding).relu()
        of_image, shared = self.GAP(deep)[0], self.precls_conv(full)[0]
        found = []
        for vector in of_class:
            numbers = self.controller(torch.cat([of_image, vector[:, None, None, None]]))[:, 0, 0, 0]
            w1, w2, w3 = numbers[:64].view(8, 8), numbers[64:128].view(8, 8), numbers[128:136]
            b1, b2, b3 = numbers[136:144], numbers[144:152], numbers[152]
            x = torch.einsum("oi,ixyz->oxyz", w1, shared).add(b1[:, None, None, None]).relu()
            x = torch.einsum("oi,ixyz->oxyz", w2, x).add(b2[:, None, None, None]).relu()
            found.append(torch.einsum("i,ixyz->xyz", w3, x) + b3)
        return torch.stack(found)


def _reference(kind: str, classes: int = 3, *, words: bool = True) -> Universal:
    torch.manual_seed(2)
    network = Universal(Swin(SIZE) if kind == "swin" else UNet(), classes, words=words).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:  # fresh norms are all ones, so that a swap of two would not be seen
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "relative_position" in name:
                parameter.copy_(torch.randn_like(parameter))
    return network


def _published(network: nn.Module, layout: str) -> dict[str, torch.Tensor]:
    """A state dict as files hold it; flat: the Swin UNETR and its head are one network there."""
    state = {key: value.detach().clone() for key, value in network.state_dict().items()}
    if layout == "flat":
        return {f"module.{key.removeprefix('backbone.')}": value for key, value in state.items()}
    return {f"{layout}{key}": value for key, value in state.items()}


def _image(kind: str, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, *SHAPES[kind], generator=torch.Generator().manual_seed(4))


def _same(network: UniversalNetwork, reference: Universal, image: torch.Tensor) -> None:
    with torch.no_grad():
        expected = torch.stack([reference(one[None]) for one in image])
        found = network(image.transpose(2, 4))
        found = scatter(found, len(image), len(network.classes)).transpose(2, 4)
    assert expected.std() > 0.01  # there is something to compare
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "words", "layout", "batch"),
    [
        ("swin", True, "flat", 1),
        ("swin", False, "module.backbone", 1),
        ("unet", True, "module.", 2),
        ("unet", False, "", 1),
    ],
)
def test_a_translated_checkpoint_predicts_the_same(
    tmp_path: Path, kind: str, words: bool, layout: str, batch: int
) -> None:
    reference = _reference(kind, words=words)
    state = _published(reference, "module." if layout == "module.backbone" else layout)
    torch.save({"net": state, "epoch": 450}, tmp_path / "published.pth")
    names = ("liver", "spleen", "pancreas")
    found = load_published(tmp_path / "published.pth", load_taxonomy(), names)
    assert found.network.classes == names
    assert found.embeddings.kind == "file"
    vectors = reference.organ_embedding if words else reference.organ_embedding.weight
    torch.testing.assert_close(found.embeddings.vectors, vectors.detach(), rtol=0, atol=0)
    _same(found.network, reference, _image(kind, batch))


def test_what_is_dropped_is_said() -> None:
    swin = _published(_reference("swin"), "module.")
    assert translate(swin).dropped == ("out.conv.conv.weight", "out.conv.conv.bias")
    dropped = translate(_published(_reference("unet"), "module.")).dropped
    assert len(dropped) == 3 * 14
    assert all("running" in name or "num_batches" in name for name in dropped)
    given = set(swin)
    kept = translate(swin)
    assert len(kept.weights) + len(kept.dropped) == len(given)


@pytest.mark.parametrize(
    ("backbone", "spec"),
    [
        (lambda: Swin(48), SwinUNETRSpec(kind="swin_unetr", corners="published", axes="xyz")),
        (UNet, GenesisUNetSpec(kind="genesis_unet", norm="instance", axes="xyz")),
    ],
)
def test_published_sizes_fit(backbone: Any, spec: Any) -> None:
    found = translate(_published(Universal(backbone(), 32, words=True), "module."))
    assert found.backbone == spec
    network = UniversalNetwork(build_backbone(spec), _vectors(found.vectors))
    assert {n: t.shape for n, t in network.state_dict().items()} == {n: t.shape for n, t in found.weights.items()}


def _vectors(table: torch.Tensor) -> Any:
    from atlas.model.class_vectors import FixedVectors
    from atlas.model.embeddings import ClassEmbeddings

    names = tuple(f"class {i}" for i in range(len(table)))
    return FixedVectors(ClassEmbeddings(names, table, "file", "test", "", ("",) * len(names)))


def test_an_imported_run_is_a_run(tmp_path: Path) -> None:
    taxonomy, reference = load_taxonomy(), _reference("unet", 32)
    save_file(_published(reference, "module."), tmp_path / "unet.safetensors")
    description = import_published(tmp_path / "unet.safetensors", tmp_path / "run", taxonomy)
    trained = load_run(tmp_path / "run")
    assert trained.description == description
    assert trained.classes == taxonomy.names[:32]
    assert trained.patch == (96, 96, 96)
    assert description.corpus.spacing == 1.5
    _same(trained.network, reference, _image("unet"))
    with pytest.raises(CheckpointError, match="a run already"):
        import_published(tmp_path / "unet.safetensors", tmp_path / "run", taxonomy)


def _refused(path: Path, state: dict[str, torch.Tensor], reason: str, classes: tuple[str, ...] | None = None) -> None:
    save_file(state, path)
    with pytest.raises(CheckpointError, match=reason) as raised:
        import_published(path, path.parent / "run", load_taxonomy(), classes)
    assert str(path) in str(raised.value)
    assert not (path.parent / "run").exists()


def test_what_is_no_published_model_is_refused(tmp_path: Path) -> None:
    path, names = tmp_path / "w.safetensors", ("liver", "spleen", "pancreas")
    state = _published(_reference("unet"), "module.")
    _refused(path, state, "has 3 classes, not the 32")
    _refused(path, state, "no such classes", ("liver", "spleen", "soul"))
    _refused(path, state, "3 rows for 2 classes", names[:2])
    bias = "module.backbone.up_tr64.ops.1.conv1.bias"
    without = {key: value for key, value in state.items() if key != bias}
    _refused(path, without, "Missing.*up.2.1.0.bias", names)
    _refused(path, without | {bias: torch.full((64,), torch.inf)}, "not finite", names)
    _refused(path, without | {bias: torch.ones(65)}, "size mismatch", names)
    _refused(path, state | {"module.more": torch.ones(1)}, "Unexpected.*more", names)
    _refused(path, {key: v for key, v in state.items() if "controller" not in key}, "no text-driven head", names)
    _refused(path, {"module.convInit.conv.weight": torch.ones(16, 1, 3, 3, 3)}, "not a published Universal", names)
    odd = {"encoder1.layer.conv1.conv.weight": torch.ones(13, 1, 3, 3, 3)}
    _refused(path, odd, "first convolution", names)


# ---- backbones of the same files, and of SuPreM, as a start of training


def test_backbones_of_published_models_start_a_training(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    network = _reference("unet")
    torch.save({"net": _published(network, "module.")}, path)
    backbone = build_backbone(GenesisUNetSpec(kind="genesis_unet", axes="xyz")).train()
    found = load_pretrained(backbone, path)
    assert not found.missing
    assert "controller.weight" in found.unexpected
    with torch.no_grad():
        expected, features = network.backbone(_image("unet")), backbone(_image("unet").transpose(2, 4))
    torch.testing.assert_close(features.deep.transpose(2, 4), expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features.decoder.transpose(2, 4), expected[1], atol=1e-4, rtol=1e-4)


def test_models_genesis_has_an_output_layer_and_no_head(tmp_path: Path) -> None:
    network = UNet(outputs=1)
    save_file({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "g.safetensors")
    found = load_pretrained(build_backbone(GenesisUNetSpec(kind="genesis_unet")), tmp_path / "g.safetensors")
    assert not found.missing
    assert set(found.unexpected) == {"out_tr.final_conv.weight", "out_tr.final_conv.bias"}


def test_a_segresnet_of_suprem_starts_a_training(tmp_path: Path) -> None:
    network = SegResNet(init_filters=16, in_channels=1, out_channels=25, blocks_down=(1, 2, 2, 4), dropout_prob=0.0)
    torch.save({"net": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth")
    backbone = build_backbone(SegResNetSpec(kind="segresnet", axes="xyz")).eval()
    found = load_pretrained(backbone, tmp_path / "w.pth")
    assert not found.missing
    assert all(name.startswith("conv_final.") for name in found.unexpected)
    with torch.no_grad():
        image = _image("unet")
        decoder = backbone(image.transpose(2, 4)).decoder.transpose(2, 4)
        torch.testing.assert_close(network.conv_final(decoder), network.eval()(image), atol=1e-4, rtol=1e-4)
