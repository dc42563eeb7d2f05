"""What lies in a folder: files in a fixed order, without what archivers, systems and downloads leave behind."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import ScanError

if TYPE_CHECKING:
    from collections.abc import Iterator

JUNK = ("__MACOSX",)
"""Folders that archivers add. AppleDouble files (._*) and other hidden files are skipped as well."""

UNFINISHED = ".part"
"""What the name of a file ends in while it is being downloaded."""

INCOMPLETE = ".incomplete"
"""A file of this name lies in a folder of slices until all of them are fetched: nobody can tell by the slices."""

MOST_FILES = 1 << 16
"""In one folder of slices, or one study: more than any scan has."""


def walked(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `folder` and the names of the files right in it, sorted; links to folders are not followed.

    Yields
    ------
    place : str
        Path below `folder` that ends in "/", or "" for itself.
    names : list of str
        Without hidden and unfinished files.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in JUNK)
        below = Path(place).relative_to(folder).as_posix()
        yield ("" if below == "." else f"{below}/"), sorted(n for n in names if _wanted(n))


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, in order; see `walked`."""
    for place, names in walked(folder):
        yield from (place + name for name in names)


def incomplete(folder: Path) -> str | None:
    """Path below a folder of the first folder that was not fetched to its end; "" for itself, None if there is none."""
    return next((place for place, _ in walked(folder) if (folder / place / INCOMPLETE).exists()), None)


def slices_in(folder: Path) -> list[Path]:
    """Files right in a folder of slices, in natural order of their names.

    Raises
    ------
    ScanError
        If there is no such folder, no file in it, or more than any scan has.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.is_dir() and _wanted(entry.name)]
    except OSError as error:
        raise ScanError(f"cannot be read as a folder of slices: {error.strerror or error}") from error
    if not 0 < len(names) <= MOST_FILES:
        raise ScanError(f"holds {len(names)} files; a folder of slices has 1 to {MOST_FILES}")
    return [folder / name for name in sorted(names, key=natural)]


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key by which image_2 comes before image_10."""
    parts = re.split(r"(\d+)", name)
    key = [(int(part), "") if k % 2 else (0, part) for k, part in enumerate(parts)]
    return (*key, (0, name))  # names that differ in leading zeros alone still have one order


def _wanted(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(UNFINISHED)
