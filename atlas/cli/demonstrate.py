"""atlas demo: the main job, end to end, on generated phantoms."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli import construct, train
from atlas.cli.ask import print_coverage
from atlas.cli.evaluate import evaluate
from atlas.cli.output import console
from atlas.cli.predict import predict
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from atlas.corpus import Corpus

CASES = 3
"""Phantoms of each dataset."""

OVERLAP = 0.25
"""Of windows: half of the time that the default takes."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")] = Path("atlas-demo"),
) -> None:
    """Build a small corpus of phantoms, in the layouts of real datasets, train a model on it and predict with it."""
    from atlas.corpus import open_corpus
    from atlas.phantom import write_dataset
    from atlas.spec import load_recipe, load_training

    recipe = load_recipe("demo")
    sources, corpus, model = out / "sources", out / "corpus.zarr", out / "model"
    console.rule("1. phantoms, in the files and folders of the real datasets", align="left")
    for number, dataset in enumerate(recipe.datasets):
        cases = write_dataset(dataset, sources, cases=CASES, seed=number)
        console.print(f"{sources / dataset}: {len(cases)} cases")
    console.rule("2. build: read, resample, split left from right, reconcile, store", align="left")
    construct.run(recipe, sources, corpus)
    console.rule("3. coverage: who labels what", align="left")
    opened = open_corpus(corpus)
    print_coverage(opened.coverage(), "dataset")
    console.rule("4. verify", align="left")
    if not construct.report_findings(corpus):
        raise AtlasError(f"{corpus}: the demo's corpus is not in order")
    console.rule("5. train: one small network for all classes, from partial labels", align="left")
    shutil.rmtree(model, ignore_errors=True)  # of an earlier demo
    train.run(load_training("demo_model"), opened, model)
    console.rule("6. evaluate: cases that were held out, classes that are annotated in them", align="left")
    evaluate(model, str(corpus), overlap=OVERLAP)
    console.rule("7. predict: a scan that was held out, all classes, on its own grid", align="left")
    predict(model, out / "predictions", source=_held_out(opened, sources), overlap=OVERLAP)
    console.rule("next", align="left")
    for line in (
        f'atlas query {corpus} "select class, count(*) from annotations where present group by 1"',
        f"atlas coverage {corpus} --plot coverage.png",
        f"tensorboard --logdir {model}",
        f"{model}/evaluation-test/scores.png, and masks below {out}/predictions",
    ):
        console.print(line, soft_wrap=True)


def _held_out(corpus: Corpus, sources: Path) -> Path:
    """File of the CT of the case of the test split in which most was annotated."""
    from atlas.ingest.cases import find_cases, located
    from atlas.spec import load_manifest

    cases = corpus.cases[corpus.cases.split == "test"]
    case = corpus[max(zip(cases.available.map(len), cases.case_id, strict=True))[1]].record
    folder = sources / case.dataset
    (image,) = (c.image for c in find_cases(load_manifest(case.dataset), folder) if c.source_case == case.source_case)
    return located(folder, str(image))
