"""How sure a mean or a share is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Interval = tuple[float, float]

LEVEL = 0.95
RESAMPLES = 2000
BATCH = 100
"""Resamples that are in memory together."""


def bootstrap_mean(values: ArrayLike, groups: Sequence[str], seed: int = 0) -> Interval:
    """95 % interval of a mean by the bootstrap: patients are drawn with replacement, each with all of its values.

    Values of one patient are alike: drawing values one by one would make the interval too narrow. Percentile method
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3), 2,000 resamples.

    Parameters
    ----------
    values
        float (n,).
    groups
        The patient of each value.
    seed
        Of the draws: the same interval for the same seed.

    Returns
    -------
    tuple
        Lower and upper end; NaN with fewer than two patients, from which no spread can be told.
    """
    from scipy.stats import bootstrap

    owner, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(owner) < 2:  # noqa: PLR2004
        return math.nan, math.nan
    sums = np.bincount(numbers, np.asarray(values, np.float64))
    found = bootstrap(
        (sums, np.bincount(numbers)),
        _mean,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        batch=BATCH,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def wilson(hits: int, total: int) -> Interval:
    """95 % interval of a share by Wilson's score (JASA 22:209, 1927), which stays within [0, 1]; NaN of nothing."""
    from scipy.stats import binomtest

    if not total:
        return math.nan, math.nan
    found = binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def _mean(sums: NDArray[np.float64], counts: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = sums.sum(axis=axis) / counts.sum(axis=axis)
    return mean
