"""What the label values of a dataset mean in the taxonomy, and what its annotators did not look at."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from atlas.spec.base import Name, Spec, Strings

UNKNOWN = "unknown"
"""Target of an ignore value: nobody can tell what is there."""


def _as_tuple(value: object) -> object:
    """Let YAML say `liver` for `[liver]` and nothing (null) for "no class of ours"."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


Targets = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""Classes (liver), pairs (kidney_left/right), the word `unknown`, or none."""

Span = Annotated[tuple[int, int], Field(strict=False)]
Box = Annotated[tuple[Span, Span, Span], Field(strict=False)]
"""[lo, hi) voxels along each stored axis."""


ProvenanceKind = Literal["manual", "revised", "pseudo"]
PROVENANCES: tuple[ProvenanceKind, ...] = get_args(ProvenanceKind)
"""How an annotation may have come about; the first outranks the second, the second the third."""


class Provenance(Spec):
    """How an annotation came about."""

    kind: ProvenanceKind
    model: str | None = None
    """What made a pseudo label, or what a revised label started from."""


class Unknown(Spec):
    """Where the classes that a dataset annotates are nevertheless not known."""

    beyond_labelled_slices: Strings = ()
    """Classes drawn over part of the scan only: unknown outside the axial slices that show them."""
    near_partial: dict[str, float] = {}
    """Classes drawn in part: unlabelled voxels within so many mm of a labelled one are unknown."""


class CaseException(Spec):
    """What differs in one case."""

    reason: str
    link: str | None = None
    unavailable: Strings = ()
    box: Box | None = None
    """Voxel box of the label volume outside which nothing was annotated."""


class LabelMap(Spec):
    """Meaning of a dataset's labels.

    `values` belongs to label volumes: the name of the label file in the manifest, then value -> targets.
    `structures` belongs to folders of masks and to DICOM-SEG and RTSTRUCT objects: name of the file, folder, segment or
    contour -> targets. A name with `*` stands for all that are like it and are not named themselves.
    """

    dataset: Name
    values: dict[str, dict[Annotated[int, Field(ge=1, le=65535)], Targets]] = {}
    structures: dict[str, Targets] = {}
    optional: Strings = ()
    """Structures and label files whose absence says nothing: their classes are available without them. A class with
    none but these is available with any one of them."""
    available: Literal["annotated", "drawn"] = "annotated"
    """drawn: the publisher does not say what was annotated in which case, so that only classes which a case shows are
    available in it."""
    provenance: Provenance = Provenance(kind="manual")
    provenance_of: dict[str, Provenance] = {}
    unknown: Unknown = Unknown()
    cases: dict[str, CaseException] = {}
    notes: Strings = ()

    def targets(self) -> frozenset[str]:
        """Every class or pair that the map names as the meaning of a label."""
        meanings = [
            *self.structures.values(),
            *(t for values in self.values.values() for t in values.values()),
        ]
        return frozenset(target for targets in meanings for target in targets if target != UNKNOWN)

    def mentioned(self) -> frozenset[str]:
        """Every class or pair that the map names anywhere."""
        exceptions = {t for case in self.cases.values() for t in case.unavailable}
        unknown = {*self.unknown.beyond_labelled_slices, *self.unknown.near_partial}
        return self.targets() | exceptions | unknown | set(self.provenance_of)
