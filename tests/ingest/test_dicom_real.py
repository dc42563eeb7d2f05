"""DICOM series and PNG stacks as scanners and publishers made them, against independent readers."""

import tarfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from atlas.errors import GeometryError, ScanError
from atlas.ingest.cases import CaseFiles
from atlas.ingest.dicom.series import only_series, read_series, series_in
from atlas.ingest.folders import slices_in
from atlas.ingest.scan import read_image, read_layers
from atlas.ingest.volume import read_ct
from atlas.spec.files import Layout

pytestmark = pytest.mark.realdata

ARCHIVES = {
    "chaos": "chaos/CHAOS_CT_SET_3",
    "crlm": "crlm/CRLM-CT-1004",
    "totalsegmentator": "totalsegmentator/example_ct_dicom",
    "ibsi": "ibsi/ibsi_1_ct_phantom_dicom_rtstruct",
    "dcmqi": "dcmqi/dcmqi_liver_ct3slice_seg",
    "tilt": "odd_dicom/dcm_qa_ct_GE_variable_spacing_tilt",
    "failing": "odd_dicom/dicom2nifti_failing_ct",
}
SERIES = {
    "chaos": "DICOM_anon",
    "crlm": "CRLM-CT-1004/image",
    "totalsegmentator": "example_ct_dicom",
    "ibsi": "dicom/image",
    "dcmqi": "data/segmentations/ct-3slice",
}


@pytest.fixture(scope="module")
def unpacked(realdata, tmp_path_factory):
    """Find a folder of an archive of real files, which is unpacked once."""
    done = {}

    def unpack(name, folder):
        if name not in done:
            done[name] = tmp_path_factory.mktemp(name)
            with tarfile.open(realdata / f"{ARCHIVES[name]}.tar.xz") as archive:
                archive.extractall(done[name], filter="data")
        (found,) = (path for path in done[name].rglob("*") if path.is_dir() and path.match(folder))
        return found

    return unpack


def by_itk(folder):
    """HU (k, j, i) and (i, j, k) to RAS of ITK's own series reader, which trusts what it finds."""
    reader = sitk.ImageSeriesReader()
    files = sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    reader.SetFileNames([str(path) for path in files])
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), np.diag([-1.0, -1, 1, 1]) @ affine


@pytest.mark.parametrize("name", SERIES)
def test_like_itk(unpacked, name):
    folder = unpacked(name, SERIES[name])
    volume = read_ct(folder)
    hu, affine = by_itk(folder)
    np.testing.assert_array_equal(volume.data.T, hu)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.data.dtype == np.int16
    assert volume.warnings == ()


@pytest.mark.parametrize("name", [name for name in SERIES if name != "totalsegmentator"])
def test_like_pydicom(unpacked, name):
    """Voxel by voxel at its place; JPEG 2000 needs a decoder that pydicom has not."""
    folder = unpacked(name, SERIES[name])
    volume = read_ct(folder)
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        x, y, z = map(float, ds.ImagePositionPatient)
        first = np.linalg.inv(volume.affine) @ (-x, -y, z, 1)
        np.testing.assert_allclose(first[:2], 0, atol=1e-6)
        k = round(first[2])
        assert abs(first[2] - k) < 1e-3
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_array_equal(volume.data[:, :, k].T, hu)


def test_like_the_nifti_labels_that_were_made_from_it(realdata, unpacked):
    """JPEG 2000 without SOP class and series UID; its labels were published as NIfTI."""
    volume = read_ct(unpacked("totalsegmentator", SERIES["totalsegmentator"]))
    labels = nib.load(realdata / "totalsegmentator/example_seg_dicom.nii.gz")
    codes = nib.aff2axcodes(volume.affine)
    to_ct = nib.orientations.ornt_transform(nib.io_orientation(labels.affine), nib.io_orientation(volume.affine))
    turned = labels.as_reoriented(to_ct)
    assert nib.aff2axcodes(turned.affine) == codes
    assert turned.shape == volume.data.shape
    np.testing.assert_allclose(turned.affine, volume.affine, atol=1e-4)
    values = np.asarray(turned.dataobj)
    # by the publisher's numbers 5 is the liver
    assert 80 < np.median(volume.data[values == 5]) < 200
    assert np.median(volume.data[values > 0]) > -50 > np.median(volume.data[values == 0])


def test_thickness_is_not_the_step(unpacked):
    """3.2 mm in the header, 2.0 mm between positions."""
    volume = read_ct(unpacked("chaos", SERIES["chaos"]))
    np.testing.assert_allclose(np.diag(volume.affine), [-0.7265625, -0.7265625, 2.0, 1.0])


def test_a_png_stack_lies_on_its_organ(unpacked):
    folder = unpacked("chaos", "Ground").parent
    case = CaseFiles("3", f"{folder.name}/DICOM_anon/", {"liver": f"{folder.name}/Ground/"})
    layout = Layout.model_validate({"image": "{case}/DICOM_anon/", "labels": {"liver": "{case}/Ground/"}})
    ct = read_image(case, folder.parent, layout)
    ((_, _, labels, whole),) = read_layers(case, folder.parent, layout, shape=ct.data.shape, affine=ct.affine)
    assert whole
    inside = labels.data > 0
    # independent of the reader: PNG k and file k, both in order of names
    pngs = sorted((folder / "Ground").iterdir())
    files = sorted((folder / "DICOM_anon").iterdir())
    for png, file in list(zip(pngs, files, strict=True))[::11]:
        z = float(pydicom.dcmread(file, stop_before_pixels=True).ImagePositionPatient[2])
        k = round((z - ct.affine[2, 3]) / ct.affine[2, 2])
        np.testing.assert_array_equal(inside[:, :, k].T, sitk.GetArrayFromImage(sitk.ReadImage(str(png))) > 0)
    hu = ct.data[inside]
    assert 50 < hu.mean() < 150
    flipped = ct.data[inside[:, :, ::-1]]
    assert hu.std() < flipped.std() / 2  # the other way round it would hold lung and bone
    patient = np.argwhere(ct.data > -200).mean(axis=0)
    liver = np.argwhere(inside).mean(axis=0)
    assert (ct.affine @ (*liver, 1) - ct.affine @ (*patient, 1))[0] > 30  # mm to the patient's right, in RAS


BROKEN = {
    "gantrytilting/001": "stacked 14.00 degrees off their normal",
    "notavolume/001": r"mixes acquisitions or phases \(12, 13, 14, 15\): 3 slices lie where another lies.*61\.5\)",
    "sliceincrement/001": r"slices are missing: 10 mm between .*28\.1075\) and .*38\.1075\), where the usual .* 5 mm",
    "sliceincrement/002": r"stacked 15.50 degrees off.*and slices are missing: 1\.49941 mm",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_series_are_refused(unpacked, name):
    folder = unpacked("failing", f"failing/{name}")
    with pytest.raises(GeometryError, match=f"^{folder}: .*{BROKEN[name]}"):
        read_ct(folder)
    # ITK hands out a volume, at most with a warning
    assert sitk.ReadImage([str(path) for path in sorted(folder.iterdir())]).GetSize()[2] == 4


def test_a_tilted_series_of_several_spacings(unpacked):
    folder = unpacked("tilt", "In/GE")
    with pytest.raises(GeometryError, match=r"18.50 degrees off .*not evenly spaced: steps from 1.08\d+ to 6.99\d+ mm"):
        read_ct(folder)


def test_a_single_slice(realdata):
    """JPEG 2000, rows running to the front of the patient, elements of unknown type."""
    path = realdata / "odd_dicom/nih_pancreas_0001_slice_explicit_VR-UN.dcm"
    with pytest.raises(GeometryError, match="is a single slice"):
        only_series([path])


def test_a_slice_with_rows_that_run_upwards(realdata, tmp_path):
    """The same slice with a copy of it 1 mm higher."""
    path = realdata / "odd_dicom/nih_pancreas_0001_slice_explicit_VR-UN.dcm"
    (tmp_path / "a.dcm").write_bytes(path.read_bytes())
    ds = pydicom.dcmread(path)
    z = float(ds.ImagePositionPatient[2])
    ds.ImagePositionPatient[2] = z + 1
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.save_as(tmp_path / "b.dcm")
    volume = read_ct(tmp_path)
    assert nib.aff2axcodes(volume.affine) == ("L", "A", "I")
    np.testing.assert_allclose(volume.affine[:3, 3], [0, 0, z + 1])
    plane = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]
    np.testing.assert_array_equal(volume.data[:, :, 0].T, plane)


def test_label_objects_are_passed_over(unpacked):
    folder = unpacked("dcmqi", SERIES["dcmqi"]).parent
    (group,) = series_in(folder)
    assert len(group) == 3
    with pytest.raises(ScanError, match=r"holds no CT series \(\d SEG\)"):
        read_ct(folder)  # right in it there are only label objects
    series = only_series(slices_in(folder / "ct-3slice"))
    assert read_series(series).data.shape == (512, 512, 3)
