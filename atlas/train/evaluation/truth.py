"""What a case says about classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from atlas.errors import CorpusError
from atlas.harmonize.pack import Entry, PackedMasks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from atlas.corpus import Case
    from atlas.spec.taxonomy import Taxonomy

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


def packed_masks(case: Case) -> PackedMasks:
    """Packed masks of a case, read.

    Raises
    ------
    CorpusError
        If they hold a code that the case does not explain. Names the case.
    """
    codes = np.asarray(case.codes[...])
    if int(codes.max()) >= len(case.table):
        raise CorpusError(f"{case.case_id}: damaged, code {codes.max()} of {len(case.table)}; build the case again")
    return PackedMasks(codes, tuple(map(Entry, case.table, case.unknown_table)))


def truths(masks: PackedMasks, names: Sequence[str], taxonomy: Taxonomy) -> Iterator[Truth]:
    """Masks of available classes on any grid, decoded one after the other."""
    for name in names:
        bit = taxonomy.bit(name)
        held, unknown = (
            np.array([bitmask >> bit & 1 for bitmask in of], bool) for of in zip(*masks.table, strict=True)
        )
        yield Truth(name, held[masks.codes], ~unknown[masks.codes] if unknown.any() else None)
