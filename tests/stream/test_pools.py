"""Weighted draws of many owners at once."""

import numpy as np
import pytest

from atlas.stream.pools import Pools, cumulative

LAST = 1 - 2**-53
"""The largest number below 1."""


def test_rounding_does_not_reach_a_neighbour():
    owners = np.arange(100_000)
    pools = Pools.of(owners, owners, np.full(owners.size, 0.1), owners.size)
    for u in (0.0, 0.3, LAST):
        np.testing.assert_array_equal(pools.pick(owners, np.full(owners.size, u)), owners)


def test_large_weights_do_not_drown_the_small_ones_of_other_owners():
    weights = np.array([1e20, 3e20, 1.0, 3.0, 1e-20, 3e-20])
    pools = Pools.of(np.arange(6), np.array([0, 0, 1, 1, 2, 2]), weights, 3)
    for owner in range(3):
        u = (np.arange(1000) + 0.5) / 1000
        picked = pools.pick(np.full(1000, owner), u)
        assert np.bincount(picked, minlength=6)[2 * owner : 2 * owner + 2].tolist() == [250, 750]


def test_owners_in_any_order_and_values_of_weight_0():
    pools = Pools.of(np.array([7, 8, 9, 6]), np.array([2, 0, 2, 0]), np.array([1.0, 1.0, 1.0, 0.0]), 4)
    assert pools.filled.tolist() == [True, False, True, False]
    assert pools.values.tolist() == [8, 7, 9]
    assert pools.pick(np.array([0, 2, 2]), np.array([LAST, 0.0, 0.5])).tolist() == [8, 7, 9]


@pytest.mark.parametrize(
    ("weights", "sums"),
    [([1, 2, 5], [0.125, 0.375, 1]), ([0, 3, 0], [0, 1, 1]), ([0.1, 0.2, 0], [1 / 3, 1, 1]), ([0, 0, 0], [1, 1, 1])],
)
def test_sums_end_in_exactly_1(weights, sums):
    result = cumulative(np.array([weights]))[0]
    assert result == pytest.approx(sums)
    assert result[np.array(sums) == 1].tolist() == [1] * sums.count(1)
