"""How a dataset's labels show a body: which cells of the anatomy carry which value, or lie in which mask."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from atlas.spec.label_map import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from atlas.phantom.anatomy import Anatomy
    from atlas.phantom.solids import Bools
    from atlas.spec import LabelMap, Taxonomy

K = TypeVar("K", int, str)

ELSEWHERE = "elsewhere_"
"""Cells for labels that mean no class of ours: lumps in the fat, for a reader to leave out."""


def available(
    label_map: LabelMap, taxonomy: Taxonomy, present: Collection[str], shown: frozenset[str], *, any_label: bool = False
) -> frozenset[str]:
    """Classes that are annotated in a case.

    Parameters
    ----------
    present : collection of str
        Label files and structures that the case has, as the label map names them.
    shown : frozenset of str
        Classes that the case shows; in some datasets only these count.
    any_label : bool
        Whether a case has one of the label files, whichever.
    """
    optional = {*label_map.optional, *(label_map.values if any_label else ())}
    drawn_in: dict[str, set[str]] = defaultdict(set)
    layers = [*((name, m) for name, values in label_map.values.items() for m in values.values())]
    for name, meaning in [*layers, *label_map.structures.items()]:
        for target in meaning:
            drawn_in[target].add(name)
    out: set[str] = set()
    for target in label_map.targets():
        needed = drawn_in[target] - optional
        if needed.issubset(present) if needed else drawn_in[target] & set(present):
            out |= {taxonomy.classes[bit].name for bit in taxonomy.target_bits(target)}
    return frozenset(out & shown if label_map.available == "drawn" else out)


def value_tables(values: Mapping[int, Sequence[str]], anatomy: Anatomy, taxonomy: Taxonomy) -> NDArray[np.uint16]:
    """Value by cell number, for a volume whose voxels have one value each.

    Wholes are painted before their parts, so that a part which has a value of its own shows it. Values of
    the same meaning take turns: one table for each turn.

    Returns
    -------
    ndarray of uint16, (turns, cells + 1)
    """
    same: dict[bytes, list[int]] = defaultdict(list)
    for value, cells in _all_cells(values, anatomy, taxonomy).items():
        same[cells.tobytes()].append(value)
    groups = [(np.frombuffer(key, dtype=bool), group) for key, group in same.items()]
    tables = np.zeros((max(map(len, same.values()), default=1), len(anatomy.cells) + 1), dtype=np.uint16)
    for cells, group in sorted(groups, key=lambda item: -int(item[0].sum())):
        for turn, table in enumerate(tables):
            table[cells] = group[turn % len(group)]
    return tables


def mask_tables(structures: Mapping[str, Sequence[str]], anatomy: Anatomy, taxonomy: Taxonomy) -> dict[str, Bools]:
    """By structure: whether a cell is in its mask.

    A structure does not show a part that has a mask of its own: so TotalSegmentator stores sacrum and S1.
    """
    cells = _all_cells(structures, anatomy, taxonomy)
    wholes = {
        name: frozenset().union(*(taxonomy.wholes(t) for t in targets if t != UNKNOWN))
        for name, targets in structures.items()
    }
    return {
        name: functools.reduce(
            lambda left, part: left & ~part,
            [cells[o] for o in structures if _is_part(cells[o], cells[name], wholes[o], structures[name])],
            cells[name],
        )
        for name in structures
    }


def _is_part(inner: Bools, outer: Bools, wholes: frozenset[str], targets: Sequence[str]) -> bool:
    related = not wholes.isdisjoint(targets)
    return related and not (inner & ~outer).any() and bool((outer & ~inner).any())


def _all_cells(meanings: Mapping[K, Sequence[str]], anatomy: Anatomy, taxonomy: Taxonomy) -> dict[K, Bools]:
    """Cells by label; labels that mean nothing get the cells elsewhere, in turn."""
    lumps = itertools.cycle(k for k, c in enumerate(anatomy.cells, start=1) if c.name.startswith(ELSEWHERE))
    out: dict[K, Bools] = {}
    for label, targets in meanings.items():
        if targets and UNKNOWN not in targets:
            out[label] = np.logical_and.reduce([_target_cells(t, anatomy, taxonomy) for t in targets])
        else:
            out[label] = np.arange(len(anatomy.cells) + 1) == next(lumps)
    return out


def _target_cells(target: str, anatomy: Anatomy, taxonomy: Taxonomy) -> Bools:
    """Cells of a class, or of both classes of a pair."""
    bits = taxonomy.target_bits(target)
    return np.asarray(np.logical_or.reduce([anatomy.members(taxonomy.classes[bit].name) for bit in bits]))
