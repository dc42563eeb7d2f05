"""Slices as DICOM headers describe them: the image itself, or the frames of a multi-frame object.

Of a multi-frame object each thing may stand with the frame, in a group that all frames share, or at the top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydicom

from atlas.errors import ScanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom import Dataset

NESTED = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]

MOST_FRAMES = 1 << 16

_MACROS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "FrameContentSequence",
    "CTImageFrameTypeSequence",
)


@dataclass(frozen=True)
class Frame:
    """One slice as the header describes it; None where it does not.

    Attributes
    ----------
    number
        Frame in its file, from 0.
    position
        Centre of the first pixel, LPS mm.
    orientation
        Direction of growing column index, then of growing row index; LPS.
    spacing
        Distance between rows, then between columns, mm.
    slope, inter
        HU are `slope * stored + inter`.
    unit
        What the rescaled values are (RescaleType).
    acquisition
        Number of the acquisition, as text.
    kind
        ImageType or FrameType.
    """

    number: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float | None
    inter: float | None
    unit: str
    acquisition: str
    kind: tuple[str, ...]


def frames_of(ds: Dataset) -> tuple[Frame, ...]:
    """Frames of an object, one of an object that is a single image.

    Raises
    ------
    ScanError
        If it describes more or fewer frames than it claims to have.
    """
    per_frame: Sequence[Dataset] = ds.get("PerFrameFunctionalGroupsSequence") or ()
    shared: Sequence[Dataset] = ds.get("SharedFunctionalGroupsSequence") or ()
    if not per_frame and not shared:
        return (_frame(0, [ds]),)
    claimed = int(number(ds, "NumberOfFrames") or 1)
    if claimed != len(per_frame) or claimed > MOST_FRAMES:
        raise ScanError(f"claims {claimed} frames and describes {len(per_frame)}. Fetch it again")
    common = list(shared[:1])
    return tuple(_frame(k, [_flat(group), *(_flat(s) for s in common), ds]) for k, group in enumerate(per_frame))


def _flat(group: Dataset) -> Dataset:
    """Functional groups (one sequence each) as one data set."""
    result = pydicom.Dataset()
    for element in group:
        if element.VR == "SQ" and element.value and element.keyword in _MACROS:
            result.update(element.value[0])
    return result


def _frame(number: int, places: list[Dataset]) -> Frame:
    """A frame from the first of several places that says a thing."""

    def first(keyword: str) -> Any:  # noqa: ANN401 - whatever pydicom makes of it
        return next((found for ds in places if (found := ds.get(keyword)) not in (None, "")), None)

    kind = first("FrameType") or first("ImageType") or ()
    acquisition = first("FrameAcquisitionNumber") or first("AcquisitionNumber")
    return Frame(
        number=number,
        position=_numbers(first("ImagePositionPatient"), 3),
        orientation=_numbers(first("ImageOrientationPatient"), 6),
        spacing=_numbers(first("PixelSpacing"), 2),
        slope=_finite(first("RescaleSlope")),
        inter=_finite(first("RescaleIntercept")),
        unit=str(first("RescaleType") or ""),
        acquisition="" if acquisition is None else str(acquisition),
        kind=(kind,) if isinstance(kind, str) else tuple(str(part) for part in kind),
    )


def decoder_rescale(ds: Dataset, first: Frame) -> tuple[float, float]:
    """Slope and intercept that GDCM applies to every frame: the shared ones, or those of the first frame."""
    shared = ds.get("SharedFunctionalGroupsSequence") or ()
    found = _frame(0, [_flat(shared[0])]) if shared else first
    slope, inter = (found.slope, found.inter) if found.slope is not None else (first.slope, first.inter)
    return (1.0 if slope is None else slope, 0.0 if inter is None else inter)


def number(ds: Dataset, keyword: str) -> float | None:
    """Take a number from a header; None if it has none, or none that is finite."""
    return _finite(ds.get(keyword))


def _finite(value: Any) -> float | None:  # noqa: ANN401 - whatever pydicom makes of it
    if value is None or value == "":
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:  # noqa: ANN401 - whatever pydicom makes of it
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    found = tuple(_finite(part) for part in value)
    return None if None in found else tuple(part for part in found if part is not None)
