"""Check a corpus against itself: arrays against records, records against the catalog."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atlas.corpus import layout
from atlas.corpus.catalog import annotation_table, case_table, parse_record, write_catalog
from atlas.corpus.corpus import Corpus, open_corpus
from atlas.corpus.write import array_digest
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from atlas.corpus.case import Case
    from atlas.corpus.record import CaseRecord


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and where."""

    where: str
    problem: str


def rebuild_catalog(location: str | Path) -> int:
    """Make both tables again from the case records; returns the number of cases."""
    corpus = open_corpus(location)
    return write_catalog(Path(location), corpus.taxonomy, corpus.recipe.splits)


def case_ids(location: str | Path) -> list[str]:
    """Ids of all cases that are visible in a corpus on a local disk."""
    found = (Path(location) / "cases").glob("*/*/zarr.json")
    return sorted("/".join(path.parent.parts[-2:]) for path in found)


def verify(location: str | Path) -> Iterator[tuple[str, list[Finding]]]:
    """Check every case, then the catalog.

    Yields
    ------
    (what was checked, what is wrong with it)
    """
    corpus = open_corpus(location)
    records = []
    for case_id in case_ids(location):
        try:
            path = Path(location) / layout.case_path(case_id) / "zarr.json"
            records.append(parse_record(path.read_text(encoding="utf-8"), path))
            problems = list(_case_problems(corpus, case_id, records[-1]))
        except (AtlasError, OSError, ValueError, KeyError) as error:
            problems = [f"cannot be read: {error}"]
        yield case_id, [Finding(case_id, problem) for problem in problems]
    yield "catalog", [Finding("catalog", problem) for problem in _catalog_problems(corpus, records)]


def _case_problems(corpus: Corpus, case_id: str, record: CaseRecord) -> Iterator[str]:
    case = corpus[case_id]
    if record.case_id != case_id:
        yield f"the record is of {record.case_id}"
    for name, array in (("ct", case.ct), ("codes", case.codes)):
        if array.shape != record.shape:
            yield f"{name} has shape {array.shape}, the record says {record.shape}"
            return
    if array_digest(np.asarray(case.ct[...])) != record.ct_sha256:
        yield "the CT is not what was written"
    codes = np.asarray(case.codes[...])
    if array_digest(codes) != record.codes_sha256:
        yield "the masks are not what was written"
    counts = np.bincount(codes.ravel())
    if len(counts) > len(case.table) or len(case.table) != len(case.unknown_table):
        yield f"codes reach {len(counts) - 1}, the table has {len(case.table)} entries"
        return
    yield from _class_problems(case, record, codes, counts)


def _class_problems(
    case: Case,
    record: CaseRecord,
    codes: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]],
    counts: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> Iterator[str]:
    listed = {c.name: c.voxels for c in record.classes}
    if set(listed) != case.available:
        yield "the record's classes are not those of its availability bitmask"
    used = 0
    for bitmask in case.table:
        used |= bitmask
    if used & ~int(record.available, 16):
        yield "masks are stored of classes that are not available"
    for name, voxels in listed.items():
        bit = case.taxonomy.bit(name)
        truth = np.array([b >> bit & 1 for b in case.table], dtype=bool)
        stored = int(counts[truth[: len(counts)]].sum())
        if stored != voxels:
            yield f"{name} has {stored} voxels, the record says {voxels}"
        aimed = case.foreground.get(name, np.zeros((0, 3), np.uint16)).astype(int)
        if bool(len(aimed)) != bool(voxels) or not truth[codes[tuple(aimed.T)]].all():
            yield f"the foreground sample of {name} is not in its mask"


def _catalog_problems(corpus: Corpus, records: list[CaseRecord]) -> Iterator[str]:
    expected = {
        layout.CASES_TABLE: case_table(records, corpus.taxonomy, corpus.recipe.splits),
        layout.ANNOTATIONS_TABLE: annotation_table(records, corpus.taxonomy),
    }
    for path, table in expected.items():
        full = Path(corpus.location) / path
        if not full.exists():
            yield f"{path} is missing; make it with --rebuild-catalog"
        elif not _plain(pq.read_table(full)).equals(_plain(table)):
            yield f"{path} is not what the case records say; make it again with --rebuild-catalog"


def _plain(table: pa.Table) -> pa.Table:
    """The same rows, however the strings are encoded."""
    names = [(field.name, pa.types.is_dictionary(field.type)) for field in table.schema]
    columns = [table[name].cast(pa.string()) if coded else table[name] for name, coded in names]
    return pa.Table.from_arrays(columns, names=[name for name, _ in names])
