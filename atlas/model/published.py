"""Published checkpoints of the Universal Model, and of others with its head, as a `UniversalNetwork`.

Names are those of the published files: `organ_embedding` (vectors of the classes), `text_to_vision`, `GAP`,
`controller` and `precls_conv` (the head), and the backbone's. What is verified about them stands in
docs/checkpoints.md. The controller's 153 numbers and its inputs (image, class) have the order that
`atlas.model.dynamic` and `atlas.model.head` have.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from atlas.errors import AtlasError, CheckpointError
from atlas.model.backbones import build_backbone
from atlas.model.backbones.genesis_unet import GenesisUNet
from atlas.model.backbones.pretrained import WRAPPERS, backbone_names
from atlas.model.backbones.swin_unetr import SwinUNETR
from atlas.model.backbones.weight_files import read_weights
from atlas.model.class_vectors import FixedVectors
from atlas.model.embeddings import ClassEmbeddings, check_shape
from atlas.model.head import HIDDEN
from atlas.model.network import UniversalNetwork
from atlas.spec.training import GenesisUNetSpec, SwinUNETRSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from atlas.spec.taxonomy import Taxonomy
    from atlas.spec.training import BackboneSpec

CLASSES = 32
"""Of the published Universal Model: the first of the taxonomy, in this order."""

VECTORS = "organ_embedding"
_OUTPUTS = ("out.", "out_tr.")
_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
_HEAD = {
    "text_to_vision.": "text.",
    "GAP.0.": "image.0.",
    "GAP.3.": "image.3.",
    "controller.": "controller.",
    "precls_conv.0.": "shared.0.",
    "precls_conv.2.": "shared.2.",
}


@dataclass(frozen=True, eq=False)
class Translated:
    """A published checkpoint in the words of atlas.

    Attributes
    ----------
    backbone
        The network that the weights are of.
    vectors
        float32 (K, E), one row a class.
    weights
        State dict of the `UniversalNetwork`.
    dropped
        Names of published tensors that have no use here: output layers, running statistics.
    """

    backbone: BackboneSpec
    vectors: torch.Tensor
    weights: dict[str, torch.Tensor]
    dropped: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Published:
    """A published model.

    Attributes
    ----------
    network
        In evaluation mode, on the CPU.
    backbone
        What it was built of.
    embeddings
        Vectors of its classes.
    dropped
        Names of published tensors that have no use.
    """

    network: UniversalNetwork
    backbone: BackboneSpec
    embeddings: ClassEmbeddings
    dropped: tuple[str, ...]


def load_published(path: Path, taxonomy: Taxonomy, classes: Sequence[str] | None = None) -> Published:
    """A published model out of its file.

    Parameters
    ----------
    path
        See `read_weights`.
    taxonomy
        Names its classes where `classes` is None.
    classes
        Of the channels, in their order. Has to be said where there are not 32 of them.

    Raises
    ------
    CheckpointError
        If the file cannot be read, is not of such a model, is of another number of classes than there are names, or a
        tensor is missing, of another shape or not finite. Names the file.
    """
    try:
        return _built(translate(read_weights(path)), path, taxonomy, classes)
    except AtlasError as error:
        raise error if str(path) in str(error) else CheckpointError(f"{path}: {error}") from None


def translate(state: Mapping[str, torch.Tensor]) -> Translated:
    """Tensors of a published checkpoint by the names of atlas.

    Parameters
    ----------
    state
        Published names, with or without `module.` and `backbone.` before them.

    Raises
    ------
    CheckpointError
        If these are not tensors of a Universal Model with Swin UNETR or the U-Net of Models Genesis.
    """
    spec = _spec(state)
    ours = backbone_names(state, SwinUNETR if spec.kind == "swin_unetr" else GenesisUNet)
    vectors, head = _vectors_and_head(ours)
    weights = {f"heads.0.{name}": tensor for name, tensor in head.items()} | {"vectors.vectors": vectors}
    dropped = []
    for name, tensor in ours.items():
        if name.startswith(_OUTPUTS) or name.endswith(_RUNNING):
            dropped.append(name)
        elif not name.startswith((VECTORS, *_HEAD)):
            weights[f"backbone.network.{name}"] = tensor
    return Translated(spec, vectors, weights, tuple(dropped))


def _spec(state: Mapping[str, torch.Tensor]) -> SwinUNETRSpec | GenesisUNetSpec:
    """What was published ran on images as MONAI reads them, one window at a time."""
    plain = {WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    first = plain.get("encoder1.layer.conv1.conv.weight")
    if first is not None:
        try:
            return SwinUNETRSpec(
                kind="swin_unetr", feature_size=first.shape.numel() // 27, corners="published", axes="xyz"
            )
        except ValidationError:
            raise CheckpointError(f"a Swin UNETR whose first convolution is {tuple(first.shape)}") from None
    if "down_tr64.ops.0.conv1.weight" in plain:
        return GenesisUNetSpec(kind="genesis_unet", norm="instance", axes="xyz")
    raise CheckpointError(
        f"not a published Universal Model with Swin UNETR or U-Net (it holds {', '.join(list(plain)[:3])}); weights of "
        "a backbone go into model: weights: of a recipe"
    )


def _vectors_and_head(state: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    head = {
        ours + name.removeprefix(published): tensor
        for published, ours in _HEAD.items()
        for name, tensor in state.items()
        if name.startswith(published)
    }
    vectors = state.get(VECTORS, state.get(f"{VECTORS}.weight"))
    if vectors is None or "controller.weight" not in head or "controller.bias" not in head:
        raise CheckpointError(
            f"has no text-driven head ({VECTORS} and controller.*), so it is a backbone alone: name it under model: "
            "weights: of a recipe"
        )
    check_shape(tuple(vectors.shape))  # before any copy: a stride of 0 makes a huge tensor out of one number
    if VECTORS in state:
        return vectors.float(), head
    return vectors.float(), head | _without_text(vectors.float(), head)


def _without_text(vectors: torch.Tensor, head: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layers that leave learnt vectors as they are, in a head that puts every vector through a layer and a ReLU.

    The layer adds a shift that makes all vectors positive, so that the ReLU does nothing, and the controller, which is
    linear, takes the shift away again.
    """
    if vectors.ndim != 2 or vectors.shape[1] != HIDDEN or head["controller.weight"].shape[1:2] != (2 * HIDDEN,):  # noqa: PLR2004
        raise CheckpointError(
            f"{VECTORS}.weight is {tuple(vectors.shape)}, expected (classes, {HIDDEN}) beside a controller of "
            f"{2 * HIDDEN} channels"
        )
    shift = -vectors.amin(dim=0)
    of_class = head["controller.weight"].float().flatten(1)[:, HIDDEN:]
    return {
        "text.weight": torch.eye(HIDDEN),
        "text.bias": shift,
        "controller.bias": head["controller.bias"].float() - of_class @ shift,
    }


def _built(translated: Translated, path: Path, taxonomy: Taxonomy, classes: Sequence[str] | None) -> Published:
    count = len(translated.vectors)
    if classes is None and count != CLASSES:
        raise CheckpointError(f"has {count} classes, not the {CLASSES} of the Universal Model: say which they are")
    names = tuple(taxonomy.names[:CLASSES] if classes is None else classes)
    with path.open("rb") as file:
        model = f"file sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
    embeddings = ClassEmbeddings(names, translated.vectors, "file", model, "", ("",) * len(names))
    network = UniversalNetwork(build_backbone(translated.backbone), FixedVectors(embeddings))
    try:
        network.load_state_dict(translated.weights)
    except RuntimeError as error:
        raise CheckpointError(f"not weights of this network: {error}") from None
    bad = [name for name, tensor in translated.weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise CheckpointError(f"values that are not finite in {', '.join(bad[:3])}")
    return Published(network.eval(), translated.backbone, embeddings, translated.dropped)
