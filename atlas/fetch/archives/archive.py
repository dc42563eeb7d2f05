"""Archives of several formats, listed and read the same way."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self

from atlas.errors import FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from atlas.fetch.archives.members import Member

CHUNK = 1 << 20
"""Bytes read or written at a time."""

_NONSENSE = (None, errno.EINVAL)
"""Numbers of errors that libraries raise themselves, and of seeking to where no byte can be."""


class Sink(Protocol):
    """Where the content of one member goes. Entered before the first byte; left by an exception, nothing is kept."""

    def __enter__(self) -> Self:
        """Open."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was written, if it is whole."""
        ...

    def write(self, data: bytes) -> int:
        """Take bytes."""
        ...


class Archive(Protocol):
    """An open archive."""

    @property
    def members(self) -> Sequence[Member] | None:
        """Its directory, in its order; None for a stream, whose members are known only one after the other."""
        ...

    def extract(self, choose: Callable[[Member], Sink | None]) -> None:
        """Write the content of members into sinks, checksums verified.

        Parameters
        ----------
        choose
            Called with each member in the archive's order: where its content goes; None to pass over it.

        Raises
        ------
        FetchError
            If the archive is damaged, incomplete or made to mislead.
        """
        ...


@contextmanager
def opened(path: Path, label: str, password: str | None = None) -> Iterator[Archive]:
    """Open an archive; its format is told by what its name ends in.

    Parameters
    ----------
    path
        The file.
    label
        What messages call it.
    password
        For encrypted members.

    Raises
    ------
    FetchError
        If it is no such archive, is damaged, or needs a package that is not installed.
    """
    name = path.name.lower()
    if name.endswith(".zip"):
        from atlas.fetch.archives.zipped import zipped as reader
    elif name.endswith(".7z"):
        from atlas.fetch.archives.sevenzip import sevenzip as reader
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        from atlas.fetch.archives.tarred import tarred as reader
    else:
        raise FetchError(f"{label}: archives end in .zip, .7z, .tar, .tar.gz or .tgz")
    with reader(path, label, password) as archive:
        yield archive


@contextmanager
def reading(label: str, *, encrypted: bool = False) -> Iterator[None]:
    """Whatever a reader of archives stumbles over is damage; errors of the disk are passed on.

    Libraries raise all sorts of exceptions on bytes they did not expect, from ValueError to RecursionError.
    """
    try:
        yield
    except FetchError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _NONSENSE:
            raise
        raise damaged(label, str(error) or type(error).__name__, encrypted=encrypted) from error


def damaged(label: str, what: str, *, encrypted: bool = False) -> FetchError:
    """Error about an archive whose bytes make no sense."""
    if encrypted:
        return FetchError(
            f"{label}: its password is wrong, or it is damaged ({what}). Check the password; if it is right, "
            "delete the archive and fetch it again"
        )
    return FetchError(f"{label}: damaged or incomplete ({what}). Delete it and fetch it again")


def missing(label: str, package: str) -> FetchError:
    """Error about a package that a format needs."""
    return FetchError(f"{label}: needs the package {package}. Install it with: pip install 'atlas-corpus[archives]'")


def unreadable(label: str, what: str) -> FetchError:
    """Error about a kind of archive that no reader here understands."""
    return FetchError(f"{label}: {what} cannot be read here; unpack it by hand into the dataset's folder")
