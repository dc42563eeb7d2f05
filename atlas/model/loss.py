"""The loss for partial labels: of each sample, the classes that were annotated in it, and nothing of the others.

For every available (sample, class) pair, Dice over the whole volume of the patch plus binary cross-entropy over its
voxels; the loss is the mean over the pairs. That is the masked back-propagation of Liu et al., CLIP-Driven Universal
Model, ICCV 2023. Their published code averages the Dice over slices, where most are empty and cost 1 whatever is
predicted; here a pair has one Dice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from atlas.errors import SpecError
from atlas.model import consistency
from atlas.model.loss_input import check_target, listed_pairs, rows_of
from atlas.model.loss_spec import LossSpec
from atlas.model.pair_terms import PairTerms, pair_terms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class LossResult:
    """The loss of a batch. All but `total` is detached; levels L, available pairs P, samples B.

    Attributes
    ----------
    total
        Scalar, to call ``backward`` on.
    pairs
        int64 (P, 2), on the host: sample and class, those that are available, in the order given.
    dice, bce
        (L, P): terms of each pair, not weighted. 0 where the pair does not count.
    counted
        bool (L, P). False: no voxel of the patch is known.
    containment, exclusion
        Scalars, means of the penalties, not weighted. 0 where they are off.
    finite
        bool (B,): the sample's loss is finite.
    """

    total: torch.Tensor
    pairs: NDArray[np.int64]
    dice: torch.Tensor
    bce: torch.Tensor
    counted: torch.Tensor
    containment: torch.Tensor
    exclusion: torch.Tensor
    finite: torch.Tensor

    def not_finite(self) -> tuple[int, ...]:
        """Samples whose loss is infinite or not a number; ``batch.case_id[i]`` names them. Waits for the device."""
        return tuple((~self.finite).nonzero()[:, 0].tolist())


class PartialLabelLoss(nn.Module):
    """Mean over available (sample, class) pairs of Dice and cross-entropy.

    Unavailable pairs and unknown voxels have no part in it: their gradient is exactly 0, whatever their logits,
    infinite and NaN included, and neither their logits nor their mask changes a bit of the result. All is computed in
    float32 at least. Gradients have the dtype of the logits: that of a voxel is about 1 / (voxels x pairs), which
    bfloat16 holds and float16 does not without a scaler of gradients.

    Where several processes train together, the mean is over the pairs of each.

    Parameters
    ----------
    classes
        Channels of the masks, in order.
    spec
        What it is made up of.
    taxonomy
        Needed if containment or exclusion is above 0.

    Raises
    ------
    SpecError
        If there is not one weight a class, the taxonomy is missing, or it has no such class.
    """

    def __init__(
        self, classes: Sequence[str], spec: LossSpec | None = None, *, taxonomy: Taxonomy | None = None
    ) -> None:
        super().__init__()
        self.classes, self.spec = tuple(classes), spec or LossSpec()
        weights = self.spec.class_weights
        if weights is not None and len(weights) != len(self.classes):
            raise SpecError(f"{len(weights)} class_weights for {len(self.classes)} classes: give one a class")
        self._weights = np.array(weights or (1.0,) * len(self.classes))
        self.rules = consistency.Rules((), ())
        if self.spec.containment or self.spec.exclusion:
            if taxonomy is None:
                raise SpecError("containment and exclusion come from the taxonomy: give it, or set both to 0")
            self.rules = consistency.rules(taxonomy, self.classes)

    def forward(
        self,
        logits: torch.Tensor | Sequence[torch.Tensor],
        mask: torch.Tensor,
        available: torch.Tensor,
        unknown: torch.Tensor | None = None,
        *,
        pairs: torch.Tensor | None = None,
    ) -> LossResult:
        """Loss of a batch.

        Parameters
        ----------
        logits
            (P, d, h, w) with `pairs`, or (B, C, d, h, w) without; or a sequence of these, one a level.
        mask, available, unknown
            As in `atlas.stream.Batch`: bool (B, C, D, H, W), (B, C) and (B, C, D, H, W) or None.
        pairs
            int64 (P, 2), sample and class of each of the logits. All available pairs must be among them. Those that
            are not available have a part in the penalties of the taxonomy only.

        Raises
        ------
        SpecError
            If shapes or dtypes do not fit, a pair is given twice or is out of range, or an available one is missing.
        """
        levels = [logits] if isinstance(logits, torch.Tensor) else list(logits)
        if len(levels) != len(self.spec.levels):
            raise SpecError(f"logits of {len(levels)} levels, but levels has {len(self.spec.levels)} weights")
        check_target(len(self.classes), mask, available, unknown)
        on_host = available.cpu().numpy()
        listed = listed_pairs(pairs, on_host)
        levels = [rows_of(level, listed, mask, full=pairs is None) for level in levels]
        wanted = np.flatnonzero(on_host[listed[:, 0], listed[:, 1]])
        supervised = listed[wanted]
        rows = levels
        if len(wanted) < len(listed):
            # left out altogether, so that what is left is computed as if the others had never been
            rows = [level[torch.from_numpy(wanted).to(level.device)] for level in levels]
        terms = [self._terms(level, supervised, mask, unknown) for level in rows]
        inside, apart = (self._penalty(name, levels[0], listed) for name in ("containment", "exclusion"))
        return self._result(terms, supervised, inside, apart, len(mask))

    def _terms(
        self, logits: torch.Tensor, pairs: NDArray[np.int64], mask: torch.Tensor, unknown: torch.Tensor | None
    ) -> PairTerms:
        spec, on_device = self.spec, torch.from_numpy(pairs).to(logits.device)
        terms = pair_terms(
            logits,
            on_device,
            mask,
            unknown,
            smooth=spec.smooth,
            focal=spec.focal,
            balance=spec.balance,
            downsample=spec.downsample,
        )
        if spec.empty == "skip":
            terms = terms._replace(dice=torch.where(terms.present, terms.dice, 0.0))
        return terms

    def _penalty(
        self, name: Literal["containment", "exclusion"], logits: torch.Tensor, pairs: NDArray[np.int64]
    ) -> tuple[torch.Tensor, NDArray[np.int64]]:
        rules = self.rules if getattr(self.spec, name) else consistency.Rules((), ())
        return getattr(consistency, name)(logits, pairs, rules)  # type: ignore[no-any-return]

    def _result(
        self,
        terms: list[PairTerms],
        pairs: NDArray[np.int64],
        inside: tuple[torch.Tensor, NDArray[np.int64]],
        apart: tuple[torch.Tensor, NDArray[np.int64]],
        samples: int,
    ) -> LossResult:
        spec = self.spec
        dice, bce = torch.stack([t.dice for t in terms]), torch.stack([t.bce for t in terms])
        counted = torch.stack([t.known for t in terms])
        each = (spec.dice * dice + spec.bce * bce) * torch.from_numpy(self._weights[pairs[:, 1]]).to(dice)
        level = torch.tensor(spec.levels).to(dice) / sum(spec.levels)
        labels = (each.sum(1) / counted.sum(1).clamp(min=1) * level).sum()
        means = [values.sum() / max(len(values), 1) for values, _ in (inside, apart)]
        bad = dice.new_zeros(samples)
        for values, of in ((each.sum(0), pairs[:, 0]), inside, apart):
            bad.index_add_(0, torch.from_numpy(of).to(dice.device), (~values.detach().isfinite()).to(dice.dtype))
        return LossResult(
            total=labels + spec.containment * means[0] + spec.exclusion * means[1],
            pairs=pairs,
            dice=dice.detach(),
            bce=bce.detach(),
            counted=counted,
            containment=means[0].detach(),
            exclusion=means[1].detach(),
            finite=bad == 0,
        )
