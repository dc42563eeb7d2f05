"""What counts as a scan in a file or a folder, and DICOM against SimpleITK's own reader."""

import hashlib
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_writing import write_ct
from predicting import CLASSES, OBLIQUE, RAMPS, affine_of, dice, mask, model, predicted, two_organs

from atlas.errors import CorpusError, ScanError
from atlas.phantom.dicom import Identity, ct_slices, write_slices
from atlas.predict import CaseScan, scans_at
from atlas.predict.scans import stem

LPS = np.diag([-1.0, -1.0, 1.0])


def names(path):
    return [(scan.name, scan.path.name) for scan in scans_at(path)]


def test_a_file_is_a_scan(tmp_path):
    (tmp_path / "Case_1.NII.GZ").touch()
    assert names(tmp_path / "Case_1.NII.GZ") == [("Case_1", "Case_1.NII.GZ")]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("ct.nii.gz", "ct"), ("a.b.nii", "a.b"), ("x.mha", "x"), (".nii.gz", ".nii.gz"), ("...nii", "...nii"), ("t", "t")],
)
def test_name_of_results(name, kept):
    assert stem(name) == kept
    assert stem(name) not in {"", ".", ".."}


def test_volumes_right_in_a_folder(tmp_path):
    for name in ("b.nii.gz", "a.nii", "c.mha", "notes.txt", ".hidden.nii", "sub/mask.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == [("a", "a.nii"), ("b", "b.nii.gz"), ("c", "c.mha")]


def test_two_files_of_one_name(tmp_path):
    for name in ("a.nii.gz", "a.nii"):
        (tmp_path / name).touch()
    with pytest.raises(ScanError, match=r"several scans are called a;"):
        scans_at(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(ScanError, match="no such"):
        scans_at(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ScanError, match="holds no scan"):
        scans_at(tmp_path)


def test_folders_of_slices_at_any_depth(tmp_path):
    write_ct(tmp_path / "patient" / "study" / "1")
    write_ct(tmp_path / "patient" / "study" / "2")
    (tmp_path / "patient" / "report.pdf").write_bytes(b"%PDF")
    assert names(tmp_path) == [("patient_study_1", "1"), ("patient_study_2", "2")]
    assert names(tmp_path / "patient" / "study" / "1") == [("1", "1")]


def test_two_series_in_one_folder_are_refused_by_name(tmp_path):
    write_ct(tmp_path / "s", number=1)
    write_ct(tmp_path / "s", number=2)
    (scan,) = scans_at(tmp_path / "s")
    with pytest.raises(ScanError, match=r"2 CT series \(.*series \d.*series \d"):
        scan.load()


@pytest.mark.parametrize(
    "direction", [np.diag([-1.0, -1, 1]), np.diag([-1.0, -1, 1]) @ OBLIQUE], ids=["axial", "tilted"]
)
def test_dicom_masks_overlay_as_simpleitk_reads_the_series(direction, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    shape, spacing = (50, 44, 30), (1.7, 1.9, 2.6)
    affine = affine_of(spacing, direction)
    ct, _ = two_organs(shape, affine)
    folder = tmp_path / "series"
    write_slices(folder, ct_slices(ct, affine, Identity("p", "1.2.3", "1.2.4", "1.2.5"), signed=True), "s{:03}.dcm")
    (scan,) = scans_at(folder)
    assert scan.name == "series"
    result = predicted(model(taxonomy), folder, tmp_path / "out")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    hu = sitk.GetArrayFromImage(image)
    for name, value in zip(CLASSES, (1000, -1000), strict=True):
        found = sitk.ReadImage(str(result / "segmentations" / f"{name}.nii.gz"))
        assert found.GetSize() == image.GetSize()
        np.testing.assert_allclose(found.GetOrigin(), image.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(found.GetSpacing(), image.GetSpacing(), atol=1e-5)
        np.testing.assert_allclose(found.GetDirection(), image.GetDirection(), atol=1e-5)
        assert dice(sitk.GetArrayFromImage(found) == 1, hu == value) >= 0.93
    header = nib.load(result / "combined.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)


def test_digest_of_a_series_is_that_of_its_content(tmp_path):
    write_ct(tmp_path / "a")
    (scan,) = scans_at(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (copy,) = scans_at(tmp_path / "b")
    assert scan.load()[1].sha256 == copy.load()[1].sha256
    files = sorted((tmp_path / "a").iterdir())
    parts = "".join(hashlib.sha256(f.read_bytes()).hexdigest() for f in files)
    assert scan.load()[1].sha256 == hashlib.sha256(parts.encode()).hexdigest()


def test_a_header_that_lies_is_refused_as_in_a_build(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([-2.0, 2, 2, 1]), 1)
    nib.save(image, tmp_path / "ct.nii")
    (scan,) = scans_at(tmp_path / "ct.nii")
    with pytest.raises(ScanError, match="disagree"):
        scan.load()


def test_no_way_out_of_the_results_by_a_case_id(tmp_path):
    from atlas.corpus import layout

    class Corpus:
        location = "x"

        def __getitem__(self, case_id):
            layout.check_case_id(case_id)

    with pytest.raises(CorpusError):
        CaseScan("../../etc", Corpus()).load()


def test_masks_of_a_plain_file_named_gz(tmp_path, taxonomy, by_intensity):
    """Browsers take the gzip off and keep the name; nibabel alone would not read it."""
    by_intensity(RAMPS)
    affine = affine_of((2.0, 2.0, 2.0))
    ct, truth = two_organs((44, 34, 29), affine)
    nib.save(nib.Nifti1Image(ct, affine), tmp_path / "plain.nii")
    (tmp_path / "plain.nii").rename(tmp_path / "ct.nii.gz")
    folder = predicted(model(taxonomy), tmp_path / "ct.nii.gz", tmp_path / "out")
    assert dice(mask(folder, CLASSES[0]) == 1, truth[0]) > 0.93
