"""AdamW, and the learning rate of each step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from atlas.errors import SpecError

if TYPE_CHECKING:
    from atlas.model.network import UniversalNetwork
    from atlas.spec.training import OptimiserSpec

MAKERS = ("text", "image", "controller")
"""Parts of a head that make the layers of the classes."""


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


def optimiser_of(network: UniversalNetwork, spec: OptimiserSpec) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019), with two exceptions.

    Weight decay leaves biases and normalisations alone: it pulls towards 0, which means nothing to a scale whose
    neutral value is 1, nor to a shift. Parameters of one dimension are all of these kinds.

    The layers that make layers (text, image, controller of the head) learn at `head_rate` of the rate. AdamW moves
    each of their weights by about the rate, and a number that they make, which is a weight itself, by the rate times
    the sum of some 500 inputs: far more than any other weight of the network.
    """
    makers = {id(p) for head in network.heads for part in MAKERS for p in getattr(head, part).parameters()}
    groups = []
    for made, share in ((False, 1.0), (True, spec.head_rate)):
        trained = [p for p in network.parameters() if p.requires_grad and (id(p) in makers) == made]
        groups += [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": spec.weight_decay, "share": share},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "share": share},
        ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=spec.lr)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use a learning rate from now on."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]
