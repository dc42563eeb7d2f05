"""What a structure's name means in the taxonomy: only what is certain, and suggestions for the rest."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atlas.spec import Taxonomy


def normal(name: str) -> str:
    """Lower case, with _ for whatever is no letter or digit."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


class Names:
    """Names and synonyms of all classes and pairs."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        self._targets: dict[str, set[str]] = {}
        for c in taxonomy.classes:
            for name in (c.name, *c.synonyms):
                self._targets.setdefault(normal(name), set()).add(c.name)
        for c in taxonomy.classes:  # a class's own name outranks another's synonym
            self._targets[normal(c.name)] = {c.name}
        for pair in taxonomy.pairs:
            self._targets.setdefault(normal(pair), set()).add(pair)

    def target(self, name: str) -> str | None:
        """Class or pair of exactly this name or synonym; None if there is none or more than one."""
        found = self._targets.get(normal(name), set())
        return next(iter(found)) if len(found) == 1 else None

    def nearest(self, name: str) -> list[str]:
        """Up to three classes or pairs of similar names."""
        close = difflib.get_close_matches(normal(name), self._targets, n=6, cutoff=0.5)
        return list(dict.fromkeys(target for key in close for target in sorted(self._targets[key])))[:3]
