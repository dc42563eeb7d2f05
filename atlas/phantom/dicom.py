"""Volumes as DICOM slices, a file each: CT series, and stacks of masks drawn on them."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom import Dataset

    from atlas.phantom.solids import Floats

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class, DICOM PS3.4 B.5."""
INTERCEPT = -1024
THICK = 1.5
"""SliceThickness by the distance of slices: publishers reconstruct overlapping slices, so readers must not use it."""

_NAMESPACE = uuid.UUID("6d9c5d0a-2f2c-5f0e-9a63-6d1f6f0c7a11")
_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Identity:
    """What ties the slices of a series together, and series to their study."""

    patient: str
    study: str
    series: str
    frame_of_reference: str

    def instance(self, number: int) -> str:
        """SOPInstanceUID of a slice."""
        return uid(self.series, str(number))


def uid(*what: str) -> str:
    """Make a UID out of names: 2.25 and a UUID as a decimal number (DICOM PS3.5 B.2), always the same."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(what)).int}"


def ct_slices(hu: NDArray[np.int16], affine: Floats, identity: Identity, *, signed: bool) -> list[Dataset]:
    """A CT as slices.

    Parameters
    ----------
    hu : ndarray of int16, (i, j, k)
        Column, row and slice; Hounsfield units from -1024 to 3071.
    affine : ndarray, (4, 4)
        Indices (i, j, k) to RAS mm.
    identity : Identity
        Names.
    signed : bool
        Two's complement in 16 bits, or 12 unsigned bits; scanners write both.

    Returns
    -------
    list of Dataset
        In the order of k.
    """
    stored = (hu.astype(np.int32) - INTERCEPT).astype(np.int16 if signed else np.uint16)
    bits = 16 if signed else 12
    return [_slice(stored[:, :, k], affine, k, identity, bits, INTERCEPT) for k in range(hu.shape[2])]


def label_slices(labels: NDArray[np.integer], affine: Floats, identity: Identity) -> Iterator[Dataset]:
    """Labels of at most 255 (i, j, k) as slices with the geometry of the CT; parameters as in `ct_slices`.

    It is the same object again and again, with what differs between slices changed: there may be thousands.
    """
    import pydicom

    stored = labels.astype(np.uint8)
    encoded = io.BytesIO()
    _slice(stored[:, :, 0], affine, 0, identity, 8, 0).save_as(encoded, enforce_file_format=True)
    encoded.seek(0)
    # elements that were read and not looked at are written as they are, which is quick
    one = pydicom.dcmread(encoded)
    for k in range(stored.shape[2]):
        _fill(one, stored[:, :, k], affine, k, identity)
        yield one


def write_slices(folder: Path, slices: Iterable[Dataset], name: str) -> None:
    """Write slices into a folder; `name` makes a file name out of the number from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(slices):
        one.save_as(folder / name.format(number), enforce_file_format=True)


def dataset(sop_class: str, sop_instance: str, identity: Identity, modality: str) -> Dataset:
    """What every DICOM object starts with; in memory it has no time of writing, so that bytes repeat."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    out = Dataset()
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out.file_meta.MediaStorageSOPClassUID = out.SOPClassUID = sop_class
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = sop_instance
    out.PatientID, out.PatientName = identity.patient, f"{identity.patient}^"
    out.PatientBirthDate = out.PatientSex = ""
    out.StudyInstanceUID, out.SeriesInstanceUID = identity.study, identity.series
    out.StudyDate, out.StudyTime, out.StudyID, out.AccessionNumber = "20200101", "120000", "1", ""
    out.ReferringPhysicianName = out.Manufacturer = ""
    out.Modality, out.SeriesNumber = modality, 1
    return out


def _slice(
    stored: NDArray[np.generic], affine: Floats, k: int, identity: Identity, bits: int, intercept: int
) -> Dataset:
    axes = _LPS @ affine[:3, :3]
    steps = np.linalg.norm(axes, axis=0)
    across = axes / steps
    out = dataset(CT_STORAGE, identity.instance(k), identity, "CT")
    out.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    out.AcquisitionNumber = 1
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = identity.frame_of_reference, ""
    out.ImageOrientationPatient = [_decimal(v) for v in (*across[:, 0], *across[:, 1])]
    out.PixelSpacing = [_decimal(steps[1]), _decimal(steps[0])]
    out.SliceThickness, out.KVP = _decimal(THICK * steps[2]), "120"
    out.SamplesPerPixel, out.PhotometricInterpretation = 1, "MONOCHROME2"
    out.Columns, out.Rows = stored.shape
    out.BitsAllocated = 8 * stored.dtype.itemsize
    out.BitsStored, out.HighBit = bits, bits - 1
    out.PixelRepresentation = int(stored.dtype.kind == "i")
    out.RescaleIntercept, out.RescaleSlope, out.RescaleType = intercept, 1, "HU"
    _fill(out, stored, affine, k, identity)
    return out


def _fill(out: Dataset, stored: NDArray[np.generic], affine: Floats, k: int, identity: Identity) -> None:
    """What differs between the slices of a series."""
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID = identity.instance(k)
    out.InstanceNumber = k + 1
    out.ImagePositionPatient = [_decimal(v) for v in _LPS @ (affine @ [0, 0, k, 1])[:3]]
    pixels = np.ascontiguousarray(stored.T).astype(stored.dtype.newbyteorder("<")).tobytes()
    out.add_new("PixelData", "OB" if out.BitsAllocated == 8 else "OW", pixels + b"\0" * (len(pixels) % 2))  # noqa: PLR2004


def _decimal(value: float) -> str:
    """Decimal string of at most 16 characters (DICOM PS3.5 6.2)."""
    return f"{round(float(value), 6) + 0.0:.10g}"
