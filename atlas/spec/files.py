"""How a dataset's files lie on disk: which file is what, and how it is stored."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from atlas.spec.base import Name, Spec, below, regex


def _pattern(text: str) -> str:
    """A path below the dataset's folder, with {case}, and {structure} for masks; `**/` is any depth."""
    below(text)
    if "{case}" not in text:
        raise ValueError(f"{text!r} must say where the {{case}} stands")
    unknown = set(re.findall(r"\{(.*?)\}", text)) - {"case", "structure"}
    if unknown:
        raise ValueError(f"{text!r} may name only {{case}} and {{structure}}, not {sorted(unknown)}")
    return text


def _folder(text: str) -> str:
    if not text.endswith("/"):
        raise ValueError(f"{text!r} must be a folder: let it end in /")
    return _pattern(text)


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], BeforeValidator(_one_or_many)]
"""One path pattern, or several places where a publisher's file may lie. One that ends in / is a folder of slices:
a DICOM series, or for labels a stack of PNG images or of DICOM masks."""

Folders = Annotated[tuple[Annotated[str, AfterValidator(_folder)], ...], BeforeValidator(_one_or_many)]


class Storage(Spec):
    """How the publisher's volumes are stored, as far as known; phantoms imitate it."""

    orientation: Annotated[str, Field(pattern="^[LRAPSI]{3}$")] = "LPS"
    spacing: tuple[float, float, float] = Field(default=(0.8, 0.8, 2.5), strict=False)
    label_dtype: Literal["uint8", "int16", "uint16", "float32", "float64", "scaled_int8"] = "uint8"
    """scaled_int8: int8 {-128, 127} with slope 1/255, so that foreground decodes to 1.0000000591."""
    affine: Literal["both", "sform", "qform"] = "both"
    zero_origin: bool = False
    slices: Literal["png", "dicom"] = "dicom"
    """What the folders of label slices hold."""
    objects: Literal["dicom_seg", "rtstruct"] = "dicom_seg"
    """How the labels of a DICOM study are stored."""
    label_orientation: Annotated[str, Field(pattern="^[LRAPSI]{3}$")] | None = None
    """Axes of the label volumes where they are not those of the CT."""


class Regions(Spec):
    """A table of the publisher that says which slices of each label volume were annotated."""

    file: Annotated[str, AfterValidator(below)]
    """CSV with a line of headings."""
    rows: Annotated[tuple[int, int], Field(strict=False)] | None = None
    """[from, to) of the lines below the headings, where only some are about this dataset."""
    case: Annotated[int, Field(ge=0)]
    """Column of the case, from 0."""
    slices: Annotated[tuple[int, int], Field(strict=False)]
    """Columns of the first annotated slice along the third stored axis, and of the one after the last: counted upwards
    from the lowest slice, whichever way the axis runs."""


class Layout(Spec):
    """Which file is what. Volumes (NIfTI, MHA, NRRD) and folders of slices by path pattern."""

    case: Annotated[str, AfterValidator(regex)] = r"[^/]+"
    image: Patterns = ()
    image_of: Name | None = None
    """The CT lies in the folder of this other dataset: the publisher gives labels alone."""
    labels: dict[Name, Patterns] = {}
    alternatives: bool = False
    """Of the label files a case has one, whichever; otherwise it must have all."""
    masks: Patterns = ()
    study: Folders = ()
    """A folder with everything of a case, at any depth below it: DICOM series, and DICOM-SEG or RTSTRUCT objects
    drawn on one of them. Which file is what stands in their headers."""
    index: str | None = None
    """MSD-style dataset.json: what it lists for training must be on disk."""
    affine: Literal["agree", "sform", "qform"] = "agree"
    label_geometry: Literal["header", "image", "axes"] = "header"
    """image: label headers are known to be wrong; voxel k of the label is voxel k of the CT. axes: they are right
    about which way the axes run, and wrong about the position; the label fills the CT's box."""
    regions: Regions | None = None
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.study) == bool(self.image):
            raise ValueError("say where the CT lies (image), or which folder holds the whole case (study)")
        if self.study and (self.labels or self.masks):
            raise ValueError("a study holds its labels; leave labels and masks out")
        if self.image and not self.labels and not self.masks:
            raise ValueError("name the label files (labels), the mask files (masks), or both")
        if any("{structure}" not in mask for mask in self.masks):
            raise ValueError("masks must say where the {structure} stands")
        return self
