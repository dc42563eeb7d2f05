"""Gaussian noise that is a function of a key and the number of a voxel: no generator, no state, any device."""

from __future__ import annotations

from math import tau
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_BITS = 24
_WORD = 0xFFFFFFFF


def gaussian(count: int, key: Sequence[int] | NDArray[np.uint32], device: torch.device | str = "cpu") -> torch.Tensor:
    """Standard normal numbers 0 to `count` - 1 of a key.

    Numbers i and ``ceil(count / 2) + i`` are the two of one Box-Muller pair, made from two hashes of i. The hashes
    are the same on every device, the normal numbers up to the last bit of logarithm and cosine.

    Parameters
    ----------
    count
        How many; below 2**31.
    key
        Two numbers below 2**32.
    device
        Where they are made.

    Returns
    -------
    float32 (count,); none is beyond 5.8, as the uniform numbers have 24 bits.
    """
    half = -(-count // 2)
    radius = (uniform(half, key, device, 0) + 2.0**-_BITS).log_().mul_(-2).sqrt_()
    angle = uniform(half, key, device, 1).mul_(tau)
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def uniform(count: int, key: Any, device: torch.device | str, which: int) -> torch.Tensor:  # noqa: ANN401
    """Uniform numbers in [0, 1), multiples of 2**-24: float32 (count,). `which`, 0 or 1, tells two such rows apart."""
    number = torch.arange(which, 2 * count, 2, dtype=torch.int64, device=device)
    first, second = int(key[0]), int(key[1])
    mixed = _mix(_mix(number.bitwise_xor_(first)).add_(second).bitwise_and_(_WORD))
    return (mixed >> (32 - _BITS)).float().mul_(2.0**-_BITS)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Hash of 32-bit numbers, in place.

    Constants of hash-prospector (C. Wellons and contributors; the best known with two rounds). Both multipliers are
    below 2**31, so that products with 32-bit numbers never overflow int64.
    """
    x ^= x >> 16
    x.mul_(0x21F0AAAD).bitwise_and_(_WORD)
    x ^= x >> 15
    x.mul_(0x735A2D97).bitwise_and_(_WORD)
    x ^= x >> 15
    return x
