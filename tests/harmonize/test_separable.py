"""Plane by plane against SimpleITK's three-dimensional interpolation, which takes over where axes are oblique."""

import nibabel as nib
import numpy as np
import pytest

from atlas.harmonize import resample
from atlas.harmonize.grid import Grid, canonical_grid
from atlas.harmonize.separable import axis_order, taps

AFFINE = np.array([[-0.7, 0, 0, 12.0], [0, 1.3, 0, -40.0], [0, 0, 2.9, 7.0], [0, 0, 0, 1]])


def both(data, affine, grid, monkeypatch):
    by_planes = resample.resample_ct(data, affine, grid)
    with monkeypatch.context() as patch:
        patch.setattr(resample, "axis_order", lambda *_: None)
        return by_planes, resample.resample_ct(data, affine, grid)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "IPL", "SAR", "PIR", "ALI"])
@pytest.mark.parametrize("shape", [(17, 14, 9), (1, 14, 9), (17, 1, 1)])
def test_the_two_ways_agree(codes, shape, monkeypatch):
    data = np.random.default_rng(4).integers(-1200, 3500, shape).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(tuple(codes))
    )
    image = image.as_reoriented(turn)
    stored = np.asarray(image.dataobj)
    grid = canonical_grid(stored.shape, image.affine, 1.5)
    one, other = both(stored, image.affine, grid, monkeypatch)
    assert np.abs(one.astype(int) - other).max() <= 1  # a half may be rounded either way
    assert (one != other).mean() < 0.01


def test_beyond_the_scan_there_is_air(monkeypatch):
    data = np.full((10, 10, 10), 100, np.int16)
    grid = Grid(shape=(20, 20, 20), spacing=1.5, origin=(-10.0, -50.0, 0.0))
    one, other = both(data, AFFINE, grid, monkeypatch)
    np.testing.assert_array_equal(one, other)
    assert set(np.unique(one)) == {-1024, 100}


def test_oblique_is_not_along_any_axis():
    straight = np.diag([2.0, -1.0, 0.5])
    assert axis_order(straight, (100, 100, 100)) == [0, 1, 2]
    assert axis_order(straight[[2, 0, 1]], (100, 100, 100)) == [2, 0, 1]
    tilted = straight.copy()
    tilted[0, 1] = 1e-5
    assert axis_order(tilted, (100, 100, 100)) is None
    assert axis_order(tilted, (2, 2, 2)) == [0, 1, 2]


def test_taps_stay_inside():
    for length in (1, 2, 7):
        low, high, weight = taps(-0.7, 6.5, 20, length)
        assert low.min() >= 0
        assert high.max() <= length - 1
        assert ((weight >= 0) & (weight <= 1)).all()
        position = np.clip(-0.7 * np.arange(20) + 6.5, 0, length - 1)
        np.testing.assert_allclose(low + weight * (high - low), position, atol=1e-6)
