"""CT series: order, place and refusals, from headers."""

from contextlib import suppress
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ct_writing import CT, axial, changed, image, multiframe, save, save_all, stored_numbers
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid
from scipy.spatial.transform import Rotation

from atlas.errors import AtlasError, GeometryError, ScanError
from atlas.ingest.dicom.series import check_series, only_series, read_headers, read_series, series_in
from atlas.ingest.folders import slices_in
from atlas.ingest.volume import read_ct

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ORIENTATIONS = [
    np.diag(signs) @ np.eye(3)[list(order)] for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
OBLIQUE = [Rotation.random(random_state=seed).as_matrix() for seed in range(4)]
SPACING = np.array([0.8, 0.7, 2.5])  # of columns, of rows, of slices
ORIGIN = np.array([-40.5, 12.25, 103.0])


def write(folder, directions):
    """A series stored along `directions` (columns: of i, j and the order of slices; LPS); what its files say.

    Returns stored HU (i, j, k) and, for each voxel, its place in RAS, both in the order of storage.
    """
    stored = stored_numbers((5, 4, 3))
    places = np.empty((3, 4, 5, 3))
    for k, plane in enumerate(stored):
        corner = ORIGIN + directions[:, 2] * SPACING[2] * k
        ds = image(plane, corner, (*directions[:, 0], *directions[:, 1]), (SPACING[1], SPACING[0]))
        save(ds, folder / f"{(k * 3) % 5}.dcm")
        for i, j in product(range(3), range(4)):
            x, y, z = corner + directions[:, 0] * SPACING[0] * i + directions[:, 1] * SPACING[1] * j
            places[i, j, k] = (-x, -y, z)
    return stored.transpose(2, 1, 0).astype(int) - 1024, places


@pytest.mark.parametrize("directions", ORIENTATIONS + OBLIQUE)
def test_every_voxel_is_where_it_belongs(tmp_path, directions):
    hu, places = write(tmp_path, directions)
    volume = read_ct(tmp_path)
    indices = np.einsum("ab,ijkb->ijka", np.linalg.inv(volume.affine[:3, :3]), places - volume.affine[:3, 3])
    found = np.rint(indices).astype(int)
    np.testing.assert_allclose(indices, found, atol=1e-6)
    np.testing.assert_array_equal(volume.data[tuple(np.moveaxis(found, -1, 0))], hu)
    assert np.linalg.det(volume.affine[:3, :3]) > 0
    assert volume.data.dtype == np.int16
    assert volume.data.flags.f_contiguous
    assert volume.warnings == ()


@pytest.mark.parametrize("directions", ORIENTATIONS[::5] + OBLIQUE)
def test_like_simpleitk(tmp_path, directions):
    write(tmp_path, directions)
    volume = read_ct(tmp_path)
    series = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    for index in product(range(3), range(4), range(5)):
        x, y, z = series.TransformIndexToPhysicalPoint(index)
        ours = np.rint(np.linalg.inv(volume.affine) @ (-x, -y, z, 1))[:3].astype(int)
        assert volume.data[tuple(ours)] == series[index]


def test_axes_have_the_letters_that_nibabel_gives_them(tmp_path):
    write(tmp_path, np.diag([1.0, -1.0, 1.0]))  # columns to the left, rows to the front, slices upwards
    # the normal of the slices points down: that is k
    assert nib.aff2axcodes(read_ct(tmp_path).affine) == ("L", "A", "I")


def test_a_series_tells_what_label_objects_refer_to(tmp_path):
    folder = save_all(axial(), tmp_path)
    series = only_series(slices_in(folder))
    assert [pydicom.dcmread(path).SOPInstanceUID for path in series.files] == list(series.sop_uids)
    assert [pydicom.dcmread(path).ImagePositionPatient[2] for path in series.files] == [30, 32.5, 35, 37.5, 40]
    np.testing.assert_array_equal(series.positions[:, 2], [30, 32.5, 35, 37.5, 40])
    assert (series.uid, series.frame_of_reference) == ("1.2.3.4", "1.2.3.5")
    assert series.shape == (3, 4, 5)


def test_thickness_is_no_spacing(tmp_path):
    folder = save_all(axial(SliceThickness=3.2, SpacingBetweenSlices=9), tmp_path)
    assert read_ct(folder).affine[2, 2] == 2.5


def test_one_of_several_acquisitions(tmp_path):
    one, two = axial(AcquisitionNumber=1), axial(stored_numbers(seed=1), AcquisitionNumber=2)
    save_all([*one, *two], tmp_path)
    with pytest.raises(GeometryError, match=r"mixes acquisitions or phases \(1, 2\): 5 slices .* \(-10, -20, 30\)"):
        read_ct(tmp_path)
    (group,) = series_in(tmp_path)
    wanted = frozenset(ds.SOPInstanceUID for ds in two)
    volume = read_series(check_series(group, only=wanted))
    np.testing.assert_array_equal(volume.data.T + 1024, stored_numbers(seed=1))


def test_an_enhanced_object(tmp_path):
    stored = stored_numbers()
    positions = [(0, 0, z) for z in (4, 0, 8, 2, 6)]
    save(multiframe(stored, positions), tmp_path / "all.dcm")
    series = only_series(slices_in(tmp_path))
    volume = read_series(series)
    np.testing.assert_array_equal(volume.data.T + 1024, stored[[1, 3, 0, 4, 2]])
    np.testing.assert_allclose(volume.affine, np.diag([-0.8, -0.7, 2, 1]))
    assert len(series.files) == 1
    assert len(set(series.sop_uids)) == 1


def test_enhanced_objects_of_several_files(tmp_path):
    stored = stored_numbers((4, 4, 3))
    save(multiframe(stored[::2], [(0, 0, 0), (0, 0, 4)]), tmp_path / "a.dcm")
    save(multiframe(stored[1::2], [(0, 0, 2), (0, 0, 6)]), tmp_path / "b.dcm")
    np.testing.assert_array_equal(read_ct(tmp_path).data.T + 1024, stored)


def test_an_enhanced_object_with_two_phases(tmp_path):
    save(multiframe(stored_numbers((4, 4, 3)), [(0, 0, 0), (0, 0, 2)] * 2), tmp_path / "a.dcm")
    with pytest.raises(GeometryError, match=r"several slices in one place: 2 .* two frames of a\.dcm"):
        read_ct(tmp_path)


def test_an_enhanced_object_that_lies_about_its_frames(tmp_path):
    save(multiframe(stored_numbers(), [(0, 0, z) for z in range(4)]), tmp_path / "a.dcm")
    with pytest.raises(ScanError, match="claims 5 frames and describes 4"):
        read_ct(tmp_path)


REFUSED = {
    "is a single slice": lambda images: images[:1],
    "slices are missing: 5 mm between .*, where the usual step is 2.5": lambda images: images[:2] + images[3:],
    "not evenly spaced: steps from 2.5 to 3.2 mm": lambda images: moved(images, -1, z=40.7),
    "slices are missing.*61.5": lambda images: moved(images, -1, z=61.5),
    r"holds a slice twice: .* \(-10, -20, 35\)": lambda images: [*images, images[2]],
    "several slices in one place": lambda images: moved(images, 4, z=37.501),
    "not stacked in a line: .* 3.00 mm": lambda images: moved(images, 2, x=-13),
    "18.4\\d degrees off their normal": lambda images: [moved(images, k, y=-20 + k * 2.5 / 3)[k] for k in range(5)],
    "not parallel: 1 of 5": lambda images: having(images, 3, ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6]),
    "not of unit length": lambda images: having(images, ..., ImageOrientationPatient=[2, 0, 0, 0, 2, 0]),
    "degrees off square": lambda images: having(images, ..., ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]),
    r"pixels of \(0.7, 0.[89]\) and of \(0.7, 0.[98]\) mm": lambda images: having(images, 1, PixelSpacing=[0.7, 0.9]),
    "2 sizes of slices: 3 x 4, 6 x 2": lambda images: having(images, 1, Rows=2, Columns=6),
    "2 frames of reference": lambda images: having(images, 1, FrameOfReferenceUID="1.9"),
    "no usable ImagePositionPatient": lambda images: having(images, 1, ImagePositionPatient=None),
    "no usable ImageOrientationPatient": lambda images: having(images, 1, ImageOrientationPatient=[1, 0, 0]),
    "no usable PixelSpacing": lambda images: having(images, ..., PixelSpacing=None, ImagerPixelSpacing=[1, 1]),
    "no usable RescaleSlope": lambda images: having(images, 1, RescaleSlope=None),
    "no usable RescaleSlope and": lambda images: having(images, 1, RescaleIntercept=None),
    "no usable RescaleSlope and RescaleIntercept": lambda images: having(images, 1, RescaleSlope=0),
    r"usable RescaleSlope.*1e\+30": lambda images: having(images, 1, RescaleSlope="1e30"),
    r"holds values in 'ED' \(RescaleType\)": lambda images: having(images, 1, RescaleType="ED"),
    "the spacing 0.0001 x 0.0001 x": lambda images: having(images, ..., PixelSpacing=[0.0001, 0.0001]),
    "3 samples of 16 bits": lambda images: having(images, 1, SamplesPerPixel=3),
    "as 'PALETTE COLOR'": lambda images: having(images, 1, PhotometricInterpretation="PALETTE COLOR"),
    "claims 60000 x 60000 pixels": lambda images: having(images, ..., Rows=60000, Columns=60000),
    r"holds no CT series \(5 MR\)": lambda images: having(images, ..., Modality="MR"),
    r"holds no CT series \(5 CT localizer\)": lambda images: having(
        images, ..., ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ),
    r"holds 2 CT series \(number 7, venous, 1.9: 3 slices; 1.2.3.4: 2 slices\)": lambda images: [
        *having(images[:3], ..., SeriesInstanceUID="1.9", SeriesDescription="venous", SeriesNumber=7),
        *images[3:],
    ],
}


def moved(images, which, *, x=-10.0, y=-20.0, z=None):
    z = images[which].ImagePositionPatient[2] if z is None else z
    images[which].ImagePositionPatient = [x, y, z]
    return images


def having(images, which, **elements):
    for ds in images if which is ... else [images[which]]:
        changed(ds, **elements)
    return images


@pytest.mark.parametrize("message", REFUSED)
def test_refused(tmp_path, message):
    save_all(REFUSED[message](axial()), tmp_path)
    with pytest.raises(AtlasError, match=f"^{tmp_path}: .*{message}"):
        read_ct(tmp_path)


def test_everything_wrong_with_a_stack_is_said(tmp_path):
    images = [moved(axial(), k, y=-20 + k)[k] for k in (0, 1, 2, 4)]
    save_all(images, tmp_path)
    with pytest.raises(GeometryError, match=r"gantry was tilted, .*; and slices are missing: "):
        read_ct(tmp_path)


SOUND = {
    "positions rounded to 0.1 mm": [round(0.625 * k, 1) for k in range(30)],
    "positions in single precision": [float(np.float32(1000.1 + 0.7 * k)) for k in range(30)],
}


@pytest.mark.parametrize("heights", SOUND.values(), ids=list(SOUND))
def test_rounding_is_no_unevenness(tmp_path, heights):
    save_all([image(stored_numbers()[0], (0, 0, z)) for z in heights], tmp_path)
    step = (heights[-1] - heights[0]) / 29
    assert read_ct(tmp_path).affine[2, 2] == pytest.approx(step, abs=1e-6)


def test_a_lean_below_a_degree_is_squared_up_and_told(tmp_path):
    save_all([moved(axial(), k, y=-20 + 0.02 * k)[k] for k in range(5)], tmp_path)
    volume = read_ct(tmp_path)
    direction = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    assert any("direction repaired" in warning for warning in volume.warnings)


def test_a_tilt_that_only_the_header_speaks_of(tmp_path):
    volume = read_ct(save_all(axial(GantryDetectorTilt=12), tmp_path))
    assert volume.warnings == ("header speaks of a gantry tilt of 12 degrees; the positions show none and count",)


def test_by_products_are_left_out_and_told(tmp_path):
    scout = image(np.zeros((9, 9), np.uint16), orientation=(1, 0, 0, 0, 0, -1))
    changed(scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    other = image(np.zeros((4, 3), np.uint16), SeriesInstanceUID="1.9", SeriesDescription="monitoring")
    report = image(np.zeros((4, 3), np.uint16), sop_class=SECONDARY_CAPTURE, SeriesInstanceUID="1.8")
    changed(report, ImagePositionPatient=None)
    save_all([*axial(stored_numbers((20, 4, 3))), scout, other, report], tmp_path)
    (tmp_path / "LICENSE").write_text("of some kind")
    (tmp_path / ".hidden.dcm").write_text("no DICOM")
    (tmp_path / "021.dcm.part").write_text("no DICOM")
    volume = read_ct(tmp_path)
    assert volume.data.shape == (3, 4, 20)
    assert volume.warnings == (
        "1 files that are no DICOM left out (LICENSE)",
        "objects that are no CT images left out: 1 CT",
        "series monitoring, 1.9 of 1 slices left out",
        "1 localizer images left out",
    )


def test_files_that_should_be_dicom_are_not_passed_over(tmp_path):
    save_all(axial(), tmp_path)
    for name, content in (("006.dcm", b"not DICOM"), ("IM6", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanError, match=f"^{tmp_path / name}: is not a DICOM file"):
            read_ct(tmp_path)
        (tmp_path / name).unlink()
    (tmp_path / "IM6").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ScanError, match="IM6: cannot be read: No such file"):
        read_ct(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    save_all(axial(), tmp_path)
    *_, last = sorted(tmp_path.iterdir())
    content = last.read_bytes()
    for kept in (*range(0, len(content), 7), len(content) - 2, len(content) - 1):
        last.write_bytes(content[:kept])
        with pytest.raises(ScanError, match=last.name):
            read_ct(tmp_path)


def test_noise_in_a_header_is_refused_or_read_never_worse(tmp_path):
    save_all(axial(), tmp_path)
    path, *_ = sorted(tmp_path.iterdir())
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        noise = bytearray(sound)
        for place in rng.integers(128, len(sound), 4):
            noise[place] = rng.integers(256)
        path.write_bytes(noise)
        with suppress(AtlasError):  # and no other
            assert read_ct(tmp_path).data.shape[:2] == (3, 4)


def test_deflated_files_are_refused_before_they_are_inflated(tmp_path):
    images = axial()
    for ds in images:
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save_all(images, tmp_path)
    with pytest.raises(ScanError, match="stored deflated"):
        read_ct(tmp_path)


def test_without_preamble_as_old_archives_have_it(tmp_path):
    for n, ds in enumerate(axial()):
        del ds.file_meta
        pydicom.dcmwrite(tmp_path / f"IM{n}", ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_ct(tmp_path).data.T + 1024, stored_numbers())


def test_uids_that_were_blanked(tmp_path):
    images = [changed(ds, SOPClassUID="", SeriesInstanceUID="", StudyInstanceUID="") for ds in axial()]
    assert images[0].file_meta.MediaStorageSOPClassUID == CT
    np.testing.assert_array_equal(read_ct(save_all(images, tmp_path)).data.T + 1024, stored_numbers())


def test_a_ct_stored_as_secondary_capture(tmp_path):
    folder = save_all(axial(sop_class=SECONDARY_CAPTURE), tmp_path)
    np.testing.assert_array_equal(read_ct(folder).data.T + 1024, stored_numbers())


def test_series_of_a_study_at_any_depth(tmp_path):
    save_all(axial(SeriesInstanceUID="1.1"), tmp_path / "study/a")
    save_all(axial(stored_numbers((7, 4, 3)), SeriesInstanceUID="1.2"), tmp_path / "study/b/c")
    save(image(np.zeros((4, 3), np.uint16), sop_class="1.2.840.10008.5.1.4.1.1.4", Modality="MR"), tmp_path / "mr.dcm")
    assert [(g[0].series_uid, len(g)) for g in series_in(tmp_path)] == [("1.2", 7), ("1.1", 5)]
    (found,) = read_headers([tmp_path / "mr.dcm"])
    assert (found.modality, found.sop_class) == ("MR", "1.2.840.10008.5.1.4.1.1.4")


def test_an_empty_folder_and_none(tmp_path):
    with pytest.raises(ScanError, match="holds 0 files"):
        read_ct(tmp_path)
    with pytest.raises(ScanError, match="not of a format"):
        read_ct(tmp_path / generate_uid())
