"""Are these images the slices of one CT, in HU, at known places? By their headers, before a pixel is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError, ScanError
from atlas.ingest.dicom import slices
from atlas.ingest.dicom.header import CT_CLASSES
from atlas.ingest.geometry import MOST_SHEAR_DEGREES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.ingest.dicom.frames import Frame
    from atlas.ingest.dicom.header import Header

HOUNSFIELD = ("", "HU", "HU_MOD", "US")
"""RescaleType of a CT in HU; US (unspecified) is what older scanners wrote."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

MOST_SIDE = 8192
"""Pixels; CT slices have 512 to 2048."""

MOST_RESCALE = 1e6
"""A slope or intercept beyond is damage."""

_BITS = (8, 16, 32)


def is_ct(header: Header) -> bool:
    """Whether a DICOM object is a CT image, localizers included.

    A converted CT may be stored as a secondary capture; unlike a screen shot it says where it lies and what its
    values mean.
    """
    if not header.modality:  # what is left of a damaged header, to be refused rather than left out
        return header.sop_class in CT_CLASSES
    capture = header.sop_class == SECONDARY_CAPTURE
    return header.modality == "CT" and (
        header.sop_class in ("", *CT_CLASSES) or (capture and all(_complete(frame) for frame in header.frames))
    )


def _complete(frame: Frame) -> bool:
    return None not in (frame.position, frame.orientation, frame.spacing, frame.slope, frame.inter)


def localizer(frame: Frame) -> bool:
    """Whether an image is the projection on which the scan was planned."""
    return "LOCALIZER" in frame.kind


def check_image(header: Header) -> None:
    """Refuse what is no CT slice in one grey channel."""
    name = header.path.name
    if not is_ct(header):
        kind = header.modality or "unknown"
        raise ScanError(f"{name} is no CT image (modality {kind}, class {header.sop_class}); correct the manifest")
    if not (0 < header.rows <= MOST_SIDE and 0 < header.columns <= MOST_SIDE):
        raise ScanError(f"{name} claims {header.columns} x {header.rows} pixels; its header is damaged. Fetch it again")
    if header.samples != 1 or not header.photometric.startswith("MONOCHROME") or header.bits not in _BITS:
        raise ScanError(
            f"{name} stores {header.samples} samples of {header.bits} bits a pixel as {header.photometric!r}; "
            "a CT has one grey value of 8, 16 or 32 bits"
        )


def check_one(images: Sequence[tuple[Header, Frame]]) -> None:
    """Refuse slices of several series, spaces or sizes."""
    for what, found in (
        ("series", {h.series_uid for h, _ in images}),
        ("frames of reference", {h.frame_of_reference for h, _ in images}),
        ("sizes of slices", {f"{h.columns} x {h.rows}" for h, _ in images}),
    ):
        if len(found) > 1:
            raise GeometryError(f"mixes {len(found)} {what}: {', '.join(sorted(found)[:4])}. Split the folder")


def check_units(images: Sequence[tuple[Header, Frame]]) -> list[str]:
    """Refuse slices whose HU nobody can tell. The standard demands slope and intercept of every CT."""
    notes = []
    for header, frame in images:
        usable = frame.slope and frame.inter is not None
        if not usable or max(abs(frame.slope or 0), abs(frame.inter or 0)) > MOST_RESCALE:
            raise ScanError(
                f"{header.path.name} has no usable RescaleSlope and RescaleIntercept (found {frame.slope} and "
                f"{frame.inter}): what its values mean in HU is unknown. Fetch the original series"
            )
        if frame.unit not in HOUNSFIELD:
            raise ScanError(f"{header.path.name} holds values in {frame.unit!r} (RescaleType), not HU")
    if any(frame.unit == "US" for _, frame in images):
        notes.append("RescaleType is US (unspecified); values taken as HU")
    return notes


def placed(images: Sequence[tuple[Header, Frame]]) -> tuple[list[tuple[Header, Frame]], NDArray[np.float64]]:
    """Slices in order, and the affine of the volume they make."""
    for header, frame in images:
        for what, found in (
            ("ImagePositionPatient", frame.position),
            ("ImageOrientationPatient", frame.orientation),
            ("PixelSpacing", frame.spacing),
        ):
            if found is None:
                raise GeometryError(f"{header.path.name} has no usable {what}: where it lies is unknown")
    if len(images) == 1:
        raise GeometryError(
            f"is a single slice ({images[0][0].path.name}): how far it reaches along its normal is unknown "
            "(SliceThickness is not the distance of slices)"
        )
    directions = slices.one_orientation(np.array([f.orientation for _, f in images], dtype=float))
    spacing = slices.one_pixel_size(np.array([f.spacing for _, f in images], dtype=float))
    positions = np.array([f.position for _, f in images], dtype=float)
    order = slices.in_order(positions, directions[2])
    ordered, positions = [images[k] for k in order], positions[order]
    _refuse_double(ordered, positions, directions[2])
    return ordered, slices.affine_of(positions, directions, spacing)


def _refuse_double(
    images: Sequence[tuple[Header, Frame]], positions: NDArray[np.float64], normal: NDArray[np.float64]
) -> None:
    double = slices.in_one_place(positions, normal)
    if not len(double):
        return
    (one, frame), (other, twin) = images[double[0] - 1], images[double[0]]
    where = "(" + ", ".join(f"{number:g}" for number in positions[double[0]]) + ")"
    files = f"{one.path.name} and {other.path.name}" if one.path != other.path else f"two frames of {one.path.name}"
    acquisitions = sorted({f.acquisition for _, f in images})
    if one.sop_uid and one.sop_uid == other.sop_uid and frame.number == twin.number:
        raise GeometryError(f"holds a slice twice: {files} are the same image, at {where}. Remove one of them")
    if len({images[k - n][1].acquisition for k in double for n in (0, 1)}) > 1:
        raise GeometryError(
            f"mixes acquisitions or phases ({', '.join(acquisitions[:6])}): {len(double)} slices lie where another "
            f"lies, first {files} at {where}. Leave the acquisition that was annotated"
        )
    raise GeometryError(
        f"holds several slices in one place: {len(double)} lie where another lies, first {files} at {where}. "
        "Several reconstructions or phases are mixed; leave the one that was annotated"
    )


def tilt_note(header: Header) -> list[str]:
    """Say so if a header speaks of a tilt that the positions, which were found to be straight, do not show."""
    if header.tilt is None or abs(header.tilt) <= MOST_SHEAR_DEGREES:
        return []
    return [f"header speaks of a gantry tilt of {header.tilt:g} degrees; the positions show none and count"]
