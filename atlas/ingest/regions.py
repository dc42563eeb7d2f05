"""Which slices of a case's labels were annotated, by a table of the publisher."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from atlas.errors import ScanError

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.spec.files import Layout, Regions

MAX_TABLE_BYTES = 4 * 2**20
"""A line a case needs a hundred bytes; nothing comes near."""


def region_of(layout: Layout, folder: Path, case: str) -> tuple[int, int] | None:
    """Annotated slices of a case.

    Parameters
    ----------
    layout
        Its `regions` says where the table lies and how it is read.
    folder
        The dataset's.
    case
        Source case, as the table names it.

    Returns
    -------
    tuple of int or None
        [lo, hi) along the third stored axis of the label volumes, counted upwards from the lowest slice; None where
        the dataset has no such table.

    Raises
    ------
    ScanError
        If the table is not there, is no such table, or has not exactly one line for the case.
    """
    regions = layout.regions
    if regions is None:
        return None
    path = folder / regions.file
    lines = [(number, line) for number, line in _lines(path, regions) if _is(_cell(line, regions.case), case)]
    if len(lines) != 1:
        raise ScanError(f"{path}: {len(lines)} lines for the case {case}, there must be one")
    number, line = lines[0]
    lo, hi = (_count(line, column, f"{path}, line {number}") for column in regions.slices)
    if lo >= hi:
        raise ScanError(f"{path}, line {number}: slices from {lo} up to {hi} are none")
    return lo, hi


def _lines(path: Path, regions: Regions) -> list[tuple[int, list[str]]]:
    """Lines below the headings that are about this dataset, with their numbers in the file."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_TABLE_BYTES:
        raise ScanError(f"{path}: larger than {MAX_TABLE_BYTES} bytes; this is no table of annotated slices")
    try:
        reader = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        lines = [(reader.line_num, line) for line in reader if line][1:]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScanError(f"{path}: not a CSV table in UTF-8 ({error})") from error
    if regions.rows is None:
        return lines
    first, end = regions.rows
    if len(lines) < end:
        raise ScanError(f"{path}: {len(lines)} lines below the headings, expected {end} at least")
    return lines[first:end]


def _is(cell: str, case: str) -> bool:
    """Whether a cell names a case; tables may leave out zeros in front of a number."""
    return cell == case or (cell.isdigit() and cell.zfill(len(case)) == case)


def _cell(line: list[str], column: int) -> str:
    return line[column].strip() if column < len(line) else ""


def _count(line: list[str], column: int, where: str) -> int:
    text = _cell(line, column)
    if not (text.isascii() and text.isdigit() and len(text) <= len("65536")):
        raise ScanError(f"{where}: {text!r} in column {column} (from 0) is no number of a slice")
    return int(text)
