"""Random numbers by position: those of patch i of a run, without drawing those before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLING, AUGMENTATION = 0, 1
"""Streams: what a patch is, and what is done to it. Neither depends on how many numbers the other takes."""

LANES = 4
"""64-bit numbers that Philox 4x64 makes of one value of its counter."""

SEEDS = 2**64
"""A seed is one of the two 64-bit words of the key."""


def uniforms(seed: int, stream: int, first: int, count: int, width: int) -> NDArray[np.float64]:
    """Uniform random numbers of `count` patches of a run, from patch `first` on.

    Row r depends on (seed, stream, first + r, width) alone: blocks may be cut anywhere, by any number of ranks.
    Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), key (seed, stream);
    a patch takes a whole number of counter values. The raw numbers are turned into doubles here, because NumPy
    promises the same raw numbers in all versions, and promises no such thing of the numbers of a Generator.

    Parameters
    ----------
    seed
        Of the run, from 0 to 2**64 - 1.
    stream
        `SAMPLING` or `AUGMENTATION`.
    first
        Number of the first patch, from 0.
    count
        Patches.
    width
        Numbers a patch.

    Returns
    -------
    ndarray
        float64 (count, width), multiples of 2**-53 in [0, 1).

    Raises
    ------
    SpecError
        If the seed or the number of the patch is out of range.
    """
    if not 0 <= seed < SEEDS:
        raise SpecError(f"seed {seed}: a seed is a whole number from 0 to 2**64 - 1")
    if first < 0:
        raise SpecError(f"patch {first}: the patches of a run are counted from 0")
    values = -(-width // LANES)
    key = np.array([seed, stream], np.uint64)
    raw = np.random.Philox(counter=int(first) * values, key=key).random_raw(count * values * LANES)
    rows: NDArray[np.uint64] = raw.reshape(count, values * LANES)[:, :width] >> np.uint64(11)
    return rows.astype(np.float64) * 2.0**-53
