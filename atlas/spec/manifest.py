"""What a dataset is: its licence, its known faults, its overlaps with others; where it comes from, how it lies."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from atlas.spec.access import Access
from atlas.spec.base import Name, Spec, Strings, regex
from atlas.spec.files import Layout


class Licence(Spec):
    """Terms of use. `commercial` and `redistribution` are null where sources contradict each other."""

    id: str
    commercial: bool | None
    redistribution: bool | None
    verified: bool = True
    note: str | None = None


class KnownBad(Spec):
    """A case that the publisher or its users found to be wrong; quarantined by default."""

    cases: Strings
    reason: str
    link: str | None = None


class Quirk(Spec):
    """Something a user of the dataset should know."""

    text: str
    source: str | None = None
    verified: bool = True


class Overlap(Spec):
    """Scans that another dataset has as well."""

    dataset: str
    text: str
    cases: dict[str, str] = {}
    """Case here -> case there, where it is known."""
    verified: bool = True


class Manifest(Spec):
    """One public dataset."""

    id: Name
    name: str
    citation: str
    homepage: str | None = None
    licence: Licence
    access: Access
    scans: Annotated[int, Field(gt=0)]
    labelled: Annotated[int, Field(gt=0)]
    size_gb: float | None = None
    phase: str | None = None
    layout: Layout
    patient: Annotated[str, AfterValidator(regex)] | None = None
    """Regular expression whose first group is the patient in a case id; null: one scan a patient."""
    unlabelled: Strings = ()
    """Cases that are published without labels: not an error."""
    known_bad: tuple[KnownBad, ...] = Field(default=(), strict=False)
    overlaps: tuple[Overlap, ...] = Field(default=(), strict=False)
    quirks: tuple[Quirk, ...] = Field(default=(), strict=False)
