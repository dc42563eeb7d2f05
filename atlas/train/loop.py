"""Training: patches in, weights out, and a folder from which it can go on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from atlas.stream import stream
from atlas.train.checkpoint import load_checkpoint
from atlas.train.heap import keep_freed_memory
from atlas.train.learner import check_precision
from atlas.train.options import settings_of
from atlas.train.progress import Progress, TrainSummary, silent
from atlas.train.ranks import Ranks, joined
from atlas.train.resume import begun, check_corpus
from atlas.train.run import CorpusRecord, save_description
from atlas.train.schedule import check_schedule
from atlas.train.start import Start, check_patch, fresh_start
from atlas.train.stopping import stop_wish
from atlas.train.training import Training

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from atlas.corpus import Corpus
    from atlas.spec.training import TrainingRecipe
    from atlas.stream import Stream
    from atlas.train.options import Settings


def train(
    recipe: TrainingRecipe,
    corpus: Corpus,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    start: Start | None = None,
    progress: Callable[[Progress], None] = silent,
) -> TrainSummary:
    """Train a model, or go on with a training.

    Started by torchrun, all processes train together; the first one writes. SIGTERM and SIGINT end the training
    after the step that is being done, with a checkpoint.

    Parameters
    ----------
    recipe
        What to train.
    corpus
        Whose patches.
    out
        Folder of the run; see `atlas.train.run`.
    resume
        Go on from the last checkpoint in `out`; begin where there is no run yet.
    device
        "auto" is a GPU where there is one.
    start
        What to begin with, if not the network of the recipe with fresh weights. To resume, give it again.
    progress
        Told of every step, on the first rank.

    Raises
    ------
    SpecError
        If the recipe, the corpus and the network do not fit each other.
    TrainingError
        If there is a run in `out` already, it is that of another recipe or corpus, the device cannot do it, or the
        loss is not finite (names the cases; the last checkpoint is kept).
    CheckpointError
        If the checkpoint is damaged.
    CorpusError
        If no case is selected, or one cannot be read.
    """
    check_schedule(recipe.optimiser)
    check_patch(recipe)
    with joined(device) as ranks, stop_wish(alone=ranks.size == 1) as wish, _own_generators(ranks):
        check_precision(recipe.optimiser.precision, ranks.device)
        if ranks.device.type == "cpu":
            keep_freed_memory()
        known = begun(out, recipe, start, resume=resume)
        begin = known or start or fresh_start(recipe, corpus)
        settings = settings_of(recipe, begin.description.classes)
        with _patches(recipe, corpus, begin, settings, ranks) as patches:
            begin = _opened(out, begin, patches, corpus, ranks, known=known is not None)
            training = Training(out, begin, corpus, patches, settings.loss, ranks, progress)
            if known is not None:
                training.resume(load_checkpoint(out))
            return training.run(wish)


def _own_generators(ranks: Ranks) -> AbstractContextManager[None]:
    """Leave the caller's random generators as they are."""
    return torch.random.fork_rng([ranks.device.index] if ranks.device.type == "cuda" else [])


def _patches(recipe: TrainingRecipe, corpus: Corpus, begin: Start, settings: Settings, ranks: Ranks) -> Stream:
    data = recipe.data
    low, high = data.window
    return stream(
        corpus,
        batch_size=recipe.optimiser.batch,
        patch_size=data.patch,
        device=ranks.device,
        split=data.split,
        datasets=data.datasets,
        where=data.where,
        provenance=data.provenance,
        classes=begin.description.classes,
        sampling=settings.sampling,
        augmentation=settings.augmentation,
        seed=recipe.seed,
        window=(low, high),
        rank=ranks.rank,
        world_size=ranks.size,
    )


def _opened(out: Path, begin: Start, patches: Stream, corpus: Corpus, ranks: Ranks, *, known: bool) -> Start:
    """Describe the corpus in the folder of a new run; in that of an old one, check that it is the same."""
    now = CorpusRecord.of(corpus, len(patches.run.index), patches.run.fingerprint)
    if known:
        check_corpus(out, begin.description, now, corpus.taxonomy)
        return begin
    ranks.wait()  # until all have seen that there was no run
    begin = replace(begin, description=begin.description.model_copy(update={"corpus": now}))
    if ranks.first:
        save_description(out, begin.description, begin.embeddings)
    return begin
