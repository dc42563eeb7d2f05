"""Masks must lie on the voxels that they were seen in: every storage order, oblique, anisotropic, odd headers."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.nifti2 import Nifti2Image
from predicting import (
    BACKGROUND,
    CLASSES,
    LEFT,
    OBLIQUE,
    OFF_MIDDLE,
    ORIENTATIONS,
    RAMPS,
    affine_of,
    blobs,
    dice,
    mask,
    model,
    predicted,
    stored,
    two_organs,
)

SHAPE, SPACING = (44, 34, 29), (1.9, 2.2, 2.6)


def check(folder, path, truth):
    """The masks hit the truth in the order of the file's own voxels, under the file's own header."""
    before = nib.load(path)
    for name, organ in zip(CLASSES, truth, strict=True):
        file = folder / "segmentations" / f"{name}.nii.gz"
        after = nib.load(file)
        assert after.shape == before.shape
        assert np.array_equal(after.affine, before.affine)
        for form in ("sform", "qform"):
            was, code = getattr(before.header, f"get_{form}")(coded=True)
            now, code_now = getattr(after.header, f"get_{form}")(coded=True)
            assert code_now == code
            assert (was is None) == (now is None)
            assert was is None or np.array_equal(was, now)
        assert after.header["xyzt_units"] == before.header["xyzt_units"]
        np.testing.assert_array_equal(after.header["pixdim"], before.header["pixdim"])
        found = np.asarray(after.dataobj)
        assert found.dtype == np.uint8
        assert set(np.unique(found)) == {0, 1}
        assert dice(found.reshape(organ.shape) == 1, organ) >= 0.93, name


def world_centre_by_itk(path, array=None):
    """Centre of mass (RAS mm) as ITK sees the file, of its ones or those of `array` (i, j, k) on its grid."""
    image = sitk.ReadImage(str(path))
    where = sitk.GetArrayFromImage(image) > 0 if array is None else array.transpose(2, 1, 0)
    points = [image.TransformContinuousIndexToPhysicalPoint(p[::-1].tolist()) for p in np.argwhere(where).astype(float)]
    return np.mean(points, axis=0) * (-1, -1, 1)


def world_centre_by_nibabel(path, array=None):
    image = nib.load(path)
    where = np.asarray(image.dataobj) > 0 if array is None else array
    return nib.affines.apply_affine(image.affine, np.argwhere(where)).mean(axis=0)


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_every_storage_order(permutation, signs, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of(SPACING)
    ct, truth = two_organs(SHAPE, affine)
    turned, turned_affine = stored(ct, affine, permutation, signs)
    truth = [stored(t, affine, permutation, signs)[0] for t in truth]
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(turned, turned_affine), path)
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    check(folder, path, truth)
    centres = [world_centre_by_nibabel(folder / "segmentations" / f"{name}.nii.gz") for name in CLASSES]
    middle = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + affine[:3, 3]
    np.testing.assert_allclose(centres[0], middle + OFF_MIDDLE[0], atol=0.3)
    np.testing.assert_allclose(centres[1], middle + OFF_MIDDLE[1], atol=0.3)
    combined = np.asarray(nib.load(folder / "combined.nii.gz").dataobj)
    np.testing.assert_array_equal(combined, mask(folder, CLASSES[0]) + 2 * mask(folder, CLASSES[1]))


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (1.5, 1.5, 1.5), (0.7, 3.1, 1.0), (4.0, 4.0, 4.0)])
@pytest.mark.parametrize("direction", [None, OBLIQUE, OBLIQUE * (-1, 1, 1)], ids=["straight", "oblique", "mirrored"])
def test_spacing_and_tilt(spacing, direction, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of(spacing, direction)
    shape = tuple(max(8, int(90 / s)) for s in spacing)
    ct, truth = two_organs(shape, affine)
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(ct, affine), path)
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    check(folder, path, truth)
    for name, organ in zip(CLASSES, truth, strict=True):
        file = folder / "segmentations" / f"{name}.nii.gz"
        expected = world_centre_by_nibabel(path, organ)
        np.testing.assert_allclose(world_centre_by_nibabel(file), expected, atol=0.25)
        np.testing.assert_allclose(world_centre_by_itk(file), expected, atol=0.25)
        np.testing.assert_allclose(world_centre_by_itk(path, organ), expected, atol=1e-3)
    left, right = (world_centre_by_itk(folder / "segmentations" / f"{name}.nii.gz") for name in CLASSES)
    assert left[0] < right[0] - 30


def test_nearly_square_axes_keep_the_header_of_the_file(tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of(SPACING, np.round(OBLIQUE, 2))  # rounded cosines: repaired to compute with, not in the result
    ct, truth = two_organs(SHAPE, affine)
    path = tmp_path / "ct.nii.gz"
    image = nib.Nifti1Image(ct, None)
    image.set_sform(affine, 2)
    nib.save(image, path)
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    check(folder, path, truth)
    assert np.abs(nib.load(folder / "combined.nii.gz").affine - affine).max() < 1e-5


def _qform_only(image, affine):
    image.set_sform(None, 0)
    image.set_qform(affine, 3)


def _sform_only(image, affine):
    image.set_qform(None, 0)
    image.set_sform(affine, 4)


def _metres(image, affine):
    scale = np.diag([0.001, 0.001, 0.001, 1.0])
    image.set_sform(scale @ affine, 1)
    image.set_qform(scale @ affine, 1)
    image.header.set_xyzt_units("meter", "sec")


@pytest.mark.parametrize("change", [_qform_only, _sform_only, _metres])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, Nifti2Image])
def test_headers_as_publishers_write_them(change, kind, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of(SPACING, OBLIQUE)
    ct, truth = two_organs(SHAPE, affine)
    image = kind(ct, affine)
    change(image, affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"who made it"))
    path = tmp_path / "ct.nii.gz"
    nib.save(image, path)
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    check(folder, path, truth)
    assert type(nib.load(folder / "combined.nii.gz")) is type(nib.load(path))


def test_scaled_big_endian_four_dimensional(tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of(SPACING)
    ct, truth = two_organs(SHAPE, affine)
    header = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(((ct + 100) * 2)[..., None], affine, header)  # the numbers as they are stored
    image.header.set_data_dtype(np.dtype(">i2"))
    image.header.set_slope_inter(0.5, -100)
    image.header["cal_max"] = 400
    path = tmp_path / "ct.nii"
    nib.save(image, path)
    assert nib.load(path).header.endianness == ">"
    assert nib.load(path).get_fdata().max() == LEFT
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    check(folder, path, truth)
    header = nib.load(folder / "combined.nii.gz").header
    assert header["cal_max"] == 0
    assert header.get_slope_inter() in ((1.0, 0.0), (None, None))


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_formats_without_nifti_header(suffix, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of(SPACING, OBLIQUE)
    ct, truth = two_organs(SHAPE, affine)
    image = sitk.GetImageFromArray(ct.transpose(2, 1, 0))
    image.SetSpacing(SPACING)
    image.SetDirection((np.diag([-1, -1, 1]) @ OBLIQUE).ravel().tolist())
    image.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(image, str(path))
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    for name, organ in zip(CLASSES, truth, strict=True):
        assert dice(mask(folder, name) == 1, organ) >= 0.93
        read = sitk.ReadImage(str(folder / "segmentations" / f"{name}.nii.gz"))
        assert read.GetSize() == image.GetSize()
        np.testing.assert_allclose(read.GetOrigin(), image.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(read.GetDirection(), image.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(read.GetSpacing(), image.GetSpacing(), atol=1e-5)


@pytest.mark.parametrize("height", [40, 41, 42, 43, 44, 45, 46])
@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["straight", "oblique"])
def test_organs_cut_by_the_edge_of_the_scan_reach_it(height, direction, tmp_path, taxonomy, by_intensity):
    """The canonical grid may end half a voxel early; the last slices of the file belong to the organ all the same."""
    by_intensity(RAMPS)
    affine = affine_of((0.6, 0.7, 0.8), direction)
    ct = np.full((height, height + 3, height), LEFT, np.int16)
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(ct, affine), path)
    folder = predicted(model(taxonomy), path, tmp_path / "out")
    found = mask(folder, CLASSES[0])
    if direction is None:
        assert found.all()
    else:  # next to the edge, air comes into the interpolation of an oblique scan
        assert found[2:-2, 2:-2, 2:-2].all()


def test_thin_scan_of_two_slices(tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    affine = affine_of((1.5, 1.5, 0.5))
    ct = np.full((40, 30, 2), BACKGROUND, np.int16)
    ct[10:20, 5:25] = LEFT
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(ct, affine), path)
    found = mask(predicted(model(taxonomy), path, tmp_path / "out"), CLASSES[0])
    np.testing.assert_array_equal(found == 1, ct == LEFT)


def test_finer_native_voxels_show_no_canonical_steps(tmp_path, taxonomy, by_intensity):
    """Interpolating probabilities beats enlarging the voxels of the canonical mask."""
    by_intensity(RAMPS)
    affine = affine_of((0.6, 0.6, 0.6))
    shape = (90, 80, 70)
    truth = blobs(shape, affine, [affine[:3, :3] @ (np.array(shape) / 2) + affine[:3, 3]], [(20, 17, 15)])[0]
    path = tmp_path / "ct.nii"
    nib.save(nib.Nifti1Image(np.where(truth, LEFT, BACKGROUND).astype(np.int16), affine), path)
    found = mask(predicted(model(taxonomy), path, tmp_path / "out"), CLASSES[0]) == 1
    assert dice(found, truth) > 0.985
    assert abs(found.sum() / truth.sum() - 1) < 0.01
