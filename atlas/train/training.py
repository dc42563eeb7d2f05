"""A training in progress: steps, checkpoints, validation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from atlas.errors import AtlasError, CheckpointError, TrainingError
from atlas.model.loss import PartialLabelLoss
from atlas.spec.training import TrainingRecipe
from atlas.train.best import Best, validation_cases
from atlas.train.checkpoint import save_checkpoint
from atlas.train.learner import Learner
from atlas.train.log import Log
from atlas.train.progress import Progress, TrainSummary, silent
from atlas.train.run import save_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from atlas.corpus import Corpus
    from atlas.model.loss_spec import LossSpec
    from atlas.stream import Stream
    from atlas.train.learner import Update
    from atlas.train.ranks import Ranks
    from atlas.train.start import Start
    from atlas.train.stopping import StopWish

GIB = 2**30


class Training:
    """What `atlas.train.loop.train` has put together, and how far it is.

    Parameters
    ----------
    out
        Folder of the run.
    begin
        Network and description.
    corpus
        For validation.
    patches
        To learn from.
    loss
        What it is made up of.
    ranks
        The processes that train together.
    progress
        Told of every step, on the first rank.
    """

    def __init__(
        self,
        out: Path,
        begin: Start,
        corpus: Corpus,
        patches: Stream,
        loss: LossSpec,
        ranks: Ranks,
        progress: Callable[[Progress], None],
    ) -> None:
        self.out, self.patches, self.ranks = out, patches, ranks
        self.recipe, self.spec = begin.description.recipe, begin.description.recipe.optimiser
        classes = begin.description.classes
        criterion = PartialLabelLoss(classes, loss, taxonomy=corpus.taxonomy)
        self.learner = Learner(begin.network.to(ranks.device), criterion, self.recipe, ranks, begin.teacher)
        self.step, self.validated, self.seconds = 0, 0, 0.0
        cases, told = validation_cases(self.recipe, corpus, classes)
        self.notes = (*begin.notes, *told)
        self.best = Best(out, corpus, cases, begin.description)
        self.progress = progress if ranks.first else silent

    def resume(self, state: dict[str, Any] | None) -> None:
        """Go on from a checkpoint; None: the run was begun, and nothing more.

        Raises
        ------
        CheckpointError
            If the checkpoint is that of another run.
        """
        if state is None:
            return
        try:
            if TrainingRecipe.model_validate_json(state["recipe"]) != self.recipe:
                raise CheckpointError("the checkpoint is that of another recipe than run.json has")
            self.learner.load_state_dict(state)
            self.patches.load_state_dict(state["stream"])
        except (AtlasError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.out}: {error}") from error
        self.step, self.validated, self.seconds = state["step"], state["validated"], state["seconds"]
        self.best.step, self.best.score = state["best_step"], state["best_score"]

    def run(self, wish: StopWish) -> TrainSummary:
        """Train to the end, or until a rank wishes to stop."""
        stopped = None
        with Log(self.out if self.ranks.first else None, self.step, self.validated) as log:
            for note in self.notes if self.step == 0 else ():
                self._tell(log, note)
            while self.step < self.spec.steps or self._due():
                if self._wished(wish):
                    stopped = wish.signal
                    break
                if self._due():
                    self._judge(log)
                elif self._update(log, wish):
                    stopped = wish.signal or "a signal to another rank"
                    break
            if stopped is not None:
                self._save(log)
                self._tell(log, f"stopped by {stopped} after step {self.step}; --resume goes on")
        best, spec = self.best, self.spec
        return TrainSummary(self.out, self.step, spec.steps, stopped, best.step, best.score, self.seconds)

    def _wished(self, wish: StopWish) -> bool:
        """Whether to stop between two steps; ranks that train together agree on it in a step only."""
        return self.ranks.size == 1 and bool(wish)

    def _due(self) -> bool:
        """Whether it is time to validate, and that was not done yet."""
        reached = self.step % self.recipe.validation.every == 0 or self.step == self.spec.steps
        return self.step > self.validated and reached

    def _update(self, log: Log, wish: StopWish) -> bool:
        """One step; returns whether to stop."""
        before = time.perf_counter()
        try:
            update = self.learner.update(self.step, self.patches, wish)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"step {self.step + 1}: the memory of {self.ranks.device} does not suffice; lower optimiser.batch (and "
                "raise optimiser.accumulate), or lower data.patch"
            ) from error
        seconds = time.perf_counter() - before
        self.step, self.seconds = self.step + 1, self.seconds + seconds
        figures = self._figures(update, seconds)
        log.write(self.step, **figures)
        self.progress(Progress(self.step, self.spec.steps, figures))
        return update.stop

    def _figures(self, update: Update, seconds: float) -> dict[str, float]:
        patches = self.spec.batch * self.spec.accumulate * self.ranks.size
        figures = {
            "loss": update.loss,
            "dice": update.dice,
            "bce": update.bce,
            "lr": update.lr,
            "norm": update.norm,
            "seconds": round(seconds, 6),
            "rate": round(patches / seconds, 4),
            "waiting": round(update.waited / seconds, 4),
        }
        if self.ranks.device.type == "cuda":
            figures["memory"] = round(torch.cuda.max_memory_allocated(self.ranks.device) / GIB, 3)
        return figures

    def _judge(self, log: Log) -> None:
        """Save, validate, and save what came of it. The first rank does, the others wait at the next step."""
        self._save(log)  # validation may take longer than a cluster waits before it kills
        before = time.perf_counter()
        if self.ranks.first:
            score = self.best.judge(self.step, self.learner.best, self.ranks.device)
            if score is not None:
                log.write(self.step, validation=score, best=self.best.step == self.step)
                self.progress(Progress(self.step, self.spec.steps, {}, f"validation: mean Dice {score:.3f}"))
        self.validated, self.seconds = self.step, self.seconds + time.perf_counter() - before
        self._save(log)

    def _save(self, log: Log) -> None:
        """Write a checkpoint, and where nothing was validated, the weights to predict with."""
        if classes := self.learner.class_dice():
            log.write(self.step, classes=classes)
        if not self.ranks.first:
            return
        state = {
            "step": self.step,
            "validated": self.validated,
            "best_step": self.best.step,
            "best_score": self.best.score,
            "seconds": self.seconds,
            "recipe": self.recipe.model_dump_json(),
            "stream": self.patches.state_dict(),
            **self.learner.state_dict(),
        }
        save_checkpoint(self.out, state)
        if self.best.step is None:
            save_model(self.out, self.learner.best.state_dict())

    def _tell(self, log: Log, note: str) -> None:
        log.write(self.step, note=note)
        self.progress(Progress(self.step, self.spec.steps, {}, note))
