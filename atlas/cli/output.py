"""Tables for people and for machines, and progress."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

console = Console(highlight=False)
notes = Console(stderr=True, highlight=False)
"""For everything that is not the answer, so that `--format json` is alone on standard output."""

BLANK = "·"
"""A cell about which there is nothing to say."""

GAP = 2
"""Columns between two columns of a table."""


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    markdown = "markdown"


def emit(frame: pd.DataFrame, form: Format) -> None:
    """Print a table to standard output."""
    if form is Format.csv:
        print(frame.to_csv(index=False), end="")
    elif form is Format.json:
        print(frame.to_json(orient="records", indent=1, default_handler=str))
    elif form is Format.parquet:
        sys.stdout.buffer.write(frame.to_parquet(index=False))
    elif form is Format.markdown:
        print(_markdown(frame))
    else:
        print_grid(
            [str(c) for c in frame.columns],
            [[_text(v) for v in row] for row in frame.itertuples(index=False)],
        )


def _markdown(frame: pd.DataFrame) -> str:
    rows = [[str(c) for c in frame.columns], ["---"] * len(frame.columns)]
    rows += [[_text(v).replace("|", "\\|") for v in row] for row in frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:,.6g}"  # noqa: PLR0124 - NaN
    return "" if value is None else str(value)


def print_grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, in blocks below one another where it is wider than the terminal.

    The first column is repeated in each block, without the rows that are blank there. Columns of numbers are
    set flush right.
    """
    for block in _blocks(header, rows, console.width):
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
        for i in block:
            numbers = i > 0 and all(row[i][:1].isdigit() or row[i] in {"", BLANK} for row in rows)
            table.add_column(header[i], justify="right" if numbers else "left", no_wrap=numbers or i == 0)
        for row in rows:
            if any(row[i] != BLANK for i in block[1:]):
                table.add_row(*(row[i] for i in block))
        console.print(table)
        if block[-1] != len(header) - 1:
            console.print()


def _blocks(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Columns of each block, as many as fit."""
    needed = [max(len(row[i]) for row in [header, *rows]) + GAP for i in range(len(header))]
    blocks, current = [], [0]
    for i in range(1, len(header)):
        if len(current) > 1 and sum(needed[j] for j in current) + needed[i] > width:
            blocks.append(current)
            current = [0]
        current.append(i)
    return [*blocks, current]


def fits(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a table fits the terminal in one block."""
    return len(_blocks(header, rows, console.width)) == 1


def yes_no(value: bool | None) -> str:
    """Terms of a licence in words."""
    return "unclear" if value is None else "yes" if value else "no"
