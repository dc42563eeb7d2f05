"""The canonical grid: extent, alignment, rounding, coverage."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.harmonize.grid import Grid, canonical_grid, covered

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]


def oriented_affine(permutation, signs, spacing, origin=(12.5, -80.25, 300.0)):
    """Source axis a runs along RAS axis permutation[a], forwards or backwards."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for a in range(3):
        affine[permutation[a], a] = signs[a] * spacing[a]
    affine[:3, 3] = origin
    return affine


def rotation(degrees, axis):
    a = np.deg2rad(degrees)
    i, j = [x for x in range(3) if x != axis]
    m = np.eye(3)
    m[i, i] = m[j, j] = np.cos(a)
    m[i, j], m[j, i] = -np.sin(a), np.sin(a)
    return m


def outer_corners(shape, affine):
    index = np.array(list(product(*[(-0.5, n - 0.5) for n in shape])))
    return index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize(("permutation", "signs"), ORIENTATIONS)
def test_every_orientation_keeps_extent_and_low_corner(permutation, signs):
    shape, spacing = (64, 50, 23), (0.75, 0.8, 5.0)
    affine = oriented_affine(permutation, signs, spacing)
    grid = canonical_grid(shape, affine)
    extent = np.array(shape) * spacing
    expected = [round(extent[permutation.index(axis)] / 1.5) for axis in (2, 1, 0)]
    assert list(grid.shape) == expected
    corner = np.array(grid.origin) - 0.75
    np.testing.assert_allclose(corner, outer_corners(shape, affine).min(axis=0), atol=1e-9)
    assert covered(shape, affine, grid) is None


def test_affine_takes_xyz_indices_to_ras():
    grid = Grid(shape=(10, 20, 30), spacing=2.0, origin=(-5.0, 7.0, 100.0))
    np.testing.assert_array_equal(grid.affine @ [3, 2, 1, 1], [1.0, 11.0, 102.0, 1.0])


@pytest.mark.parametrize("noise", [-1e-4, -1e-7, 0.0, 1e-7, 1e-4])
@pytest.mark.parametrize(("extent", "count"), [(300.0, 200), (300.75, 201), (0.2, 1), (0.75, 1), (2.25, 2)])
def test_rounding_ignores_floating_point_noise(extent, count, noise):
    affine = np.diag([(extent + noise) / 10, 1.5, 1.5, 1.0])
    assert canonical_grid((10, 4, 4), affine).shape == (4, 4, count)


def test_float32_header_and_tiny_tilt_count_as_axis_aligned():
    exact = oriented_affine((0, 1, 2), (-1, -1, 1), (0.7617188, 0.7617188, 2.5))
    noisy = exact.astype(np.float32).astype(float)
    noisy[:3, :3] = rotation(1e-4, 2) @ noisy[:3, :3]
    a, b = canonical_grid((512, 512, 90), exact), canonical_grid((512, 512, 90), noisy)
    assert a.shape == b.shape
    np.testing.assert_allclose(a.origin, b.origin, atol=1e-3)
    assert covered((512, 512, 90), noisy, b) is None


@pytest.mark.parametrize("spacing", [1.0, 1.5, 3.0])
def test_oblique_source_gets_its_bounding_box(spacing):
    shape = (40, 30, 20)
    affine = np.eye(4)
    affine[:3, :3] = rotation(16.5, 0) @ rotation(10, 2) * [0.9, 0.9, 2.5]
    affine[:3, 3] = (-100, 20, 3)
    grid = canonical_grid(shape, affine, spacing)
    corners = outer_corners(shape, affine)
    np.testing.assert_allclose(np.array(grid.origin) - spacing / 2, corners.min(axis=0), atol=1e-9)
    extent = corners.max(axis=0) - corners.min(axis=0)
    assert np.abs(np.array(grid.shape[::-1]) - extent / spacing).max() <= 0.5 + 1e-3


def test_covered_of_an_oblique_source_equals_the_definition():
    shape = (30, 24, 10)
    affine = np.eye(4)
    affine[:3, :3] = rotation(20, 0) * [1.1, 1.1, 3.0]
    grid = canonical_grid(shape, affine)
    mask = covered(shape, affine, grid)
    index = np.indices(grid.shape).reshape(3, -1)
    ras = grid.affine[:3, :3] @ index[::-1] + grid.affine[:3, 3:]
    source = np.linalg.inv(affine)[:3, :3] @ ras + np.linalg.inv(affine)[:3, 3:]
    depth = np.minimum(source + 0.5, np.array(shape)[:, None] - 0.5 - source).min(axis=0)
    clear = np.abs(depth) > 0.05
    np.testing.assert_array_equal(mask.ravel()[clear], (depth > 0)[clear])
    assert 0.5 < mask.mean() < 1


def test_covered_by_a_cropped_label_volume():
    grid = canonical_grid((40, 40, 40), np.diag([1.5, 1.5, 1.5, 1]))
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = (15, 0, 30)
    mask = covered((10, 40, 5), affine, grid)
    expected = np.zeros(grid.shape, dtype=bool)
    expected[20:25, :, 10:20] = True
    np.testing.assert_array_equal(mask, expected)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.integers(1, 600)] * 3),
    st.tuples(*[st.floats(0.3, 8)] * 3),
    st.sampled_from([1.0, 1.5, 2.0]),
)
def test_axis_aligned_sources_always_cover_their_grid(orientation, shape, spacing, target):
    affine = oriented_affine(*orientation, spacing)
    grid = canonical_grid(shape, affine, target)
    extent = np.array(shape) * spacing
    if (extent > target / 2).all():
        assert covered(shape, affine, grid) is None
    counts = np.array([grid.shape[2 - orientation[0][a]] for a in range(3)])
    assert np.abs(counts - np.maximum(extent / target, 1)).max() <= 0.5 + 2e-3
