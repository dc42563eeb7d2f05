"""Give every voxel of unknown side its side, in the packed masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.harmonize.midplane import find_midplane
from atlas.harmonize.pack import Entry, MaskPacker
from atlas.harmonize.sides import SideSplit, split_sides

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from atlas.harmonize.midplane import Midplane
    from atlas.harmonize.rules import LabelRules

LEFT, RIGHT, UNTOLD = 1, 2, 3
"""Sides of a voxel; the last one: nobody can tell."""


def split_pairs(packer: MaskPacker, rules: LabelRules, ct: NDArray[np.int16], spacing: float) -> tuple[int, list[str]]:
    """Replace the working bit of every pair by the bits of its left and right class.

    Parameters
    ----------
    packer
        Masks on the canonical grid; changed in place.
    rules
        Which working bit is which pair; wholes come before their parts, so parts can follow them.
    ct
        int16 HU on the same grid, (z, y, x).
    spacing
        mm

    Returns
    -------
    unresolved : int
        Bitmask of the classes of the pairs for which there is no honest answer.
    warnings : list of str
        A sentence for each pair whose split was not obvious.
    """
    open_pairs = [p for p, bit in rules.pair_bits.items() if any(e.classes >> bit & 1 for e in packer.table)]
    midplane = find_midplane(ct, spacing) if open_pairs else None
    unresolved, warnings = 0, []
    for pair in open_pairs:
        split = _split_pair(packer, rules, pair, midplane, spacing)
        if split.note:
            warnings.append(f"{pair}: {split.note}")
        if not split.resolved:
            unresolved |= rules.mask_of(pair)
    return unresolved, warnings


def _split_pair(
    packer: MaskPacker, rules: LabelRules, pair: str, midplane: Midplane | None, spacing: float
) -> SideSplit:
    """Split one pair in place. Voxels whose side is known, from the pair or from its whole, lead the others."""
    taxonomy, working = rules.taxonomy, 1 << rules.pair_bits[pair]
    sides = [taxonomy.pairs[p] for p in (pair, *taxonomy.wholes(pair)) if p in taxonomy.pairs]
    lefts, rights = (sum(1 << pair_[i].bit for pair_ in sides) for i in (0, 1))
    left, right = taxonomy.pairs[pair]
    own = working | 1 << left.bit | 1 << right.bit
    box = packer.box(lambda entry: bool(entry.classes & own))
    if box is None:
        raise AssertionError("a pair is split only where it occurs")
    start = (box[0].start, box[1].start, box[2].start)

    mask = packer.where(own, box)
    split = _sides(mask, packer.where(lefts, box) & mask, packer.where(rights, box) & mask, spacing, midplane, start)
    selector = np.where(split.right, np.uint8(RIGHT), np.uint8(LEFT)) * packer.where(working, box)

    packer.update(start, selector, sided(rules, pair))
    return split


def sided(rules: LabelRules, pair: str) -> Callable[[Entry, int], Entry]:
    """What a voxel of a pair becomes when its side is found: LEFT, RIGHT, or UNTOLD."""
    working = 1 << rules.pair_bits[pair]
    left, right = (1 << side.bit for side in rules.taxonomy.pairs[pair])

    def rule(entry: Entry, side: int) -> Entry:
        rest = entry.classes & ~working
        if side == UNTOLD:
            return Entry(rest, entry.unknown | left | right)
        return Entry(rest | (right if side == RIGHT else left), entry.unknown)

    return rule


def _sides(
    mask: NDArray[np.bool_],
    left: NDArray[np.bool_],
    right: NDArray[np.bool_],
    spacing: float,
    midplane: Midplane | None,
    origin: tuple[int, int, int],
) -> SideSplit:
    """Sides of a mask of which a part may be known."""
    known = left | right
    if np.array_equal(known, mask):
        return SideSplit(right=right, resolved=True, note=None)
    if not known.any():
        return split_sides(mask, spacing, midplane, origin=origin)
    return split_sides(mask, spacing, midplane, left_seed=left, right_seed=right, origin=origin)
