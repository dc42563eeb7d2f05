"""Which (sample, class) pair each volume of logits is of, and whether the arrays of a batch fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from atlas.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_target(classes: int, mask: torch.Tensor, available: torch.Tensor, unknown: torch.Tensor | None) -> None:
    """Raise SpecError if shapes or dtypes do not fit; (B, C, D, H, W), (B, C) and as the mask are wanted."""
    if mask.ndim != 5 or mask.shape[1] != classes or tuple(available.shape) != tuple(mask.shape[:2]):  # noqa: PLR2004
        raise SpecError(
            f"mask {tuple(mask.shape)} and available {tuple(available.shape)}: (B, {classes}, D, H, W) and "
            f"(B, {classes}) are wanted, one channel a class of the loss"
        )
    if unknown is not None and unknown.shape != mask.shape:
        raise SpecError(f"unknown {tuple(unknown.shape)} is not of the shape of the mask, {tuple(mask.shape)}")
    if any(t is not None and t.dtype != torch.bool for t in (mask, available, unknown)):
        raise SpecError("mask, available and unknown are bool; compare numbers with what they stand for first")


def listed_pairs(pairs: torch.Tensor | None, available: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Sample and class of each row of logits, int64 (N, 2), on the host.

    Parameters
    ----------
    pairs
        int64 (N, 2), or None: of every sample every class, in order.
    available
        bool (B, C).

    Raises
    ------
    SpecError
        If one is out of range or given twice, or an available one is missing.
    """
    if pairs is None:
        return np.argwhere(np.ones_like(available)).astype(np.int64)
    listed = pairs.cpu().numpy()
    if listed.ndim != 2 or listed.shape[1] != 2 or listed.dtype != np.int64:  # noqa: PLR2004
        raise SpecError(f"pairs {listed.shape} of {listed.dtype}: int64 (P, 2) is wanted, (sample, class) each")
    outside = ((listed < 0) | (listed >= available.shape)).any(1)
    if outside.any():
        raise SpecError(f"pair {tuple(listed[outside][0].tolist())}: there are (samples, classes) {available.shape}")
    times = np.zeros(available.shape, np.int64)
    np.add.at(times, (listed[:, 0], listed[:, 1]), 1)
    if (times > 1).any():
        raise SpecError(f"pair {tuple(np.argwhere(times > 1)[0].tolist())} is given more than once")
    missing = np.argwhere(available & (times == 0))
    if len(missing):
        raise SpecError(
            f"{len(missing)} available pairs have no logits, the first is (sample, class) "
            f"{tuple(missing[0].tolist())}: predict them, or pass an `available` without them"
        )
    return listed


def rows_of(logits: torch.Tensor, listed: NDArray[np.int64], mask: torch.Tensor, *, full: bool) -> torch.Tensor:
    """Logits as (N, d, h, w), one a pair of `listed`.

    Parameters
    ----------
    logits
        (N, d, h, w), or (B, C, d, h, w) if `full`.
    listed
        (N, 2).
    mask
        (B, C, D, H, W).

    Raises
    ------
    SpecError
        If the logits are of another shape, larger than the mask, or no floating-point numbers.
    """
    first = tuple(mask.shape[:2]) if full else (len(listed),)
    fits = logits.ndim == len(first) + 3 and tuple(logits.shape[:-3]) == first
    if not fits or any(size > of or not size for size, of in zip(logits.shape[-3:], mask.shape[-3:], strict=True)):
        raise SpecError(
            f"logits {tuple(logits.shape)}: {first} and the patch {tuple(mask.shape[-3:])}, or a smaller one, is wanted"
        )
    if not logits.is_floating_point():
        raise SpecError(f"logits are floating-point numbers, not {logits.dtype}")
    return logits.flatten(0, 1) if full else logits
