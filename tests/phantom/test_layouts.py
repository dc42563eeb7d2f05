"""Every kind of layout, read back by readers that are not atlas's: the masks are those of the formula."""

import re

import highdicom as hd
import matplotlib.path
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from atlas.errors import SpecError
from atlas.phantom import write_dataset
from atlas.phantom.outlines import outlines
from atlas.phantom.painted import NOISE_HU
from atlas.spec import load_manifest

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def files(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def natural(path):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def slices(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir(), key=natural)]


def affine_of(stack):
    """(column, row, slice) to RAS mm, from the tags of slices in the order of their names."""
    first, last = stack[0], stack[-1]
    across = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0] = across[0] * first.PixelSpacing[1]
    affine[:3, 1] = across[1] * first.PixelSpacing[0]
    start, end = (np.array(one.ImagePositionPatient, float) for one in (first, last))
    affine[:3, 2], affine[:3, 3] = (end - start) / (len(stack) - 1), start
    return LPS_TO_RAS @ affine


def volume(stack):
    return np.stack([one.pixel_array.T for one in stack], axis=-1)


def formula(phantom, shape, affine):
    """Masks (i, j, k) by class, of all classes and not of the available ones alone."""
    numbers = phantom.anatomy.paint(shape, affine)
    return {name: phantom.anatomy.members(name)[numbers] for name in phantom.anatomy.names | phantom.available}


def pair(masks, name):
    return masks[f"{name}_left"] | masks[f"{name}_right"]


def assert_structure(found, name, masks):
    """A structure of the label maps in conftest.py."""
    lesion = masks.get("liver_tumor", np.zeros_like(masks["liver"]))
    expected = {
        "liver": masks["liver"] & ~lesion,
        "tumor": lesion,
        "lesion1": lesion,
        "spleen": masks["spleen"],
        "kidney": pair(masks, "kidney"),
    }[name]
    np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize("dataset", ["series", "pngs", "folders", "segmentations", "contours"])
def test_ct_is_the_body(layouts, tmp_path, dataset):
    """SimpleITK finds the Hounsfield units of the formula at the right places, whatever the order of the files."""
    for phantom in write_dataset(dataset, tmp_path):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(phantom.image))
        image = sitk.ReadImage(names)
        step = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
        affine = LPS_TO_RAS @ np.block([[step, np.array([image.GetOrigin()]).T], [np.zeros(3), np.ones(1)]])
        body = phantom.anatomy.hu[phantom.anatomy.paint(image.GetSize(), affine)]
        off = sitk.GetArrayFromImage(image).T - np.maximum(body, -1024)
        assert np.abs(off).max() < 6 * NOISE_HU
        assert abs(off.mean()) < 1


def test_tags(layouts, tmp_path):
    stacks = [slices(phantom.image) for phantom in write_dataset("series", tmp_path, cases=6)]
    for stack in stacks:
        one = stack[0]
        assert one.ImageOrientationPatient == [1, 0, 0, 0, -1, 0]
        assert set(np.diff([float(s.ImagePositionPatient[2]) for s in stack])) == {-5}
        assert one.SliceThickness == 7.5
        assert one.RescaleIntercept == -1024
        assert one.PhotometricInterpretation == "MONOCHROME2"
        assert len({s.SOPInstanceUID for s in stack}) == len(stack)
        assert len({(s.SeriesInstanceUID, s.FrameOfReferenceUID) for s in stack}) == 1
        assert not one.file_meta.TransferSyntaxUID.is_compressed
    assert {(stack[0].BitsStored, stack[0].PixelRepresentation) for stack in stacks} == {(12, 0), (16, 1)}


def test_labels_with_other_axes(layouts, tmp_path):
    for phantom in write_dataset("series", tmp_path):
        stack = slices(phantom.image)
        case = phantom.case_id.partition("/")[2]
        label = nib.load(tmp_path / "series" / "labels" / f"label{case}.nii.gz")
        assert nib.aff2axcodes(label.affine) == ("R", "P", "S")
        ct = affine_of(stack)
        assert "".join(nib.aff2axcodes(ct)) == load_manifest("series").layout.storage.orientation
        # the axes are right: turned to the CT's own, voxel k is voxel k
        turn = nib.orientations.ornt_transform(nib.io_orientation(label.affine), nib.io_orientation(ct))
        turned = label.as_reoriented(turn)
        assert not np.allclose(turned.affine, ct, atol=1), "the position is wrong"
        np.testing.assert_allclose(turned.affine[:3, :3], ct[:3, :3], atol=1e-5)
        masks = formula(phantom, turned.shape, ct)
        data = np.asarray(turned.dataobj)
        for value, name in enumerate(["liver", "spleen", "kidney_left", "kidney_right"], start=1):
            np.testing.assert_array_equal(data == value, masks[name])


def test_pngs_belong_to_files_by_name(layouts, tmp_path):
    for phantom in write_dataset("pngs", tmp_path):
        stack = slices(phantom.image)
        paths = sorted((phantom.image.parent / "Ground").iterdir())
        assert len(paths) == len(stack)
        data = np.stack([np.asarray(Image.open(path)).T for path in paths], axis=-1)
        assert set(np.unique(data)) == {0, 255}
        masks = formula(phantom, data.shape, affine_of(stack))
        np.testing.assert_array_equal(data == 255, masks["liver"])


def test_folders_of_masks(layouts, tmp_path):
    phantoms = write_dataset("folders", tmp_path, cases=["1", "2", "3"])
    found = []
    for phantom in phantoms:
        ct = slices(phantom.image)
        assert sorted(path.name for path in phantom.image.iterdir())[:3] == ["image_0", "image_1", "image_10"]
        masks = formula(phantom, volume(ct).shape, affine_of(ct))
        folders = sorted((phantom.image.parent / "MASKS").iterdir())
        for folder in folders:
            stack = slices(folder)
            assert [one.ImagePositionPatient for one in stack] == [one.ImagePositionPatient for one in ct]
            assert set(np.unique(volume(stack))) == {0, 255}, "no folder of nothing"
            assert_structure(volume(stack) == 255, folder.name, masks)
        found.append({folder.name for folder in folders} - {"liver", "spleen", "kidney"})
        assert ("liver_tumor" in phantom.available) == bool(found[-1])
    assert set().union(*found) == {"tumor", "lesion1"}, "spellings take turns"
    assert all(len(names) <= 1 for names in found)


def test_segmentation(layouts, tmp_path):
    for phantom, phases in zip(write_dataset("segmentations", tmp_path), (1, 2), strict=True):
        ct = slices(phantom.image)
        study = phantom.image.parents[1]
        series = [folder for folder in study.glob("*/*") if len(list(folder.iterdir())) > 1]
        assert len(series) == phases
        (path,) = (folder / "1-1.dcm" for folder in study.glob("*/*") if folder not in series)
        seg = hd.seg.segread(path)
        assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == ct[0].SeriesInstanceUID
        masks = formula(phantom, volume(ct).shape, affine_of(ct))
        pixels = seg.get_pixels_by_source_instance(
            [one.SOPInstanceUID for one in ct], assert_missing_frames_are_empty=True
        )
        labels = [seg.get_segment_description(n).segment_label for n in seg.segment_numbers]
        assert labels == ["liver", "tumor", "lesion1", "spleen", "kidney"]
        for number, label in enumerate(labels):
            assert_structure(pixels[..., number].transpose(2, 1, 0) > 0, label, masks)


def test_structure_set(layouts, tmp_path):
    """Contours filled by matplotlib, one after the other, each turning inside out what it holds."""
    for phantom in write_dataset("contours", tmp_path):
        ct = slices(phantom.image)
        by_uid = {one.SOPInstanceUID: k for k, one in enumerate(ct)}
        (path,) = phantom.image.parent.glob("*/1-1.dcm")
        found = pydicom.dcmread(path)
        assert found.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID == ct[0].FrameOfReferenceUID
        to_voxels = np.linalg.inv(affine_of(ct)) @ LPS_TO_RAS
        shape = volume(ct).shape
        masks = formula(phantom, shape, affine_of(ct))
        centres = np.argwhere(np.ones(shape[:2], bool))
        names = {roi.ROINumber: roi.ROIName for roi in found.StructureSetROISequence}
        for roi in found.ROIContourSequence:
            mask = np.zeros(shape, bool)
            for contour in roi.ContourSequence:
                points = np.array(contour.ContourData, float).reshape(-1, 3) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
                k = by_uid[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
                np.testing.assert_allclose(points[:, 2], k, atol=1e-4)
                inside = matplotlib.path.Path([*points[:, :2], points[0, :2]]).contains_points(centres)
                mask[:, :, k] ^= inside.reshape(shape[:2])
            assert_structure(mask, names[roi.ReferencedROINumber], masks)
        drawn = {names[roi.ReferencedROINumber] for roi in found.ROIContourSequence}
        assert ("liver_tumor" in phantom.available) == ({"tumor", "lesion1"} <= drawn)


def test_outlines_of_anything():
    """Holes, corners that touch, single pixels, the edge of the picture."""
    rng = np.random.default_rng(0)
    for density in (0.1, 0.5, 0.9, 1.0):
        mask = rng.random((9, 7)) < density
        inside = np.zeros(mask.size, bool)
        for corners in outlines(mask):
            closed = matplotlib.path.Path([*corners, corners[0]])
            inside ^= closed.contains_points(np.argwhere(np.ones(mask.shape, bool)))
        np.testing.assert_array_equal(inside.reshape(mask.shape), mask)
    assert outlines(np.zeros((3, 3), bool)) == []
    assert len(outlines(np.ones((3, 3), bool))[0]) == 4


def test_labels_on_a_borrowed_ct(layouts, tmp_path):
    phantoms = write_dataset("labels_alone", tmp_path / "a")
    cases = [phantom.case_id.partition("/")[2] for phantom in phantoms]
    own = write_dataset("series", tmp_path / "b", cases=cases)
    lent = files(tmp_path / "a" / "series")
    assert lent.items() <= files(tmp_path / "b" / "series").items(), "the same files as the lender's own"
    assert [phantom.anatomy for phantom in own] == [phantom.anatomy for phantom in phantoms]
    table = (tmp_path / "a" / "labels_alone" / "slices.csv").read_text().splitlines()
    assert len(table) >= 1 + 7
    for number, (phantom, case) in enumerate(zip(phantoms, cases, strict=True)):
        line = table[1 + 3 + number].split(",")
        assert line[1] == case
        label = nib.load(tmp_path / "a" / "labels_alone" / "labels" / f"{case}.nii")
        data = np.asarray(label.dataobj)
        assert nib.aff2axcodes(label.affine)[2] == "I"
        # the table counts upwards
        first, stop = data.shape[2] - int(line[2]), data.shape[2] - int(line[4])
        stack = slices(phantom.image)
        masks = formula(phantom, data.shape, affine_of(stack))
        np.testing.assert_allclose(label.affine, affine_of(stack), atol=1e-3)
        expected = masks["stomach"].copy()
        expected[:, :, :first] = expected[:, :, stop:] = False
        np.testing.assert_array_equal(data == 1, expected)
        known = phantom.annotated(data.shape[::-1], affine_of(stack)).T
        assert known[:, :, first:stop].all()
        assert not known[:, :, :first].any()
        assert not known[:, :, stop:].any()


def test_no_such_ct_at_the_lender(layouts, tmp_path):
    path = layouts / "manifests" / "labels_alone.yaml"
    path.write_text(path.read_text().replace("P_{case}", "Q_{case}"))
    with pytest.raises(SpecError, match=r"Q_00\d+ is no name of a CT of series"):
        write_dataset("labels_alone", tmp_path, cases=1)


def test_only_what_is_drawn_is_available(layouts, tmp_path):
    phantoms = write_dataset("partly", tmp_path, cases=[f"F_{n:04d}" for n in range(4)])
    for phantom in phantoms:
        label = nib.load(tmp_path / "partly" / "labels" / f"{phantom.case_id.partition('/')[2]}.nii.gz")
        shown = {"liver"} | ({"liver_tumor"} if 2 in np.asarray(label.dataobj) else set())
        assert phantom.available == shown
    assert len({phantom.available for phantom in phantoms}) == 2


def test_structures_left_out(layouts, tmp_path):
    first, second = write_dataset("segmentations", tmp_path / "a", without=[{"spleen", "tumor"}])
    assert second.available - first.available == {"spleen", "liver_tumor"}, "lesion* is there, but not all of it"
    (path,) = first.image.parents[1].glob("*/*/1-1.dcm")
    labels = [segment.SegmentLabel for segment in pydicom.dcmread(path).SegmentSequence]
    assert labels == ["liver", "lesion1", "kidney"]
    with pytest.raises(SpecError, match=r"has no \['heart'\]; it has kidney, lesion\*, liver"):
        write_dataset("segmentations", tmp_path / "b", without=[{"heart"}])


def test_one_of_several_label_files(layouts, tmp_path):
    first, second = write_dataset("listed", tmp_path, cases=["c1", "c2"], without=[(), {"old"}])
    assert sorted(path.name for path in (tmp_path / "listed" / "labels").iterdir()) == ["c1_o.nii", "c2_n.nii"]
    assert first.available == {"liver"}
    assert second.available == {"liver", "spleen"}


@pytest.mark.parametrize("dataset", ["series", "labels_alone", "pngs", "folders", "segmentations", "contours"])
def test_same_bytes(layouts, tmp_path, dataset):
    small = ((-150.0, 150.0), (-120.0, 120.0), (-60.0, 60.0))
    for attempt in ("a", "b"):
        write_dataset(dataset, tmp_path / attempt, field=small)
    assert files(tmp_path / "a") == files(tmp_path / "b")
