"""Case numbers as a publisher would give them: random strings that match a manifest's regular expression."""

from __future__ import annotations

import re
import string
from random import Random
from typing import TYPE_CHECKING

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Maker = Callable[[Random], str]

ALPHABETS = (string.digits, string.ascii_letters, string.punctuation)
"""The first that has something to offer is drawn from."""
TRIES = 200
"""Draws for one number before giving up."""

_ESCAPED_OR_SET = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?::|P<\w+>))?")
_REPEAT = re.compile(r"\{(\d+)(?:,(\d+))?\}|[*+?]")
_REPEATS = {"*": (0, 3), "+": (1, 4), "?": (0, 1)}


def case_ids(pattern: str, count: int, *, seed: str, avoid: Collection[str] = ()) -> list[str]:
    """Draw different strings that match a regular expression.

    Parameters
    ----------
    pattern : str
        Literals, escapes, sets, groups, alternatives and repeats; not look-around and back references.
    count : int
        How many.
    seed : str
        The same seed draws the same strings.
    avoid : collection of str
        Strings not to draw.

    Raises
    ------
    SpecError
        If the pattern has not so many, or uses what is not understood here.
    """
    make, rng, found = _Parser(pattern).whole(), Random(seed), list[str]()
    for _ in range(TRIES * count):
        candidate = make(rng)
        if re.fullmatch(pattern, candidate) and candidate not in avoid and candidate not in found:
            found.append(candidate)
        if len(found) == count:
            return found
    raise SpecError(f"no {count} case numbers could be made up that match {pattern!r}")


class _Parser:
    """Recursive descent over a pattern; each rule returns a function that draws a match."""

    def __init__(self, pattern: str) -> None:
        self.rest = pattern

    def whole(self) -> Maker:
        choices = [self._sequence()]
        while self.rest.startswith("|"):
            self.rest = self.rest[1:]
            choices.append(self._sequence())
        return lambda rng: rng.choice(choices)(rng)

    def _sequence(self) -> Maker:
        parts: list[Maker] = []
        while self.rest and self.rest[0] not in "|)":
            parts.append(self._repeated(self._atom()))
        return lambda rng: "".join(part(rng) for part in parts)

    def _atom(self) -> Maker:
        if self._take(_GROUP):
            inside = self.whole()
            self.rest = self.rest[1:]
            return inside
        token = self._take(_ESCAPED_OR_SET)
        if token is None or token.group() in "^$":
            return lambda _: ""
        fitting = ["".join(re.findall(token.group(), alphabet)) for alphabet in ALPHABETS]
        matching = next((chars for chars in fitting if chars), token.group()[-1])
        return lambda rng: rng.choice(matching)

    def _repeated(self, atom: Maker) -> Maker:
        repeat = self._take(_REPEAT)
        if repeat is None:
            return atom
        if repeat.group() in _REPEATS:
            low, high = _REPEATS[repeat.group()]
        else:
            low, high = int(repeat[1]), int(repeat[2] or repeat[1])
        return lambda rng: "".join(atom(rng) for _ in range(rng.randint(low, high)))

    def _take(self, token: re.Pattern[str]) -> re.Match[str] | None:
        found = token.match(self.rest)
        if found:
            self.rest = self.rest[found.end() :]
        return found
