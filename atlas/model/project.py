"""Group normalisation, ReLU and a 1x1x1 convolution as one function that keeps only its input.

Done in three steps, a feature of 48 channels is held three more times between them. Here the voxels are taken in
blocks, all sums are float32 at least, and the backward pass computes again what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from atlas.model.dynamic import accurate, blocks, where_positive

if TYPE_CHECKING:
    from torch import nn


class _Norm(NamedTuple):
    """What normalises one sample, (C, 1) each: mean and 1 / standard deviation of a channel's group, and weights."""

    mean: torch.Tensor
    inverse: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def active(self, block: torch.Tensor) -> torch.Tensor:
        """(C, m) normalised, weighted and without what is negative; one multiplication and one sum a number."""
        scale = self.weight * self.inverse
        return torch.addcmul(self.bias - self.mean * scale, block, scale).relu_()


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, groups: int, eps: float, *weights: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        kind = accurate(x.dtype)
        gamma, beta, matrix, offset = (w.to(kind) for w in weights)
        out = torch.empty(len(x), len(matrix), x.shape[2], dtype=kind, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            mean, inverse = _statistics(x, groups, eps)
            for sample, feature in enumerate(x):
                norm = _Norm(mean[sample], inverse[sample], gamma[:, None], beta[:, None])
                for block in blocks(x):
                    active = norm.active(feature[:, block].to(kind))
                    out[sample, :, block] = torch.addmm(offset[:, None], matrix, active)
        ctx.groups = groups
        ctx.save_for_backward(x, mean, inverse, *weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x, mean, inverse, *weights = ctx.saved_tensors
        gamma, beta, matrix, _ = (w.to(mean.dtype) for w in weights)
        of_x, of_matrix = torch.empty_like(x), torch.zeros_like(matrix)
        sums = mean.new_zeros(2, len(x), x.shape[1])  # of the gradient behind the ReLU; of it times the normalised
        with torch.autocast(x.device.type, enabled=False):
            for sample, feature in enumerate(x):
                norm = _Norm(mean[sample], inverse[sample], gamma[:, None], beta[:, None])
                for block in blocks(x):
                    values, after = feature[:, block].to(mean.dtype), given[sample, :, block]
                    active = norm.active(values)
                    of_matrix += torch.mm(after, active.mT)
                    before = where_positive(torch.mm(matrix.mT, after), active)
                    of_x[sample, :, block] = before
                    sums[0, sample] += before.sum(1)
                    sums[1, sample] += torch.linalg.vecdot(before, values - norm.mean)
                sums[1, sample] *= norm.inverse[:, 0]
                _finish(of_x[sample], feature, norm, sums[:, sample], ctx.groups)
        of_weights = (sums[1].sum(0), sums[0].sum(0), of_matrix, given.sum((0, 2)))
        return of_x, None, None, *(g.to(w.dtype) for g, w in zip(of_weights, weights, strict=True))


def project(x: torch.Tensor, layers: nn.Sequential) -> torch.Tensor:
    """What `layers` make of `x`.

    Parameters
    ----------
    x
        (B, C, V), any strides.
    layers
        `GroupNorm`, `ReLU` and a 1x1x1 `Conv3d` with a bias.

    Returns
    -------
    Tensor
        (B, channels of the convolution, V): float64 if `x` is, float32 otherwise, inside autocast too.
    """
    norm: Any = layers[0]
    conv: Any = layers[2]
    weights = (norm.weight, norm.bias, conv.weight.flatten(1), conv.bias)
    result: torch.Tensor = _Project.apply(x, norm.num_groups, norm.eps, *weights)  # type: ignore[no-untyped-call]
    return result


def _statistics(x: torch.Tensor, groups: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each channel's group, (B, C, 1) each; variances of parts are combined."""
    kind = accurate(x.dtype)
    found = [_moments(x[:, :, block].to(kind)) for block in blocks(x)]
    variances, means = (torch.stack(part, 2).view(len(x), groups, -1, len(found)) for part in zip(*found, strict=True))
    sizes = torch.tensor([len(range(x.shape[2])[block]) for block in blocks(x)], dtype=kind, device=x.device)
    share = sizes / (x.shape[2] * variances.shape[2])
    mean = (means * share).sum((2, 3), keepdim=True)
    variance = ((variances + (means - mean) ** 2) * share).sum((2, 3), keepdim=True)
    return _spread(mean, x), _spread((variance + eps).rsqrt(), x)


def _moments(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variance and mean (B, C) of a block (B, C, m); in two passes, ten times faster than `torch.var_mean` on a CPU."""
    mean = block.mean(2)
    centred = block - mean.unsqueeze(2)
    return torch.linalg.vecdot(centred, centred) / block.shape[2], mean


def _spread(of_groups: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(B, groups, 1, 1) to (B, C, 1): each channel has its group's."""
    each: torch.Tensor = of_groups.flatten(1).repeat_interleave(x.shape[1] // of_groups.shape[1], dim=1)
    return each.unsqueeze(2)


def _finish(of_x: torch.Tensor, x: torch.Tensor, norm: _Norm, sums: torch.Tensor, groups: int) -> None:
    """Turn the gradient (C, V) behind the ReLU into that of the input, in place.

    With n the normalised input and g the gradient times the weight, the gradient of the input is
    (g - mean(g) - n mean(g n)) / standard deviation, means taken over the group (Wu and He, ECCV 2018).
    """
    weighted = (sums * norm.weight[:, 0]).view(2, groups, -1)
    means = weighted.sum(2) / (weighted.shape[2] * x.shape[1])
    plain, along = (m.repeat_interleave(weighted.shape[2]).unsqueeze(1) for m in means)
    # written as a x + b g + c with a, b and c of a channel
    of_value, of_gradient = -along * norm.inverse**2, norm.weight * norm.inverse
    constant = -plain * norm.inverse - of_value * norm.mean
    for block in blocks(x.unsqueeze(0)):
        found = torch.addcmul(constant, x[:, block].to(plain.dtype), of_value)
        of_x[:, block] = found.addcmul_(of_x[:, block].to(plain.dtype), of_gradient)
