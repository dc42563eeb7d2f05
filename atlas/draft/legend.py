"""Names of label values, where a file beside the scans tells them: dataset.json, a table, or a file of ITK-SNAP."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from atlas.ingest.folders import walked

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_BYTES = 2**20
_MOST_FILES = 50
_DEPTH = 2
_TABLES = (".csv", ".tsv", ".txt")
_SNAP = re.compile(r'(\d+)(?:\s+\d+){3}\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"')
_ROW = re.compile(r"\s*(.*?)\s*[,;\t:=]\s*(.*?)\s*|(\S+)\s+(.*\S)\s*")
_MOST_VALUE = 65535


def legend(folder: Path, values: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """Names of label values.

    Parameters
    ----------
    folder
        Of the dataset; files down to two folders below it are looked at.
    values
        That were found; a file that does not name all of them is about something else.

    Returns
    -------
    names : dict of int to str
        Value -> name. Empty if no file tells, or two contradict each other.
    remark : str or None
        Which file it was, or why none is used.
    """
    wanted = set(values)
    found = {path: names for path in _files(folder) if (names := _parsed(folder / path)) and wanted <= set(names)}
    used = {path: {value: names[value] for value in sorted(wanted)} for path, names in found.items()}
    if not used or not wanted:
        return {}, None
    first = next(iter(used))
    if any(names != used[first] for names in used.values()):
        return {}, f"{' and '.join(used)} name the label values differently; neither was used"
    return used[first], first


def _files(folder: Path) -> list[str]:
    places = (
        place + name
        for place, names in walked(folder)
        if place.count("/") <= _DEPTH
        for name in names
        if name == "dataset.json" or name.lower().endswith(_TABLES)
    )
    return [path for path, _ in zip(places, range(_MOST_FILES), strict=False)]


def _parsed(path: Path) -> dict[int, str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        text = path.read_text(encoding="utf-8-sig")
        return from_json(text) if path.suffix == ".json" else from_table(text)
    except (OSError, ValueError, RecursionError):
        return {}


def from_json(text: str) -> dict[int, str]:
    """`labels` of a dataset.json: {value: name} or {name: value}. Empty if there is no such thing."""
    content = json.loads(text)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, dict):
        return {}
    rows = [(str(key), str(value)) for key, value in labels.items() if isinstance(value, str | int)]
    return _named(rows)


def from_table(text: str) -> dict[int, str]:
    """Rows of a value and a name, in either order, with or without headings. Empty if a row is anything else."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = [_row(line.strip()) for line in lines]
    if rows and not any(part.isdecimal() for part in rows[0]):
        del rows[0]  # headings
    return _named(rows)


def _row(line: str) -> tuple[str, str]:
    snap = _SNAP.fullmatch(line)
    found = _ROW.fullmatch(line)
    if snap:
        return snap[1], snap[2]
    if not found:
        return "", ""
    one, other = (found[1], found[2]) if found[1] is not None else (found[3], found[4])
    return one.strip("\"' "), other.strip("\"' ")


def _named(rows: list[tuple[str, str]]) -> dict[int, str]:
    """Value -> name; empty if a row has no value, no name or two values, or a value comes twice."""
    result: dict[int, str] = {}
    for one, other in rows:
        value, name = (one, other) if one.isdecimal() else (other, one)
        if not value.isdecimal() or len(value) > 5 or int(value) > _MOST_VALUE or int(value) in result:  # noqa: PLR2004
            return {}
        if not name or name.isdecimal() or not name.isprintable():
            return {}
        result[int(value)] = name
    return result
