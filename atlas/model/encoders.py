"""Vectors of text encoders, through open_clip (extra `text`), kept in a folder once made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError, SpecError
from atlas.model.embedding_files import load_embeddings, save_embeddings
from atlas.model.embeddings import ClassEmbeddings, request_digest
from atlas.model.text import filled, template_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch


@dataclass(frozen=True)
class Encoder:
    """A text encoder as open_clip names it."""

    name: str
    weights: str | None
    packages: tuple[str, ...]

    @property
    def model(self) -> str:
        """Model id: architecture and weights."""
        return f"open_clip {self.name}" + (f" {self.weights}" if self.weights else "")


ENCODERS = {
    # These weights were trained with QuickGELU; under the plain name "ViT-B-32" open_clip runs them with another
    # activation and only warns.
    "clip": Encoder("ViT-B-32-quickgelu", "openai", ("open_clip",)),
    "biomedclip": Encoder(
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", None, ("open_clip", "transformers")
    ),
}


def encoded_embeddings(
    names: Sequence[str], words: Sequence[str], encoder: str = "clip", template: str = "V3", cache: Path | None = None
) -> ClassEmbeddings:
    """Vectors of a text encoder, float32 and not normalised, as the published embeddings are.

    Parameters
    ----------
    names
        Of the classes.
    words
        Of each class, what the taxonomy calls `prompt`.
    encoder
        clip (ViT-B/32 of OpenAI, 512 wide) or biomedclip (512 wide).
    template
        A name out of `atlas.model.text.TEMPLATES`, or a text with [CLS] in it.
    cache
        Folder of embeddings already made; what is not there is made and put there. None: always made.

    Raises
    ------
    SpecError
        If there is no such encoder or template, or a file of the cache is not what it should be.
    AtlasError
        If a package is missing, or the weights cannot be had.
    """
    if encoder not in ENCODERS:
        raise SpecError(f"no text encoder {encoder!r}; there are: {', '.join(ENCODERS)}")
    chosen, prompts = ENCODERS[encoder], filled(template, words)
    key = request_digest(chosen.model, template_text(template), names, prompts)
    place = cache / f"{encoder}-{key[:16]}.safetensors" if cache else None
    if place and place.exists():
        return load_embeddings(place, names=names, digest=key)
    vectors = _encoded(chosen, prompts)
    made = ClassEmbeddings(tuple(names), vectors, "encoder", chosen.model, template_text(template), prompts)
    if place:
        save_embeddings(made, place)
    return made


def _encoded(encoder: Encoder, prompts: Sequence[str]) -> torch.Tensor:
    import torch

    open_clip = _packages(encoder)
    try:
        # this function, unlike create_model, refuses to go on without weights; it reads them with weights_only
        network = open_clip.create_model_from_pretrained(
            encoder.name, pretrained=encoder.weights, precision="fp32", device="cpu", return_transform=False
        )
        tokenizer = open_clip.get_tokenizer(encoder.name)
    except Exception as error:
        raise AtlasError(
            f"{encoder.model} cannot be loaded ({error}); where there is no network, make the embeddings on another "
            "machine and bring the file"
        ) from error
    network.eval()
    with torch.inference_mode():
        vectors: torch.Tensor = network.encode_text(tokenizer(list(prompts)))
    return vectors.float().clone()


def _packages(encoder: Encoder) -> Any:  # noqa: ANN401
    try:
        for package in encoder.packages:
            import_module(package)
        return import_module("open_clip")
    except ImportError as error:
        raise AtlasError(f"{encoder.model} needs {error.name}: pip install 'atlas-corpus[text]'") from None
