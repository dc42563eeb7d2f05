"""What to train: which cases and classes, which network, how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from atlas.spec.base import Name, Spec, Strings
from atlas.spec.label_map import PROVENANCES, ProvenanceKind

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=False)]
Share = Annotated[float, Field(ge=0, lt=1, strict=False)]
Widths = Annotated[tuple[Count, ...], Field(min_length=2, max_length=8, strict=False)]
Options = Annotated[dict[str, Any], Field(default_factory=dict)]
"""Keywords of the class that is named beside it, which checks them."""


class NetworkSpec(Spec):
    """What all backbones have in common."""

    axes: Literal["zyx", "xyz"] = "zyx"
    """Order of an image's axes that the network sees: zyx as the corpus has them; xyz for weights that were trained on
    images as MONAI reads them."""


class SwinUNETRSpec(NetworkSpec):
    """Swin UNETR of MONAI; the defaults are those of the published Universal Model."""

    kind: Literal["swin_unetr"]
    feature_size: Annotated[int, Field(ge=12, le=192, multiple_of=12)] = 48
    depths: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4, strict=False)] = (2, 2, 2, 2)
    heads: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4, strict=False)] = (3, 6, 12, 24)
    corners: Literal["all", "published"] = "all"
    """Of the eight tokens that become one from level to level. published: as MONAI had it before 1.5 and as all
    published weights were trained, two of them left out and two taken twice."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class UNetSpec(NetworkSpec):
    """U-Net of nnU-Net's kind (MONAI's DynUNet): a width a level, every level half the size of the one above."""

    kind: Literal["unet"]
    features: Widths = (32, 64, 128, 256, 320, 320)
    residual: bool = False


class GenesisUNetSpec(NetworkSpec):
    """3D U-Net of Models Genesis, the one of the published Universal Model and SuPreM."""

    kind: Literal["genesis_unet"]
    norm: Literal["batch", "instance"] = "batch"
    """instance: each sample by itself, which is what the published code does when it predicts window by window."""


class SegResNetSpec(NetworkSpec):
    """SegResNet of MONAI; the defaults are those of SuPreM."""

    kind: Literal["segresnet"]
    init_filters: Annotated[int, Field(ge=8, le=128, multiple_of=8)] = 16
    blocks_down: Widths = (1, 2, 2, 4)
    blocks_up: Widths = (1, 1, 1)


class UNetPlusPlusSpec(NetworkSpec):
    """UNet++ of MONAI, five levels; the sixth width is that of the last decoder."""

    kind: Literal["unetpp"]
    features: Annotated[tuple[Count, ...], Field(min_length=6, max_length=6, strict=False)] = (32, 32, 64, 128, 256, 32)


BackboneSpec = Annotated[
    SwinUNETRSpec | UNetSpec | GenesisUNetSpec | SegResNetSpec | UNetPlusPlusSpec, Field(discriminator="kind")
]


class ModelSpec(Spec):
    """The network."""

    backbone: BackboneSpec
    deep_supervision: Annotated[int, Field(ge=0, le=4)] = 0
    """Further decoder features, from fine to coarse, that are supervised in training."""
    weights: str | None = None
    """File of pre-trained weights of the backbone."""


class EmbeddingSpec(Spec):
    """The vectors of the classes."""

    kind: Literal["hashed", "one-hot", "learned", "clip", "biomedclip", "file"] = "hashed"
    template: str | None = None
    """Prompt; V3 for text encoders, the words alone for hashed, where not given."""
    file: str | None = None

    @model_validator(mode="after")
    def _file(self) -> Self:
        if (self.kind == "file") != (self.file is not None):
            raise ValueError("kind: file and file: come together or not at all")
        return self


class DataSpec(Spec):
    """The patches."""

    split: Strings | None = ("train",)
    datasets: Strings | None = None
    where: str | None = None
    provenance: Annotated[tuple[ProvenanceKind, ...], Field(min_length=1, strict=False)] = PROVENANCES
    """Labels that count; classes of a case that have others are not supervised there."""
    patch: (
        Annotated[int, Field(ge=16, le=512)]
        | Annotated[tuple[Annotated[int, Field(ge=16, le=512)], ...], Field(min_length=3, max_length=3, strict=False)]
    ) = 96
    window: Annotated[tuple[float, ...], Field(min_length=2, max_length=2, strict=False)] = (-175.0, 250.0)
    sampling: Options
    """Of `atlas.stream.Sampling`."""
    augmentation: Annotated[dict[str, Any] | None, Field()] = Field(default_factory=dict)
    """Of `atlas.stream.Augmentation`; null for none."""


class OptimiserSpec(Spec):
    """AdamW, warm-up and cosine. Steps are updates of the weights."""

    steps: Count
    batch: Count = 2
    """Patches of one process and one forward pass."""
    accumulate: Count = 1
    """Forward passes an update."""
    lr: Positive = 4e-4
    head_rate: Positive = 0.2
    """Of `lr`, for the layers of the head that make the layers of the classes; see `atlas.train.schedule`."""
    weight_decay: NotNegative = 1e-5
    warmup: Annotated[int, Field(ge=0)] = 0
    clip: Positive | None = 12.0
    """Norm of the gradient above which it is scaled down (nnU-Net's 12)."""
    ema: Share = 0.0
    """Decay of the moving average of the weights, which is then what is validated and predicted with; 0: none."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    compile: bool = False


class ValidationSpec(Spec):
    """When and on what the best weights are chosen."""

    split: Strings = ("val",)
    every: Count = 1000
    """Steps; also how often a checkpoint is written."""
    cases: Count | None = None
    """At most so many, evenly over the selection; all where not given."""
    overlap: Share = 0.25


class PostprocessSpec(Spec):
    """What is done to predicted masks; see `atlas.train.postprocess`."""

    largest: Strings = ()
    """Classes of which only the largest connected piece is kept."""
    organ_margin: NotNegative | None = None
    """Lesions are kept within their organs grown by so many mm; null: wherever they are."""
    sides: bool = False
    """Left and right of a pair are told apart by the body's midplane where a piece is on the wrong side."""


class ExtendSpec(Spec):
    """How classes are added to a trained model (`--extend`)."""

    keep: Literal["distil", "freeze"] = "distil"
    """The classes it has: distil, the trained model teaches them wherever they are not annotated; freeze, nothing that
    they depend on is trained."""
    own_head: bool = False
    """Whether the new classes get a head of their own; with freeze they must."""
    weight: Positive = 1.0
    """Of the distillation beside the loss."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.keep == "freeze" and not self.own_head:
            raise ValueError("keep: freeze needs own_head: true; nothing would be trained")
        return self


class TrainingRecipe(Spec):
    """A training."""

    name: Name
    description: str | None = None
    classes: Strings | None = None
    """Channels of the model; all that are available in any case of the selection where not given."""
    data: DataSpec = Field(default_factory=lambda: DataSpec.model_validate({}))
    model: ModelSpec
    embeddings: EmbeddingSpec = EmbeddingSpec()
    loss: Options
    """Of `atlas.model.loss_spec.LossSpec`."""
    optimiser: OptimiserSpec
    validation: ValidationSpec = ValidationSpec()
    postprocess: PostprocessSpec = PostprocessSpec()
    extend: ExtendSpec = ExtendSpec()
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
