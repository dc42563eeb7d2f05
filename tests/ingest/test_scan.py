"""Labels beside their CT: same grid, another grid, or another place."""

import nibabel as nib
import numpy as np
import pytest

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
    assert "another grid" in label.warnings[0]


def test_a_cropped_label_keeps_its_place_and_is_not_whole(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [3, 2, 1, 1])[:3]
    label, whole = read(tmp_path, labels((5, 6, 4)), affine)
    assert not whole
    np.testing.assert_allclose(label.affine, affine)


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
