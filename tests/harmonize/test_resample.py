"""CT resampling against scipy, on every orientation and on oblique scans."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from atlas.harmonize import resample
from atlas.harmonize.grid import Grid, canonical_grid, covered
from atlas.harmonize.resample import antialias_sigma, resample_ct

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
REALDATA = Path(__file__).parents[3] / "shared" / "realdata"


def source_coordinates(affine, grid):
    index = np.indices(grid.shape).reshape(3, -1)
    ras = grid.affine[:3, :3] @ index[::-1] + grid.affine[:3, 3:]
    inverse = np.linalg.inv(affine)
    return (inverse[:3, :3] @ ras + inverse[:3, 3:]).reshape(3, *grid.shape)


def reference(data, affine, grid):
    """Linear interpolation by scipy, in float64, not rounded; and whether a voxel is clearly in or out."""
    at = source_coordinates(affine, grid)
    value = map_coordinates(data.astype(np.float64), at, order=1, mode="nearest")
    limit = np.array(data.shape)[:, None, None, None] - 0.5
    outside = ((at < -0.5) | (at > limit)).any(axis=0)
    unclear = ((np.abs(at + 0.5) < 0.05) | (np.abs(at - limit) < 0.05)).any(axis=0) & (
        covered(data.shape, affine, grid) is not None
    )
    return np.clip(np.where(outside, -1024, value), -1024, 3071), ~unclear


def check(data, affine, grid):
    got = resample_ct(data, affine, grid)
    assert got.dtype == np.int16
    assert got.shape == grid.shape
    expected, clear = reference(data, affine, grid)
    assert np.abs(got - expected)[clear].max() <= 0.5 + 1e-3
    return got


def store(data, affine, permutation, signs):
    """The same volume with its axes stored in another order and direction."""
    transform = np.stack([np.argsort(permutation), np.array(signs)], axis=1)
    stored = nib.orientations.apply_orientation(data, transform)
    return stored, affine @ nib.orientations.inv_ornt_aff(transform, data.shape)


@pytest.fixture
def volume():
    rng = np.random.default_rng(3)
    data = rng.integers(-1024, 3000, (23, 19, 11)).astype(np.int16)
    affine = np.diag([0.8, 0.9, 2.5, 1.0])
    affine[:3, 3] = (-7, 3, 100)
    return data, affine


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_every_orientation_equals_scipy_and_each_other(volume, permutation, signs):
    grid = canonical_grid(volume[0].shape, volume[1])
    stored, affine = store(*volume, permutation, signs)
    assert canonical_grid(stored.shape, affine).shape == grid.shape
    got = check(stored, affine, canonical_grid(stored.shape, affine))
    assert np.abs(got.astype(int) - resample_ct(*volume, grid)).max() <= 1  # halves may round either way


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 5.0), (0.75, 0.75, 0.75), (3, 3, 3), (1.5, 1.5, 1.5), (5, 0.6, 0.6)])
def test_anisotropic(spacing):
    data = np.random.default_rng(0).normal(0, 400, (20, 26, 15)).astype(np.float32)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    check(data, affine, canonical_grid(data.shape, affine))


@pytest.mark.parametrize("block_bytes", [2**20, 40_000])
def test_oblique_and_cut_into_blocks(volume, monkeypatch, block_bytes):
    monkeypatch.setattr(resample, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(resample, "BLOCK_EDGE", 5)
    angle = np.deg2rad(25)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = volume[1].copy()
    affine[:3, :3] = turn @ turn.T[[2, 0, 1]][:, [2, 0, 1]] @ affine[:3, :3]
    check(volume[0], affine, canonical_grid(volume[0].shape, affine))


@pytest.mark.parametrize(
    "dtype",
    ["int8", "uint8", "int16", ">i2", "uint16", "int32", "int64", "float16", "float32", "float64", ">f4"],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_types_and_memory_orders(dtype, order):
    data = np.random.default_rng(1).integers(0, 120, (9, 8, 7)).astype(dtype, order=order)
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    check(data, affine, canonical_grid(data.shape, affine))
    check(data[::-1, :, ::-1], affine, canonical_grid(data.shape, affine))


def test_padding_and_metal_are_clipped_after_interpolation():
    data = np.full((4, 4, 4), -3024, dtype=np.int32)
    data[2:] = 70_000
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    got = check(data, affine, canonical_grid(data.shape, affine))
    assert set(np.unique(got)) == {-1024, 3071}


def test_negative_values_round_to_nearest_not_towards_zero():
    data = np.array([-1.0, -2.0], dtype=np.float32).reshape(2, 1, 1)
    grid = Grid((1, 1, 4), 0.7, (-0.35, 0.0, 0.0))
    affine = np.diag([1.4, 0.7, 0.7, 1.0])
    assert resample_ct(data, affine, grid).ravel().tolist() == [-1, -1, -2, -2]


def test_outside_is_air_and_the_outer_half_voxel_extends_the_edge():
    data = np.full((3, 3, 3), 50, dtype=np.int16)
    got = resample_ct(data, np.eye(4) * [1, 1, 1, 1], Grid((9, 9, 9), 0.5, (-1.0, -1.0, -1.0)))
    inside = np.zeros((9, 9, 9), dtype=bool)
    inside[1:8, 1:8, 1:8] = True  # from -0.5 to 2.5
    np.testing.assert_array_equal(got, np.where(inside, 50, -1024))
    far = resample_ct(data, np.eye(4), Grid((4, 4, 4), 1.0, (100.0, 0.0, 0.0)))
    assert (far == -1024).all()


@pytest.mark.parametrize("shape", [(1, 6, 6), (6, 1, 6), (1, 1, 1), (2, 1, 5)])
def test_flat_volumes(shape):
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    affine = np.diag([2.0, 1.1, 5.0, 1.0])
    check(data, affine, canonical_grid(shape, affine))


def test_antialias_smooths_only_where_downsampling_and_by_the_stated_variance():
    spacing = np.array([0.5, 1.5, 3.0])
    matrix = np.diag(1.5 / spacing)
    expected = np.sqrt((1.5**2 - 0.5**2) / (8 * np.log(2))) / 0.5
    np.testing.assert_allclose(antialias_sigma(matrix), [expected, 0, 0])
    data = np.zeros((60, 12, 8), dtype=np.int16)
    data[::2] = 1000  # finer than the target can show
    affine = np.diag([*spacing, 1.0])
    grid = canonical_grid(data.shape, affine)
    smooth = resample_ct(data, affine, grid, antialias=True)
    assert np.ptp(resample_ct(data, affine, grid)) > 900
    assert np.abs(smooth[:, :, 2:-2] - 500).max() < 30


def test_antialias_does_not_depend_on_blocks_or_storage(volume, monkeypatch):
    grid = canonical_grid(volume[0].shape, volume[1])
    whole = resample_ct(*volume, grid, antialias=True)
    monkeypatch.setattr(resample, "BLOCK_BYTES", 30_000)
    monkeypatch.setattr(resample, "BLOCK_EDGE", 3)
    assert np.abs(whole.astype(int) - resample_ct(*volume, grid, antialias=True)).max() <= 1
    stored, affine = store(*volume, (2, 0, 1), (-1, 1, -1))
    assert np.abs(whole.astype(int) - resample_ct(stored, affine, grid, antialias=True)).max() <= 1


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["totalsegmentator/example_ct.nii.gz", "odd_nifti/CT_pitch.nii.gz"])
def test_real_ct_equals_scipy(name):
    path = REALDATA / name
    if not path.exists():
        pytest.skip(f"real scans are absent: {path}")
    image = nib.load(path)
    data = np.asanyarray(image.dataobj)
    check(data, image.affine, canonical_grid(data.shape, image.affine))
