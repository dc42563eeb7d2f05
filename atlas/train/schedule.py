"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from atlas.errors import SpecError

if TYPE_CHECKING:
    from atlas.spec.training import OptimiserSpec


def learning_rate(step: int, spec: OptimiserSpec) -> float:
    """Learning rate of an update.

    Parameters
    ----------
    step
        Of the update, from 0 to ``spec.steps - 1``.
    spec
        The rate rises in a straight line to ``lr`` over the first ``warmup`` updates, then falls as a half cosine
        that would be 0 at ``steps`` (Loshchilov and Hutter, SGDR, ICLR 2017, without restarts).
    """
    if step < spec.warmup:
        return spec.lr * (step + 1) / spec.warmup
    done = (step - spec.warmup) / max(spec.steps - spec.warmup, 1)
    return spec.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def check_schedule(spec: OptimiserSpec) -> None:
    """Raise SpecError if the warm-up does not end before the training does."""
    if spec.warmup >= spec.steps:
        raise SpecError(f"optimiser.warmup {spec.warmup}: fewer than optimiser.steps, {spec.steps}, are wanted")


def optimiser_of(network: torch.nn.Module, spec: OptimiserSpec) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) whose weight decay leaves biases and normalisations alone.

    Decay pulls towards 0, which means nothing to a scale whose neutral value is 1, nor to a shift: parameters of one
    dimension are all of these kinds.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=spec.lr)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use a learning rate from now on."""
    for group in optimiser.param_groups:
        group["lr"] = rate
