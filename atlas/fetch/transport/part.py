"""A file that grows: `<name>.part` beside the place it is meant for, and what is known about where its bytes come from.

At any moment the program may be killed. The bytes there are then always the first ones of what the sidecar (in
`.atlas/parts/`) describes: it is written after the part was emptied and before the first byte.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from atlas.errors import FetchError
from atlas.fetch.hashes import Hashes
from atlas.fetch.locks import lock
from atlas.fetch.places import own_place, part_path, place, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

    from atlas.fetch.download import Download, Progress


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a part come from.

    Attributes
    ----------
    source
        Which one it is; see `atlas.fetch.transport.bodies.Supply`.
    validator
        Strong ETag or Last-Modified of the server's file; None if it gives none.
    size
        Of the whole file, as far as known.
    """

    source: str
    validator: str | None
    size: int | None


class Part:
    """The bytes so far of one file, locked for this process. Made by `locked`.

    Attributes
    ----------
    download
        The file that it becomes.
    target, path
        Its place in the end, and until then.
    size
        Bytes there are.
    received
        Bytes added since it was opened.
    kept
        Whether it has got its name.
    """

    def __init__(self, download: Download, folder: Path, file: FileIO) -> None:
        self.target = place(download, folder)
        self.path = part_path(self.target)
        self.size = os.fstat(file.fileno()).st_size
        self.received = 0
        self.kept = False
        self.download = download
        self._sidecar = own_place(folder, "parts", download.target)
        self._origin = _read(self._sidecar)
        self._file = file
        self._hashes = Hashes(md5=download.md5 is not None)

    @property
    def checked(self) -> bool:
        """Whether a checksum will tell if a byte is wrong."""
        return bool(self.download.sha256 or self.download.md5)

    def expected(self, source: str) -> int | None:
        """Size that the whole file should have: the manifest's, or else what the same source said before."""
        origin = self._origin
        if self.download.size is not None or origin is None or origin.source != source:
            return self.download.size
        return origin.size

    def complete(self, source: str) -> bool:
        """Whether no byte is missing, and the bytes are the source's or a checksum will tell if they are not."""
        ours = self.checked or (self._origin is not None and self._origin.source == source)
        return bool(self.size) and ours and self.size == self.expected(source)

    def start(self, source: str) -> tuple[int, str | None]:
        """How many bytes can be kept, and the validator that they hold good for.

        Without a validator of the same source only a checksum can tell whether old and new bytes belong together.
        """
        origin = self._origin
        validator = origin.validator if origin is not None and origin.source == source else None
        size = self.download.size
        usable = (self.checked or validator is not None) and (size is None or self.size <= size)
        return (self.size, validator) if usable else (0, None)

    def begin(self, origin: Origin) -> None:
        """Empty it, and note where the bytes that follow come from."""
        self.clear()
        write_json(self._sidecar, asdict(origin))
        self._origin = origin

    def write(self, chunk: bytes) -> None:
        """Add bytes."""
        self.catch_up()
        rest = memoryview(chunk)
        while rest:
            try:
                written = self._file.write(rest)
            except OSError as error:
                raise FetchError(
                    f"{self.path}: cannot be written ({error.strerror}); make room and run it again: "
                    f"the {self.size:,} bytes so far are kept."
                ) from error
            self._hashes.update(rest[:written])
            self.size += written
            self.received += written
            rest = rest[written:]

    def catch_up(self, progress: Progress | None = None) -> None:
        """Read the bytes that are not hashed yet: those of an earlier run."""
        if self._hashes.count == self.size:
            return
        self._file.seek(self._hashes.count)
        for done in self._hashes.feed(self._file):
            if progress is not None:
                progress(self.download.target, done, self.download.size)

    def wrong(self) -> str | None:
        """What is not as the manifest says; None if all is."""
        size = self.download.size
        if size is not None and size != self.size:
            return f"expected {size:,} bytes, found {self.size:,}"
        self.catch_up()
        return self._hashes.wrong(md5=self.download.md5, sha256=self.download.sha256)

    def keep(self) -> str:
        """Give it its name, in one step, once its bytes are on the disk; returns the sha256."""
        self.catch_up()
        os.fsync(self._file.fileno())
        self.path.replace(self.target)
        self.kept = True
        folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._sidecar.unlink(missing_ok=True)
        return self._hashes.sha256

    def clear(self) -> None:
        """Throw the bytes away."""
        if self.size:
            self._file.truncate(0)
            os.fsync(self._file.fileno())
        self.size = 0
        self._hashes = Hashes(md5=self.download.md5 is not None)

    def remove(self) -> None:
        """Remove it and what is known about it."""
        self.clear()
        self._sidecar.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


@contextmanager
def locked(download: Download, folder: Path) -> Iterator[Part]:
    """Open the part of a file for this process alone; an empty one is removed in the end.

    Raises
    ------
    FetchError
        If another process has it.
    """
    path = part_path(place(download, folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as file:
        part = Part(download, folder, file)
        try:
            yield part
        finally:
            if not part.size and not part.kept:
                part.remove()


def _opened(path: Path) -> FileIO:
    """Open and lock; once more if the file was renamed or removed in between by who had the lock."""
    while True:
        file = path.open("ab+", buffering=0)
        try:
            lock(file, path, "fetching")
            if _same(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _same(file: FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(sidecar: Path) -> Origin | None:
    """What a sidecar says; None if there is none that makes sense."""
    try:
        said = json.loads(sidecar.read_text(encoding="utf-8"))
        source, validator, size = said["source"], said["validator"], said["size"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    sound = isinstance(source, str) and isinstance(validator, str | None) and type(size) in {int, type(None)}
    return Origin(source, validator, size) if sound else None
