"""atlas demo: the main job, end to end, on generated phantoms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atlas.cli.ask import print_coverage
from atlas.cli.construct import report_findings, run
from atlas.cli.output import console
from atlas.errors import AtlasError

CASES = 3
"""Phantoms of each dataset."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")] = Path("atlas-demo"),
) -> None:
    """Build a small corpus of phantoms, in the layouts of real datasets, and look at it."""
    from atlas.corpus import open_corpus
    from atlas.phantom import write_dataset
    from atlas.spec import load_recipe

    recipe = load_recipe("demo")
    sources, corpus = out / "sources", out / "corpus.zarr"
    console.rule("1. phantoms, in the files and folders of the real datasets", align="left")
    for number, dataset in enumerate(recipe.datasets):
        cases = write_dataset(dataset, sources, cases=CASES, seed=number)
        console.print(f"{sources / dataset}: {len(cases)} cases")
    console.rule("2. build: read, resample, split left from right, reconcile, store", align="left")
    run(recipe, sources, corpus)
    console.rule("3. coverage: who labels what", align="left")
    opened = open_corpus(corpus)
    print_coverage(opened.coverage(), "dataset")
    console.rule("4. verify", align="left")
    if not report_findings(corpus):
        raise AtlasError(f"{corpus}: the demo's corpus is not in order")
    console.rule("next", align="left")
    console.print(
        f'atlas query {corpus} "select class, count(*) from annotations where present group by 1"', soft_wrap=True
    )
    console.print(f"atlas coverage {corpus} --plot coverage.png", soft_wrap=True)
