"""7z archives, read by py7zr straight into files."""

from __future__ import annotations

import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from atlas.errors import FetchError
from atlas.fetch.archives.archive import missing, reading, unreadable
from atlas.fetch.archives.members import Member, clean, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from atlas.fetch.archives.archive import Archive, Sink


class SevenZip:
    """A 7z archive. See `atlas.fetch.archives.archive.Archive`."""

    def __init__(self, file: IO[bytes], label: str, password: str | None) -> None:
        import py7zr

        self._label = label
        self._encrypted = password is not None
        try:
            with reading(label, encrypted=self._encrypted):
                # given a file and not a path, it stays within this thread
                self._archive = py7zr.SevenZipFile(file, password=password)
        except FetchError as error:
            if isinstance(error.__cause__, py7zr.PasswordRequired):
                raise FetchError(f"{label}: even its list of members is encrypted; a password is needed") from error
            raise
        self._locked = password is None and self._archive.needs_password()
        with reading(label):
            self.members = [self._member(entry) for entry in self._archive.files]

    def extract(self, choose: Callable[[Member], Sink | None]) -> None:
        """See `Archive`."""
        import py7zr

        self._unique()
        chosen = [(member, sink) for member in self.members if (sink := choose(member)) is not None]
        if not chosen:
            return
        # an empty folder, because py7zr looks for links where it believes it writes to
        with tempfile.TemporaryDirectory() as folder, reading(self._label, encrypted=self._encrypted):
            writers = _Writers({clean(member.name): sink for member, sink in chosen}, Path(folder))
            try:
                self._archive.extract(folder, targets=[member.name for member, _ in chosen], factory=writers)
            except py7zr.UnsupportedCompressionMethodError as error:
                raise unreadable(self._label, f"a 7z archive packed in this way ({error})") from error
            finally:
                writers.abandon()

    def _unique(self) -> None:
        """py7zr would give the second of two members another name."""
        seen = set()
        for member in self.members:
            name = clean(member.name)
            if member.kind == "file" and name in seen:
                raise refusal(self._label, member.name, "comes twice")
            seen.add(name)

    def _member(self, entry: Any) -> Member:  # noqa: ANN401 - py7zr's types are not read
        size = entry.uncompressed
        return Member(entry.filename, size, _kind(entry), entry.crc32, self._locked and size > 0)


class _Writers:
    """What py7zr asks for a place to write to, one member after the other (its WriterFactory)."""

    def __init__(self, sinks: dict[str, Sink], folder: Path) -> None:
        self._sinks = sinks
        self._folder = folder
        self.current: Sink | None = None

    def create(self, filename: str) -> _Writer:
        """Open the sink of a member."""
        sink = self._sinks[Path(filename).relative_to(self._folder).as_posix()]
        sink.__enter__()
        self.current = sink
        return _Writer(self, sink)

    def abandon(self) -> None:
        """Close what py7zr left open because it failed."""
        if self.current is not None:
            self.current.__exit__(FetchError, FetchError(), None)


class _Writer:
    """A sink as py7zr writes to it (its Py7zIO)."""

    def __init__(self, writers: _Writers, sink: Sink) -> None:
        self._writers = writers
        self._sink = sink

    def write(self, data: bytes | bytearray) -> int:
        """Take bytes."""
        return self._sink.write(bytes(data))

    def seek(self, offset: int, whence: int = 0) -> int:  # noqa: ARG002 - py7zr rewinds what it has written
        """Do nothing."""
        return 0

    def close(self) -> None:
        """Called once a member is complete and its checksum right, and only then."""
        self._writers.current = None
        self._sink.__exit__(None, None, None)


@contextmanager
def sevenzip(path: Path, label: str, password: str | None) -> Iterator[Archive]:
    """Open a 7z archive."""
    try:
        import py7zr  # noqa: F401 - whether it is there
    except ImportError as error:
        raise missing(label, "py7zr") from error
    with path.open("rb") as file:
        yield SevenZip(file, label, password)


def _kind(entry: Any) -> Literal["file", "folder", "link", "special"]:  # noqa: ANN401 - py7zr's types are not read
    form = entry.st_fmt or 0
    if entry.is_symlink or entry.is_junction:
        return "link"
    if form not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "special"
    return "folder" if entry.is_directory or form == stat.S_IFDIR else "file"
