"""Folders of a whole case: which CT the labels were drawn on, and what comes out."""

import shutil
import tarfile

import numpy as np
import pydicom
import pytest
from dicom_writing import SHAPE, as_frames, write_ct, write_segmentation, write_structures

from atlas.errors import AtlasError, GeometryError, ScanError
from atlas.ingest.dicom.study import read_study


def random_masks(count=2, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).random((count, *shape)) < 0.4


def masks(study):
    return {name: volume.data for name, volume in study.layers()}


def box(ct, k, i=(2, 9)):
    """A square on slice k."""
    return ct.points(np.array([[i[0], 2, k], [i[1], 2, k], [i[1], 7, k], [i[0], 7, k]], float))


def test_a_study_with_both_kinds_of_labels(tmp_path):
    ct = write_ct(tmp_path / "a" / "b")
    (tmp_path / "LICENSE.txt").write_text("not DICOM")
    truth = random_masks()
    write_segmentation(tmp_path / "seg.dcm", ct, as_frames(truth), ["Liver", "Tumor"])
    write_structures(tmp_path / "rs.dcm", ct, [("Kidney", [box(ct, 1)])])
    study = read_study(tmp_path)
    assert study.names == ("Kidney", "Liver", "Tumor")
    assert {path.name for path in study.files} == {path.name for path in ct.paths} | {"seg.dcm", "rs.dcm"}
    assert study.notes == ()
    image = study.image()
    assert image.data.shape == SHAPE
    assert np.array_equal(image.data[0, 0], np.arange(6) + 1000 - 1024)
    for name, volume in study.layers():
        assert np.array_equal(volume.affine, image.affine), name
        assert volume.data.shape == SHAPE
    found = masks(study)
    assert np.array_equal([found["Liver"], found["Tumor"]], truth)
    assert found["Kidney"][2:9, 2:7, 1].all()
    assert found["Kidney"].sum() == 35


def test_of_two_cts_the_one_that_is_named(tmp_path):
    arterial, portal = (write_ct(tmp_path / str(n), number=n) for n in (1, 2))
    truth = random_masks()
    write_segmentation(tmp_path / "seg.dcm", portal, as_frames(truth), ["Liver", "Tumor"])
    study = read_study(tmp_path)
    assert study.series.uid == portal.uid != arterial.uid
    assert study.notes == ()
    assert np.array_equal(list(masks(study).values()), truth)


def test_of_two_cts_that_are_named_the_one_that_frames_name(tmp_path):
    arterial, portal = (write_ct(tmp_path / str(n), number=n) for n in (1, 2))

    def both(seg):
        item = pydicom.Dataset()
        item.SeriesInstanceUID = arterial.uid
        item.ReferencedInstanceSequence = [pydicom.Dataset()]
        item.ReferencedInstanceSequence[0].ReferencedSOPClassUID = arterial.datasets[0].SOPClassUID
        item.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = arterial.datasets[0].SOPInstanceUID
        seg.ReferencedSeriesSequence = [item, *seg.ReferencedSeriesSequence]

    write_segmentation(tmp_path / "seg.dcm", portal, as_frames(random_masks()), ["a", "b"], change=both)
    assert read_study(tmp_path).series.uid == portal.uid


def no_references(seg):
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        if keyword in seg:
            del seg[keyword]
    for group in (*seg.SharedFunctionalGroupsSequence, *seg.PerFrameFunctionalGroupsSequence):
        if "DerivationImageSequence" in group:
            del group["DerivationImageSequence"]


def elsewhere(seg):
    no_references(seg)
    series, image = pydicom.Dataset(), pydicom.Dataset()
    series.SeriesInstanceUID = "1.9"
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.9.9"
    series.ReferencedInstanceSequence = [image]
    seg.ReferencedSeriesSequence = [series]


@pytest.mark.parametrize("change", [no_references, elsewhere])
def test_without_its_ct_the_only_one_that_fits_is_taken(tmp_path, change):
    ct = write_ct(tmp_path / "ct", number=4)
    write_ct(tmp_path / "other space", frame="1.2.9", number=5)
    write_ct(tmp_path / "other height", origin=(-100, 50, 300), number=6)
    write_ct(tmp_path / "beside", origin=(-400, 50, 33), number=7)
    truth = random_masks()
    write_segmentation(tmp_path / "seg.dcm", ct, as_frames(truth), ["a", "b"], change=change)
    study = read_study(tmp_path)
    assert study.series.uid == ct.uid
    assert study.notes == (
        "seg.dcm names no CT that is here; taken to be drawn on series 4 'series 4' (6 slices), the only one that fits",
    )
    assert np.array_equal(list(masks(study).values()), truth)


def test_a_ct_that_cannot_hold_the_labels_is_not_the_one(tmp_path):
    ct = write_ct(tmp_path / "ct", number=4)
    wrong = write_ct(tmp_path / "wrong", origin=(-100, 50, 300), number=5)

    def wrongly(seg):
        elsewhere(seg)
        seg.ReferencedSeriesSequence[0].SeriesInstanceUID = wrong.uid

    truth = random_masks()
    write_segmentation(tmp_path / "seg.dcm", ct, as_frames(truth), ["a", "b"], change=wrongly)
    study = read_study(tmp_path)
    assert study.series.uid == ct.uid
    assert "names a CT that cannot hold it; taken to be drawn on series 4" in study.notes[0]
    shutil.rmtree(tmp_path / "ct")
    with pytest.raises(ScanError, match=r"names series 5 .*none can hold it"):
        read_study(tmp_path)


def test_several_cts_that_fit_are_refused_with_their_names(tmp_path):
    ct = write_ct(tmp_path / "1", number=1)
    write_ct(tmp_path / "2", number=2)
    path = write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks()), ["a", "b"], change=no_references)
    with pytest.raises(ScanError, match=r"several can hold it: series 1 .*, series 2 ") as caught:
        read_study(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: {path.name} ")
    write_structures(path, ct, [("a", [box(ct, 1)])], refer=False)
    with pytest.raises(ScanError, match="several can hold it"):
        read_study(tmp_path)


def test_of_several_the_one_with_slices_where_the_planes_are(tmp_path):
    ct = write_ct(tmp_path / "1", number=1)
    write_ct(tmp_path / "2", number=2, spacing=(0.8, 0.7, 2.0), shape=(11, 9, 9), origin=(-100, 50, 32.2))
    write_ct(tmp_path / "3", number=3, shape=(11, 9, 8), origin=(-100, 50, 30.5))
    truth = random_masks()
    write_segmentation(tmp_path / "seg.dcm", ct, as_frames(truth), ["a", "b"], change=no_references)
    study = read_study(tmp_path)
    assert study.series.uid == ct.uid
    assert np.array_equal(list(masks(study).values()), truth)


def test_acquisitions_at_the_same_places_in_one_series(tmp_path):
    first = write_ct(tmp_path / "1", series="1.5", acquisition=1)
    second = write_ct(tmp_path / "2", series="1.5", acquisition=2)
    truth = random_masks()
    truth[:, :, :, 4:] = False  # frames of empty slices are left out
    path = write_segmentation(tmp_path / "seg.dcm", second, as_frames(truth), ["a", "b"])
    study = read_study(tmp_path)
    assert set(study.series.files) == set(second.paths)
    assert study.image().data[0, 0, 0] == 2000 - 1024
    assert "6 of 12 slices were meant" in study.notes[0]
    assert np.array_equal(list(masks(study).values()), truth)
    # slices that only the frames name: the rest of the acquisition is meant too
    found = pydicom.dcmread(path)
    del found.ReferencedSeriesSequence
    found.save_as(path)
    assert set(read_study(tmp_path).series.files) == set(second.paths)
    # an object that names the whole series, and draws on one acquisition of it
    item = pydicom.Dataset()
    item.SeriesInstanceUID = "1.5"
    item.ReferencedInstanceSequence = [pydicom.Dataset() for _ in range(12)]
    for each, image in zip(item.ReferencedInstanceSequence, first.datasets + second.datasets, strict=True):
        each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    found.ReferencedSeriesSequence = [item]
    found.save_as(path)
    assert set(read_study(tmp_path).series.files) == set(second.paths)
    # and without a name of any, nobody can tell
    write_segmentation(path, first, as_frames(truth), ["a", "b"], change=no_references)
    with pytest.raises(GeometryError, match="acquisitions or phases"):
        read_study(tmp_path)


def test_acquisitions_without_numbers_are_told_by_the_slices_that_are_named(tmp_path):
    write_ct(tmp_path / "1", series="1.5")
    second = write_ct(tmp_path / "2", series="1.5")
    write_segmentation(tmp_path / "seg.dcm", second, as_frames(random_masks()), ["a", "b"])
    assert set(read_study(tmp_path).series.files) == set(second.paths)


def test_acquisitions_one_above_the_other_are_one_ct(tmp_path):
    lower = write_ct(tmp_path / "1", series="1.5", acquisition=1, shape=(11, 9, 3))
    write_ct(tmp_path / "2", series="1.5", acquisition=2, shape=(11, 9, 3), origin=(-100, 50, 33 + 3 * 2.5))
    write_structures(tmp_path / "rs.dcm", lower, [("a", [box(lower, 1)])])
    assert read_study(tmp_path).series.shape == SHAPE


def test_slices_that_are_not_named_belong_to_the_ct_all_the_same(tmp_path):
    ct = write_ct(tmp_path / "ct")
    path = write_structures(tmp_path / "rs.dcm", ct, [("a", [box(ct, 1)])])
    found = pydicom.dcmread(path)
    series = found.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.ContourImageSequence = [series.ContourImageSequence[1]]
    found.save_as(path)
    assert read_study(tmp_path).series.shape == SHAPE


def test_one_name_in_several_objects(tmp_path):
    ct = write_ct(tmp_path / "ct")
    truth = random_masks()
    write_segmentation(tmp_path / "1.dcm", ct, as_frames(truth[:1]), ["Tumor"])
    write_segmentation(tmp_path / "2.dcm", ct, as_frames(truth[1:]), ["Tumor"])
    study = read_study(tmp_path)
    ((name, volume),) = study.layers()
    assert name == "Tumor"
    assert np.array_equal(volume.data, truth[0] | truth[1])
    assert volume.warnings == ("'Tumor' is in 1.dcm and in 2.dcm: taken together",)
    spacing = [1.0, 1.1, 5.0]
    place = ct.points(np.array([[1.3, 1.3, 0], [1.3, 1.3, 2], [1.3, 1.3, 4]]))
    other = as_frames(np.ones((1, 7, 5, 3)))
    write_segmentation(tmp_path / "2.dcm", ct, other, ["Tumor"], geometry=(spacing, [1, 0, 0, 0, 1, 0], place))
    with pytest.raises(ScanError, match=r"2\.dcm: 'Tumor' is on another grid than in 1\.dcm"):
        list(read_study(tmp_path).layers())


def test_labels_drawn_on_different_cts_are_refused(tmp_path):
    cts = [write_ct(tmp_path / str(n), number=n) for n in (1, 2)]
    for n, ct in enumerate(cts):
        write_structures(tmp_path / f"rs{n}.dcm", ct, [("a", [box(ct, 1)])])
    with pytest.raises(ScanError, match=r"different CTs: rs0\.dcm on series 1 .*; rs1\.dcm on series 2 "):
        read_study(tmp_path)


def test_another_frame_of_reference_than_the_ct_that_is_named(tmp_path):
    ct = write_ct(tmp_path / "ct")
    write_structures(tmp_path / "rs.dcm", ct, [("a", [box(ct, 1)])], frame="1.7")
    study = read_study(tmp_path)
    assert study.notes == ("rs.dcm has another frame of reference than the CT it names",)
    assert study.image().warnings[0] == study.notes[0]


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ScanError, match="holds no files"):
        read_study(tmp_path / "nowhere")
    ct = write_ct(tmp_path / "ct")
    with pytest.raises(ScanError, match=r"holds no DICOM-SEG or RTSTRUCT object \(found 6 CT\)"):
        read_study(tmp_path)
    write_segmentation(tmp_path / "seg.dcm", ct, as_frames(random_masks()), ["a", "b"])
    shutil.rmtree(tmp_path / "ct")
    with pytest.raises(ScanError, match=r"holds no CT series \(found 1 SEG\)"):
        read_study(tmp_path)


def test_slices_that_are_missing_are_told(tmp_path):
    ct = write_ct(tmp_path / "ct")
    write_structures(tmp_path / "rs.dcm", ct, [("a", [box(ct, 1)])])
    ct.paths[3].unlink()
    with pytest.raises(GeometryError, match="slices are missing"):
        read_study(tmp_path)
    ct.paths[5].unlink()
    ct.paths[4].unlink()
    assert read_study(tmp_path).series.shape == (11, 9, 3)
    write_structures(tmp_path / "rs.dcm", ct, [("a", [box(ct, 4)])])
    with pytest.raises(AtlasError, match="none can hold it"):
        read_study(tmp_path)


@pytest.mark.realdata
def test_real_studies(realdata, tmp_path):
    expected = {
        "dcmqi/dcmqi_liver_ct3slice_seg.tar.xz": (
            (512, 512, 3),
            {"Liver": 107098, "GREEN": 9602, "ORANGE": 11888, "PURPLE": 10743, "LIGHT_BLUE": 6693, "DARK_BLUE": 4713},
        ),
        "ibsi/ibsi_1_ct_phantom_dicom_rtstruct.tar.xz": ((204, 201, 60), {"GTV-1": 125256}),
    }
    for n, (name, (shape, voxels)) in enumerate(expected.items()):
        with tarfile.open(realdata / name) as archive:
            archive.extractall(tmp_path / str(n), filter="data")
        study = read_study(tmp_path / str(n))
        assert study.notes == ()
        image = study.image()
        assert image.data.shape == shape
        found = dict(study.layers())
        assert {name: int(volume.data.sum()) for name, volume in found.items()} == voxels
        assert all(np.array_equal(volume.affine, image.affine) for volume in found.values())
