"""What voxels tell: CT or labels, and where each label lies."""

import nibabel as nib
import numpy as np
import pytest

from atlas.draft.survey import Eye, _relative, _tallies, judged
from atlas.errors import ScanError

rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (rng.integers(-1024, 2000, (20, 20, 20)).astype(np.int16), True),
        (rng.normal(-100, 300, (20, 20, 20)).astype(np.float32), True),
        (rng.integers(0, 100, (20, 20, 20)).astype(np.int16), False),
        (np.zeros((4, 4, 4), np.float32), False),
    ],
)
def test_judged(data, answer):
    assert judged(data, "x") is answer


@pytest.mark.parametrize(
    "data",
    [
        rng.integers(0, 4096, (20, 20, 20)).astype(np.int16),  # no HU
        rng.random((20, 20, 20)).astype(np.float32),  # probabilities
        rng.integers(-160, 240, (20, 20, 20)).astype(np.int16),  # a window
        np.where(rng.random((20, 20, 20)) > 0.5, -1000, 1).astype(np.int16),  # a mask of its own kind
        np.full((4, 4, 4), -1, np.int16),
    ],
)
def test_neither(data):
    with pytest.raises(ScanError, match=r"x: holds values from .* neither"):
        judged(data, "x")


def test_what_cannot_be_read_is_remembered(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"damaged")
    eye = Eye(tmp_path)
    assert eye.is_ct("x.nii.gz") is None
    assert "x.nii.gz" in eye.unreadable["x.nii.gz"]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "IPL"])
def test_counts_and_places_equal_an_independent_computation(axes):
    labels = (rng.random((7, 9, 11)) * 4).astype(np.uint8)
    image = nib.Nifti1Image(labels, nib.affines.from_matvec(np.diag([2.0, 3.0, 4.0]), [5, -6, 7]))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
    )
    seen = _tallies(np.asarray(turned.dataobj), turned.affine)
    assert set(seen) == {1, 2, 3}
    for value in seen:
        where = np.argwhere(labels == value)
        assert seen[value][0] == len(where)
        np.testing.assert_allclose(seen[value][1], where.mean(axis=0) * [2, 3, 4] + [5, -6, 7])
        part = _relative(seen[value][1], turned.shape, turned.affine)
        np.testing.assert_allclose(part, (where.mean(axis=0) + 0.5) / labels.shape)
