"""Measures against numpy and scipy on whole boolean volumes."""

import numpy as np
import pytest
from scipy import ndimage

from atlas.harmonize.grid import canonical_grid
from atlas.harmonize.measure import body_box, measure
from atlas.harmonize.pack import Entry, MaskPacker

SHAPE = (12, 14, 16)


@pytest.fixture
def grid():
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-30.0, 10.0, 200.0]
    return canonical_grid((16, 14, 12), affine, 1.5)


@pytest.fixture
def masks():
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.random((3, *SHAPE)), (0, 1, 1, 1))
    return noise > np.quantile(noise, 0.8)


def packed(masks):
    packer = MaskPacker(SHAPE)
    for bit, mask in enumerate(masks):
        packer.update((0, 0, 0), mask, lambda e, _, b=bit: Entry(e.classes | 1 << b, 0))
    return packer.packed(keep=2 ** len(masks) - 1)


def test_measures_equal_an_independent_computation(masks, grid):
    for found, mask in zip(measure(packed(masks), grid, samples=50, seed=1), masks, strict=True):
        where = np.argwhere(mask)
        z, y, x = where.mean(axis=0)
        assert found.voxels == mask.sum()
        assert found.volume_ml == pytest.approx(mask.sum() * 3.375 / 1000)
        assert found.bbox == (*where.min(axis=0), *(where.max(axis=0) + 1))
        assert found.centroid_mm == pytest.approx(grid.affine[:3, :3] @ [x, y, z] + grid.affine[:3, 3], abs=1e-3)
        assert found.components == ndimage.label(mask, np.ones((3, 3, 3)))[1]
        edge = np.ones(SHAPE, bool)
        edge[1:-1, 1:-1, 1:-1] = False
        assert found.touches_border == (mask & edge).any()


def test_the_sample_is_of_the_class_without_repetition_and_complete_where_the_class_is_small(masks, grid):
    tiny = np.zeros(SHAPE, bool)
    tiny[3, 4, 5] = tiny[8, 8, 8] = True
    masks[2] = tiny
    first, second, third = measure(packed(masks), grid, samples=50, seed=1)
    for found, mask in zip((first, second), masks, strict=False):
        assert found.sample.shape == (50, 3)
        assert mask[tuple(found.sample.T)].all()
        assert len({tuple(v) for v in found.sample.tolist()}) == 50
    assert {tuple(v) for v in third.sample.tolist()} == {(3, 4, 5), (8, 8, 8)}


def test_the_sample_covers_the_class_evenly(grid):
    mask = np.zeros(SHAPE, bool)
    mask[2:10] = True
    counts = np.zeros(SHAPE)
    for seed in range(300):
        counts[tuple(measure(packed([mask]), grid, samples=100, seed=seed)[0].sample.T)] += 1
    upper, lower = counts[2:6].sum(), counts[6:10].sum()
    assert abs(upper - lower) < 4 * np.sqrt(30000 / 4)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 1), (3, 1, 1), (1, 7, 7), (5, 3, 1), (3, 3, 3)])
def test_voxels_apart_in_a_thin_crop(grid, shape):
    """As many pieces as a crop can hold; cc3d alone fails on these."""
    apart = np.zeros(shape, np.uint8)
    apart[::2, ::2, ::2] = 1
    packer = MaskPacker(grid.shape)
    packer.update((2, 3, 4), apart, lambda e, _: Entry(e.classes | 1, 0))
    (found,) = measure(packer.packed(keep=-1), grid, samples=5, seed=0)
    assert found.components == found.voxels == apart.sum()


def test_an_absent_class_is_not_measured(grid):
    assert measure(packed([np.zeros(SHAPE, bool)]), grid, samples=5, seed=0) == []


def test_body_box_leaves_the_table_out():
    ct = np.full((40, 60, 60), -1000, np.int16)
    ct[:, 20:50, 10:50] = 30
    ct[:, 4:8, :] = 200
    z0, y0, x0, z1, y1, x1 = body_box(ct)
    assert (z0, z1) == (0, 40)
    for found, true in zip((y0, x0, y1, x1), (20, 10, 50, 50), strict=True):
        assert abs(found - true) < 4
    assert y0 <= 20
    assert body_box(np.full((8, 8, 8), -1000, np.int16)) is None
