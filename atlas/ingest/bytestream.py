"""The bytes of a file in order, inflated on the way where it is gzip, straight into given memory.

Nothing is read ahead of demand beyond a few hundred kilobytes, so the memory needed is the caller's. Whether
a file is gzip is told by its first two bytes: published files are not always what their suffix says.
"""

from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from atlas.errors import ScanError

try:
    from isal import isal_zlib as inflate  # three times as fast, same interface
except ImportError:
    import zlib as inflate  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_DAMAGED = cast(type[Exception], inflate.error)

CHUNK = 1 << 16
"""Bytes handled at a time: small enough for the processor's cache, where inflating is fastest."""

DEFLATE_LIMIT = 1032
"""Deflate cannot make more bytes than this out of one."""

GZIP_MAGIC = b"\x1f\x8b"
ANY_WRAPPER = 47
"""zlib's code for: find out whether a gzip or a zlib header comes."""


class ByteStream:
    """A plain file, read once from the front.

    Parameters
    ----------
    file
        Open for binary reading, unbuffered, at its start.
    size
        Bytes in the file.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self.position = 0

    @property
    def capacity(self) -> int:
        """The most bytes this stream can possibly give."""
        return self._size

    def expect(self, end: int) -> None:
        """Refuse a file that cannot reach byte `end`, before memory is set aside for it."""
        if end > self.capacity:
            raise ScanError(
                f"the header promises {end} bytes, but the file of {self._size} bytes holds at most "
                f"{self.capacity}; it is incomplete or its header is damaged. Fetch it again"
            )

    def fill(self, target: "NDArray[Any]") -> None:
        """Read exactly the next bytes of a contiguous 1-D array into it."""
        view = target.view(np.uint8).data
        while view:
            count = self._into(view)
            if not count:
                raise ScanError(
                    f"the data ends after {self.position} bytes, {len(view)} or more too early; "
                    "the file is incomplete. Fetch it again"
                )
            self.position += count
            view = view[count:]

    def skip(self, count: int) -> None:
        """Read over the next bytes."""
        scratch = np.empty(min(count, CHUNK), np.uint8)
        while count > 0:
            self.fill(scratch[:count])
            count -= min(count, CHUNK)

    def finish(self) -> int:
        """Check what can be checked once all wanted bytes are read; tell how many more there were."""
        return self.capacity - self.position

    def _into(self, view: memoryview) -> int:
        return self._file.readinto(view)  # type: ignore[attr-defined, no-any-return]


class InflatedStream(ByteStream):
    """A file compressed by deflate: gzip of any number of members, or zlib."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(file, size)
        self._inflater = inflate.decompressobj(wbits=ANY_WRAPPER)
        self._waiting = b""

    @property
    def capacity(self) -> int:
        """The most bytes this stream can possibly give."""
        return self._size * DEFLATE_LIMIT

    def finish(self) -> int:
        """Read on to the checksum: damage in the middle of a file shows nowhere else."""
        scratch = memoryview(bytearray(CHUNK))
        more = 0
        while count := self._into(scratch):
            more += count
        return more

    def _into(self, view: memoryview) -> int:
        while not self._inflater.eof or self._next_member():
            if not self._waiting:
                self._waiting = self._file.read(CHUNK)
            data = self._inflated(min(len(view), CHUNK))
            if data:
                view[: len(data)] = data
                return len(data)
            if not self._waiting and not self._inflater.eof and self._at_end():
                raise ScanError(
                    f"the compressed data breaks off after {self.position} bytes of content; "
                    "the file is incomplete. Fetch it again"
                )
        return 0

    def _inflated(self, most: int) -> bytes:
        try:
            data: bytes = self._inflater.decompress(self._waiting, most)
        except _DAMAGED as error:
            raise ScanError(
                f"the compressed data is damaged near byte {self.position} of its content ({error}). "
                "Fetch the file again"
            ) from error
        self._waiting = self._inflater.unconsumed_tail
        return data

    def _at_end(self) -> bool:
        self._waiting = self._file.read(CHUNK)
        return not self._waiting

    def _next_member(self) -> bool:
        rest: bytes = self._inflater.unused_data
        if len(rest) < len(GZIP_MAGIC):
            rest += self._file.read(CHUNK)
        # anything but another member is padding or rubbish, which gzip files may end in
        if not rest.startswith(GZIP_MAGIC):
            return False
        self._inflater = inflate.decompressobj(wbits=ANY_WRAPPER)
        self._waiting = rest
        return True


@contextmanager
def opened(path: Path) -> "Iterator[ByteStream]":
    """Open a file that may or may not be gzip."""
    try:
        with path.open("rb", buffering=0) as file:
            compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            size = path.stat().st_size
            yield InflatedStream(file, size) if compressed else ByteStream(file, size)
    except OSError as error:
        raise ScanError(f"cannot be read: {error.strerror or error}") from error
