"""Small DICOM studies: CT series, segmentations by highdicom and structure sets, on any grid."""

from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (11, 9, 6)
SPACING = (0.8, 0.7, 2.5)
OBLIQUE = Rotation.from_euler("xyz", (16, -8, 30), degrees=True).as_matrix()


@dataclass
class Ct:
    """A CT series on disk, and what it was made from."""

    datasets: list
    paths: list
    affine: np.ndarray
    """(i, j, k) to RAS mm, slices in the order of their normal."""

    @property
    def uid(self):
        return self.datasets[0].SeriesInstanceUID

    def points(self, voxels):
        """Voxel coordinates (n, 3) to LPS mm."""
        return np.c_[voxels, np.ones(len(voxels))] @ (LPS_TO_RAS @ self.affine)[:3].T


def write_ct(
    folder: Path,
    *,
    shape=SHAPE,
    spacing=SPACING,
    directions=None,
    origin=(-100.0, 50.0, 33.0),
    frame="1.2.3.4",
    series=None,
    acquisition=1,
    number=1,
    wobble=None,
    aside=None,
    study="1.2.3",
):
    """Write a series. `directions`: columns are the LPS directions of i, j; k is their normal.

    `wobble` and `aside`: for each slice, how far it lies off its place along k (slices) and along i (pixels).
    """
    folder.mkdir(parents=True, exist_ok=True)
    directions = np.eye(3) if directions is None else directions
    i, j = directions[:, 0], directions[:, 1]
    normal = np.cross(i, j)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([i, j, normal], axis=1) * spacing
    affine[:3, 3] = origin
    series = series or generate_uid()
    datasets, paths = [], []
    for k in range(shape[2]):
        place = affine[:3, 3] + affine[:3, 2] * (k + (0 if wobble is None else wobble[k]))
        place = place + affine[:3, 0] * (0 if aside is None else aside[k])
        ds = _header("1.2.840.10008.5.1.4.1.1.2", study, series, frame)
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.AcquisitionNumber = "CT", number, k + 1, acquisition
        ds.SeriesDescription = f"series {number}"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient = [f"{x:.10g}" for x in place]
        ds.ImageOrientationPatient = [f"{x:.12f}" for x in (*i, *j)]
        ds.PixelSpacing = [spacing[1], spacing[0]]
        ds.SliceThickness = spacing[2]
        ds.Rows, ds.Columns = shape[1], shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.PixelData = np.full((shape[1], shape[0]), 1000 * acquisition + k, np.int16).tobytes()
        # the names order nothing
        path = folder / f"{(k * 7) % shape[2]:03d}_{series[-6:]}_{acquisition}_{k}.dcm"
        ds.save_as(path, enforce_file_format=True)
        datasets.append(ds)
        paths.append(path)
    return Ct(datasets, paths, LPS_TO_RAS @ affine)


def _header(sop_class, study, series, frame):
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "1", "A^B", "", ""
    ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName = "", "", "", "", ""
    return ds


def segmentation(ct, frames, labels, kind="BINARY", *, geometry=None, change=None, **options):
    """A DICOM-SEG. `frames`: (n, rows, columns, segments), or (n, rows, columns) of a LABELMAP.

    `geometry`: for other planes than the CT's, spacing (rows, columns, slices), orientation (6), positions (n, 3).
    """
    described = [
        SegmentDescription(n + 1, label, codes.SCT.Tissue, codes.SCT.Liver, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for n, label in enumerate(labels)
    ]
    if geometry is not None:
        spacing, orientation, positions = geometry
        system = hd.CoordinateSystemNames.PATIENT
        options["pixel_measures"] = hd.PixelMeasuresSequence(spacing[:2], spacing[2], spacing[2])
        options["plane_orientation"] = hd.PlaneOrientationSequence(system, _short(orientation))
        options["plane_positions"] = [hd.PlanePositionSequence(system, _short(place)) for place in positions]
    seg = Segmentation(
        ct.datasets, frames, kind, described, generate_uid(), 100, generate_uid(), 1, "M", "N", "1", "0", **options
    )
    if change is not None:
        change(seg)
    return seg


def _short(numbers):
    return [float(f"{number:.10g}") for number in numbers]


def write_segmentation(path, *args, **options):
    segmentation(*args, **options).save_as(path)
    return path


def as_frames(masks):
    """Masks (segments, i, j, k) as frames (k, rows, columns, segments)."""
    return np.ascontiguousarray(np.asarray(masks, np.uint8).transpose(3, 2, 1, 0))


def write_structures(path, ct, regions, *, refer=True, frame="1.2.3.4", change=None):
    """An RTSTRUCT. `regions`: (name, [contour or (type, contour)]), contours (n, 3) in LPS mm."""
    ds = _header("1.2.840.10008.5.1.4.1.1.481.3", "1.2.3", generate_uid(), frame)
    ds.Modality, ds.StructureSetLabel = "RTSTRUCT", "labels"
    if refer:
        space, study, series = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        series.SeriesInstanceUID = ct.uid
        series.ContourImageSequence = [_image(image.SOPInstanceUID) for image in ct.datasets]
        study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", "1.2.3"
        study.RTReferencedSeriesSequence = [series]
        space.FrameOfReferenceUID, space.RTReferencedStudySequence = frame, [study]
        ds.ReferencedFrameOfReferenceSequence = [space]
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions, 1):
        roi, drawn = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        ds.StructureSetROISequence.append(roi)
        drawn.ReferencedROINumber = number
        if contours is not None:
            drawn.ContourSequence = [_contour(contour) for contour in contours]
        ds.ROIContourSequence.append(drawn)
    if change is not None:
        change(ds)
    ds.save_as(path, enforce_file_format=True)
    return path


def _image(uid):
    item = pydicom.Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
    return item


def _contour(contour):
    kind, points = contour if isinstance(contour, tuple) else ("CLOSED_PLANAR", contour)
    item = pydicom.Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
    item.ContourData = [f"{x:.10g}" for x in np.ravel(points)]
    return item
