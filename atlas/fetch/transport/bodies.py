"""The bytes of one file from somewhere on: from a web server, or from a folder that holds a copy."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from atlas.errors import FetchError
from atlas.fetch.transport import answers
from atlas.fetch.transport.client import asked, shown
from atlas.fetch.transport.retry import Transient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx2

    from atlas.fetch.download import Download

_CHUNK = 2**20

_TELLING = 512
"""Bytes that show whether a body is a page."""


@dataclass(frozen=True)
class Body:
    """Bytes to come.

    Attributes
    ----------
    first
        Where in the file they begin; 0 although more was asked for: everything comes again.
    end
        Where they end, exclusive; None: not known.
    size
        Of the whole file; None: not known.
    validator
        What can stand in If-Range when this is gone on with.
    chunks
        The bytes.
    """

    first: int
    end: int | None
    size: int | None
    validator: str | None
    chunks: Iterator[bytes]


class RangeRefused(Exception):  # noqa: N818 - never reaches a user
    """The answer to a request for the rest of a file cannot be used; it has to be asked for as a whole."""


class Supply(Protocol):
    """Where a file comes from."""

    name: str
    """As it may be shown and stored."""
    source: str
    """Which one it is: nothing secret, and different for different files."""

    def opened(self, start: int, validator: str | None) -> AbstractContextManager[Body]:
        """Ask for the file from byte `start` on, if it is still the one of the validator.

        Raises
        ------
        Transient
            If it is worth trying again.
        RangeRefused
            If only the whole file can be had.
        answers.Gone
            If there is no such file.
        FetchError
            If it cannot be had.
        """
        ...


class Web:
    """A file on a web server.

    Parameters
    ----------
    url
        Of any scheme of the manifests; turned into an https address anew for every request, as signed ones expire.
    download
        What it is to become.
    """

    def __init__(self, url: str, download: Download) -> None:
        self.name = shown(url)
        self.source = f"{self.name}#{sha256(url.encode()).hexdigest()[:16]}"
        self._url = url
        self._download = download

    @contextmanager
    def opened(self, start: int, validator: str | None) -> Iterator[Body]:
        """Ask the server; see `Supply.opened`."""
        from atlas.fetch.address import address

        where = address(self._url)
        plain = {"Range": f"bytes={start}-"} if start else {}
        if start and validator is not None:
            plain["If-Range"] = validator
        with asked(where.url, private=where.headers, plain=plain) as response:
            if response.status_code == 416 and start:  # noqa: PLR2004
                yield _beyond(response, start, validator)
                return
            answers.check_status(response.status_code, response.headers, self.name, where.token)
            yield self._body(response, start, validator)

    def _body(self, response: httpx2.Response, start: int, validator: str | None) -> Body:
        headers, chunks = response.headers, response.iter_raw()
        partial = response.status_code == 206 or "content-range" in headers  # noqa: PLR2004
        if partial and not start:
            raise Transient("the server sent a part of the file although asked for all of it")
        kind = headers.get("content-type", "")
        if not partial or answers.is_page(kind, b"", self._download.target):
            chunks = _no_page(kind, chunks, self._download.target, self.name)
        answers.check_encoding(headers, self._download.target, self.name)
        strong = answers.validator(headers)
        if partial:
            first, last, size = _range(response, start, validator)
            return Body(first, last + 1, size, strong, chunks)
        self._check_end(headers)
        size = answers.content_length(headers)
        return Body(0, size, size, strong, chunks)

    def _check_end(self, headers: httpx2.Headers) -> None:
        wanted = self._download
        if not answers.ends_by_itself(headers) and not (wanted.size or wanted.md5 or wanted.sha256):
            raise FetchError(
                f"{self.name}: the server does not say how long the file is, and the manifest knows neither size nor "
                "checksum: a cut would go unnoticed. Add one of them to the manifest."
            )


class Copy:
    """A file in a folder that holds copies.

    Parameters
    ----------
    path
        The copy.
    download
        What it is to become.
    """

    def __init__(self, path: Path, download: Download) -> None:
        self.name = self.source = str(path)
        self._path = path
        self._download = download

    @contextmanager
    def opened(self, start: int, validator: str | None) -> Iterator[Body]:
        """Open the copy; see `Supply.opened`."""
        try:
            file = self._path.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise answers.Gone(f"{self._path}: not there") from error
        except OSError as error:
            raise FetchError(f"{self._path}: cannot be read ({error.strerror})") from error
        with file:
            status = os.fstat(file.fileno())
            now = f'"{status.st_size}-{status.st_mtime_ns}"'
            first = start if validator in {None, now} and start <= status.st_size else 0
            file.seek(first)
            chunks = iter(lambda: file.read(_CHUNK), b"")
            if not first:
                chunks = _no_page("", chunks, self._download.target, self.name)
            yield Body(first, status.st_size, status.st_size, now, chunks)


def _no_page(kind: str, chunks: Iterator[bytes], target: str, name: str) -> Iterator[bytes]:
    """The same bytes, once their start shows that they are no HTML page."""
    start = b""
    for chunk in chunks:
        start += chunk
        if len(start) >= (answers.SNIFFED if answers.is_page(kind, start, target) else _TELLING):
            break
    if answers.is_page(kind, start, target):
        raise answers.page_error(start[: answers.SNIFFED], name)
    return _chained(start, chunks)


def _chained(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest


def _beyond(response: httpx2.Response, start: int, validator: str | None) -> Body:
    """Nothing lies beyond the bytes that are there (416): either they are all, or they are not of this file."""
    size = answers.unsatisfied_size(response.headers.get("content-range"))
    if size != start:
        raise RangeRefused
    return Body(start, start, start, validator, iter(()))


def _range(response: httpx2.Response, start: int, validator: str | None) -> tuple[int, int, int | None]:
    """Which bytes come, if they are those asked for."""
    found = answers.content_range(response.headers.get("content-range"))
    if (
        response.status_code != 206  # noqa: PLR2004 - the server holds a part for the whole
        or found is None
        or found[0] != start
        or answers.contradicts(response.headers, validator)
    ):
        raise RangeRefused
    return found
