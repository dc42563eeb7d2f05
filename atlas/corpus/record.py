"""The case record: everything known about a case, in its zarr.json. The catalog is derived from these."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from atlas.spec.base import Spec
from atlas.spec.label_map import ProvenanceKind

if TYPE_CHECKING:
    from atlas.harmonize.measure import ClassMeasure

Bitmask = Annotated[str, Field(pattern="^0x[0-9a-f]+$")]
"""Bit k = class k, as a hexadecimal number of any length."""

Triple = Annotated[tuple[float, float, float], Field(strict=False)]
Shape = Annotated[tuple[int, int, int], Field(strict=False)]
Row = Annotated[tuple[float, float, float, float], Field(strict=False)]
BBox = Annotated[tuple[int, int, int, int, int, int], Field(strict=False)]


class SourceRecord(Spec):
    """An input file."""

    path: str
    bytes: int
    sha256: str


class NativeRecord(Spec):
    """The scan as published: array axes (i, j, k)."""

    shape: Shape
    spacing: Triple
    orientation: str


class ClassRecord(Spec):
    """One available class. Absent: 0 voxels and nothing to measure."""

    name: str
    provenance: ProvenanceKind
    model: str | None = None
    voxels: int = 0
    volume_ml: float = 0.0
    bbox: BBox | None = None
    centroid_mm: Triple | None = None
    components: int = 0
    touches_border: bool = False


def class_record(name: str, provenance: ProvenanceKind, model: str | None, found: ClassMeasure | None) -> ClassRecord:
    """Record of an available class; `found` None: it is absent."""
    if found is None:
        return ClassRecord(name=name, provenance=provenance, model=model)
    return ClassRecord(
        name=name,
        provenance=provenance,
        model=model,
        voxels=found.voxels,
        volume_ml=round(found.volume_ml, 6),
        bbox=found.bbox,
        centroid_mm=found.centroid_mm,
        components=found.components,
        touches_border=found.touches_border,
    )


class Identity(Spec):
    """What a case was made from; a rebuild redoes exactly the cases whose identity changed."""

    label_map: str
    recipe: str
    software: str


class CaseRecord(Spec):
    """One case of the corpus. Shapes and boxes are (z, y, x) voxels, positions RAS mm (x, y, z)."""

    case_id: str
    dataset: str
    source_case: str
    patient_id: str
    licence: str
    shape: Shape
    spacing: float
    origin: Triple
    affine: Annotated[tuple[Row, Row, Row, Row], Field(strict=False)]
    native: NativeRecord
    hu_min: int
    hu_max: int
    body_bbox: BBox | None
    available: Bitmask
    classes: tuple[ClassRecord, ...] = Field(strict=False)
    sources: tuple[SourceRecord, ...] = Field(strict=False)
    identity: Identity
    ct_sha256: str
    codes_sha256: str
    warnings: tuple[str, ...] = Field(strict=False)

    @property
    def present(self) -> frozenset[str]:
        """Classes with at least one voxel."""
        return frozenset(c.name for c in self.classes if c.voxels)


def canonical_json(value: Any) -> str:  # noqa: ANN401
    """The same text for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:  # noqa: ANN401
    """sha256 of anything that JSON can say."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
