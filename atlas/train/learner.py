"""One update of the weights, and all that it changes."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atlas.errors import CheckpointError, TrainingError
from atlas.train.schedule import learning_rate, optimiser_of, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.model.loss import LossResult, PartialLabelLoss
    from atlas.model.network import UniversalNetwork
    from atlas.spec.training import TrainingRecipe
    from atlas.stream import Batch, Stream
    from atlas.train.extend import Distillation
    from atlas.train.ranks import Ranks
    from atlas.train.stopping import StopWish

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Update(NamedTuple):
    """What came of an update.

    Attributes
    ----------
    loss, dice, bce
        The loss is the mean over passes and ranks; Dice and cross-entropy are means over the pairs of all of these, at
        full resolution and not weighted (NaN where there is no pair), the Dice as a score: 1 is perfect.
    norm
        Of the gradient before it was clipped; infinite where half precision overflowed and the update was left out.
    lr
        Learning rate.
    waited
        Seconds in which nothing was done but wait for patches.
    stop
        Some rank wishes to stop.
    """

    loss: float
    dice: float
    bce: float
    norm: float
    lr: float
    waited: float
    stop: bool


class ClassTerms(NamedTuple):
    """Dice terms of a pass: class (P,), loss term (P,) and whether it counts (P,); the last two on the device."""

    classes: NDArray[np.int64]
    dice: torch.Tensor
    counted: torch.Tensor


class Learner:
    """Weights, their moving average, and the optimiser.

    Parameters
    ----------
    network
        On the device of `ranks`.
    loss
        Of its classes.
    recipe
        Of the training.
    ranks
        The processes that train together.
    teacher
        Of classes that the network is to keep; None: labels alone.

    Raises
    ------
    TrainingError
        If the device cannot compute in the precision of the recipe.
    """

    def __init__(
        self,
        network: UniversalNetwork,
        loss: PartialLabelLoss,
        recipe: TrainingRecipe,
        ranks: Ranks,
        teacher: Distillation | None = None,
    ) -> None:
        self.recipe, self.spec, self.ranks = recipe, recipe.optimiser, ranks
        check_precision(self.spec.precision, ranks.device)
        self.network, self.loss, self.teacher = network, loss, teacher
        if teacher is not None:
            teacher.teacher.to(ranks.device)
        averaging = get_ema_multi_avg_fn(self.spec.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(network, multi_avg_fn=averaging) if self.spec.ema else None
        self.optimiser = optimiser_of(network, self.spec)
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=self.spec.precision == "fp16")
        if self.spec.compile:
            network.backbone.compile()  # in place: names of weights stay, and the head's shapes change with every batch
        self._forward = ranks.wrapped(network)
        self._levels = recipe.model.deep_supervision > 0
        self._frozen = [m for m in network.modules() if _is_frozen(m)]
        self._terms: list[ClassTerms] = []

    @property
    def best(self) -> UniversalNetwork:
        """The network to predict with."""
        return self.network if self.average is None else self.average.module  # type: ignore[return-value]

    def update(self, step: int, batches: Stream, wish: StopWish) -> Update:
        """One update, of as many passes as are accumulated.

        Parameters
        ----------
        step
            Of the update, from 0.
        batches
            Patches.
        wish
            Of this rank to stop.

        Raises
        ------
        TrainingError
            If loss or gradient is not finite, on all ranks alike; the weights are as they were. Names the cases.
        """
        # what is random in the network depends on seed, step and rank alone: no state of a generator is to be kept
        torch.manual_seed(_drawn(self.recipe.seed, step, self.ranks.rank))
        rate, waited, passes = learning_rate(step, self.spec), 0.0, []
        self._to_train()
        self.optimiser.zero_grad(set_to_none=True)
        for number in range(self.spec.accumulate):
            before = time.perf_counter()
            batch = cast("Batch", next(batches))
            waited += time.perf_counter() - before
            passes.append((batch.case_id, self._pass(batch, last=number == self.spec.accumulate - 1)))
        self.scaler.unscale_(self.optimiser)
        limit = float("inf") if self.spec.clip is None else self.spec.clip
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        loss, dice, bce, wrong, stop, size = self._figures([result for _, result in passes], norm, wish)
        if wrong:
            self._refuse(step, passes)
        set_learning_rate(self.optimiser, rate)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return Update(loss, 1 - dice, bce, size, rate, waited, bool(stop))

    def _to_train(self) -> None:
        """Training mode, but for parts that do not change: their running statistics must not either."""
        self.network.train()
        for module in self._frozen:
            module.eval()

    def _pass(self, batch: Batch, *, last: bool) -> LossResult:
        """Forward and backward; gradients are averaged over the ranks in the last pass only."""
        available = torch.from_numpy(batch.available_on_host)
        wanted = available if self.teacher is None else self.teacher.wanted(available)
        together = nullcontext() if last or self.ranks.size == 1 else self._forward.no_sync()  # type: ignore[operator]
        with together:
            dtype = DTYPES[self.spec.precision]
            with torch.autocast(self.ranks.device.type, dtype, enabled=dtype != torch.float32):
                found = self._forward(batch.image, wanted, levels=self._levels)
                extra = None if self.teacher is None else self.teacher.loss(batch.image, available, found)
            # the pairs as the network orders them, known here without asking the device
            pairs, logits = wanted.nonzero(), [found.logits, *found.levels]
            result: LossResult = self.loss(logits, batch.mask, available, batch.unknown, pairs=pairs)
            if extra is not None:
                result = replace(result, total=result.total + extra)
            self.scaler.scale(result.total / self.spec.accumulate).backward()  # type: ignore[no-untyped-call]
        self._terms.append(ClassTerms(result.pairs[:, 1], result.dice[0], result.counted[0]))
        return result

    def _figures(self, results: Sequence[LossResult], norm: torch.Tensor, wish: StopWish) -> list[float]:
        """Loss, Dice, cross-entropy, how much is not finite, wishes to stop; norm. Waits for the device, once."""
        loss = sum(r.total.detach() for r in results) / len(results)
        sums = [sum(term.sum() for term in terms) for terms in zip(*map(_terms, results), strict=True)]
        wrong = sum((~r.finite).sum() + ~r.total.isfinite() for r in results)
        if not self.scaler.is_enabled():  # else an infinite gradient is the scaler's business
            wrong = wrong + ~norm.isfinite()
        numbers = [
            torch.as_tensor(n, dtype=torch.float64, device=norm.device) for n in (loss, *sums, wrong, bool(wish))
        ]
        total = torch.cat([self.ranks.total(torch.stack(numbers)), norm.double()[None]]).tolist()
        loss, dice, bce, pairs, wrong, stop, size = total
        return [loss / self.ranks.size, *(s / pairs if pairs else math.nan for s in (dice, bce)), wrong, stop, size]

    def _refuse(self, step: int, passes: Sequence[tuple[tuple[str, ...], LossResult]]) -> None:
        own = [cases[i] for cases, result in passes for i in result.not_finite()]
        bad, every = self.ranks.gathered(own), self.ranks.gathered([case for cases, _ in passes for case in cases])
        what = f"the loss of {_listed(bad)}" if bad else f"the gradient of {_listed(every)} together"
        raise TrainingError(
            f"step {step + 1}: {what} is not a finite number; the weights were left as they were. Look at "
            "these cases, lower optimiser.lr, or use another optimiser.precision; the last checkpoint is kept"
        )

    def class_dice(self) -> dict[str, float]:
        """Mean soft Dice of each class in the patches of this rank since this was last asked."""
        terms, self._terms = self._terms, []
        if not terms:
            return {}
        classes = np.concatenate([t.classes for t in terms])
        dice = torch.cat([t.dice for t in terms]).double().cpu().numpy()
        counted = torch.cat([t.counted for t in terms]).double().cpu().numpy()
        sums, counts = (np.bincount(classes, weights, len(self.loss.classes)) for weights in (dice * counted, counted))
        means = 1 - sums / np.maximum(counts, 1)
        return {n: float(m) for n, m, c in zip(self.loss.classes, means, counts, strict=True) if c}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises
        ------
        CheckpointError
            If it is that of another network.
        """
        try:
            self.network.load_state_dict(state["network"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint is that of another network: {error}") from error


def check_precision(precision: str, device: torch.device) -> None:
    """Raise TrainingError if a device cannot compute so."""
    if precision != "fp32" and device.type == "cpu":
        # bf16: oneDNN's weight gradient of a convolution over a few dozen voxels is made of memory that nobody wrote
        # (torch 2.13, 3x3x3, 128 channels, 2x3x5 voxels: not a number in 7 of 8 tries among poisoned memory)
        raise TrainingError(
            f"optimiser.precision {precision} needs a GPU: on a CPU, gradients of bf16 convolutions over small volumes "
            "are wrong, and fp16 is not computed; use fp32"
        )
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise TrainingError(f"{torch.cuda.get_device_name(device)} has no bf16: use optimiser.precision fp16 or fp32")


def _terms(result: LossResult) -> tuple[torch.Tensor, ...]:
    """Dice, cross-entropy and what counts, of each pair at full resolution."""
    return result.dice[0], result.bce[0], result.counted[0]


def _drawn(*numbers: int) -> int:
    """A seed out of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _is_frozen(module: torch.nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _listed(cases: Sequence[str]) -> str:
    return ", ".join(sorted(set(cases)))
