"""Filling a part from one place: as many requests as it takes, until it is complete and right."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from atlas.errors import FetchError
from atlas.fetch.transport.bodies import RangeRefused
from atlas.fetch.transport.part import Origin
from atlas.fetch.transport.retry import Patience, Transient, policy

if TYPE_CHECKING:
    from atlas.fetch.download import Download, Progress
    from atlas.fetch.transport.bodies import Body, Supply
    from atlas.fetch.transport.part import Part

_EVERY = 0.1
"""Seconds between two reports of progress."""

_UNKNOWN_STEP = 64 * 2**20
"""Bytes after which the disk is looked at again where nobody knows how many there will be."""


def fill(part: Part, supply: Supply, download: Download, progress: Progress | None) -> None:
    """Go on until the part is complete and right.

    Parameters
    ----------
    part
        What is there of the file.
    supply
        Where the rest comes from.
    download
        What is known about the file.
    progress
        Told now and then how many bytes there are.

    Raises
    ------
    atlas.fetch.transport.answers.Gone
        If the file is not there.
    FetchError
        If it cannot be had, or what comes is twice not what the manifest says; then nothing of it is kept.
    """
    name = f"{download.target} from {supply.name}"
    patience, ranges, spoiled = Patience(name, part.size), True, False
    while True:
        try:
            if not part.complete(supply.source):
                _pour(part, supply, name, progress, ranges=ranges)
        except RangeRefused:
            ranges = False
            continue
        except Transient as problem:
            patience.wait(problem, part.size)
            continue
        wrong = part.wrong()
        if wrong is None:
            return
        part.clear()
        if spoiled:
            raise FetchError(
                f"{name}: {wrong}, also when fetched once more. The publisher may have changed the file: look on the "
                "dataset's page. What came was thrown away."
            )
        patience, spoiled = Patience(name), True


def _pour(part: Part, supply: Supply, name: str, progress: Progress | None, *, ranges: bool) -> None:
    """One request, and what comes of it into the part."""
    start, validator = part.start(supply.source) if ranges else (0, None)
    if start:
        part.catch_up(progress)
    with supply.opened(start, validator) as body:
        size = _size(body, part, supply, name)
        check_space(part, size, kept=body.first)
        if not body.first:
            part.begin(Origin(supply.source, body.validator, size))
        _write(part, body, size, name, progress)
    if size is not None and part.size < size:
        raise Transient(f"only {part.size:,} of {size:,} bytes came")
    if not part.size and not part.download.size == 0 and not part.checked:
        raise FetchError(f"{name}: the server sent an empty file")


def _write(part: Part, body: Body, size: int | None, name: str, progress: Progress | None) -> None:
    end = min((n for n in (body.end, size) if n is not None), default=None)
    looked, told, target = part.size, 0.0, part.download.target
    for chunk in body.chunks:
        if end is not None and part.size + len(chunk) > end:
            part.clear()
            raise FetchError(f"{name}: more came than the {end:,} bytes announced; it was thrown away")
        if end is None and part.size - looked >= _UNKNOWN_STEP:
            looked = part.size
            check_space(part, None, kept=part.size)
        part.write(chunk)
        if progress is not None and time.monotonic() - told >= _EVERY:
            told = time.monotonic()
            progress(target, part.size, size)
    if progress is not None:
        progress(target, part.size, size)


def _size(body: Body, part: Part, supply: Supply, name: str) -> int | None:
    """Size of the whole file, as all agree.

    Raises
    ------
    RangeRefused
        If the rest that was asked for is of a file of another size.
    FetchError
        If the whole is.
    """
    known = part.expected(supply.source) if body.first else part.download.size
    if body.size is None or known is None or body.size == known:
        return body.size if known is None else known
    if body.first:
        raise RangeRefused
    raise FetchError(
        f"{name}: the manifest says {known:,} bytes, and the server has {body.size:,}. The publisher may have changed "
        "the file: look on the dataset's page."
    )


def check_space(part: Part, size: int | None, *, kept: int) -> None:
    """Stop before the disk is full, not in the middle.

    Parameters
    ----------
    part
        What is there of the file.
    size
        It will have, in bytes; None: not known.
    kept
        Bytes of the part that are kept.

    Raises
    ------
    FetchError
        If there is too little room; the message says how much is needed and free.
    """
    missing = 0 if size is None else size - kept
    free = shutil.disk_usage(part.path.parent).free + part.size - kept
    if missing + policy.spare > free:
        raise FetchError(
            f"{part.target}: {missing:,} more bytes are needed and {policy.spare:,} are to stay free, but only "
            f"{free:,} are free on the disk of {part.path.parent}. Make room and run it again."
        )
