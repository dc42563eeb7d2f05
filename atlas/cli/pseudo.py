"""atlas pseudo: let a model label what cases of a corpus lack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas.cli.bar import Bar
from atlas.cli.construct import QUARANTINED
from atlas.cli.output import console, notes
from atlas.errors import AtlasError


def pseudo(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    corpus: Annotated[str, typer.Option(help="Folder of the corpus to complete.", metavar="CORPUS")],
    split: Annotated[str | None, typer.Option(help="Only cases of this split.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Only this dataset (repeatable).")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these, with commas between (default: all).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
) -> None:
    """Label what cases of a corpus lack by a trained model; what people labelled stays as it is."""
    from atlas.train.pseudo import model_name, pseudo_label
    from atlas.train.ranks import joined
    from atlas.train.run import load_run

    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    with joined(device) as here, Bar("pseudo", "cases") as bar:
        trained = load_run(run, here.device)
        outcomes = pseudo_label(
            trained,
            corpus,
            split=split,
            datasets=dataset or None,
            classes=names,
            progress=lambda done, total, outcome: bar(done, total, outcome.case_id),
        )
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        notes.print(f"failed: {outcome.case_id}: {outcome.reason}", markup=False, soft_wrap=True)
    labelled = [outcome for outcome in outcomes if outcome.state == "labelled"]
    console.print(
        f"{corpus}: {sum(len(o.classes) for o in labelled)} masks in {len(labelled)} cases by {model_name(trained)}; "
        f"{len(outcomes) - len(labelled) - len(failed)} unchanged, {len(failed)} failed",
        markup=False,
        soft_wrap=True,
    )
    if failed and len(failed) == len(outcomes):
        raise AtlasError("no case could be labelled (see above)")
    if failed:
        raise typer.Exit(QUARANTINED)
