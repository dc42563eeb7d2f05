"""Labels beside their CT: same grid, another grid, or another place; files, folders and studies."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from ct_writing import axial, image, stored_numbers
from ct_writing import save as save_dicom
from dicom_writing import write_ct, write_structures
from PIL import Image

from atlas.errors import GeometryError, ScanError
from atlas.ingest.cases import CaseFiles
from atlas.ingest.scan import read_image, read_layers
from atlas.spec.files import Layout

SHAPE = (12, 10, 8)
AFFINE = np.array([[-2.0, 0, 0, 50], [0, -2, 0, 40], [0, 0, 3, -30], [0, 0, 0, 1]])


def save(path, data, affine):
    path.parent.mkdir(exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.to_filename(path)


def layout(**more):
    return Layout.model_validate({"image": "ct/{case}.nii", "labels": {"seg": "seg/{case}.nii"}, **more})


def read(folder, data, affine, **more):
    """The only layer of a case whose label is as given."""
    save(folder / "ct/a.nii", np.zeros(SHAPE, np.int16), AFFINE)
    save(folder / "seg/a.nii", data, affine)
    case = CaseFiles("a", "ct/a.nii", {"seg": "seg/a.nii"})
    volume = read_image(case, folder, layout())
    ((name, is_mask, label, whole),) = read_layers(
        case, folder, layout(**more), shape=volume.data.shape, affine=volume.affine
    )
    assert (name, is_mask) == ("seg", False)
    return label, whole


def labels(shape=SHAPE):
    return np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) % 3


def test_same_grid(tmp_path):
    label, whole = read(tmp_path, labels(), AFFINE)
    assert whole
    assert label.warnings == ()
    np.testing.assert_array_equal(label.data, labels())


def test_rounding_in_the_header_is_no_difference(tmp_path):
    label, whole = read(tmp_path, labels(), AFFINE + np.float32(1e-4))
    assert whole
    np.testing.assert_array_equal(label.affine, AFFINE)
    assert label.warnings == ()


def test_another_orientation_of_the_same_grid(tmp_path):
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    label, whole = read(tmp_path, labels()[::-1], AFFINE @ flip)
    assert whole
    np.testing.assert_allclose(label.affine, AFFINE @ flip)
    assert label.warnings == ()


def test_a_cropped_label_keeps_its_place_and_is_not_whole(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [3, 2, 1, 1])[:3]
    label, whole = read(tmp_path, labels((5, 6, 4)), affine)
    assert not whole
    np.testing.assert_allclose(label.affine, affine)
    assert "another grid" in label.warnings[0]


@pytest.mark.parametrize("shift", [(15, 0, 0), (0, -8, 0), (0, 0, 200)])
def test_a_label_elsewhere_is_refused(tmp_path, shift):
    affine = AFFINE.copy()
    affine[:3, 3] += shift
    with pytest.raises(GeometryError, match=r"seg/a\.nii: reaches .* beyond the CT.*label_geometry: image"):
        read(tmp_path, labels(), affine)


def test_by_index_where_the_manifest_says_so(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 3] = 0
    label, whole = read(tmp_path, labels(), affine, label_geometry="image")
    assert whole
    np.testing.assert_array_equal(label.affine, AFFINE)
    with pytest.raises(GeometryError, match="one grid"):
        read(tmp_path, labels((5, 6, 4)), AFFINE, label_geometry="image")


def test_a_mask_holds_only_0_and_1(tmp_path):
    save(tmp_path / "ct/a.nii", np.zeros(SHAPE, np.int16), AFFINE)
    save(tmp_path / "seg/liver.nii", labels(), AFFINE)
    case = CaseFiles("a", "ct/a.nii", masks={"liver": "seg/liver.nii"})
    with pytest.raises(ScanError, match="0 and 1 only"):
        list(read_layers(case, tmp_path, layout(), shape=SHAPE, affine=AFFINE))


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_by_index_a_header_may_say_nothing_or_nonsense(tmp_path, suffix):
    save(tmp_path / "ct/a.nii", np.zeros(SHAPE, np.int16), AFFINE)
    path = tmp_path / f"a{suffix}"
    if suffix == ".nii":
        header = nib.Nifti1Header()
        header["magic"], header["vox_offset"] = b"n+1", 352
        header["dim"][:4], header["datatype"], header["bitpix"] = (3, *SHAPE), 2, 8
        header["sform_code"], header["srow_x"] = 1, [0, np.nan, 9e9, 0]
        path.write_bytes(header.binaryblock + b"\0" * 4 + labels().tobytes(order="F"))
    else:
        picture = sitk.GetImageFromArray(np.ascontiguousarray(labels().T))
        picture.SetSpacing((1e-9, 1e9, 1))
        sitk.WriteImage(picture, str(path), useCompression=False)
    if suffix == ".nrrd":
        text = path.read_bytes()
        assert text.count(b"space: left-posterior-superior\n") == 1
        path.write_bytes(text.replace(b"space: left-posterior-superior\n", b"space dimension: 3\n"))
    case = CaseFiles("a", "ct/a.nii", {"seg": path.name})
    with pytest.raises(GeometryError):
        list(read_layers(case, tmp_path, layout(), shape=SHAPE, affine=AFFINE))
    ((_, _, label, whole),) = read_layers(case, tmp_path, layout(label_geometry="image"), shape=SHAPE, affine=AFFINE)
    assert whole
    np.testing.assert_array_equal(label.data, labels())
    np.testing.assert_array_equal(label.affine, AFFINE)


def by_axes(data, affine, axes):
    """A volume stored along other axes: by nibabel, and so where nibabel says that each voxel is."""
    turned = nib.Nifti1Image(data, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    )
    return np.asarray(turned.dataobj), turned.affine


AXES = ["".join(letters) for order in permutations(("RL", "AP", "SI")) for letters in product(*order)]


@pytest.mark.parametrize("axes", AXES)
def test_by_axes_a_flipped_copy_lands_on_the_ct(tmp_path, axes):
    data, affine = by_axes(labels(), AFFINE, axes)
    affine[:3, 3] = (500, -700, 12)  # a position that is worth nothing
    label, whole = read(tmp_path, data, affine, label_geometry="axes")
    assert whole
    # the label is as it is stored, and each of its voxels has the place of the CT's voxel of that value
    to_ct = np.linalg.inv(AFFINE) @ label.affine
    for index in product(*(range(n) for n in label.data.shape)):
        found = to_ct @ (*index, 1)
        assert np.allclose(found, np.rint(found), atol=1e-9)
        assert label.data[index] == labels()[tuple(np.rint(found[:3]).astype(int))]
    np.testing.assert_array_equal(label.data, data)


def test_by_axes_the_sizes_must_agree(tmp_path):
    data, affine = by_axes(labels((12, 10, 7)), AFFINE, "IPR")
    with pytest.raises(GeometryError, match=r"shape \(12, 10, 7\) along the axes of the CT, the CT has \(12, 10, 8\)"):
        read(tmp_path, data, affine, label_geometry="axes")


def dicom_case(folder):
    """A CT as a folder, a PNG stack, a folder of masks, and a NIfTI label drawn on a flipped copy."""
    stored = stored_numbers()
    values = (stored % 3).astype(np.uint8)
    for n, ds in enumerate(axial(stored)):
        save_dicom(ds, folder / f"1/ct/{n}.dcm")
        (folder / "1/gt").mkdir(exist_ok=True)
        Image.fromarray(values[n]).save(folder / f"1/gt/{n}.png")
        mask = image((values[n] == 1) * np.uint8(255), (-10, -20, 30 + 2.5 * n))
        save_dicom(mask, folder / f"1/masks/liver/{n}.dcm")
    case = CaseFiles("1", "1/ct/", {"seg": "1/gt/"}, {"liver": "1/masks/liver/"})
    return case, stored, values


def test_folders_of_slices(tmp_path):
    case, stored, values = dicom_case(tmp_path)
    described = Layout.model_validate(
        {"image": "{case}/ct/", "labels": {"seg": "{case}/gt/"}, "masks": "{case}/masks/{structure}/"}
    )
    ct = read_image(case, tmp_path, described)
    np.testing.assert_array_equal(ct.data, stored.T.astype(int) - 1024)
    layers = list(read_layers(case, tmp_path, described, shape=ct.data.shape, affine=ct.affine))
    assert [(name, is_mask, whole) for name, is_mask, _, whole in layers] == [
        ("seg", False, True),
        ("liver", True, True),
    ]
    np.testing.assert_array_equal(layers[0][2].data, values.T)
    np.testing.assert_array_equal(layers[1][2].data, values.T == 1)
    for _, _, volume, _ in layers:
        np.testing.assert_array_equal(volume.affine, ct.affine)


def test_a_stack_beside_a_ct_that_is_one_file(tmp_path):
    case, _, _ = dicom_case(tmp_path)
    case.image = "1/ct.nii.gz"
    with pytest.raises(ScanError, match=r"belong to a CT in a folder of slices; this one is 1/ct\.nii\.gz"):
        list(read_layers(case, tmp_path, layout(), shape=(3, 4, 5), affine=AFFINE))


def test_the_ct_of_another_dataset(tmp_path):
    case, stored, _ = dicom_case(tmp_path / "other")
    case.image = "../other/1/ct/"
    here = tmp_path / "here"
    here.mkdir()
    link = tmp_path / "elsewhere/deep"
    link.parent.mkdir()
    here.rename(link)
    here.symlink_to(link)  # beside the dataset as it is named, not as the link leads
    np.testing.assert_array_equal(read_image(case, here, layout()).data, stored.T.astype(int) - 1024)


def test_a_study(tmp_path):
    ct = write_ct(tmp_path / "p1/series")
    square = np.array([[2, 2, 1], [7, 2, 1], [7, 6, 1], [2, 6, 1]], dtype=float)
    (tmp_path / "p1/labels").mkdir()
    write_structures(tmp_path / "p1/labels/rs.dcm", ct, [("Liver", [ct.points(square)])])
    case = CaseFiles("p1", study="p1/")
    described = Layout.model_validate({"study": "{case}/"})
    volume = read_image(case, tmp_path, described)
    np.testing.assert_allclose(volume.affine, ct.affine)
    ((name, is_mask, mask, whole),) = read_layers(
        case, tmp_path, described, shape=volume.data.shape, affine=volume.affine
    )
    assert (name, is_mask, whole) == ("Liver", True, True)
    np.testing.assert_array_equal(mask.affine, volume.affine)
    assert mask.data[4, 4, 1] == 1
    assert set(np.argwhere(mask.data)[:, 2]) == {1}
