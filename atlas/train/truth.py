"""What a case of a corpus says about classes, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from atlas.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from atlas.corpus import Case

TRUSTED = ("manual", "revised")
"""Provenances that say something about a model. A pseudo label says how much it agrees with another model."""


class Truth(NamedTuple):
    """Mask of a class.

    Attributes
    ----------
    name
        Of the class.
    mask
        bool (z, y, x).
    known
        Where the mask means something, bool (z, y, x); None: everywhere.
    """

    name: str
    mask: NDArray[np.bool_]
    known: NDArray[np.bool_] | None


def scored_classes(case: Case, classes: Sequence[str], provenance: Collection[str] = TRUSTED) -> list[str]:
    """Those of the classes that a case can be scored on: available, and of one of the provenances. Keeps the order."""
    fit = {c.name for c in case.record.classes if c.provenance in provenance} & case.available
    return [name for name in classes if name in fit]


def truths(case: Case, names: Sequence[str]) -> Iterator[Truth]:
    """Masks of available classes, one after the other; the packed masks are read and decoded once.

    Raises
    ------
    CorpusError
        If the packed masks hold a code that the case does not explain. Names the case.
    """
    codes = np.asarray(case.codes[...])
    if int(codes.max()) >= len(case.table):
        raise CorpusError(f"{case.case_id}: damaged, code {codes.max()} of {len(case.table)}; build the case again")
    for name in names:
        bit = case.taxonomy.bit(name)
        held, unknown = (
            np.array([bitmask >> bit & 1 for bitmask in table], bool) for table in (case.table, case.unknown_table)
        )
        yield Truth(name, held[codes], ~unknown[codes] if unknown.any() else None)
