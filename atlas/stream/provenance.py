"""Labels by where they come from: those that do not count make their classes unavailable, in what is streamed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from atlas.corpus.layout import WORD
from atlas.errors import SpecError
from atlas.spec.label_map import PROVENANCES

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from atlas.corpus.corpus import Corpus
    from atlas.stream.select import CaseIndex

OTHERS = """
    with numbered as (select row_number() over (order by case_id) - 1 as case_row, case_id from cases),
         classes as (select unnest($1::varchar[]) as name, unnest(range(len($1::varchar[]))) as bit)
    select cast(case_row as integer) as case_row, cast(bit as smallint) as bit
    from annotations join numbered using (case_id) join classes on (class = name)
    where annotations.available and not list_contains($2::varchar[], provenance)
"""
"""One row per class of a case whose label does not count."""


def counting(corpus: Corpus, index: CaseIndex, provenance: Collection[str]) -> CaseIndex:
    """All cases of a corpus, with the labels that count. Reads the catalog once, or not at all where every label does.

    Parameters
    ----------
    corpus
        Whose cases.
    index
        All of them, with all their labels.
    provenance
        Of the labels that count: "manual", "revised", "pseudo".

    Raises
    ------
    SpecError
        If there is no such provenance.
    """
    if strange := [name for name in provenance if name not in PROVENANCES]:
        raise SpecError(f"provenance {', '.join(map(repr, strange))}: a label is {', '.join(PROVENANCES)}")
    if set(provenance) == set(PROVENANCES):
        return index
    others = corpus.sql(OTHERS, [list(corpus.taxonomy.names), list(provenance)])
    return without(index, others["case_row"].to_numpy(np.int64), others["bit"].to_numpy(np.int64))


def without(index: CaseIndex, case: NDArray[np.int64], bit: NDArray[np.int64]) -> CaseIndex:
    """The same cases, with class `bit[j]` unavailable in case `case[j]`; int64 (k,) each."""
    available, width = index.available.copy(), WORD * index.available.shape[1]
    word, place = np.divmod(bit, WORD)
    np.bitwise_and.at(available, (case, word), ~(np.uint32(1) << place.astype(np.uint32)))
    left = ~np.isin(index.owner * width + index.bits, case * width + bit)
    sizes = np.bincount(index.owner[left], minlength=len(index))
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return replace(index, available=available, starts=starts, bits=index.bits[left])
