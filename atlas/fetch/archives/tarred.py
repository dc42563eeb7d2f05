"""Tar archives, plain or gzipped, read from front to back."""

from __future__ import annotations

import tarfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from atlas.fetch.archives.archive import CHUNK, damaged, reading
from atlas.fetch.archives.members import Member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from atlas.fetch.archives.archive import Archive, Sink

MAX_HEADER = 1 << 20
"""Bytes of one header with a long name or attributes; tarfile reads it whole."""

MAX_TAIL = 1 << 26
"""Bytes after the end marker: tar fills up to whole records, of 10 KiB by default."""

_GZIP = b"\x1f\x8b"
_END = bytes(tarfile.BLOCKSIZE)


class Forward:
    """What tarfile reads from: never backwards, never much at once.

    A forged header can make tarfile read any amount at once or go back and read the same header for ever.

    Attributes
    ----------
    last
        The bytes read last: tarfile does not tell an end marker from a damaged header.
    """

    def __init__(self, file: IO[bytes], *, skips: bool) -> None:
        self._file = file
        self._skips = skips
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        """Bytes from the start."""
        return self._position

    def read(self, size: int) -> bytes:
        """Read so many bytes, fewer only at the end."""
        if not 0 <= size <= max(MAX_HEADER, CHUNK):
            raise ValueError(f"a header of {size} bytes")
        self.last = self._file.read(size)
        self._position += len(self.last)
        return self.last

    def seek(self, position: int) -> int:
        """Go forward."""
        if position < self._position:
            raise ValueError("a header leads backwards")
        if self._skips:
            self._position = self._file.seek(position)
        while self._position < position:
            if not self.read(min(CHUNK, position - self._position)):
                raise EOFError("ends within a member")
        return self._position


class Tar:
    """A tar archive. See `atlas.fetch.archives.archive.Archive`."""

    members = None

    def __init__(self, stream: Forward, label: str) -> None:
        self._stream = stream
        self._label = label

    def extract(self, choose: Callable[[Member], Sink | None]) -> None:
        """See `Archive`."""
        with reading(self._label):
            tar = tarfile.TarFile(fileobj=cast("IO[bytes]", self._stream), errorlevel=2)
        while (entry := self._next(tar)) is not None:
            sink = choose(Member(entry.name, entry.size, _kind(entry)))
            if sink is not None:
                with sink:
                    for chunk in self._chunks(entry):
                        sink.write(chunk)
        self._finish()

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        with reading(self._label):
            entry = tar.next()
            cast("Any", tar).members.clear()  # it would keep all of them
        return entry

    def _chunks(self, entry: tarfile.TarInfo) -> Iterator[bytes]:
        with reading(self._label):
            self._stream.seek(entry.offset_data)
        left = entry.size
        while left > 0:
            with reading(self._label):
                chunk = self._stream.read(min(CHUNK, left))
            if not chunk:
                raise damaged(self._label, f"ends within its member {entry.name!r}")
            yield chunk
            left -= len(chunk)

    def _finish(self) -> None:
        """Without its end marker an archive may lack members; the checksum of gzip comes after everything."""
        if self._stream.last != _END:
            raise damaged(self._label, f"no end marker at byte {self._stream.tell()}")
        end = self._stream.tell()
        with reading(self._label):
            while self._stream.read(CHUNK):
                if self._stream.tell() - end > MAX_TAIL:
                    raise ValueError(f"goes on for more than {MAX_TAIL} bytes after its end marker")


@contextmanager
def tarred(path: Path, label: str, password: str | None) -> Iterator[Archive]:  # noqa: ARG001 - tar knows no passwords
    """Open a tar archive; its first bytes say whether it is gzipped. Browsers take that off and keep the name."""
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not compressed:
            yield Tar(Forward(file, skips=True), label)
            return
        with _gunzipped(file) as content:
            yield Tar(Forward(content, skips=False), label)


def _gunzipped(file: IO[bytes]) -> IO[bytes]:
    try:
        from isal.igzip import IGzipFile  # three times as fast, same interface
    except ImportError:
        from gzip import GzipFile as IGzipFile
    return cast("IO[bytes]", IGzipFile(fileobj=file, mode="rb"))


def _kind(entry: tarfile.TarInfo) -> Literal["file", "folder", "link", "special", "sparse"]:
    if entry.isdir():
        return "folder"
    if entry.issym() or entry.islnk():
        return "link"
    if entry.issparse():
        return "sparse"
    return "file" if entry.isreg() else "special"
