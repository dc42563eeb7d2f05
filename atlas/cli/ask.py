"""atlas coverage, atlas query: questions about a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from atlas.cli.output import BLANK, Format, emit, fits, notes, print_grid
from atlas.corpus import open_corpus
from atlas.errors import AtlasError

if TYPE_CHECKING:
    import pandas as pd

Place = Annotated[str, typer.Argument(metavar="CORPUS", help="Folder or URL of the corpus.")]
FIGURES = (".png", ".svg", ".pdf")


def coverage(
    corpus: Place,
    by: Annotated[Literal["dataset", "split", "licence", "group"], typer.Option(help="What to count in.")] = "dataset",
    classes: Annotated[list[str] | None, typer.Option("--class", "-c", help="Only this class (repeatable).")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
    plot: Annotated[Path | None, typer.Option(help="Also draw it: a .png, .svg or .pdf file.")] = None,
) -> None:
    """Show who labels what, how often, and how large."""
    if plot is not None and plot.suffix not in FIGURES:
        raise typer.BadParameter(f"a figure ends in {', '.join(FIGURES)}", param_hint="--plot")
    opened = open_corpus(corpus)
    table = opened.coverage(by=by, classes=classes or None)
    if form is Format.table:
        print_coverage(table, by)
    else:
        emit(table, form)
    if plot is not None:
        from atlas.report.heatmap import heatmap

        if table.empty:
            raise AtlasError(f"{corpus}: nothing to draw, no class is available anywhere")
        heatmap(table, by, plot)
        notes.print(f"drawn: {plot}")


def print_coverage(table: pd.DataFrame, by: str) -> None:
    """Print a coverage table the way round that fits."""
    if table.empty:
        notes.print("no class is available anywhere in this corpus")
        return
    groups, classes = list(dict.fromkeys(table[by])), list(dict.fromkeys(table["class"]))
    rows = zip(table[by], table["class"], table["available"], table["present"], strict=True)
    cells = {(group, name): _cell(available, present) for group, name, available, present in rows}
    across = [by, *classes], [[str(g), *(cells.get((g, c), BLANK) for c in classes)] for g in groups]
    down = ["class", *map(str, groups)], [[c, *(cells.get((g, c), BLANK) for g in groups)] for c in classes]
    print_grid(*(across if fits(*across) else down))
    notes.print("present/available cases; one number: present in all; · not annotated", style="dim")


def _cell(available: int, present: int) -> str:
    return BLANK if not available else str(present) if present == available else f"{present}/{available}"


def query(
    corpus: Place,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Over the tables cases, annotations and quarantine.")],
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.table,
) -> None:
    """Ask the catalog in SQL (DuckDB)."""
    emit(open_corpus(corpus).sql(sql), form)
