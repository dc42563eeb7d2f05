"""A CT series as DICOM, and studies: a CT with a DICOM-SEG or RTSTRUCT object drawn on it, and perhaps another CT."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from atlas.phantom.dicom import CT_STORAGE, Identity, ct_slices, dataset, write_slices
from atlas.phantom.outlines import outlines
from atlas.phantom.places import concrete

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydicom import Dataset

    from atlas.phantom.painted import Painted
    from atlas.phantom.places import Published
    from atlas.phantom.solids import Bools, Vector

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""SOP class, DICOM PS3.4 B.5."""
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, which RTSTRUCT objects name the study by although it is retired."""
CT_NAMES = "IMG-0001-{:05d}.dcm"
OBJECT_NAME = "1-1.dcm"
WHEN = ("20200102", "130000")
"""Date and time of annotation."""
OTHER_PHASE: Vector = (0.0, 0.0, 35.0)
"""How far the patient of a second CT has moved (RAS mm), so that the labels do not fit it."""


def identity_of(here: Published, case: str, which: str = "") -> Identity:
    """Names of a case's CT series."""
    return Identity(
        here.patient(case), here.uid(case, "study"), here.uid(case, f"CT{which}"), here.uid(case, f"frame{which}")
    )


def write_ct(folder: Path, painted: Painted, identity: Identity, names: str = CT_NAMES) -> list[Dataset]:
    """Write a CT into a folder; every other case in unsigned numbers."""
    signed = bool(zlib.crc32(painted.name.encode()) & 1 << 10)
    slices = ct_slices(painted.hu, painted.affine, identity, signed=signed)
    write_slices(folder, slices, names)
    return slices


def write_study(here: Published, case: str, painted: Painted, masks: Mapping[str, Bools], *, two_phases: bool) -> Path:
    """Write everything of a case; returns the folder of the CT that the labels belong to.

    Parameters
    ----------
    masks
        By structure as the label map names it, along the CT's axes.
    two_phases
        Whether there is a second CT, of the patient in another place, that the labels do not belong to.
    """
    study = here.manifest.layout.study[0]
    identity, image = identity_of(here, case), here.series(case, "CT", study)
    slices = write_ct(image, painted, identity)
    if two_phases:
        other = here.series(case, "CT", study, " 2")
        write_ct(other, painted.later(OTHER_PHASE), identity_of(here, case, " 2"))
    kind = here.manifest.layout.storage.objects
    modality, make = ("SEG", segmentation) if kind == "dicom_seg" else ("RTSTRUCT", structure_set)
    own = Identity(identity.patient, identity.study, here.uid(case, modality), identity.frame_of_reference)
    named = {concrete(structure): mask for structure, mask in masks.items()}
    folder = here.series(case, modality, study)
    write_slices(folder, [make(slices, named, own)], OBJECT_NAME)
    return image


def segmentation(slices: list[Dataset], masks: Mapping[str, Bools], identity: Identity) -> Dataset:
    """DICOM-SEG with a binary segment for each mask (i, j, k); they may overlap."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], axis=-1).astype(np.uint8)
    made: Dataset = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=identity.series,
        series_number=2,
        sop_instance_uid=identity.instance(0),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="none",
        device_serial_number="none",
    )
    _settle(made, identity)
    return made


def _settle(made: Dataset, identity: Identity) -> None:
    """Replace what a library makes up anew each time: dates, and the UID of the order of frames."""
    made.ContentDate, made.ContentTime = WHEN
    made.InstanceCreationDate, made.InstanceCreationTime = WHEN
    made.SeriesDate, made.SeriesTime = WHEN
    for item in made.ContributingEquipmentSequence:
        item.ContributionDateTime = "".join(WHEN)
    order = identity.instance(-1)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = order


def structure_set(slices: list[Dataset], masks: Mapping[str, Bools], identity: Identity) -> Dataset:
    """RTSTRUCT whose contours run along the edges of voxels, so that filling them gives back the masks (i, j, k)."""
    out = dataset(STRUCTURE_SET, identity.instance(0), identity, "RTSTRUCT")
    out.StructureSetLabel, (out.StructureSetDate, out.StructureSetTime) = "phantom", WHEN
    out.FrameOfReferenceUID, out.PositionReferenceIndicator = identity.frame_of_reference, ""
    out.ReferencedFrameOfReferenceSequence = [_frame_of_reference(slices, identity)]
    out.StructureSetROISequence = [
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=identity.frame_of_reference,
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        for number, name in enumerate(masks, start=1)
    ]
    out.ROIContourSequence = [
        _item(ReferencedROINumber=number, ROIDisplayColor=[255, 0, 0], ContourSequence=_contours(slices, mask))
        for number, mask in enumerate(masks.values(), start=1)
        if mask.any()
    ]
    out.RTROIObservationsSequence = [
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        for number in range(1, len(masks) + 1)
    ]
    return out


def _contours(slices: list[Dataset], mask: Bools) -> list[Dataset]:
    return [
        _item(
            ContourImageSequence=[_reference(slices[k])],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(outline),
            ContourData=_in_patient(slices[k], outline),
        )
        for k in np.flatnonzero(mask.any(axis=(0, 1))).tolist()
        for outline in outlines(mask[:, :, k])
    ]


def _in_patient(one: Dataset, outline: np.ndarray) -> list[str]:
    """Pixels (i, j) of a slice to LPS mm, as decimal strings (DICOM PS3.3 C.7.6.2.1.1)."""
    position = np.array(one.ImagePositionPatient, dtype=float)
    across = np.array(one.ImageOrientationPatient, dtype=float).reshape(2, 3)
    steps = np.array(one.PixelSpacing, dtype=float)[::-1, np.newaxis]
    points = position + outline @ (across * steps)
    return [f"{value:.10g}" for value in np.round(points, 6).ravel() + 0.0]


def _frame_of_reference(slices: list[Dataset], identity: Identity) -> Dataset:
    series = _item(
        SeriesInstanceUID=slices[0].SeriesInstanceUID, ContourImageSequence=[_reference(one) for one in slices]
    )
    study = _item(
        ReferencedSOPClassUID=STUDY_CLASS,
        ReferencedSOPInstanceUID=identity.study,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=identity.frame_of_reference, RTReferencedStudySequence=[study])


def _reference(one: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=CT_STORAGE, ReferencedSOPInstanceUID=one.SOPInstanceUID)


def _item(**elements: object) -> Dataset:
    from pydicom import Dataset

    out = Dataset()
    for keyword, value in elements.items():
        setattr(out, keyword, value)
    return out
