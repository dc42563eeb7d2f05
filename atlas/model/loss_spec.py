"""What the loss is made up of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atlas.errors import SpecError

if TYPE_CHECKING:
    from atlas.model.pair_terms import Downsample


@dataclass(frozen=True)
class LossSpec:
    """Terms of the loss and their weights: what a training recipe has below ``loss``.

    Attributes
    ----------
    dice, bce
        Weights of the two terms.
    smooth
        Added to numerator and denominator of the Dice, in voxels. 1, as in nnU-Net's SoftDiceLoss: a class that is
        absent from the patch and not predicted costs 0, one that is predicted costs S / (S + 1) where S is the sum
        of the probabilities, and no gradient by a probability is larger than 1. (The Universal Model adds it to the
        denominator only: absent and not predicted then costs 1. With 1e-5, MONAI's default, a single voxel with a
        probability of 0.001 costs 0.99 already.)
    empty
        Of a class that is available but absent from the (known part of the) patch: "smooth", the Dice as above;
        "skip", no Dice, the pair has its cross-entropy only and still counts as one in the mean.
    focal
        Gamma of the focal loss on the cross-entropy; 0 for none, else at least 1 (below, its gradient has no bound).
    balance
        From 0 to 1. In the cross-entropy of a pair, a voxel of the class weighs (others / of the class) ** balance,
        where there are more others: 0, as any other; 1, both sides weigh the same. Without it the few voxels of a
        small organ are outvoted: its probability falls to its share of the volume, and there the gradient of the
        Dice, which has a factor p (1 - p), hardly moves it any more.
    class_weights
        One a class, above 0, in order of the channels. The loss of a pair is multiplied by its class's, and the mean
        is still over the number of pairs: were it over the sum of weights, a batch with one class only would not
        feel them. None: all 1.
    levels
        Weights of the levels of deep supervision, in the order in which their logits are given. The loss is the
        weighted mean over levels.
    downsample
        How the truth is made smaller for a level: see `atlas.model.pair_terms.level_target`.
    containment, exclusion
        Weights of the penalties of the taxonomy: see `atlas.model.consistency`. They judge predictions alone, on the
        first level: whatever the caller predicts, available or not, known or not, has a gradient by them.

    Raises
    ------
    SpecError
        If a value is not one of these.
    """

    dice: float = 1.0
    bce: float = 1.0
    smooth: float = 1.0
    empty: Literal["smooth", "skip"] = "skip"
    focal: float = 0.0
    balance: float = 0.5
    class_weights: tuple[float, ...] | None = None
    levels: tuple[float, ...] = (1.0,)
    downsample: Downsample = "max"
    containment: float = 0.0
    exclusion: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dice", "bce", "containment", "exclusion"):
            _check(name, getattr(self, name), "a finite number of at least 0", at_least=0)
        _check("smooth", self.smooth, "a finite number above 0", above=0)
        if self.focal != 0:
            _check("focal", self.focal, "0, or a finite number of at least 1", at_least=1)
        _check("balance", self.balance, "a number from 0 to 1", at_least=0, at_most=1)
        for weight in (*self.levels, *(self.class_weights or ())):
            _check("levels and class_weights", weight, "finite numbers above 0", above=0)
        if not self.levels:
            raise SpecError("levels: there is at least one, as in (1.0,)")
        if self.dice == self.bce == 0:
            raise SpecError("dice and bce are both 0: nothing is learnt from the labels")
        for name, valid in (("empty", ("smooth", "skip")), ("downsample", ("max", "nearest"))):
            if getattr(self, name) not in valid:
                raise SpecError(f"{name} {getattr(self, name)!r}: valid are {' and '.join(map(repr, valid))}")


def _check(
    name: str,
    value: object,
    valid: str,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise SpecError(f"{name} {value!r}: valid is {valid}")
    if value < at_least or value <= above or value > at_most:
        raise SpecError(f"{name} {value!r}: valid is {valid}")
