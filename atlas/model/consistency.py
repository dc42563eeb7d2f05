"""What the taxonomy says of predictions, whatever is annotated: a lesion lies in its organ, left is not right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy

LESION = "lesion"
"""Kind of class of the taxonomy."""


@dataclass(frozen=True)
class Rules:
    """Rules among the channels of a model.

    Attributes
    ----------
    inside
        (channel of a lesion, channels of which one must hold it). Two channels: either side.
    apart
        (channel of the left, channel of the right).
    """

    inside: tuple[tuple[int, tuple[int, ...]], ...]
    apart: tuple[tuple[int, int], ...]


def rules(taxonomy: Taxonomy, classes: Sequence[str]) -> Rules:
    """Rules that the taxonomy gives for these classes.

    A lesion lies in all that it is part of, directly or through others, as far as that is among the classes; of a pair
    of unknown side both must be.

    Raises
    ------
    SpecError
        If a class is not one of the taxonomy.
    """
    channel = {taxonomy.bit(name): i for i, name in enumerate(classes)}
    inside = [
        (channel[taxonomy.bit(name)], tuple(channel[bit] for bit in bits))
        for name in classes
        if taxonomy.by_name[name].kind == LESION
        for bits in sorted(taxonomy.target_bits(whole) for whole in taxonomy.wholes(name))
        if all(bit in channel for bit in bits)
    ]
    pairs = [(left.bit, right.bit) for left, right in taxonomy.pairs.values()]
    apart = [(channel[left], channel[right]) for left, right in pairs if left in channel and right in channel]
    return Rules(tuple(inside), tuple(apart))


def containment(logits: torch.Tensor, pairs: NDArray[np.int64], found: Rules) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """By how much a lesion is more probable than the organ that holds it: mean over voxels of max(0, p - p_organ).

    p_organ is the higher of the two where the organ may be of either side. The mean over voxels is that of the
    cross-entropy, so that weights of the two compare.

    Parameters
    ----------
    logits
        (P, d, h, w).
    pairs
        int64 (P, 2), sample and class of each.
    found
        Of the taxonomy.

    Returns
    -------
    values, samples
        (K,) each: for every sample and rule of which all classes are predicted, the penalty, and the sample.
    """
    return _each(logits, pairs, [(part, *wholes) for part, wholes in found.inside], _outside)


def exclusion(logits: torch.Tensor, pairs: NDArray[np.int64], found: Rules) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """How much left and right are predicted in one place: mean over voxels of p_left p_right; see `containment`."""
    return _each(logits, pairs, list(found.apart), _both)


def _each(
    logits: torch.Tensor,
    pairs: NDArray[np.int64],
    wanted: Sequence[tuple[int, ...]],
    penalty: Callable[..., torch.Tensor],
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    row = {(sample, channel): i for i, (sample, channel) in enumerate(pairs.tolist())}
    met = [
        (sample, [row[sample, channel] for channel in channels])
        for sample in np.unique(pairs[:, 0]).tolist()
        for channels in wanted
        if all((sample, channel) in row for channel in channels)
    ]
    samples = np.array([sample for sample, _ in met], np.int64)
    if not met:
        return logits[:0].sum((1, 2, 3), dtype=_dtype(logits)), samples
    # once: the gradient of logits[i] would be as large as all the logits, for every i
    volumes = logits.unbind()
    values = [
        checkpoint(penalty, *(volumes[i] for i in rows), use_reentrant=False, preserve_rng_state=False)
        for _, rows in met
    ]
    return torch.stack(values), samples


def _dtype(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _outside(part: torch.Tensor, *wholes: torch.Tensor) -> torch.Tensor:
    dtype = _dtype(part)
    # sigmoid grows with its argument, so the highest logit is the highest probability
    whole = torch.stack([w.to(dtype) for w in wholes]).amax(0)
    return torch.relu(torch.sigmoid(part.to(dtype)) - torch.sigmoid(whole)).mean()


def _both(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    dtype = _dtype(left)
    return (torch.sigmoid(left.to(dtype)) * torch.sigmoid(right.to(dtype))).mean()
