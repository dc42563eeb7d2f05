"""A real scan, with a threshold in the place of the network: bone must be where thresholding the file puts it."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from predicting import dice, mask, model, predicted

SPACING, LOW, HIGH, HALF = 1.5, 100.0, 300.0, 200.0


def there_and_back(image):
    """ITK's own way to a 1.5 mm grid and back, all of it in physical space: the ramp's HU on the grid of the file."""
    corners = [[0 if side == 0 else n - 1 for side, n in zip(sides, image.GetSize(), strict=True)] for sides in SIDES]
    points = np.array([image.TransformIndexToPhysicalPoint(corner) for corner in corners])
    # half a voxel around; the lowest corner of an axis-aligned scan is that of atlas's grid, right to superior (LPS)
    half = np.abs(np.array(image.GetDirection()).reshape(3, 3)) @ image.GetSpacing() / 2
    low, high = points.min(axis=0) - half, points.max(axis=0) + half
    grid = sitk.Image([round(float(n)) for n in (high - low) / SPACING], sitk.sitkFloat32)
    grid.SetSpacing([SPACING] * 3)
    grid.SetDirection(np.diag([-1.0, -1, 1]).ravel().tolist())
    grid.SetOrigin([high[0] - SPACING / 2, high[1] - SPACING / 2, low[2] + SPACING / 2])
    canonical = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, -1024.0)
    return sitk.Resample(sitk.Clamp(canonical, lowerBound=LOW, upperBound=HIGH), image)


SIDES = list(np.ndindex(2, 2, 2))


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["totalsegmentator/example_ct_sm.nii.gz", "totalsegmentator/example_ct.nii.gz"])
def test_bone_of_a_real_scan(name, realdata, tmp_path, taxonomy, by_intensity):
    by_intensity({0: (100, 300)})  # one half at 200 HU
    path = realdata / name
    folder = predicted(model(taxonomy, ("aorta",)), path, tmp_path)
    before, after = nib.load(path), nib.load(folder / "combined.nii.gz")
    assert np.array_equal(before.affine, after.affine)
    assert before.shape == after.shape
    found = mask(folder, "aorta") == 1
    one = sitk.ReadImage(str(path), sitk.sitkFloat32)
    expected = sitk.GetArrayFromImage(there_and_back(one)).transpose(2, 1, 0) > HALF
    assert dice(found, expected) > 0.995
    hu = np.asarray(before.dataobj, np.float32)
    assert dice(found, hu > 200) > 0.7  # the file itself is sharper than 1.5 mm voxels, or noisier
    assert dice(found[::-1], hu > 200) < 0.6  # left and right are not the same, so the test can tell
    other = sitk.ReadImage(str(folder / "segmentations" / "aorta.nii.gz"))
    assert one.GetSize() == other.GetSize()
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(one, get)(), getattr(other, get)(), atol=1e-6)
