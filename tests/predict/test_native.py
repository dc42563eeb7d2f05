"""Native planes against scipy, voxel by voxel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from predicting import OBLIQUE, ORIENTATIONS, affine_of, stored
from scipy.ndimage import gaussian_filter, map_coordinates

from atlas.harmonize.grid import canonical_grid
from atlas.predict import native
from atlas.predict.native import HALF, native_planes


def smooth_noise(shape, seed, level=0.5):
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.clip((noise - level) * 800 + 128, 0, 255).astype(np.uint8)


def expected(probability, grid, affine, shape):
    """(i, j, k) by scipy, and where the value is too close to one half for rounding to agree."""
    index = np.indices(shape).reshape(3, -1)
    mm = affine[:3, :3] @ index + affine[:3, 3:]
    at = (mm - np.array(grid.origin)[:, None]) / grid.spacing
    value = map_coordinates(probability.astype(float), at[::-1], order=1, mode="nearest").reshape(shape)
    return value > HALF, np.abs(value - HALF) < 0.05


def planes(probability, grid, affine, shape):
    return np.stack([p.copy() for p in native_planes(probability, grid, affine, shape)]).transpose(2, 1, 0)


def compare(probability, grid, affine, shape):
    found = planes(probability, grid, affine, shape)
    assert found.dtype == bool
    truth, unclear = expected(probability, grid, affine, shape)
    assert 0 < truth.mean() < 1
    np.testing.assert_array_equal(found | unclear, truth | unclear)
    assert unclear.mean() < 0.01


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS[::3])
@pytest.mark.parametrize("direction", [None, OBLIQUE], ids=["straight", "oblique"])
def test_as_scipy_interpolates(permutation, signs, direction, monkeypatch):
    monkeypatch.setattr(native, "SLAB_VOXELS", 1500)  # several slabs
    affine = affine_of((0.9, 1.3, 2.9), direction)
    empty, affine = stored(np.zeros((19, 24, 13)), affine, permutation, signs)
    grid = canonical_grid(empty.shape, affine, 1.5)
    compare(smooth_noise(grid.shape, 1), grid, affine, empty.shape)


@given(
    seed=st.integers(0, 1000),
    level=st.sampled_from([0.5, 0.85, 0.97]),
    spacing=st.tuples(*[st.floats(0.4, 6)] * 3),
    tilted=st.booleans(),
)
def test_cropping_to_the_class_changes_nothing(seed, level, spacing, tilted):
    """The higher the level, the smaller the box that is looked at."""
    affine = affine_of(spacing, OBLIQUE if tilted else None)
    shape = tuple(max(2, round(24 / s)) for s in spacing)
    grid = canonical_grid(shape, affine, 2.0)
    probability = smooth_noise(grid.shape, seed, level)
    found = planes(probability, grid, affine, shape)
    truth, unclear = expected(probability, grid, affine, shape)
    np.testing.assert_array_equal(found | unclear, truth | unclear)


def test_one_half_exactly_is_outside_and_the_next_number_inside():
    affine = affine_of((1.5, 1.5, 1.5))
    shape = (5, 4, 3)
    grid = canonical_grid(shape, affine, 1.5)
    for value, inside in ((127, False), (128, True)):
        found = planes(np.full(grid.shape, value, np.uint8), grid, affine, shape)
        assert found.shape == shape
        assert found.all() == found.any() == inside


def test_the_same_grid_gives_the_same_mask():
    affine = affine_of((1.5, 1.5, 1.5))
    shape = (12, 15, 9)
    grid = canonical_grid(shape, affine, 1.5)
    probability = np.random.default_rng(0).integers(0, 256, grid.shape).astype(np.uint8)
    np.testing.assert_array_equal(planes(probability, grid, affine, shape).transpose(2, 1, 0), probability >= 128)


def test_nothing_found_is_an_empty_mask():
    affine = affine_of((1.0, 1.0, 1.0))
    grid = canonical_grid((5, 4, 3), affine, 1.5)
    found = planes(np.full(grid.shape, 127, np.uint8), grid, affine, (5, 4, 3))
    assert found.shape == (5, 4, 3)
    assert not found.any()
