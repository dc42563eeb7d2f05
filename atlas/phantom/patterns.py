"""Path patterns of manifests: `**/` is any depth, `*` and `?` stay within a name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_WILD = re.compile(r"\*\*/|\*|\?|\{case\}|\{structure\}")


def like(patterns: Iterable[str], path: str) -> bool:
    """Whether a path is like one of some patterns."""
    return any(re.fullmatch(regex(pattern, "[^/]+"), path) for pattern in patterns)


def regex(pattern: str, case: str) -> str:
    """A pattern as a regular expression, given the one of {case}, which becomes its group `case`."""
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "{structure}": "[^/]+?"}
    out, at, named = "", 0, False
    for token in _WILD.finditer(pattern):
        out += re.escape(pattern[at : token.start()])
        if token.group() == "{case}":
            out += "(?P=case)" if named else f"(?P<case>{case})"
            named = True
        else:
            out += known[token.group()]
        at = token.end()
    return out + re.escape(pattern[at:])
