"""What a dataset is: where it comes from, under which licence, and how its files lie on disk."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from atlas.spec.base import Name, Spec, Strings


def _pattern(text: str) -> str:
    """A path below the dataset's folder, with {case}, and {structure} for masks; `**/` is any depth."""
    if text.startswith("/") or ".." in text.split("/") or "\\" in text:
        raise ValueError(f"{text!r} must stay below the dataset's folder")
    if "{case}" not in text:
        raise ValueError(f"{text!r} must say where the {{case}} stands")
    unknown = set(re.findall(r"\{(.*?)\}", text)) - {"case", "structure"}
    if unknown:
        raise ValueError(f"{text!r} may name only {{case}} and {{structure}}, not {sorted(unknown)}")
    return text


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], BeforeValidator(_one_or_many)]
"""One path pattern, or several places where a publisher's file may lie."""


class Licence(Spec):
    """Terms of use. `commercial` and `redistribution` are null where sources contradict each other."""

    id: str
    commercial: bool | None
    redistribution: bool | None
    verified: bool = True
    note: str | None = None


class SourceFile(Spec):
    """A file that the publisher serves."""

    url: str
    what: str | None = None
    size: Annotated[int, Field(gt=0)] | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class Access(Spec):
    """How a person gets the files."""

    kind: Literal["open", "login", "request", "gated"]
    via: Strings = ()
    files: tuple[SourceFile, ...] = Field(default=(), strict=False)
    note: str | None = None


class Storage(Spec):
    """How the publisher's volumes are stored, as far as known; phantoms imitate it."""

    orientation: Annotated[str, Field(pattern="^[LRAPSI]{3}$")] = "LPS"
    spacing: tuple[float, float, float] = Field(default=(0.8, 0.8, 2.5), strict=False)
    label_dtype: Literal["uint8", "int16", "uint16", "float32", "float64", "scaled_int8"] = "uint8"
    """scaled_int8: int8 {-128, 127} with slope 1/255, so that foreground decodes to 1.0000000591."""
    affine: Literal["both", "sform", "qform"] = "both"
    zero_origin: bool = False


class Layout(Spec):
    """Which file is what. Volumes (NIfTI, MHA, NRRD) by path pattern."""

    case: Annotated[str, AfterValidator(_regex)] = r"[^/]+"
    image: Patterns
    labels: dict[Name, Patterns] = {}
    masks: Patterns = ()
    index: str | None = None
    """MSD-style dataset.json: what it lists for training must be on disk."""
    affine: Literal["agree", "sform", "qform"] = "agree"
    label_geometry: Literal["header", "image"] = "header"
    """image: label headers are known to be wrong; voxel k of the label is voxel k of the CT."""
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if not self.labels and not self.masks:
            raise ValueError("name the label files (labels), the mask files (masks), or both")
        if any("{structure}" not in mask for mask in self.masks):
            raise ValueError("masks must say where the {structure} stands")
        return self


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
    patient: Annotated[str, AfterValidator(_regex)] | None = None
    """Regular expression whose first group is the patient in a case id; null: one scan a patient."""
    unlabelled: Strings = ()
    """Cases that are published without labels: not an error."""
    known_bad: tuple[KnownBad, ...] = Field(default=(), strict=False)
    overlaps: tuple[Overlap, ...] = Field(default=(), strict=False)
    quirks: tuple[Quirk, ...] = Field(default=(), strict=False)
