"""Dice and cross-entropy of (sample, class) pairs, each over the whole patch, at known voxels only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence

VOXELS_AT_ONCE = 2**23
"""Voxels of logits that are worked on together. Each takes a few tens of bytes for as long as that lasts."""

CERTAIN = -1e4
"""A logit whose sigmoid is 0 and whose softplus is 0, in float32 and in float64."""

Downsample = Literal["max", "nearest"]


class PairTerms(NamedTuple):
    """What the loss of each pair is made of; (P,) each, in float32, or float64 where the logits are."""

    dice: torch.Tensor
    bce: torch.Tensor
    present: torch.Tensor
    known: torch.Tensor


def pair_terms(
    logits: torch.Tensor,
    pairs: torch.Tensor,
    mask: torch.Tensor,
    unknown: torch.Tensor | None,
    *,
    smooth: float = 1.0,
    focal: float = 0.0,
    balance: float = 0.0,
    downsample: Downsample = "max",
) -> PairTerms:
    """Dice and cross-entropy of each pair.

    Nothing but the logits is kept for the backward pass: the rest is computed again there, some pairs at a time.

    Parameters
    ----------
    logits
        (P, d, h, w), of any floating dtype. Computed in float32, or float64 if they are.
    pairs
        int64 (P, 2), sample and class of each, on the device of the logits.
    mask, unknown
        bool (B, C, D, H, W). `unknown` None: all is known. Made smaller where the logits are, see `level_target`.
    smooth
        Added to numerator and denominator of the Dice.
    focal
        Exponent of (1 - probability of the truth), which weighs the cross-entropy of each voxel: Lin et al., Focal
        loss for dense object detection, ICCV 2017. 0: plain cross-entropy.
    balance
        Exponent of (voxels that are not of the class / voxels that are), which weighs the cross-entropy of the latter
        where it is above 1. 0: all voxels weigh the same.
    downsample
        See `level_target`.

    Returns
    -------
    PairTerms
        dice: 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) over the known voxels; 0 where none is.
        bce: weighted sum over the known voxels by their number; 0 where none is. present, known: bool, whether any
        known voxel is of the class, whether any voxel is known.
    """

    def some(x: torch.Tensor, of: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sample, channel = of.unbind(1)
        hidden = None if unknown is None else unknown[sample, channel]
        truth, seen = level_target(mask[sample, channel], hidden, x.shape[1:], downsample)
        with torch.autocast(x.device.type, enabled=False):
            return _terms(x.to(torch.promote_types(x.dtype, torch.float32)), truth, seen, smooth, focal, balance)

    size = max(1, VOXELS_AT_ONCE // max(1, logits[:1].numel()))
    parts = [
        checkpoint(some, x, of, use_reentrant=False, preserve_rng_state=False)
        for x, of in zip(torch.split(logits, size), torch.split(pairs, size), strict=True)
    ]
    return PairTerms(*(torch.cat(part) for part in zip(*parts, strict=True)))


def level_target(
    mask: torch.Tensor, unknown: torch.Tensor | None, shape: Sequence[int], downsample: Downsample
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Truth at the size of a level of deep supervision, and where it is known.

    "max": voxel i of n stands for voxels floor(i N / n) to ceil((i + 1) N / n) - 1 of the N along each axis. It is of
    the class if any of these is known to be; else it is unknown if any of them is; else it is not of the class. So
    a lesion of one voxel is never lost. "nearest": it is as voxel floor((i + 1/2) N / n) is.

    Parameters
    ----------
    mask, unknown
        bool (P, D, H, W).
    shape
        (d, h, w), none larger than that of the mask.

    Returns
    -------
    truth, known
        bool (P, d, h, w). truth is False where it is not known. known is None if all is.
    """
    truth = mask if unknown is None else mask & ~unknown
    if tuple(shape) == tuple(mask.shape[1:]):
        return truth, None if unknown is None else ~unknown
    if downsample == "nearest":
        truth = _nearest(truth, shape)
        return truth, None if unknown is None else ~_nearest(unknown, shape)
    truth = _any(truth, shape)
    return truth, None if unknown is None else truth | ~_any(unknown, shape)


def _nearest(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    for axis, size in enumerate(shape, start=1):
        index = (2 * torch.arange(size, device=volume.device) + 1) * volume.shape[axis] // (2 * size)
        volume = volume.index_select(axis, index)
    return volume


def _any(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    pooled: torch.Tensor = functional.adaptive_max_pool3d(volume.to(torch.float32)[:, None], tuple(shape))
    return pooled[:, 0] > 0


def _terms(
    x: torch.Tensor, truth: torch.Tensor, known: torch.Tensor | None, smooth: float, focal: float, balance: float
) -> tuple[torch.Tensor, ...]:
    # y is the logit of being wrong: cross-entropy with logits is softplus(y), as -logsigmoid(-y) exact at both ends
    y = torch.where(truth, -x, x).flatten(1)
    truth = truth.flatten(1)
    count = torch.full_like(y[:, 0], y.shape[1])
    if known is not None:
        known = known.flatten(1)
        # certainly right: adds exactly 0 to every sum. where() stops the gradient of a NaN too, a factor 0 does not
        y = torch.where(known, y, CERTAIN)
        count = known.sum(1).to(y.dtype)
    wrong = torch.sigmoid(y)
    bce = -functional.logsigmoid(-y)
    if focal:
        bce = bce * wrong**focal
    positive = truth.sum(1).to(y.dtype)
    total = bce.sum(1)
    if balance:
        weight = ((count - positive) / positive.clamp(min=1)).clamp(min=1) ** balance
        total = total + (weight - 1) * torch.where(truth, bce, 0.0).sum(1)
    missed, extra = torch.where(truth, wrong, 0.0).sum(1), torch.where(truth, 0.0, wrong).sum(1)
    # 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), without taking from 1 what is close to it
    dice = (missed + extra) / (2 * positive - missed + extra + smooth)
    return dice, total / count.clamp(min=1), positive > 0, count > 0
