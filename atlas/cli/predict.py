"""atlas predict: masks of scans, on their own grids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atlas.cli.bar import Bar
from atlas.cli.output import console, notes
from atlas.errors import AtlasError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atlas.predict import CaseScan, FileScan

INCOMPLETE = 3
"""Exit status: done, but some scans were left out."""


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run.")],
    out: Annotated[Path, typer.Option(help="Folder for a folder of results for each scan.", metavar="DIR")],
    source: Annotated[
        Path | None, typer.Option("--input", help="A CT, a folder of CTs, or of DICOM slices.", metavar="CT_OR_DIR")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Cases of this corpus instead.", metavar="CORPUS")] = None,
    case: Annotated[list[str] | None, typer.Option(help="Only this case of the corpus (repeatable).")] = None,
    classes: Annotated[str | None, typer.Option(help="Only these, with commas between (default: all).")] = None,
    overlap: Annotated[float, typer.Option(help="Of the windows: 0.75 is slower and a little better.")] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    raw: Annotated[bool, typer.Option("--no-postprocess", help="Leave out the post-processing of the recipe.")] = False,
) -> None:
    """Predict masks of scans on their own grids: a label map, a file a class, and volumes."""
    if not 0 <= overlap < 1:
        raise typer.BadParameter("--overlap is from 0 to below 1")
    if (source is None) == (corpus is None) or (case and corpus is None):
        raise typer.BadParameter("give --input, or --corpus and, if wanted, --case")
    scans = _scans(source, corpus, case or ())
    from atlas.predict import predict_scans
    from atlas.train.ranks import joined
    from atlas.train.run import load_run

    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    failed = 0
    with joined(device) as here, Bar("predict", "windows") as bar:
        trained = load_run(run, here.device)
        for done in predict_scans(
            trained,
            scans,
            out,
            classes=names,
            overlap=overlap,
            tidied=not raw,
            progress=lambda scan, done, total: bar(done, total, scan),
        ):
            for warning in done.warnings:
                notes.print(f"warning: {done.scan}: {warning}", markup=False, soft_wrap=True)
            if done.folder is None:
                failed += 1
                notes.print(f"failed: {done.scan}: {done.reason}", markup=False, soft_wrap=True)
            else:
                found = sum(ml > 0 for ml in done.volumes.values())
                seconds = sum(done.seconds.values())
                console.print(
                    f"{done.folder}: {found} of {len(done.volumes)} classes found, {seconds:.1f} s",
                    markup=False,
                    soft_wrap=True,
                )
    if failed == len(scans):
        raise AtlasError("no scan could be predicted (see above)")
    if failed:
        raise typer.Exit(INCOMPLETE)


def _scans(source: Path | None, corpus: str | None, cases: Sequence[str]) -> Sequence[FileScan | CaseScan]:
    from atlas.predict.scans import corpus_scans, scans_at

    if source is not None:
        return scans_at(source)
    from atlas.corpus import open_corpus

    scans = corpus_scans(open_corpus(str(corpus)), cases)
    if not scans:
        raise AtlasError(f"{corpus}: holds no cases")
    return scans
