"""The header of a DICOM file, reduced to what reading a CT needs. Pixels are not touched.

pydicom parses; nothing it returns leaves this module. Only the tags listed here are read, whatever else a file
holds. Elements that are missing or unreadable become None here and are judged where they are needed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydicom

from atlas.errors import ScanError
from atlas.ingest.dicom.frames import NESTED, Frame, decoder_rescale, frames_of, number

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydicom import Dataset

PREAMBLE = 128
MAGIC = b"DICM"
PIXEL_GROUP = (b"\xe0\x7f", b"\x7f\xe0")
BARE = b"\x08\x00"
"""First bytes of a data set without preamble: group 0008, little endian."""

DEFLATED = ("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1")
"""Transfer syntaxes whose header, or each frame, is deflated: a few bytes may stand for gigabytes."""

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN)
"""Transfer syntaxes that store pixels as they are."""


CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""SOP classes: CT, enhanced CT, and CT converted to enhanced."""

DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR, which has no modality."""

_PLAIN = (
    "SOPClassUID SOPInstanceUID Modality ImageType StudyInstanceUID SeriesInstanceUID SeriesDescription SeriesNumber "
    "FrameOfReferenceUID AcquisitionNumber ImageOrientationPatient ImagePositionPatient PixelSpacing Rows Columns "
    "SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored PixelRepresentation PixelPaddingValue "
    "PixelPaddingRangeLimit RescaleSlope RescaleIntercept RescaleType NumberOfFrames GantryDetectorTilt"
)


@dataclass(frozen=True)
class Header:
    """One DICOM file. Texts are empty where the file says nothing, numbers 0."""

    path: Path
    bytes: int
    transfer_syntax: str
    sop_class: str
    sop_uid: str
    modality: str
    study_uid: str
    series_uid: str
    series_number: str
    description: str
    frame_of_reference: str
    rows: int
    columns: int
    samples: int
    bits: int
    bits_stored: int
    signed: bool
    photometric: str
    padding: tuple[float, float] | None
    """Stored values from and to which a pixel is padding."""
    tilt: float | None
    """GantryDetectorTilt, degrees: a hint only."""
    pixels_at: int
    """Byte of the file at which the element with the pixels begins."""
    decoder_rescale: tuple[float, float]
    """Slope and intercept that GDCM applies to every frame: of a multi-frame object the shared ones or the first."""
    frames: tuple[Frame, ...]

    @property
    def name(self) -> str:
        """What a message calls the series."""
        parts = (f"number {self.series_number}" if self.series_number else "", self.description, self.series_uid)
        return ", ".join(part for part in parts if part) or "unnamed"


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM, with or without the preamble of part 10."""
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE + len(MAGIC))
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error
    return start[PREAMBLE:] == MAGIC or start.startswith(BARE)


def read_headers(files: Iterable[Path]) -> list[Header]:
    """Headers of DICOM files of any kind, in the order given.

    Raises
    ------
    ScanError
        If a file is no DICOM, is damaged, or is deflated.
    """
    return [read_header(path) for path in files]


def read_header(path: Path) -> Header:
    """Read one header; see `read_headers`."""
    if not is_dicom(path):
        raise ScanError(f"{path}: is not a DICOM file. Fetch it again, or take it out of the folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd values; those that count are checked
            _refuse_deflated(path)
            with path.open("rb") as file:
                wanted = [*_PLAIN.split(), *NESTED]
                dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=wanted)
                at = file.tell()
                return _whole(_header(path, dataset, at), pixels=file.read(2) in PIXEL_GROUP)
    except ScanError as error:
        raise ScanError(f"{path}: {error}") from error
    except Exception as error:  # pydicom raises all sorts of errors on damaged headers
        raise ScanError(
            f"{path}: its DICOM header is damaged ({type(error).__name__}: {str(error)[:200]}). Fetch it again"
        ) from error


def _whole(header: Header, *, pixels: bool) -> Header:
    """Refuse a CT that was cut off: what is left must not pass for an object of another kind, to be left out."""
    other = header.sop_class == DIRECTORY or (header.modality and header.sop_class not in ("", *CT_CLASSES))
    if not pixels and not other:
        raise ScanError("ends before its pixels begin; it is incomplete. Fetch it again")
    return header


def _refuse_deflated(path: Path) -> None:
    # pydicom would inflate all of it before anybody could look
    with path.open("rb") as file:
        if file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] != MAGIC:
            return
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") in DEFLATED:
        raise ScanError("is stored deflated, which is not read. Convert it (for example with dcmconv +te)")


def _header(path: Path, ds: Dataset, pixels_at: int) -> Header:
    frames = frames_of(ds)
    padding = number(ds, "PixelPaddingValue")
    limit = number(ds, "PixelPaddingRangeLimit")
    ends = None if padding is None else (padding, padding if limit is None else limit)
    return Header(
        path=path,
        bytes=path.stat().st_size,
        transfer_syntax=_text(getattr(ds, "file_meta", {}), "TransferSyntaxUID"),
        sop_class=_text(ds, "SOPClassUID") or _text(getattr(ds, "file_meta", {}), "MediaStorageSOPClassUID"),
        sop_uid=_text(ds, "SOPInstanceUID") or _text(getattr(ds, "file_meta", {}), "MediaStorageSOPInstanceUID"),
        modality=_text(ds, "Modality"),
        study_uid=_text(ds, "StudyInstanceUID"),
        series_uid=_text(ds, "SeriesInstanceUID"),
        series_number=_text(ds, "SeriesNumber"),
        description=_text(ds, "SeriesDescription"),
        frame_of_reference=_text(ds, "FrameOfReferenceUID"),
        rows=int(number(ds, "Rows") or 0),
        columns=int(number(ds, "Columns") or 0),
        samples=int(number(ds, "SamplesPerPixel") or 0),
        bits=int(number(ds, "BitsAllocated") or 0),
        bits_stored=int(number(ds, "BitsStored") or 0),
        signed=number(ds, "PixelRepresentation") == 1,
        photometric=_text(ds, "PhotometricInterpretation"),
        padding=None if ends is None else (min(ends), max(ends)),
        tilt=number(ds, "GantryDetectorTilt"),
        pixels_at=pixels_at,
        decoder_rescale=decoder_rescale(ds, frames[0]),
        frames=frames,
    )


def _text(ds: Dataset | dict[str, Any], keyword: str) -> str:
    value = ds.get(keyword)
    return "" if value is None else "".join(letter for letter in str(value) if letter.isprintable()).strip()
