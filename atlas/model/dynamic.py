"""Three small layers of its own for every (sample, class) pair, on a feature that all classes of a sample share.

    logit = w3 . relu(W2 relu(W1 f + b1) + b2) + b3

for every voxel's feature f (8 numbers). The voxels are taken in blocks and the classes in groups, so that what stands
between the layers is small, and it is computed again in the backward pass instead of being kept: beyond the logits
and the gradient of the shared feature, memory does not grow with voxels or with classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 8
"""Channels of the shared feature and of the two hidden layers."""

SPLIT = [WIDTH * WIDTH, WIDTH * WIDTH, WIDTH, WIDTH, WIDTH, 1]
"""Numbers of W1, W2 (output x input, row by row), w3, b1, b2 and b3, in this order."""

NUMBERS = sum(SPLIT)
"""153 numbers make the layers of one pair."""

CLASSES = 8
"""Pairs of one sample computed at once."""

BLOCK = {"cpu": 1 << 13, "cuda": 1 << 18}
"""Voxels computed at once: what one group of classes needs between its layers stays in a cache of the CPU; on a GPU
it is some 250 MB, and each kernel has enough to do."""


class _Layers(NamedTuple):
    """Layers of n pairs: W1 (8n, 8), b1 (8n, 1), W2 (n, 8, 8), b2 (n, 8, 1), w3 (n, 1, 8), b3 (n, 1, 1)."""

    w1: torch.Tensor
    b1: torch.Tensor
    w2: torch.Tensor
    b2: torch.Tensor
    w3: torch.Tensor
    b3: torch.Tensor

    @classmethod
    def of(cls, numbers: torch.Tensor) -> _Layers:
        """Layers from the numbers (n, 153) of n pairs."""
        w1, w2, w3, b1, b2, b3 = torch.split(numbers, SPLIT, dim=1)
        return cls(
            w1.reshape(-1, WIDTH),
            b1.reshape(-1, 1),
            w2.reshape(-1, WIDTH, WIDTH),
            b2.unsqueeze(2),
            w3.unsqueeze(1),
            b3.unsqueeze(2),
        )

    def hidden(self, feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both hidden layers (n, 8, m) of m voxels' features (8, m)."""
        first = torch.addmm(self.b1, self.w1, feature).relu_().view(len(self.w2), WIDTH, -1)
        return first, torch.baddbmm(self.b2, self.w2, first).relu_()

    def logits(self, feature: torch.Tensor) -> torch.Tensor:
        """(n, m) of m voxels' features (8, m)."""
        _, second = self.hidden(feature)
        return torch.baddbmm(self.b3, self.w3, second).squeeze(1)

    def backward(self, feature: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From the gradient (n, m) of the logits: of the numbers (n, 153), and of the feature (8, m)."""
        pairs = len(self.w2)
        first, second = self.hidden(feature)
        of_w3 = torch.bmm(second, given.unsqueeze(2)).view(pairs, -1)
        at_second = where_positive(torch.bmm(self.w3.mT, given.unsqueeze(1)), second)
        of_w2 = torch.bmm(at_second, first.mT).view(pairs, -1)
        at_first = where_positive(torch.bmm(self.w2.mT, at_second), first)
        flat = at_first.view(pairs * WIDTH, -1)
        of_w1 = torch.mm(flat, feature.mT).view(pairs, -1)
        sums = (at_first.sum(2), at_second.sum(2), given.sum(1, keepdim=True))
        return torch.cat([of_w1, of_w2, of_w3, *sums], dim=1), torch.mm(self.w1.mT, flat)


class _Dynamic(torch.autograd.Function):
    """The gradient written out; nothing but the inputs is kept for it."""

    @staticmethod
    def forward(ctx: Any, shared: torch.Tensor, numbers: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:  # noqa: ANN401
        ctx.save_for_backward(shared, numbers)
        ctx.counts = counts
        kind = accurate(shared.dtype)
        logits = torch.empty(len(numbers), shared.shape[2], dtype=kind, device=shared.device)
        with torch.autocast(shared.device.type, enabled=False):
            for sample, groups in _groups(numbers.to(kind), counts):
                for block in blocks(shared):
                    feature = shared[sample, :, block].to(kind).contiguous()
                    for rows, layers in groups:
                        logits[rows, block] = layers.logits(feature)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # noqa: ANN401
        shared, numbers = ctx.saved_tensors
        kind = accurate(shared.dtype)
        of_shared = torch.zeros_like(shared)
        of_numbers = torch.zeros(numbers.shape, dtype=kind, device=numbers.device)
        with torch.autocast(shared.device.type, enabled=False):
            for sample, groups in _groups(numbers.to(kind), ctx.counts):
                for block in blocks(shared):
                    feature = shared[sample, :, block].to(kind).contiguous()
                    total = torch.zeros_like(feature)
                    for rows, layers in groups:
                        of_rows, of_feature = layers.backward(feature, given[rows, block].contiguous())
                        of_numbers[rows] += of_rows
                        total += of_feature
                    of_shared[sample, :, block] = total
        return of_shared, of_numbers.to(numbers.dtype), None


def dynamic_layers(shared: torch.Tensor, numbers: torch.Tensor, counts: tuple[int, ...]) -> torch.Tensor:
    """Logits of the pairs.

    Parameters
    ----------
    shared
        (B, 8, V): feature of every voxel of each sample; floating point, any strides.
    numbers
        (P, 153): layers of each pair, the pairs of sample 0 first, then those of sample 1 and so on. In this order:
        W1 (8 x 8, output x input), W2 (8 x 8), w3 (8), b1 (8), b2 (8), b3 (1).
    counts
        Pairs of each sample: B whole numbers whose sum is P.

    Returns
    -------
    Tensor
        (P, V): float64 if the feature is, float32 otherwise. Inside autocast too all sums are of this type.
    """
    result: torch.Tensor = _Dynamic.apply(shared, numbers, counts)  # type: ignore[no-untyped-call]
    return result


def accurate(kind: torch.dtype) -> torch.dtype:
    """Type in which sums are made: float64 of float64, float32 of anything else."""
    return torch.float64 if kind == torch.float64 else torch.float32


def where_positive(gradient: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Backward pass of a ReLU: zero where the activation is."""
    passed: torch.Tensor = torch.ops.aten.threshold_backward(gradient, activation, 0)
    return passed


def blocks(feature: torch.Tensor) -> Iterator[slice]:
    """Blocks of the voxels of a feature (B, C, V)."""
    voxels, block = feature.shape[2], BLOCK.get(feature.device.type, BLOCK["cuda"])
    return (slice(first, min(first + block, voxels)) for first in range(0, voxels, block))


def _groups(numbers: torch.Tensor, counts: tuple[int, ...]) -> Iterator[tuple[int, list[tuple[slice, _Layers]]]]:
    """Each sample that has pairs, with the rows and the layers of its groups."""
    end = 0
    for sample, count in enumerate(counts):
        first, end = end, end + count
        starts = range(first, end, CLASSES)
        rows = [slice(start, min(start + CLASSES, end)) for start in starts]
        if rows:
            yield sample, [(group, _Layers.of(numbers[group])) for group in rows]
