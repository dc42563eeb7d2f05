"""The vectors of the classes that a recipe asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.model.embedding_files import read_embeddings
from atlas.model.embeddings import one_hot_embeddings
from atlas.model.encoders import encoded_embeddings
from atlas.model.hashed import hashed_embeddings
from atlas.model.text import class_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.model.embeddings import ClassEmbeddings
    from atlas.spec.taxonomy import Taxonomy
    from atlas.spec.training import EmbeddingSpec


def embeddings_of(spec: EmbeddingSpec, taxonomy: Taxonomy, classes: Sequence[str]) -> ClassEmbeddings | None:
    """Vectors of classes, in their order; None: they are learned.

    Parameters
    ----------
    spec
        Which kind. A text encoder reads the template V3 where none is given (the best of the paper), the hash the
        words of the class alone.
    taxonomy
        Has the words of each class.
    classes
        Rows.

    Raises
    ------
    SpecError
        If the template or the file is not one, or the file has no row of a class.
    AtlasError
        If a text encoder cannot be had.
    """
    if spec.kind == "learned":
        return None
    if spec.kind == "one-hot":
        return one_hot_embeddings(classes)
    if spec.file is not None:
        return read_embeddings(Path(spec.file), taxonomy).select(classes)
    if spec.kind == "hashed":
        template = spec.template or "words"
        return hashed_embeddings(classes, class_prompts(taxonomy, classes, template), template=template)
    words = class_prompts(taxonomy, classes, "words")
    return encoded_embeddings(classes, words, encoder=spec.kind, template=spec.template or "V3", cache=_cache())


def _cache() -> Path:
    """Folder of vectors that text encoders made, as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atlas" / "embeddings"
