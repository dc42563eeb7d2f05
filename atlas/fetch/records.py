"""What is known about files already fetched: one small JSON for each, written in one step.

They lie in `.atlas/records/` of the dataset's folder under the files' own places. Nothing is shared between files, so
tasks that run side by side do not get in each other's way.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from atlas.errors import FetchError
from atlas.fetch.hashes import Hashes
from atlas.fetch.places import own_place, part_path, place, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from atlas.fetch.download import Download, Progress


@dataclass(frozen=True)
class Record:
    """One fetched file.

    Attributes
    ----------
    target
        Place below the dataset's folder.
    url
        Where it came from, without query; "" if a person put it there.
    size, sha256, md5
        Of its content; md5 if the publisher gives one.
    mtime_ns
        Its time of modification when it was verified: with the size, it tells whether it is still the same file.
    unpacked
        Whether everything wanted was taken out of the archive.
    time
        When it was verified, UTC, ISO 8601.
    """

    target: str
    url: str
    size: int
    sha256: str
    md5: str | None
    mtime_ns: int
    unpacked: bool = False
    time: str = ""


def record(folder: Path, target: str) -> Record | None:
    """What is known about a file; None if nothing is, or nothing that can be read."""
    try:
        found = Record(**json.loads(own_place(folder, "records", target).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if _sound(found) and found.target == target else None


def write_record(folder: Path, known: Record) -> None:
    """Write what is known about a file, in one step."""
    write_json(own_place(folder, "records", known.target), asdict(known))


def state(download: Download, folder: Path) -> Literal["fetched", "partial", "missing"]:
    """How far a file is, without reading it.

    Returns
    -------
    Literal["fetched", "partial", "missing"]
        fetched: it is there and was verified against what the manifest says now. partial: some of it is there, or all
        of it unverified, as when a person put it there; the transfer goes on from that.
    """
    path = place(download, folder)
    if confirmed(download, folder) is not None:
        return "fetched"
    return "partial" if path.exists() or part_path(path).exists() else "missing"


def confirmed(download: Download, folder: Path) -> Record | None:
    """Record of a file that is there, unchanged since, and as the manifest says now; else None."""
    found = record(folder, download.target)
    try:
        status = place(download, folder).stat()
    except OSError:
        return None
    if found is None or (found.size, found.mtime_ns) != (status.st_size, status.st_mtime_ns):
        return None
    facts = [(download.size, found.size), (download.md5, found.md5), (download.sha256, found.sha256)]
    return found if all(said is None or said == its for said, its in facts) else None


def verify(
    path: Path,
    *,
    size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    name: str | None = None,
) -> str:
    """Compare a file with what is known about it, in one pass over it.

    Parameters
    ----------
    path
        The file.
    size, md5, sha256
        What is known: bytes, and digests in hexadecimal.
    progress
        Told the name, the bytes read and their number.
    name
        What `progress` is told; by default the file's name.

    Returns
    -------
    str
        Its sha256.

    Raises
    ------
    FetchError
        If it cannot be read, or differs; the message says what was expected and what was found.
    """
    try:
        hashes = _hashed(path, size, Hashes(md5=md5 is not None), progress, name or path.name)
    except OSError as error:
        if isinstance(error, FetchError):
            raise
        raise FetchError(f"{path}: cannot be read ({error.strerror})") from error
    if wrong := hashes.wrong(md5=md5, sha256=sha256):
        raise FetchError(f"{path}: {wrong}")
    return hashes.sha256


def _hashed(path: Path, size: int | None, hashes: Hashes, progress: Progress | None, name: str) -> Hashes:
    found = path.stat().st_size
    if size is not None and found != size:
        raise FetchError(f"{path}: expected {size:,} bytes, found {found:,}")
    with path.open("rb", buffering=0) as file:
        for done in hashes.feed(file):
            if progress is not None:
                progress(name, done, found)
    return hashes


def _sound(found: Record) -> bool:
    """Whether a record that was read holds what it should; a person may have changed it."""
    return (
        all(isinstance(text, str) for text in (found.target, found.url, found.sha256, found.time, found.md5 or ""))
        and all(type(number) is int for number in (found.size, found.mtime_ns))
        and isinstance(found.unpacked, bool)
    )
