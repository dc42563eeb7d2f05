"""Path patterns: which files are meant by `holds` and `nested` of a manifest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_WILDCARDS = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a path (parts joined by /) is like one of the patterns.

    `**/` is any depth, `*` and `?` stay within a name; everything else stands for itself. Case counts. Without
    patterns nothing matches: a caller to whom none means all has to say so.
    """
    compiled = [re.compile("".join(_WILDCARDS.get(t, re.escape(t)) for t in _tokens(p)), re.DOTALL) for p in patterns]

    def matches(path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in compiled)

    return matches


def _tokens(pattern: str) -> list[str]:
    return re.split(r"(\*\*/|\*|\?)", pattern)
