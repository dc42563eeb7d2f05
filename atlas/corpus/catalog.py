"""The two tables of a corpus, derived from its case records."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from atlas.corpus import layout
from atlas.corpus.layout import WORD
from atlas.corpus.record import CaseRecord
from atlas.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from atlas.spec.recipe import Splits
    from atlas.spec.taxonomy import Taxonomy

BATCH = 2000
"""Cases a row group: 2,000 cases x 150 classes are about 25 MB in memory."""

_SOURCE = pa.struct([("path", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])
_NAMES = pa.list_(pa.string())
_NAME = pa.dictionary(pa.int32(), pa.string())

CASES = pa.schema(
    [
        ("case_id", pa.string()),
        ("dataset", _NAME),
        ("source_case", pa.string()),
        ("patient_id", pa.string()),
        ("group_id", pa.string()),
        ("split", _NAME),
        ("shape", pa.list_(pa.int32(), 3)),
        ("spacing", pa.float64()),
        ("native_shape", pa.list_(pa.int32(), 3)),
        ("native_spacing", pa.list_(pa.float64(), 3)),
        ("native_orientation", pa.string()),
        ("hu_min", pa.int32()),
        ("hu_max", pa.int32()),
        ("body_bbox", pa.list_(pa.int32(), 6)),
        ("available", _NAMES),
        ("available_bits", pa.list_(pa.uint32())),
        ("present", _NAMES),
        ("licence", pa.string()),
        ("sources", pa.list_(_SOURCE)),
        ("fingerprint", pa.string()),
        ("warnings", _NAMES),
    ]
)

ANNOTATIONS = pa.schema(
    [
        ("case_id", _NAME),
        ("dataset", _NAME),
        ("class", _NAME),
        ("available", pa.bool_()),
        ("present", pa.bool_()),
        ("provenance", _NAME),
        ("voxels", pa.int64()),
        ("volume_ml", pa.float64()),
        ("bbox", pa.list_(pa.int32(), 6)),
        ("centroid_mm", pa.list_(pa.float64(), 3)),
        ("components", pa.int32()),
        ("touches_border", pa.bool_()),
    ]
)

QUARANTINE = pa.schema([("case_id", pa.string()), ("dataset", pa.string()), ("reason", pa.string())])


def group_of(record: CaseRecord) -> str:
    """Everything that must stay in one split: the patient (duplicates across datasets join groups later)."""
    return f"{record.dataset}/{record.patient_id}"


def split_of(group_id: str, splits: Splits) -> str:
    """Split of a patient group: by its hash, so that adding cases moves nobody."""
    share = int.from_bytes(hashlib.sha256(group_id.encode()).digest()[:8]) / 2**64
    return "train" if share < splits.train else "val" if share < splits.train + splits.val else "test"


def read_records(corpus: Path) -> Iterator[CaseRecord]:
    """Records of all cases, by case id.

    Raises
    ------
    CorpusError
        If a record is damaged.
    """
    for path in sorted((corpus / "cases").glob("*/*/zarr.json"), key=lambda p: p.parent.parts[-2:]):
        yield parse_record(path.read_text(encoding="utf-8"), path)


def parse_record(text: str, where: object) -> CaseRecord:
    """Case record out of the zarr.json of a case.

    Raises
    ------
    CorpusError
        If it is no case record.
    """
    try:
        return CaseRecord.model_validate(json.loads(text)["attributes"]["atlas"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise CorpusError(f"{where}: the case record is damaged ({error}); build the case again") from error


def write_catalog(corpus: Path, taxonomy: Taxonomy, splits: Splits) -> int:
    """Write both tables from the case records; returns the number of cases."""
    (corpus / "catalog").mkdir(exist_ok=True)
    cases, annotations = corpus / layout.CASES_TABLE, corpus / layout.ANNOTATIONS_TABLE
    beside = [path.with_suffix(".partial") for path in (cases, annotations)]
    count = 0
    with (
        pq.ParquetWriter(beside[0], CASES) as case_rows,
        pq.ParquetWriter(beside[1], ANNOTATIONS) as class_rows,
    ):
        for batch in _batches(read_records(corpus)):
            case_rows.write_table(case_table(batch, taxonomy, splits))
            class_rows.write_table(annotation_table(batch, taxonomy))
            count += len(batch)
    beside[0].replace(cases)
    beside[1].replace(annotations)
    return count


def _batches(records: Iterable[CaseRecord]) -> Iterator[list[CaseRecord]]:
    batch: list[CaseRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def case_table(records: Sequence[CaseRecord], taxonomy: Taxonomy, splits: Splits) -> pa.Table:
    """One row per case."""
    order = {name: bit for bit, name in enumerate(taxonomy.names)}
    words = -(-len(taxonomy) // WORD)
    rows = []
    for r in records:
        group_id, available = group_of(r), int(r.available, 16)
        rows.append(
            {
                **r.model_dump(mode="json", include=set(CASES.names)),
                "group_id": group_id,
                "split": split_of(group_id, splits),
                "native_shape": r.native.shape,
                "native_spacing": r.native.spacing,
                "native_orientation": r.native.orientation,
                "available": list(taxonomy.members(available)),
                "available_bits": [available >> WORD * w & (2**WORD - 1) for w in range(words)],
                "present": sorted(r.present, key=lambda name: order.get(name, -1)),
                "fingerprint": r.ct_sha256,
            }
        )
    return pa.Table.from_pylist(rows, schema=CASES)


def annotation_table(records: Sequence[CaseRecord], taxonomy: Taxonomy) -> pa.Table:
    """One row per case and class of the taxonomy, in that order."""
    shape = (len(records), len(taxonomy))
    slot = {name: i for i, name in enumerate(taxonomy.names)}
    integers = {name: np.zeros(shape, np.int64) for name in ("voxels", "components")}
    flags = {name: np.zeros(shape, bool) for name in ("available", "present", "touches_border")}
    volume = np.zeros(shape)
    objects = {name: np.full(shape, None, object) for name in ("bbox", "centroid_mm", "provenance")}
    for i, record in enumerate(records):
        for c in (c for c in record.classes if c.name in slot):
            at = i, slot[c.name]
            flags["available"][at], flags["present"][at], flags["touches_border"][at] = (
                True,
                c.voxels > 0,
                c.touches_border,
            )
            integers["voxels"][at], integers["components"][at], volume[at] = (
                c.voxels,
                c.components,
                c.volume_ml,
            )
            objects["bbox"][at], objects["centroid_mm"][at], objects["provenance"][at] = (
                c.bbox,
                c.centroid_mm,
                c.provenance,
            )
    columns = {**integers, **flags, **objects, "volume_ml": volume}
    names = {
        "case_id": np.repeat(np.array([r.case_id for r in records], dtype=str), shape[1]),
        "dataset": np.repeat(np.array([r.dataset for r in records], dtype=str), shape[1]),
        "class": np.tile(np.array(taxonomy.names), shape[0]),
    }
    arrays = [
        pa.array(names[field.name] if field.name in names else columns[field.name].ravel(), type=_plain(field.type))
        for field in ANNOTATIONS
    ]
    return pa.Table.from_arrays([a.cast(f.type) for a, f in zip(arrays, ANNOTATIONS, strict=True)], schema=ANNOTATIONS)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def read_quarantine(corpus: Path) -> dict[str, tuple[str, str]]:
    """Quarantined cases: case id -> (dataset, reason)."""
    path = corpus / layout.QUARANTINE_TABLE
    if not path.exists():
        return {}
    return {row["case_id"]: (row["dataset"], row["reason"]) for row in pq.read_table(path).to_pylist()}


def write_quarantine(corpus: Path, entries: dict[str, tuple[str, str]]) -> None:
    """Replace the quarantine list."""
    (corpus / "catalog").mkdir(exist_ok=True)
    rows = [{"case_id": c, "dataset": d, "reason": r} for c, (d, r) in sorted(entries.items())]
    path = corpus / layout.QUARANTINE_TABLE
    beside = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE), beside)
    beside.replace(path)
