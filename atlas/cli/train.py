"""atlas train: a model from a corpus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.bar import Bar
from atlas.cli.output import console, notes

if TYPE_CHECKING:
    from atlas.corpus import Corpus
    from atlas.spec.training import TrainingRecipe
    from atlas.train.progress import Progress, TrainSummary
    from atlas.train.start import Start


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a training recipe, or a .yaml file.")],
    corpus: Annotated[str, typer.Option(help="Corpus to train on: a folder or a URL.", metavar="CORPUS")],
    out: Annotated[Path, typer.Option(help="Folder of the run.", metavar="RUN")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN was stopped.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    extend: Annotated[
        Path | None, typer.Option(help="Add the recipe's classes to the model of this run.", metavar="RUN")
    ] = None,
    finetune: Annotated[
        Path | None, typer.Option(help="Begin with the weights of the model of this run.", metavar="RUN")
    ] = None,
) -> None:
    """Train a model, or go on with a training. Stopped by SIGTERM or Ctrl-C, it saves first."""
    from atlas.corpus import open_corpus
    from atlas.spec import load_training

    if extend is not None and finetune is not None:
        raise typer.BadParameter("--extend adds classes and keeps the others, --finetune does not: give one")
    wanted, opened = load_training(recipe), open_corpus(corpus)
    start = _start(wanted, opened, extend, finetune)
    run(wanted, opened, out, resume=resume, device=device, start=start)


def _start(recipe: TrainingRecipe, corpus: Corpus, extend: Path | None, finetune: Path | None) -> Start | None:
    """What to begin with; None: fresh weights."""
    known = extend or finetune
    if known is None:
        return None
    from atlas.train.from_run import extended_start, finetuned_start
    from atlas.train.run import load_run

    return (extended_start if extend else finetuned_start)(load_run(known), recipe, corpus)


def run(
    recipe: TrainingRecipe,
    corpus: Corpus,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    start: Start | None = None,
) -> TrainSummary:
    """Train with progress, and print what came of it."""
    from atlas.train.loop import train as train_model

    with TrainingBar() as bar:
        summary = train_model(recipe, corpus, out, resume=resume, device=device, start=start, progress=bar.told)
    if os.environ.get("RANK", "0") == "0":  # the others have nothing to add
        console.print(_told(summary), soft_wrap=True, markup=False)
    return summary


def _told(summary: TrainSummary) -> str:
    if summary.stopped is not None:
        return (
            f"{summary.run}: stopped at step {summary.step} of {summary.steps} by {summary.stopped}; "
            "the same command with --resume goes on"
        )
    what = f"{summary.step} steps in {summary.seconds:.0f} s"
    if summary.best_step is None:
        return f"{summary.run}: {what}; weights to predict with are those of the last step"
    return (
        f"{summary.run}: {what}; weights to predict with are those of step {summary.best_step}, "
        f"mean Dice {summary.best_score:.3f} in validation"
    )


class TrainingBar(Bar):
    """Steps with their figures, and notes in between."""

    def __init__(self) -> None:
        super().__init__("train", "steps")

    def told(self, where: Progress) -> None:
        """Take note of a step, or of what there is to say."""
        if where.note:
            notes.print(f"step {where.step}: {where.note}", markup=False, soft_wrap=True)
            return
        figures = (f"{name} {value:.3g}" for name, value in where.figures.items() if name in SHOWN)
        self(where.step, where.steps, ", ".join(figures))


SHOWN = ("loss", "dice", "lr", "rate", "waiting")
"""Figures of a step that are worth a place on the line."""
