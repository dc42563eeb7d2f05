"""Where the contents of an archive wait, hidden, until all of them are there.

Below `.atlas/` of the dataset's folder: `files/` holds finished members under their final places, `nested/` archives
that came out of the archive, `done/` what came out of those, `part` the member being written. `complete.json` says that
nothing is missing any more. The program may be killed at any moment; a file in `files/` is whole, because it got its
name last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Self

from atlas.errors import FetchError
from atlas.fetch.archives.archive import CHUNK
from atlas.fetch.places import OWN, write_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from atlas.fetch.archives.archive import Sink


class Staging:
    """Contents of one archive on their way to a dataset's folder.

    Parameters
    ----------
    folder
        The dataset's.
    target
        Place of the archive below it.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self._folder = folder
        name = target.rsplit("/", 1)[-1][:50]
        self.root = folder / OWN / f"unpack-{name}-{hashlib.sha256(target.encode()).hexdigest()[:8]}"

    def begin(self, source: dict[str, object]) -> None:
        """Keep what an earlier run left, if it was of the same archive, unpacked the same way."""
        source = json.loads(json.dumps(source))
        if _read(self.root / "of.json") != source:
            self.remove()
            write_json(self.root / "of.json", source)

    @property
    def complete(self) -> int | None:
        """How many files there are, once all of them are staged."""
        content = _read(self.root / "complete.json")
        return content["files"] if isinstance(content, dict) else None

    @complete.setter
    def complete(self, files: int) -> None:
        os.sync()  # once for all; fsync of each of thousands of slices would take longer than unpacking them
        write_json(self.root / "complete.json", {"files": files})

    def path(self, place: str, *, nested: bool = False) -> Path:
        """Where a member waits."""
        return self.root / ("nested" if nested else "files") / place

    def done(self, place: str) -> dict[str, int] | None:
        """Places and sizes of what came out of a nested archive; None until it has been unpacked."""
        content = _read(self._marker(place))
        return content if isinstance(content, dict) else None

    def finish(self, place: str, sizes: dict[str, int]) -> None:
        """Note what came out of a nested archive, and remove it."""
        write_json(self._marker(place), sizes)
        self.path(place, nested=True).unlink(missing_ok=True)

    def _marker(self, place: str) -> Path:
        return self.root / "done" / f"{hashlib.sha256(place.encode()).hexdigest()}.json"

    def has(self, path: Path, size: int) -> bool:
        """Whether a member is there, whole."""
        try:
            return path.stat().st_size == size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def sink(self, path: Path, size: int, label: str, advance: Callable[[int], None]) -> Sink:
        """Where a member is written to."""
        return Writing(self.root / "part", path, size, label, advance)

    def room(self, size: int, label: str) -> None:
        """Check that so many bytes fit on the disk.

        Raises
        ------
        FetchError
            If not.
        """
        free = shutil.disk_usage(self.root).free
        if size > free:
            raise FetchError(
                f"{label}: unpacking needs {size:,} bytes more on the disk of {self._folder}, which has {free:,}. "
                "Make room and run it again: it goes on where it was"
            )

    def release(self) -> None:
        """Move everything to its place in the dataset's folder; whole folders at once where they are new there."""
        files = self.root / "files"
        if files.is_dir():
            _merge(files, self._folder)

    def remove(self) -> None:
        """Remove what is left."""
        if self.root.exists():
            (self.root / "of.json").unlink(missing_ok=True)  # first: half of it must not be taken for all of it
            shutil.rmtree(self.root)


class Writing:
    """Write a member to a temporary name; a complete one gets its own. See `atlas.fetch.archives.archive.Sink`."""

    def __init__(self, part: Path, path: Path, size: int, label: str, advance: Callable[[int], None]) -> None:
        self._part = part
        self._path = path
        self._size = size
        self._label = label
        self._advance = advance
        self._done = 0
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise FetchError(f"{self._label}: lies in a folder that is a file as well") from error
        self._file = self._part.open("wb")
        return self

    def write(self, data: bytes) -> int:
        """Take bytes."""
        self._done += len(data)
        if self._done > self._size:
            raise FetchError(
                f"{self._label}: holds more than the {self._size:,} bytes it declares; it was not unpacked"
            )
        self._file.write(data)
        self._advance(len(data))
        return len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()  # may be where a full disk shows
            if kind is None:
                self._keep()
        finally:
            self._part.unlink(missing_ok=True)

    def _keep(self) -> None:
        if self._done != self._size:
            raise FetchError(
                f"{self._label}: holds {self._done:,} bytes and not the {self._size:,} it declares. "
                "The archive is damaged; delete it and fetch it again"
            )
        if self._path.is_dir():
            raise FetchError(f"{self._label}: is a file and a folder as well")
        self._part.replace(self._path)


class Comparing:
    """Compare a member with one of the same name that came before. See `atlas.fetch.archives.archive.Sink`."""

    def __init__(self, path: Path, differs: FetchError) -> None:
        self._path = path
        self._differs = differs
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        self._file = self._path.open("rb")
        return self

    def write(self, data: bytes) -> int:
        """Take bytes."""
        if self._file.read(len(data)) != data:
            raise self._differs
        return len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None and self._file.read(CHUNK):
                raise self._differs


def _read(path: Path) -> object:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def _merge(source: Path, target: Path) -> None:
    """Move what is in one folder into another; links in the other are never followed.

    Raises
    ------
    FetchError
        If a link, or a file, lies where a folder must be, or a folder where a file must be.
    """
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        place = target / entry.name
        there = _mode(place)
        folder = entry.is_dir(follow_symlinks=False)
        if there is None or not (folder or stat.S_ISDIR(there)):
            (source / entry.name).replace(place)
        elif folder and stat.S_ISDIR(there):
            _merge(source / entry.name, place)
        else:
            raise FetchError(
                f"{place}: {_what(there)} lies where a {'folder' if folder else 'file'} of the archive must be. "
                "Take it away and run it again"
            )


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _what(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return "a folder" if stat.S_ISDIR(mode) else "a file"
