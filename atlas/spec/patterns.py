"""Path patterns of manifests, and what they mean: the one place that says so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TOKENS = re.compile(r"(\*\*/|\*|\?|\{case\}|\{structure\})")
_WILDCARDS = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "{structure}": "(?P<structure>[^/]+?)"}


def compiled(pattern: str, case: str = "[^/]+") -> re.Pattern[str]:
    """A path pattern as a regular expression, for `fullmatch` on a path whose parts are joined by /.

    `**/` is any depth, `*` and `?` stay within a name; everything else stands for itself. Case counts.

    Parameters
    ----------
    pattern
        With {case}, which becomes the group `case` and is the same wherever it stands, and {structure}.
    case
        Regular expression of {case}.
    """
    result, named = [], False
    for token in _TOKENS.split(pattern):
        if token == "{case}":
            result.append("(?P=case)" if named else f"(?P<case>{case})")
            named = True
        else:
            result.append(_WILDCARDS.get(token, re.escape(token)))
    return re.compile("".join(result), re.DOTALL)


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """A function that says whether a path is like one of the patterns.

    Without patterns nothing matches: a caller to whom none means all has to say so.
    """
    expressions = [compiled(pattern) for pattern in patterns]

    def matches(path: str) -> bool:
        return any(expression.fullmatch(path) for expression in expressions)

    return matches
