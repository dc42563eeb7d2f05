"""The folder of a training run: what was trained, and the weights to predict with.

    run.json                 recipe, classes, taxonomy, corpus
    embeddings.safetensors   vectors of the classes, where they are given and not learned
    model.safetensors        weights to predict with: the best by validation so far, else the last

What training needs to go on lies below `checkpoints/`, see `atlas.train.checkpoint`.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from atlas.errors import CheckpointError
from atlas.model.backbones import build_backbone
from atlas.model.class_vectors import FixedVectors, LearnedVectors
from atlas.model.embedding_files import load_embeddings, save_embeddings
from atlas.model.network import UniversalNetwork
from atlas.spec.base import Spec, Strings
from atlas.spec.taxonomy import Taxonomy
from atlas.spec.training import TrainingRecipe

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.corpus import Corpus
    from atlas.model.embeddings import ClassEmbeddings
    from atlas.train.sliding import Precision

FORMAT: Literal["atlas run 1"] = "atlas run 1"
DESCRIPTION, EMBEDDINGS, MODEL = "run.json", "embeddings.safetensors", "model.safetensors"


class CorpusRecord(Spec):
    """The corpus that was trained on."""

    location: str
    spacing: float
    """mm"""
    cases: int
    fingerprint: int
    """Of the patches; see `atlas.stream.run.Run.fingerprint`."""
    antialias: bool = False
    """Whether its scans were smoothed before they were resampled; a scan to be predicted is treated alike."""

    @classmethod
    def of(cls, corpus: Corpus, cases: int = 0, fingerprint: int = 0) -> CorpusRecord:
        """Record of a corpus; cases and fingerprint come with its patches."""
        recipe = corpus.recipe
        return cls(
            location=corpus.location,
            spacing=recipe.grid.spacing,
            cases=cases,
            fingerprint=fingerprint,
            antialias=recipe.resample.antialias,
        )


class RunDescription(Spec):
    """What a run trains."""

    format: Literal["atlas run 1"] = FORMAT
    version: str
    """Of atlas."""
    recipe: TrainingRecipe
    classes: Strings
    """Channels, in order."""
    heads: Annotated[tuple[int, ...], Field(strict=False)]
    """Classes of each head, in order; see `UniversalNetwork`."""
    taxonomy: Taxonomy
    corpus: CorpusRecord
    parent: str | None = None
    """sha256 of the weights of the model that it began with."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A model to predict with.

    Attributes
    ----------
    folder
        Of the run.
    network
        In evaluation mode, on its device.
    description
        Classes, spacing, window and so on.
    digest
        sha256 of the weights: what a pseudo label names as its model.
    """

    folder: Path
    network: UniversalNetwork
    description: RunDescription
    digest: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Channels, in order."""
        return self.description.classes

    @property
    def patch(self) -> tuple[int, int, int]:
        """Voxels of a window, (z, y, x)."""
        patch = self.description.recipe.data.patch
        z, y, x = (patch,) * 3 if isinstance(patch, int) else patch
        return z, y, x


def precision_on(device: str | torch.device, precision: Precision) -> Precision:
    """The run's precision on a GPU, fp32 on a CPU, which has no fast arithmetic of the other kinds."""
    return precision if torch.device(device).type == "cuda" else "fp32"


def precision_of(trained: Trained) -> Precision:
    """What a trained model computes in, where it is."""
    return precision_on(next(trained.network.parameters()).device, trained.description.recipe.optimiser.precision)


def network_of(description: RunDescription, embeddings: ClassEmbeddings | None) -> UniversalNetwork:
    """The network of a run, with fresh weights; `embeddings` None: learned ones."""
    model = description.recipe.model
    vectors = LearnedVectors(description.classes) if embeddings is None else FixedVectors(embeddings)
    return UniversalNetwork(build_backbone(model.backbone, model.deep_supervision), vectors, description.heads)


def save_description(folder: Path, description: RunDescription, embeddings: ClassEmbeddings | None) -> None:
    """Write what a run trains; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    if embeddings is not None:
        save_embeddings(embeddings, folder / EMBEDDINGS)
    replace(folder / DESCRIPTION, (description.model_dump_json(indent=1) + "\n").encode())


def save_model(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write the weights to predict with, in one step."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    replace(folder / MODEL, save(tensors, metadata={"format": FORMAT}))


def load_description(folder: Path) -> tuple[RunDescription, ClassEmbeddings | None]:
    """What a run trains, and the vectors of its classes (None: they are learned).

    Raises
    ------
    CheckpointError
        If there is no run, or its description is damaged. Names the file.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(f"{folder}: no training run there ({DESCRIPTION} is missing); atlas train makes one")
    try:
        description = RunDescription.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError) as error:
        raise CheckpointError(f"{path}: not the description of a run: {error}") from error
    learned = description.recipe.embeddings.kind == "learned"
    return description, None if learned else load_embeddings(folder / EMBEDDINGS, names=description.classes)


def load_run(folder: Path, device: str | torch.device = "cpu") -> Trained:
    """A trained model.

    Raises
    ------
    CheckpointError
        If there is none yet, or its files are damaged or do not fit each other. Names the file.
    """
    description, embeddings = load_description(folder)
    path = folder / MODEL
    if not path.is_file():
        raise CheckpointError(f"{folder}: nothing was trained yet ({MODEL} is missing); atlas train --resume goes on")
    network = network_of(description, embeddings)
    load_weights(network, path)
    return Trained(folder, network.eval().to(device), description, hashlib.sha256(path.read_bytes()).hexdigest())


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Fill a network with the weights of a safetensors file.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds other tensors than the network has. Names the file.
    """
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged, cannot be read as safetensors: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not weights of the network that {DESCRIPTION} describes: {error}") from error


def replace(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader sees the old one, the new one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
