"""The digests of a file, computed as its bytes come."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedIOBase, RawIOBase

_CHUNK = 2**20


class Hashes:
    """sha256, and md5 where it is wanted.

    Parameters
    ----------
    md5
        Whether md5 is computed too.

    Attributes
    ----------
    count
        Bytes so far.
    """

    def __init__(self, *, md5: bool) -> None:
        self.count = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None

    def update(self, chunk: bytes | memoryview) -> None:
        """Add bytes."""
        self.count += len(chunk)
        self._sha256.update(chunk)
        if self._md5 is not None:
            self._md5.update(chunk)

    def feed(self, file: BufferedIOBase | RawIOBase) -> Iterator[int]:
        """Add a file from where it stands to its end; yields the bytes so far after every piece."""
        buffer = memoryview(bytearray(_CHUNK))
        while count := file.readinto(buffer):
            self.update(buffer[:count])
            yield self.count

    @property
    def sha256(self) -> str:
        """Hexadecimal."""
        return self._sha256.hexdigest()

    def wrong(self, *, md5: str | None, sha256: str | None) -> str | None:
        """What was expected and what found, if they differ; None if all agrees or nothing is known."""
        if sha256 is not None and sha256 != self.sha256:
            return f"expected sha256 {sha256}, found {self.sha256}"
        if md5 is not None and self._md5 is not None and md5 != self._md5.hexdigest():
            return f"expected md5 {md5}, found {self._md5.hexdigest()}"
        return None
