"""One case, from its files to its place in the corpus."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import nibabel as nib
import numpy as np

from atlas.build.context import Context, hashed
from atlas.corpus import layout
from atlas.corpus.catalog import parse_record
from atlas.corpus.record import CaseRecord, ClassRecord, NativeRecord, SourceRecord, class_record
from atlas.corpus.write import array_digest, remove_case, write_case
from atlas.errors import AtlasError, CorpusError, ScanError
from atlas.harmonize.grid import Grid, canonical_grid
from atlas.harmonize.measure import ClassMeasure, body_box, measure
from atlas.harmonize.reconcile import Reconciled, SourceLabels, reconcile
from atlas.harmonize.resample import resample_ct
from atlas.ingest.regions import region_of
from atlas.ingest.scan import read_image, read_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from atlas.ingest.cases import CaseFiles

MAX_SIDE = np.iinfo(np.uint16).max
"""Longest axis of a volume: foreground voxels are stored as uint16."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes
    ----------
    state
        "built", "kept" (nothing had changed), or "quarantined".
    reason
        Why it is in quarantine.
    warnings
        What a person should know about it although it is in the corpus.
    seconds
        Wall time.
    trace
        Of an error that atlas does not know; for the log.
    """

    case_id: str
    dataset: str
    state: Literal["built", "kept", "quarantined"]
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    trace: str | None = None


def build_case(files: CaseFiles, context: Context) -> Outcome:
    """Build one case, or leave it as it is if nothing has changed. Never raises: a bad case is an outcome."""
    _one_thread()
    start = time.perf_counter()
    case_id, dataset = f"{context.manifest.id}/{files.source_case}", context.manifest.id
    trace = None
    try:
        if files.problem is not None:
            raise ScanError(files.problem)
        record, fresh = _build(case_id, files, context)
        state: Literal["built", "kept"] = "built" if fresh else "kept"
        return Outcome(case_id, dataset, state, None, record.warnings, time.perf_counter() - start)
    except (AtlasError, OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
    except Exception as error:
        reason, trace = f"unexpected {type(error).__name__}: {error}", traceback.format_exc()
    remove_case(context.corpus, case_id)  # what an earlier build made of it holds no longer
    return Outcome(case_id, dataset, "quarantined", reason, (), time.perf_counter() - start, trace)


@cache
def _one_thread() -> None:
    """The build scales by cases: one ITK thread a process, whatever cluster it runs on."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _build(case_id: str, files: CaseFiles, context: Context) -> tuple[CaseRecord, bool]:
    slices = region_of(context.manifest.layout, context.sources, files.source_case)
    sources, identity = hashed(files, context.sources), context.identity(files.source_case, slices)
    before = _stored(context, case_id)
    if before is not None and before.sources == sources and before.identity == identity:
        return before, False
    ct, grid, native, warnings = _canonical_ct(files, context)
    layers = _layers(files, context, native, warnings)
    method = context.recipe.resample.labels
    done = reconcile(layers, context.rules, files.source_case, ct=ct, grid=grid, method=method, slices=slices)
    warnings += done.warnings
    seed = int.from_bytes(bytes.fromhex(_content(sources))[:8])
    measures = measure(done.masks, grid, samples=context.recipe.storage.foreground, seed=seed)
    names = context.taxonomy.names
    record = CaseRecord(
        case_id=case_id,
        dataset=context.manifest.id,
        source_case=files.source_case,
        patient_id=context.patient(files.source_case),
        licence=context.manifest.licence.id,
        shape=grid.shape,
        spacing=grid.spacing,
        origin=grid.origin,
        affine=grid.affine.tolist(),
        native=_native_record(native),
        hu_min=int(ct.min()),
        hu_max=int(ct.max()),
        body_bbox=body_box(ct),
        available=hex(done.available),
        classes=_classes(done, measures, context),
        sources=sources,
        identity=identity,
        ct_sha256=array_digest(ct),
        codes_sha256=array_digest(done.masks.codes),
        warnings=tuple(dict.fromkeys(warnings)),
    )
    write_case(
        context.corpus,
        record,
        ct=ct,
        codes=done.masks.codes,
        table=done.masks.table,
        foreground={names[m.bit]: m.sample for m in measures},
        taxonomy=context.taxonomy,
        storage=context.recipe.storage,
    )
    return record, True


@dataclass(frozen=True)
class _Native:
    """Grid of a scan as published; its voxels are let go as soon as they are resampled."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]


def _canonical_ct(files: CaseFiles, context: Context) -> tuple[NDArray[np.int16], Grid, _Native, list[str]]:
    volume = read_image(files, context.sources, context.manifest.layout)
    i, j, k = volume.data.shape
    grid = canonical_grid((i, j, k), volume.affine, context.recipe.grid.spacing)
    if max(grid.shape) > MAX_SIDE:
        raise ScanError(f"{files.image}: {grid.shape} voxels on the canonical grid are too many")
    ct = resample_ct(volume.data, volume.affine, grid, antialias=context.recipe.resample.antialias)
    return ct, grid, _Native((i, j, k), volume.affine), list(volume.warnings)


def _layers(files: CaseFiles, context: Context, native: _Native, warnings: list[str]) -> Iterator[SourceLabels]:
    layout_ = context.manifest.layout
    for name, is_mask, volume, whole in read_layers(
        files, context.sources, layout_, shape=native.shape, affine=native.affine
    ):
        warnings += volume.warnings
        yield SourceLabels(name, "mask" if is_mask else "values", volume.data, volume.affine, whole)


def _native_record(native: _Native) -> NativeRecord:
    spacing = np.linalg.norm(native.affine[:3, :3], axis=0)
    x, y, z = (round(float(s), 6) for s in spacing)
    return NativeRecord(shape=native.shape, spacing=(x, y, z), orientation="".join(nib.aff2axcodes(native.affine)))


def _classes(done: Reconciled, measures: list[ClassMeasure], context: Context) -> tuple[ClassRecord, ...]:
    """One record per available class, in bit order."""
    by_bit = {m.bit: m for m in measures}
    result = []
    for c in context.taxonomy.classes:
        if not done.available >> c.bit & 1:
            continue
        provenance = context.provenance(c)
        result.append(class_record(c.name, provenance.kind, provenance.model, by_bit.get(c.bit)))
    return tuple(result)


def _stored(context: Context, case_id: str) -> CaseRecord | None:
    """Record of a case that an earlier build finished; None if there is none that can be relied on."""
    path = context.corpus / layout.case_path(case_id) / "zarr.json"
    try:
        return parse_record(path.read_text(encoding="utf-8"), path)
    except (OSError, CorpusError, json.JSONDecodeError):
        return None


def _content(sources: tuple[SourceRecord, ...]) -> str:
    """Hash of all inputs: a case draws the same foreground sample wherever its files lie."""
    return hashlib.sha256("".join(s.sha256 for s in sources).encode()).hexdigest()
