"""Lay out what is DICOM: series with labels of other formats, whole studies, and series that are no volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import truth
from cases import Case, link, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BONE_HU = 200
"""Where a CT has no labels, what is brighter serves as label."""

TILTED, FAILING = "odd_dicom/dcm_qa_ct_GE_variable_spacing_tilt", "odd_dicom/dicom2nifti_failing_ct"
ODD = {
    "CRLM-CT-1004": ("crlm/CRLM-CT-1004", "CRLM-CT-1004/image"),
    "unlabelled": ("crlm/CRLM-CT-1004", "CRLM-CT-1004/image"),
    "tilt_uneven": (TILTED, "In/GE"),
    "tilt": (FAILING, "tests/data/failing/gantrytilting/001"),
    "one_place": (FAILING, "tests/data/failing/notavolume/001"),
    "gap": (FAILING, "tests/data/failing/sliceincrement/001"),
    "tilt_gap": (FAILING, "tests/data/failing/sliceincrement/002"),
}
"""Case of odd_dicom -> archive and folder in it."""

SINGLE_SLICE = "odd_dicom/nih_pancreas_0001_slice_explicit_VR-UN.dcm"


def lay_out(real: Path, sources: Path) -> Iterator[Case]:
    """All of them; see `prepare.lay_out`."""
    for part in (_chaos, _totalsegmentator, _dcmqi, _ibsi, _odd):
        yield from part(real, sources)


def _chaos(real, sources):
    """The published place, for the shipped manifest."""
    folder = unpack(real / "chaos/CHAOS_CT_SET_3.tar.xz", sources / "chaos_ct/Train_Sets/CT/3")
    yield Case("chaos_ct", "3", folder / "DICOM_anon", folder / "Ground", made=False)


def _totalsegmentator(real, sources):
    real, top = real / "totalsegmentator", sources / "ts_example"
    ct = unpack(real / "example_ct_dicom.tar.xz", top / "dicom") / "example_ct_dicom"
    labels = link(real / "example_seg_dicom.nii.gz", top / "labels/example_ct_dicom.nii.gz")
    yield Case("ts_example", "example_ct_dicom", ct, labels, made=False)


def _dcmqi(real, sources):
    study = unpack(real / "dcmqi/dcmqi_liver_ct3slice_seg.tar.xz", sources / "dcmqi/ct-3slice")
    top = study / "data/segmentations"
    yield Case("dcmqi", study.name, top / "ct-3slice", top / "liver_seg.nrrd", made=False, study=study)


def _ibsi(real, sources):
    study = unpack(real / "ibsi/ibsi_1_ct_phantom_dicom_rtstruct.tar.xz", sources / "ibsi/ibsi_1")
    yield Case("ibsi", study.name, study / "dicom/image", study / "nifti/mask/mask.nii.gz", made=False, study=study)


def _odd(real, sources):
    top = sources / "odd_dicom"
    hidden = top / ".unpacked"  # not looked into
    for name, (archive, folder) in ODD.items():
        unpacked = unpack(real / f"{archive}.tar.xz", hidden / archive)
        yield _series(link(unpacked / folder, top / name / "ct"), labelled=name != "unlabelled")
    slice_ = link(real / SINGLE_SLICE, top / "single/ct" / "slice.dcm")
    yield _series(slice_.parent, labelled=True)


def _series(ct, *, labelled):
    labels = ct.with_name("bone.nii.gz")
    if labelled and not labels.exists():
        hu, affine = truth.read_ct(ct)
        part = ct.with_name("bone.part.nii.gz")
        nib.save(nib.Nifti1Image((hu > BONE_HU).astype(np.uint8), affine), part)
        part.rename(labels)
    return Case("odd_dicom", ct.parent.name, ct, labels, made=False)
