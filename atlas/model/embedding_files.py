"""Embeddings in files: our own safetensors with what made them, and a user's table in other formats.

Nothing is unpickled: a .pth is read by torch's `weights_only` reader and may hold one tensor; numpy files are read
without object arrays. Sizes are looked at before memory is spent.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, cast, get_args

from atlas.errors import SpecError
from atlas.model.embeddings import ClassEmbeddings, Kind, check_shape
from atlas.model.tables import checked_size, read_safetensors, read_table, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from atlas.spec.taxonomy import Taxonomy

FORMAT = "atlas class embeddings 1"


def save_embeddings(embeddings: ClassEmbeddings, path: Path) -> None:
    """Write a safetensors file in one step: a reader sees the old file, the new one or none.

    The metadata say model, template, class names, prompts and digest.
    """
    metadata = {
        "format": FORMAT,
        "kind": embeddings.kind,
        "model": embeddings.model,
        "template": embeddings.template,
        "names": json.dumps(embeddings.names),
        "prompts": json.dumps(embeddings.prompts),
        "digest": embeddings.digest,
        "vectors_sha256": _vectors_sha256(embeddings),
    }
    write_safetensors(path, embeddings.vectors, metadata)


def load_embeddings(path: Path, *, names: Sequence[str] | None = None, digest: str | None = None) -> ClassEmbeddings:
    """Read what `save_embeddings` wrote, and check it.

    Parameters
    ----------
    path
        A .safetensors file.
    names
        Classes that it must have, in this order; None: any.
    digest
        `ClassEmbeddings.digest` that it must have; None: any.

    Raises
    ------
    SpecError
        If the file is missing, damaged, of another format, of other classes, or made by another model or from other
        prompts. Names the file.
    """
    checked_size(path)
    vectors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise SpecError(f"{path}: not embeddings of atlas (format {metadata.get('format')!r}, expected {FORMAT!r})")
    loaded = _of_metadata(path, vectors, metadata)
    if loaded.digest != metadata.get("digest") or _vectors_sha256(loaded) != metadata.get("vectors_sha256"):
        raise SpecError(f"{path}: its content does not have the hash that it states; delete it and make it again")
    if names is not None and loaded.names != tuple(names):
        raise SpecError(f"{path}: holds {_short(loaded.names)}, expected {_short(names)}")
    if digest is not None and loaded.digest != digest:
        raise SpecError(
            f"{path}: made by {loaded.model} with the template {loaded.template!r}, but another model, template or "
            f"wording was asked for (hash {loaded.digest[:16]}, expected {digest[:16]}); delete it and make it again"
        )
    return loaded


def read_embeddings(path: Path, taxonomy: Taxonomy, names: Sequence[str] | None = None) -> ClassEmbeddings:
    """Read a user's own table of vectors.

    Parameters
    ----------
    path
        .safetensors, .npy, .npz, .pth or .pt with one table (classes, width) of float16 or float32. A file that
        `save_embeddings` wrote keeps its names.
    taxonomy
        Whose classes the rows are where `names` is None: the first of them, in bit order. The embeddings that were
        published with the Universal Model are its first 32 classes in that order; two of their prompts were
        misspelled ("Arota", "Celiac Truck").
    names
        Classes of the rows.

    Raises
    ------
    SpecError
        If the file is missing, too large, not one table of finite numbers, or has another number of rows than there
        are names. Names the file.
    """
    checked_size(path)
    if path.suffix == ".safetensors" and read_safetensors(path)[1].get("format") == FORMAT:
        return load_embeddings(path, names=names)
    table = read_table(path)
    rows = tuple(taxonomy.names[: len(table)] if names is None else names)
    if len(rows) != len(table):
        stated = f"{len(rows)} names were given" if names is not None else f"the taxonomy has {len(rows)} classes"
        raise SpecError(f"{path}: has {len(table)} rows, but {stated}")
    model = f"file sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return _made(path, rows, table, "file", model, "", ("",) * len(rows))


def _of_metadata(path: Path, vectors: Any, metadata: dict[str, str]) -> ClassEmbeddings:  # noqa: ANN401
    kind, model, template = (metadata.get(key, "") for key in ("kind", "model", "template"))
    if kind not in get_args(Kind):
        raise SpecError(f"{path}: embeddings of kind {kind!r}; known are {', '.join(get_args(Kind))}")
    names, prompts = (_strings(path, metadata, key) for key in ("names", "prompts"))
    return _made(path, names, vectors, cast(Kind, kind), model, template, prompts)


def _made(path: Path, names: tuple[str, ...], vectors: Any, *rest: Any) -> ClassEmbeddings:  # noqa: ANN401
    try:
        check_shape(tuple(vectors.shape))
        return ClassEmbeddings(names, vectors, *rest)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _strings(path: Path, metadata: dict[str, str], key: str) -> tuple[str, ...]:
    try:
        value = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise SpecError(f"{path}: its {key} are not a list of strings")
    return tuple(value)


def _vectors_sha256(embeddings: ClassEmbeddings) -> str:
    return hashlib.sha256(embeddings.vectors.numpy().astype("<f4").tobytes()).hexdigest()


def _short(names: Sequence[str]) -> str:
    shown = 6
    return f"{len(names)} classes ({', '.join(names[:shown])}{', ...' if len(names) > shown else ''})"
