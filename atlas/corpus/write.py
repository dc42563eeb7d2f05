"""Write a case beside its place, then move it there in one step; equal cases give equal bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.corpus import layout
from atlas.harmonize.grid import HU_MIN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.corpus.record import CaseRecord
    from atlas.spec.recipe import Recipe, Storage
    from atlas.spec.taxonomy import Taxonomy

PARTIAL = ".partial"
"""Folder of unfinished cases below the corpus; on the same file system, so that a rename is one step."""


def write_root(corpus: Path, taxonomy: Taxonomy, recipe: Recipe, version: str) -> None:
    """Create the corpus, or bring the root of an existing one up to date."""
    attributes = {
        "format": layout.FORMAT,
        "version": version,
        "grid": recipe.grid.model_dump(mode="json"),
        "taxonomy": taxonomy.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
    }
    _replace_json(corpus, "zarr.json", layout.group({"atlas": attributes}))
    _replace_json(corpus, "cases/zarr.json", layout.group())


def write_case(
    corpus: Path,
    record: CaseRecord,
    *,
    ct: NDArray[np.int16],
    codes: NDArray[np.unsignedinteger],
    table: tuple[tuple[int, int], ...],
    foreground: Mapping[str, NDArray[np.uint16]],
    taxonomy: Taxonomy,
    storage: Storage,
) -> None:
    """Write one case and make it visible.

    Parameters
    ----------
    corpus
        Folder of the corpus, whose root exists.
    record
        Of the case.
    ct
        int16 HU, (z, y, x).
    codes
        uint8 or uint16, (z, y, x).
    table
        (classes, unknown) bitmasks of each code.
    foreground
        Class -> uint16 (n, 3) voxels (z, y, x).
    taxonomy
        Names and colours of the classes.
    storage
        Chunks.
    """
    place = corpus / layout.case_path(record.case_id)
    partial = corpus / PARTIAL / uuid.uuid4().hex
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_array(partial / layout.CT, layout.volume(ct.shape, "int16", HU_MIN, storage), ct)
        _write_array(partial / layout.CODES, layout.volume(codes.shape, codes.dtype.name, 0, storage), codes)
        _write_foreground(partial / layout.FOREGROUND, foreground)
        _write_json(partial / "labels/zarr.json", layout.labels_group())
        _write_json(partial / layout.MASKS / "zarr.json", layout.masks_group(record, table, taxonomy))
        _write_json(partial / "zarr.json", layout.case_group(record))
        _commit(corpus, partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_case(corpus: Path, case_id: str) -> None:
    """Take a case out of the corpus, in one step; nothing happens if it is not there."""
    place = corpus / layout.case_path(case_id)
    if place.exists():
        _discard(place, corpus / PARTIAL)


def clean(corpus: Path) -> None:
    """Remove what interrupted builds left behind."""
    shutil.rmtree(corpus / PARTIAL, ignore_errors=True)


def array_digest(array: NDArray[Any]) -> str:
    """sha256 over the voxels in (z, y, x) order, little endian, after shape and dtype."""
    result = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for part in array:
        result.update(np.ascontiguousarray(part).data)
    return result.hexdigest()


def _commit(corpus: Path, partial: Path, place: Path) -> None:
    if not (place.parent / "zarr.json").exists():
        _replace_json(corpus, str((place.parent / "zarr.json").relative_to(corpus)), layout.group())
    if place.exists():
        _discard(place, partial.parent)
    partial.rename(place)


def _discard(place: Path, partials: Path) -> None:
    partials.mkdir(exist_ok=True)
    aside = partials / uuid.uuid4().hex
    place.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _write_foreground(path: Path, foreground: Mapping[str, NDArray[np.uint16]]) -> None:
    """One list of voxels, class after class; the attributes say where each begins."""
    voxels = np.concatenate([*foreground.values(), np.zeros((0, 3), np.uint16)])
    metadata = layout.voxel_list(len(voxels))
    ends = np.cumsum([len(v) for v in foreground.values()], dtype=int)
    spans = {name: [int(end) - len(v), int(end)] for (name, v), end in zip(foreground.items(), ends, strict=True)}
    metadata["attributes"] = {"atlas": {"classes": spans}}
    _write_array(path, metadata, voxels)


def _write_array(path: Path, metadata: layout.Json, data: NDArray[Any]) -> None:
    """Metadata by ourselves, so that its bytes are ours to keep; chunks by tensorstore, all in one write."""
    import tensorstore as ts

    _write_json(path / "zarr.json", metadata)
    if not data.size:
        return
    store = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}},
        open=True,
        context=ts.Context({"data_copy_concurrency": {"limit": 1}}),
    ).result()
    store.write(data).result()


def _write_json(path: Path, value: layout.Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace_json(corpus: Path, name: str, value: layout.Json) -> None:
    """Replace a visible JSON file in one step; what a crash leaves behind lies in the folder for that."""
    partial, place = corpus / PARTIAL / uuid.uuid4().hex, corpus / name
    _write_json(partial, value)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(place)
