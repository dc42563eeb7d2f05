"""Random numbers by position, against Philox written out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atlas.errors import SpecError
from atlas.stream.counter import AUGMENTATION, SAMPLING, uniforms

MASK = 2**64 - 1


def philox(counter, key):
    """Philox 4x64 in ten rounds, after the paper: four numbers of one counter value (a 256-bit integer)."""
    c = [counter >> 64 * i & MASK for i in range(4)]
    k = list(key)
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [b >> 64 ^ c[1] ^ k[0], b & MASK, a >> 64 ^ c[3] ^ k[1], a & MASK]
        k = [k[0] + 0x9E3779B97F4A7C15 & MASK, k[1] + 0xBB67AE8584CAA73B & MASK]
    return c


@pytest.mark.parametrize("first", [0, 7, 2**40 + 3, 2**64 - 1, 2**70])
@pytest.mark.parametrize("seed", [0, 12345, MASK])
def test_the_numbers_are_those_of_the_paper(seed, first):
    rows = uniforms(seed, AUGMENTATION, first, 2, 7)
    for r, row in enumerate(rows):
        # NumPy counts up before it draws, so that its first counter value is 1
        raw = [n for v in (1, 2) for n in philox((first + r) * 2 + v, (seed, AUGMENTATION))]
        assert row.tolist() == [(n >> 11) / 2**53 for n in raw[:7]]


@given(
    seed=st.integers(0, MASK),
    first=st.one_of(st.integers(0, 1000), st.integers(2**40, 2**66)),
    cuts=st.lists(st.integers(0, 9), max_size=6),
    width=st.integers(1, 13),
)
def test_blocks_may_be_cut_anywhere(seed, first, cuts, width):
    starts = np.cumsum([0, *cuts])
    whole = uniforms(seed, SAMPLING, first, int(starts[-1]), width)
    assert whole.shape == (sum(cuts), width)
    assert whole.dtype == np.float64
    parts = [uniforms(seed, SAMPLING, first + int(s), n, width) for s, n in zip(starts, cuts, strict=False)]
    np.testing.assert_array_equal(np.concatenate([np.zeros((0, width)), *parts]), whole)


def test_a_numpy_integer_does_as_well():
    expected = uniforms(3, SAMPLING, 2**62, 4, 8)
    np.testing.assert_array_equal(uniforms(3, SAMPLING, np.int64(2**62), 4, 8), expected)


def test_seeds_and_streams_and_patches_have_nothing_in_common():
    rows = [uniforms(seed, stream, 0, 500, 8) for seed in (0, 1, 2**63) for stream in (SAMPLING, AUGMENTATION)]
    assert np.unique(np.concatenate(rows)).size == 6 * 500 * 8


def test_the_numbers_are_uniform_and_independent():
    u = uniforms(0, SAMPLING, 10**6, 100_000, 8)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.T) - np.eye(8)).max() < 0.02
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.02


@pytest.mark.parametrize(("seed", "first", "message"), [(-1, 0, "seed -1"), (2**64, 0, "seed"), (0, -1, "patch -1")])
def test_out_of_range(seed, first, message):
    with pytest.raises(SpecError, match=message):
        uniforms(seed, SAMPLING, first, 1, 8)
