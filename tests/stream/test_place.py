"""Where patches lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atlas.stream.place import origin_around, origin_in

SIZES = st.integers(1, 300)
UNIT = st.floats(0, 1, exclude_max=True)
AXES = st.lists(
    st.tuples(SIZES, SIZES, UNIT, UNIT, UNIT, UNIT), min_size=3, max_size=3
)  # size, patch, voxel, offset, two ends of the box


@given(axes=AXES, jitter=st.one_of(st.floats(0, 0.5), st.floats(0, 100)))
def test_the_voxel_is_always_in_the_patch(axes, jitter):
    shape, patch, where, offset, _, _ = zip(*axes, strict=True)
    voxel = tuple(int(w * n) for w, n in zip(where, shape, strict=True))
    origin = origin_around(shape, patch, voxel, offset, jitter)
    for n, p, v, o in zip(shape, patch, voxel, origin, strict=True):
        assert o <= v < o + p
        assert (0 <= o <= n - p) if n >= p else (-o == (p - n + 1) // 2)
    assert all(type(o) is int for o in origin)


@given(axes=AXES)
def test_the_middle_is_in_the_box_as_far_as_the_volume_lets_it(axes):
    shape, patch, _, offset, a, b = zip(*axes, strict=True)
    ends = [sorted((int(u * n), int(v * n))) for u, v, n in zip(a, b, shape, strict=True)]
    low, high = [e[0] for e in ends], [e[1] + 1 for e in ends]
    origin = origin_in(shape, patch, (*low, *high), offset)
    for n, p, o, lo, hi in zip(shape, patch, origin, low, high, strict=True):
        if n < p:
            assert -o == (p - n + 1) // 2
        else:
            assert 0 <= o <= n - p
            assert lo <= o + p // 2 < hi or o == 0 or o == n - p


def test_without_jitter_the_voxel_is_in_the_middle():
    assert origin_around((100,) * 3, (10, 11, 12), (50, 50, 50), (0.0, 0.3, 0.9), 0.0) == (45, 45, 44)


def test_at_the_faces_the_patch_moves_inwards():
    assert origin_around((100, 100, 100), (32, 32, 32), (0, 99, 50), (0.5, 0.5, 0.5), 0.25) == (0, 68, 34)
    assert origin_in((100, 100, 100), (32, 32, 32), (0, 0, 40, 100, 100, 60), (0.0, 0.999, 0.5)) == (0, 68, 34)


def test_each_axis_has_its_own_offset():
    assert origin_around((200,) * 3, (10, 20, 40), (100, 90, 80), (0.0, 0.5, 0.75), 0.5) == (100, 80, 50)
    assert origin_in((200,) * 3, (10, 20, 40), (50, 60, 70, 60, 100, 150), (0.0, 0.5, 0.75)) == (45, 70, 110)


@pytest.mark.parametrize("spare", [0, 1, 2])
def test_every_place_in_the_volume_is_reached(spare):
    offsets = np.linspace(0, 1, 200, endpoint=False)
    around = {origin_around((96 + spare,) * 3, (96,) * 3, (50,) * 3, (o,) * 3, 0.25)[0] for o in offsets}
    within = {origin_in((96 + spare,) * 3, (96,) * 3, (0, 0, 0, *[96 + spare] * 3), (o,) * 3)[0] for o in offsets}
    assert around == within == set(range(spare + 1))


def test_a_small_volume_is_centred():
    assert origin_around((20, 96, 95), (96, 96, 96), (3, 50, 94), (0.1, 0.2, 0.9), 0.5) == (-38, 0, -1)
    assert origin_in((20, 96, 95), (96, 96, 96), (0, 0, 0, 20, 96, 95), (0.1, 0.2, 0.9)) == (-38, 0, -1)


def test_unsigned_voxels_do_not_wrap():
    voxel, shape = np.array([3, 200, 0], np.uint16), np.array([300, 300, 40], np.uint16)
    assert origin_around(shape, (96, 96, 96), voxel, (0.5, 0.5, 0.5), 0.25) == (0, 152, -28)
    assert origin_in(shape, (96, 96, 96), np.array([3, 0, 0, 4, 300, 40], np.uint16), (0, 0, 0)) == (0, 0, -28)


@pytest.mark.parametrize("patch", [31, 32])
def test_jitter_is_even_and_as_wide_as_asked(patch):
    offsets = (np.arange(4000) + 0.5) / 4000
    around = [origin_around((500,) * 3, (patch,) * 3, (250,) * 3, (o,) * 3, 0.25)[0] for o in offsets]
    within = 250 - np.array(around)
    assert within.min() == patch // 4
    assert within.max() == -(-patch * 3 // 4) - 1
    everywhere = [250 - origin_around((500,) * 3, (patch,) * 3, (250,) * 3, (o,) * 3, 0.5)[0] for o in offsets]
    counts = np.bincount(everywhere, minlength=patch)
    assert counts.size == patch
    assert np.ptp(counts) <= 1


def test_background_is_even_in_the_box():
    rng = np.random.default_rng(0)
    box = (100, 150, 200, 140, 180, 260)
    middles = np.array([origin_in((500,) * 3, (32,) * 3, box, o) for o in rng.random((20_000, 3))]) + 16
    for axis in range(3):
        counts = np.bincount(middles[:, axis] - box[axis])
        assert counts.size == box[axis + 3] - box[axis]
        assert stats.chisquare(counts).pvalue > 1e-3
