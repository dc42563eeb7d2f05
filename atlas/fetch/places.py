"""Where a file comes to lie, where it grows until then, and where what is known about it is kept."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING

from atlas.errors import FetchError
from atlas.spec.base import below

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.fetch.download import Download

OWN = ".atlas"
"""Folder below a dataset's that holds what is known about its files."""


def place(download: Download, folder: Path) -> Path:
    """Where a file comes to lie.

    Raises
    ------
    FetchError
        If that is not inside the dataset's folder: targets may come from a listing that a server gave.
    """
    try:
        below(download.target)
    except ValueError as error:
        raise FetchError(f"{download.dataset}: {error}") from error
    parts = download.target.split("/")
    if not all(parts) or "." in parts or parts[0] == OWN:
        raise FetchError(f"{download.dataset}: {download.target!r} is no name for a file.")
    return folder / download.target


def part_path(path: Path) -> Path:
    """Where a file grows until it is complete and verified."""
    return path.with_name(path.name + ".part")


def own_place(folder: Path, kind: str, target: str) -> Path:
    """Place of the JSON of one kind (records, parts) about a file."""
    return folder / OWN / kind / f"{target}.json"


def write_json(path: Path, content: object) -> None:
    """Write a small JSON file in one step, flushed to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(
        f"{os.getpid()}.{threading.get_ident()}.new"
    )  # no longer than what long names leave room for
    with beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
