"""What all sources have in common: an address to ask, a file found in a listing, and what may be trusted in it."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from atlas.errors import FetchError
from atlas.spec.patterns import matcher

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LISTED = 2_000_000
"""Files that one address may stand for; more is a mistake in the manifest, or a listing without end."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Address:
    """Where one file is asked for, and with which headers.

    It is made just before the request and forgotten after it: the headers, and the query of a signed address, let
    anybody read the file. Neither is shown. A signed address expires, so every attempt needs a new one.

    Attributes
    ----------
    url
        https (http on this machine).
    headers
        Authorization, or nothing. For the host of `url` only, never for one that it redirects to.
    token
        Environment variable that holds the token that was used, or that would help; None where none would.
    """

    url: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    token: str | None = None

    @property
    def shown(self) -> str:
        """The address without its query, for messages."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    def __repr__(self) -> str:
        return f"Address({self.shown!r}, token={self.token!r})"


class RefusedError(FetchError):
    """The source does not let this person see the files: terms to accept, or a token without the right."""


@dataclass(frozen=True)
class Listed:
    """A file that a listing named: its address, its place below the dataset's folder, and what is known about it."""

    url: str
    target: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    group: str = ""


@dataclass(frozen=True)
class Wanted:
    """What of a bucket or repository is meant by a path that ends in / or holds `*`.

    Attributes
    ----------
    folder
        Below which all of it lies; "" or ending in /. What is found keeps its place below this folder.
    like
        Whether a path, as the source names it, is meant.
    """

    folder: str
    like: Callable[[str], bool]

    @classmethod
    def of(cls, pattern: str) -> Wanted:
        """From the path of an address, unquoted and without the leading /."""
        if pattern.endswith("/") or not pattern:
            pattern += "**/*"
        fixed = pattern.split("*", 1)[0]
        return cls(fixed[: fixed.rfind("/") + 1], matcher([pattern]))

    def target(self, to: str, path: str, source: str) -> str | None:
        """Place below the dataset's folder of a path that was listed; None if it is not meant.

        Hidden files (.gitattributes) are left out: they are never data, and the records of what was fetched are such.

        Raises
        ------
        FetchError
            If the path could lead out of the folder `to`.
        """
        if not path.startswith(self.folder) or not self.like(path):
            return None
        names = path[len(self.folder) :].split("/")
        for name in names:
            if name.startswith(".") and name.strip("."):
                return None
            plain_name(name, source)
        return posixpath.join(to.strip("/"), *names)


def plain_name(name: str, source: str) -> str:
    """A name that a listing gave and that becomes a file or folder here: it must not lead anywhere else.

    Raises
    ------
    FetchError
        If it is empty, hidden, not printable, or holds a separator.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
        raise FetchError(f"{source}: lists {name!r}, which cannot be the name of a file or folder here; not fetched")
    return name


def endpoint(default: str, *variables: str) -> str:
    """Address of a service: of the first of these environment variables that is set, else the default.

    Raises
    ------
    FetchError
        If it is neither https nor on this machine: tokens would cross the network readable by anybody.
    """
    name = next((v for v in variables if os.environ.get(v)), None)
    url = os.environ[name] if name else default
    url = (url if "://" in url else f"http://{url}").rstrip("/")
    parts = urlsplit(url)
    if not parts.hostname or (parts.scheme != "https" and not on_this_machine(url)):
        raise FetchError(f"{name} must be an https:// address (http:// only on this machine)")
    return url


def on_this_machine(url: str) -> bool:
    """Whether an address is http on this machine: a test server, or a tunnel."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK


def missing(extra: str, what: str) -> FetchError:
    """What to say where an optional package is not installed."""
    return FetchError(f"{what} needs a package that is not installed: pip install 'atlas-corpus[{extra}]'")
