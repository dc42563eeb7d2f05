"""Unpack a fetched archive into its dataset's folder, all at once as seen from outside."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from atlas.errors import FetchError
from atlas.fetch.archives.archive import opened
from atlas.fetch.archives.members import Budget, Selection, refusal
from atlas.fetch.archives.staging import Comparing, Staging
from atlas.fetch.locks import lock
from atlas.fetch.places import place
from atlas.fetch.records import Record, confirmed, record, verify, write_record
from atlas.spec.patterns import matcher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from atlas.fetch.archives.archive import Archive, Sink
    from atlas.fetch.archives.members import Member
    from atlas.fetch.download import Download, Progress, Unpacking

MAX_DEPTH = 3
"""How deep archives may lie within archives; an archive can hold itself."""


def is_unpacked(download: Download, folder: Path) -> bool:
    """Whether everything wanted was taken out of an archive; the archive itself may be gone since.

    Parameters
    ----------
    download
        The archive.
    folder
        The dataset's.
    """
    known = record(folder, download.target)
    if known is None or not known.unpacked:
        return False
    if place(download, folder).exists():
        return confirmed(download, folder) is not None
    facts = [(download.size, known.size), (download.md5, known.md5), (download.sha256, known.sha256)]
    return all(said is None or said == its for said, its in facts)


def unpack(download: Download, folder: Path, *, progress: Progress | None = None) -> int:
    """Unpack an archive into the folder that its manifest says.

    Everything is staged out of sight first, so that no half of it is ever visible; whoever runs it again after it was
    interrupted goes on from there. The archive itself stays.

    Parameters
    ----------
    download
        The archive; it lies at its target, fetched or put there by a person.
    folder
        The dataset's.
    progress
        Told the target, the bytes of contents so far, and how many there will be as far as known.

    Returns
    -------
    int
        Files that were put into place; 0 if that was done before.

    Raises
    ------
    FetchError
        If the archive is missing, damaged, or not what the manifest says; if it holds what must not be unpacked; if
        there is no room; if another process is unpacking it.
    """
    staging = Staging(folder, download.target)
    if download.archive is None or is_unpacked(download, folder):
        staging.remove()
        return 0
    path = place(download, folder)
    if not path.is_file():
        raise FetchError(f"{path}: is not there; fetch it first")
    try:
        with path.open("rb") as file:
            lock(file, path, "unpacking")
            return _unpacked(download, folder, staging, progress)
    except FetchError:
        raise
    except OSError as error:
        raise FetchError(
            f"{path}: cannot be unpacked ({error.filename or folder}: {error.strerror or error}). Mend that and run it "
            "again: it goes on where it was"
        ) from error


def _unpacked(download: Download, folder: Path, staging: Staging, progress: Progress | None) -> int:
    job = download.archive
    if job is None or is_unpacked(download, folder):  # another process may have been faster
        return 0
    known = _verified(download, folder)
    staging.begin({"sha256": known.sha256, "into": job.into, "holds": job.holds, "nested": job.nested})
    files = staging.complete
    if files is None:
        files = _Unpacker(download.target, place(download, folder), job, staging, progress).run()
        staging.complete = files
    staging.release()
    write_record(folder, replace(known, unpacked=True))
    staging.remove()
    return files


def _verified(download: Download, folder: Path) -> Record:
    """Record of the archive, which a person may have put there: then it is verified now."""
    known = confirmed(download, folder)
    if known is not None:
        return known
    path = place(download, folder)
    status = path.stat()
    sha256 = verify(path, size=download.size, md5=download.md5, sha256=download.sha256)
    return Record(download.target, "", status.st_size, sha256, download.md5, status.st_mtime_ns)


class _Unpacker:
    """Stages the contents of one archive, and of those nested in it."""

    def __init__(self, target: str, path: Path, job: Unpacking, staging: Staging, progress: Progress | None) -> None:
        self._target = target
        self._path = path
        self._job = job
        self._staging = staging
        self._progress = progress
        self._password = os.environ.get(job.password) if job.password else None
        self._budget = Budget(path.stat().st_size)
        self._nested = matcher(job.nested)
        self._holds = matcher(job.holds)
        self._sizes: dict[str, int] = {}
        self._done = 0
        self._total: int | None = 0

    def run(self) -> int:
        """Stage all; returns how many files will be put into place."""
        self._archive(self._path, str(self._path), self._job.into, MAX_DEPTH)
        self._advance(0)
        return sum(not self._nested(at) for at in self._sizes)

    def _archive(self, path: Path, label: str, into: str, depth: int) -> None:
        known = len(self._sizes)
        with opened(path, label, self._password) as archive:
            selection = Selection(
                archive=label,
                into=into,
                wanted=self._wanted,
                budget=self._budget,
                reserved=frozenset({self._target}),
                variable=self._job.password,
                password=self._password is not None,
            )
            where = self._listed(archive, label, selection)
            archive.extract(lambda member: self._sink(member, where(member), label))
        for at in list(self._sizes)[known:]:
            if self._nested(at):
                self._inner(at, f"{label}: {at}", depth)

    def _inner(self, at: str, label: str, depth: int) -> None:
        if not depth:
            raise FetchError(f"{label}: lies more than {MAX_DEPTH} archives deep; it is not unpacked")
        before = self._staging.done(at)
        if before is not None:
            self._sizes.update(before)
            self._expect(sum(before.values()))
            self._advance(sum(before.values()))
            return
        known = set(self._sizes)
        self._archive(self._staging.path(at, nested=True), label, at.rpartition("/")[0], depth - 1)
        self._staging.finish(at, {place: size for place, size in self._sizes.items() if place not in known})

    def _wanted(self, at: str) -> bool:
        return not self._job.holds or self._holds(at) or self._nested(at)

    def _listed(self, archive: Archive, label: str, selection: Selection) -> Callable[[Member], str | None]:
        """How places are found: all beforehand where the archive has a directory, else one by one."""
        if archive.members is None:
            self._total = None
            return selection.place
        places = selection.places(archive.members)
        sizes = {at: member.size for member, at in places.items()}
        self._expect(sum(sizes.values()))
        absent = [size for at, size in sizes.items() if not self._staged(at, size)]
        self._staging.room(sum(absent), label)
        return places.get

    def _sink(self, member: Member, at: str | None, label: str) -> Sink | None:
        """Where a member goes; None if it is not wanted, or there already."""
        if at is None:
            return None
        path = self._staging.path(at, nested=self._nested(at))
        if at in self._sizes:
            twice = refusal(label, member.name, "comes twice, with different content")
            if self._sizes[at] != member.size:
                raise twice
            return Comparing(path, twice)
        self._sizes[at] = member.size
        if self._staged(at, member.size):
            self._advance(member.size)
            return None
        self._staging.room(member.size, label)
        return self._staging.sink(path, member.size, f"{label}: {member.name}", self._advance)

    def _staged(self, at: str, size: int) -> bool:
        nested = self._nested(at)
        finished = nested and self._staging.done(at) is not None
        return finished or self._staging.has(self._staging.path(at, nested=nested), size)

    def _expect(self, count: int) -> None:
        if self._total is not None:
            self._total += count

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._target, self._done, self._total)
