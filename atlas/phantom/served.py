"""Which file that a publisher serves could hold a file of a phantom, by its place alone."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from atlas.spec.patterns import matcher

if TYPE_CHECKING:
    from atlas.spec.access import SourceFile


def serves(file: SourceFile, path: str) -> int | None:
    """How much a file of a manifest has to do with a place below the dataset's folder: less is more, None is nothing.

    Series of a collection cannot be told by their place; of them nothing is said.
    """
    if urlsplit(file.url or "").scheme == "idc":
        return None
    if file.many and not file.holds:
        return 1 if listed(file, path) is not None else None
    if not file.archive and not file.many:
        return 0 if matcher([file.target])(path) else None
    if file.into and not path.startswith(f"{file.into.strip('/')}/"):
        return None
    if file.holds:
        return 1 if matcher(file.holds)(path) else None
    return 2


def listed(file: SourceFile, path: str) -> str | None:
    """Path at the source, of an address that stands for many files, of a file here; None if it is none of them."""
    pattern, to = source_path(file.url or ""), (file.to or "").strip("/")
    pattern += "" if pattern and not pattern.endswith("/") else "**/*"
    fixed = pattern.split("*", 1)[0].rpartition("/")
    if to and not path.startswith(f"{to}/"):
        return None
    name = fixed[0] + fixed[1] + path.removeprefix(f"{to}/" if to else "")
    return name if matcher([pattern])(name) else None


def source_path(url: str) -> str:
    """Path of an address below its bucket, repository or server, without a revision."""
    parts = urlsplit(url)
    path = unquote(parts.path).removeprefix("/")
    return path.split("/", 2)[2] if parts.scheme == "hf" else path
