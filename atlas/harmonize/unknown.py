"""Where a class is not known although it was annotated in the case (design.md section 3, unknown regions)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from atlas.harmonize.grid import covered
from atlas.harmonize.pack import Entry, MaskPacker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Lattice
    from atlas.harmonize.rules import LabelRules
    from atlas.spec.label_map import Box


def mark_outside(
    packer: MaskPacker,
    classes: int,
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    grid: Lattice,
    *,
    box: Box | None = None,
) -> None:
    """Make classes unknown outside a label volume, or outside the box of it that was annotated.

    Parameters
    ----------
    packer
        Masks on the grid; changed in place.
    classes
        Bitmask of the classes that the label volume shows.
    shape, affine
        Of the label volume, (i, j, k) as stored.
    grid
        That of the masks.
    box
        [lo, hi) along each stored axis.
    """
    if box is not None:
        shape = tuple(hi - lo for lo, hi in box)
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [lo for lo, _ in box]
    i, j, k = shape
    inside = covered((i, j, k), affine, grid)
    if inside is not None:
        packer.update((0, 0, 0), ~inside, lambda e, _: Entry(e.classes, e.unknown | classes))


def mark_ignored(packer: MaskPacker, unknown_bit: int, available: int) -> None:
    """Where an ignore value stands, every available class that is not drawn there is unknown."""
    ignored = 1 << unknown_bit
    if any(e.classes & ignored for e in packer.table):
        where = packer.where(ignored)
        packer.update((0, 0, 0), where, lambda e, _: Entry(e.classes & ~ignored, e.unknown | available & ~e.classes))


def mark_partial(packer: MaskPacker, rules: LabelRules, spacing: Sequence[float]) -> None:
    """Classes drawn over part of the scan only, and classes drawn in part (see the label map's `unknown`).

    Parameters
    ----------
    packer
        Masks (z, y, x), z from slice to slice; changed in place.
    rules
        Which classes.
    spacing
        mm along (z, y, x).
    """
    unknown = rules.label_map.unknown
    for target in unknown.beyond_labelled_slices:
        for bit in rules.taxonomy.target_bits(target):
            _beyond_slices(packer, bit)
    for target, distance in unknown.near_partial.items():
        for bit in rules.taxonomy.target_bits(target):
            _near(packer, bit, distance, spacing)


def _beyond_slices(packer: MaskPacker, bit: int) -> None:
    """Unknown in the axial slices that do not show the class. One that is nowhere is absent, not unknown."""
    box = packer.box(lambda e: bool(e.classes >> bit & 1))
    if box is not None:
        outside = np.ones(packer.codes.shape, dtype=bool)
        outside[box[0]] = False
        _make_unknown(packer, bit, (0, 0, 0), outside)


def _near(packer: MaskPacker, bit: int, distance: float, spacing: Sequence[float]) -> None:
    """Unknown within a distance (mm) of the class."""
    box = packer.box(lambda e: bool(e.classes >> bit & 1))
    if box is None:
        return
    finest = min(spacing)  # as the unit, it makes whole numbers of the distances between cubic voxels
    steps = [step / finest for step in spacing]
    margin = [int(np.ceil(distance / step)) for step in spacing]
    wide = tuple(
        slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, margin, packer.codes.shape, strict=True)
    )
    away = ~packer.where(1 << bit, (wide[0], wide[1], wide[2]))
    near = ndimage.distance_transform_edt(away, sampling=steps) <= distance / finest
    _make_unknown(packer, bit, (wide[0].start, wide[1].start, wide[2].start), near)


def _make_unknown(packer: MaskPacker, bit: int, start: tuple[int, int, int], where: NDArray[np.bool_]) -> None:
    """Make a class unknown in a part of a box, except where it was drawn."""

    def marked(entry: Entry, _: int) -> Entry:
        return entry if entry.classes >> bit & 1 else Entry(entry.classes, entry.unknown | 1 << bit)

    packer.update(start, where, marked)
