"""Where things are in a corpus, and its metadata: Zarr v3 with OME-NGFF 0.5 (design.md section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atlas.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.corpus.record import CaseRecord
    from atlas.spec.recipe import Storage
    from atlas.spec.taxonomy import Taxonomy

FORMAT = "1.0"
"""Version of the layout; readers refuse another major number."""

CT, MASKS, CODES, FOREGROUND = "ct", "labels/masks", "labels/masks/0", "foreground"
CASES_TABLE, ANNOTATIONS_TABLE = "catalog/cases.parquet", "catalog/annotations.parquet"
QUARANTINE_TABLE = "catalog/quarantine.parquet"

WORD = 32
"""Bits a word where a bitmask of any length is kept as numbers: in the catalog, and while streaming."""

NGFF = "0.5"
Json = dict[str, Any]


def case_path(case_id: str) -> str:
    """Group of a case below the corpus."""
    return f"cases/{case_id}"


def check_case_id(case_id: str) -> None:
    """Refuse what would lead elsewhere than to a case.

    Raises
    ------
    CorpusError
        If it is no case id.
    """
    if ".." in case_id.split("/") or case_id.count("/") != 1:
        raise CorpusError(f"{case_id!r} is not a case id; they look like <dataset>/<source case>")


def group(attributes: Json | None = None) -> Json:
    """zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}


def volume(shape: Sequence[int], dtype: str, fill_value: int, storage: Storage) -> Json:
    """zarr.json of a (z, y, x) volume: small inner chunks to read, large shards to write."""
    chunk = storage.chunk
    shard = [min(storage.shard, -(-n // chunk) * chunk) for n in shape]
    size = {"int16": 2, "uint8": 1, "uint16": 2}[dtype]
    sharding = {
        "chunk_shape": [chunk] * 3,
        "codecs": _codecs(size),
        "index_codecs": [_BYTES, {"name": "crc32c"}],
        "index_location": "end",
    }
    codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return _array(shape, dtype, fill_value, shard, codecs, ["z", "y", "x"])


def voxel_list(count: int) -> Json:
    """zarr.json of a list of (z, y, x) voxels: uint16 (count, 3)."""
    return _array([count, 3], "uint16", 0, [max(count, 1), 3], _codecs(2), ["sample", "axis"])


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def _codecs(size: int) -> list[Json]:
    blosc = {"cname": "lz4hc", "clevel": 5, "shuffle": "shuffle", "typesize": size, "blocksize": 0}
    return [_BYTES, {"name": "blosc", "configuration": blosc}]


def _array(
    shape: Sequence[int], dtype: str, fill_value: int, chunk: list[int], codecs: list[Json], axes: list[str]
) -> Json:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value,
        "codecs": codecs,
        "dimension_names": axes,
        "attributes": {},
    }


def multiscales(name: str, path: str, spacing: float, origin: Sequence[float]) -> list[Json]:
    """OME-NGFF geometry of one resolution; `origin` is RAS mm (x, y, z) of the first voxel's centre."""
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    transformations = [
        {"type": "scale", "scale": [spacing] * 3},
        {"type": "translation", "translation": list(reversed(origin))},
    ]
    return [
        {
            "name": name,
            "axes": axes,
            "datasets": [{"path": path, "coordinateTransformations": transformations}],
        }
    ]


def case_group(record: CaseRecord) -> Json:
    """zarr.json of a case: its record, and its CT as an OME-NGFF image."""
    ome = {"version": NGFF, "multiscales": multiscales(record.case_id, CT, record.spacing, record.origin)}
    return group({"atlas": record.model_dump(mode="json"), "ome": ome})


def labels_group() -> Json:
    """zarr.json that lists the label images of a case."""
    return group({"ome": {"version": NGFF, "labels": ["masks"]}})


def masks_group(record: CaseRecord, table: Sequence[tuple[int, int]], taxonomy: Taxonomy) -> Json:
    """zarr.json of the packed masks: the code table, and the codes as an OME-NGFF label image.

    Parameters
    ----------
    record
        Of the case.
    table
        (classes, unknown) bitmasks of each code.
    taxonomy
        Names and colours.
    """
    colours, properties = [], []
    for code, (classes, _) in enumerate(table):
        names = taxonomy.members(classes)
        if names:
            # parts are named after their wholes, and a part is what one wants to see
            top = max((taxonomy.by_name[n] for n in names), key=lambda c: (len(taxonomy.wholes(c.name)), -c.bit))
            colours.append({"label-value": code, "rgba": [*top.colour, 255]})
            properties.append({"label-value": code, "classes": list(names)})
    image_label: Json = {"colors": colours, "properties": properties, "source": {"image": "../../"}}
    if not colours:  # the schema wants a list with something in it, or none
        del image_label["colors"], image_label["properties"]
    ome = {
        "version": NGFF,
        "multiscales": multiscales("masks", "0", record.spacing, record.origin),
        "image-label": image_label,
    }
    masks = {"bitmasks": [hex(c) for c, _ in table], "unknown": [hex(u) for _, u in table]}
    return group({"atlas": masks, "ome": ome})
