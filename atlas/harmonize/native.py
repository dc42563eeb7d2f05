"""The labels of a case on the grid of its scan, voxel by voxel as published, in the taxonomy's classes.

Nothing is resampled: a label that does not share the lattice of the scan is refused. Sides that the publisher did
not draw are those that the canonical masks have, so that both grids tell the same story.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation
from scipy import ndimage

from atlas.errors import LabelError
from atlas.harmonize.grid import index_map
from atlas.harmonize.pack import bounding_box
from atlas.harmonize.pairs import LEFT, RIGHT, UNTOLD, sided
from atlas.harmonize.reconcile import Reconciled, drawn
from atlas.harmonize.unknown import mark_ignored, mark_partial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid, Shape
    from atlas.harmonize.pack import MaskPacker, PackedMasks
    from atlas.harmonize.reconcile import SourceLabels
    from atlas.harmonize.rules import LabelRules

    Points = NDArray[np.int_]
    SideOf = Callable[[Points], NDArray[np.uint8]]

SAME_PLACE = 0.1
"""Voxels by which a label may be off the lattice of its scan (float32 headers, rounding)."""


@dataclass(frozen=True, eq=False)
class NativeGrid:
    """Voxels of a scan as published, its axes turned to (z, y, x), near RAS+; oblique scans stay oblique.

    Parameters
    ----------
    shape
        Voxels along (z, y, x).
    affine
        (4, 4): (x, y, z) voxel indices to RAS mm.
    """

    shape: Shape
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edges of a voxel, mm along (z, y, x)."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return z, y, x


def native_grid(shape: Shape, affine: NDArray[np.float64]) -> NativeGrid:
    """Grid of a scan, from its shape (i, j, k) as stored and its affine, (i, j, k) to RAS mm."""
    turn = io_orientation(affine)
    x, y, z = (shape[stored] for stored in np.argsort(turn[:, 0]))
    return NativeGrid((z, y, x), affine @ inv_ornt_aff(turn, shape))


def reconcile_native(
    layers: Iterable[SourceLabels],
    rules: LabelRules,
    case: str,
    *,
    grid: NativeGrid,
    canonical: PackedMasks,
    canonical_grid: Grid,
    available: int,
    slices: tuple[int, int] | None = None,
) -> Reconciled:
    """Masks of a case on the grid of its scan.

    Parameters
    ----------
    layers, rules, case, slices
        As of `atlas.harmonize.reconcile.reconcile`.
    grid
        Of the scan.
    canonical, canonical_grid
        What `reconcile` made of the same labels.
    available
        Bitmask of the classes that are available there; no other is looked at.

    Raises
    ------
    LabelError
        If a label is on another lattice than the scan, or holds what the label map does not explain.
    """
    packer, annotated = drawn(
        _on_lattice(layers, grid), rules, case, grid=grid, method="nearest", slices=slices
    )  # the nearest voxel of the same lattice is the voxel itself
    available &= annotated
    for pair in (p for p, bit in rules.pair_bits.items() if any(e.classes >> bit & 1 for e in packer.table)):
        known = not rules.mask_of(pair) & ~available  # else the canonical masks show one side alone, or none
        _give_sides(packer, rules, pair, _side_of(rules, pair, grid, canonical, canonical_grid) if known else None)
    mark_ignored(packer, rules.unknown_bit, available)
    mark_partial(packer, rules, grid.spacing)
    return Reconciled(packer.packed(keep=available), available, ())


def _on_lattice(layers: Iterable[SourceLabels], grid: NativeGrid) -> Iterator[SourceLabels]:
    for layer in layers:
        matrix, offset = index_map(layer.affine, grid)
        exact = np.rint(matrix)
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij"), axis=-1).reshape(-1, 3)
        off = np.abs((matrix - exact) @ corners.T + (offset - np.rint(offset))[:, None]).max()
        if off > SAME_PLACE or not (np.abs(exact).sum(axis=0) == 1).all():
            raise LabelError(
                f"label {layer.name!r} is on another grid than the scan; there is no truth on the scan's own grid"
            )
        yield layer


def _give_sides(packer: MaskPacker, rules: LabelRules, pair: str, side_of: SideOf | None) -> None:
    """Replace the working bit of a pair, slice by slice."""
    working = 1 << rules.pair_bits[pair]
    box = packer.box(lambda entry: bool(entry.classes & working))
    if box is None:
        return
    low = [s.start for s in box]
    for z in range(box[0].start, box[0].stop):
        selector = packer.where(working, (slice(z, z + 1), box[1], box[2])).astype(np.uint8)
        voxels = np.argwhere(selector)
        selector[selector > 0] = UNTOLD if side_of is None else side_of(voxels + np.array([z, *low[1:]]))
        packer.update((z, low[1], low[2]), selector, sided(rules, pair))


def _side_of(
    rules: LabelRules, pair: str, grid: NativeGrid, canonical: PackedMasks, canonical_grid: Grid
) -> SideOf | None:
    """Tell native voxels (n, 3), (z, y, x), the side of the nearest canonical voxel that has one; None: none has."""
    left, right = (canonical.lookup(side.bit) for side in rules.taxonomy.pairs[pair])
    either = (left | right)[canonical.codes]
    box = bounding_box(either)
    if box is None:
        return None
    nearest = ndimage.distance_transform_edt(~either[box], return_distances=False, return_indices=True)
    sides = np.where(right[canonical.codes[box]], np.uint8(RIGHT), np.uint8(LEFT))[tuple(nearest)]
    matrix, offset = index_map(canonical_grid.affine, grid)
    start, last = np.array([s.start for s in box]), np.array(sides.shape) - 1

    def side_of(voxels: Points) -> NDArray[np.uint8]:
        at = np.rint(voxels @ matrix[::-1].T + offset[::-1]).astype(np.intp) - start
        found: NDArray[np.uint8] = sides[tuple(np.clip(at, 0, last).T)]
        return found

    return side_of
