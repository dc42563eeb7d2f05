"""Whether the disk can hold what is planned, before anything starts."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from atlas.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from atlas.fetch.plan import Plan

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def needed(plans: Iterable[Plan]) -> int:
    """Bytes that plans will add to the disk, archives and their contents; files of unknown size not counted."""
    return sum(plan.bytes_to_fetch + plan.bytes_to_unpack for plan in plans)


def check_space(plans: Iterable[Plan], sources: Path, free: int | None = None) -> None:
    """Refuse to start what cannot be finished.

    Parameters
    ----------
    plans
        Of all datasets of the run.
    sources
        Folder that gets them; it need not exist.
    free
        Bytes; by default what the file system of the folder says.

    Raises
    ------
    FetchError
        Naming what is needed and what is free.
    """
    want = needed(plans)
    if not want:
        return
    have = free_at(sources) if free is None else free
    if want > have:
        raise FetchError(
            f"{sources}: archives and what they unpack to need {_size(want)}, and {_size(have)} are free; "
            "free some, fetch fewer datasets at a time, or choose a folder on a larger disk"
        )


def free_at(path: Path) -> int:
    """Bytes free where a folder is or would be."""
    path = path.absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.is_dir())).free


def _size(count: int) -> str:
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{count} bytes"
