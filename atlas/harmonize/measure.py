"""What is in the masks of a case: size, place and parts of every class, and voxels to aim patches at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cc3d
import numpy as np
from scipy import ndimage

from atlas.harmonize.pack import bounding_box
from atlas.harmonize.pieces import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid
    from atlas.harmonize.pack import PackedMasks

AIR = -500
"""HU between air and the body; lung counts as air here and is enclosed by the body's box anyway."""

STRIDE = 4
"""Voxels (6 mm at 1.5 mm) by which the body's box may be too wide."""


@dataclass(frozen=True)
class ClassMeasure:
    """One class that is present in a case.

    Attributes
    ----------
    bit
        Of the taxonomy.
    voxels, volume_ml
        Size on the canonical grid.
    bbox
        (z0, y0, x0, z1, y1, x1) voxel indices, half open.
    centroid_mm
        (x, y, z) RAS mm.
    components
        Number of 26-connected parts.
    touches_border
        Whether it reaches an outer face of the volume, so that it may be cut off.
    sample
        uint16 (n, 3): (z, y, x) of up to so many voxels, drawn evenly and without repetition.
    """

    bit: int
    voxels: int
    volume_ml: float
    bbox: tuple[int, int, int, int, int, int]
    centroid_mm: tuple[float, float, float]
    components: int
    touches_border: bool
    sample: NDArray[np.uint16]


def measure(masks: PackedMasks, grid: Grid, *, samples: int, seed: int) -> list[ClassMeasure]:
    """Measure every class that has at least one voxel.

    Parameters
    ----------
    masks
        Packed masks on the grid.
    grid
        The canonical grid.
    samples
        Voxels to draw a class.
    seed
        The draw depends on it and on the class alone.
    """
    return [
        _class_measure(bit, mask, start, grid, samples, np.random.default_rng((seed, bit)))
        for bit, mask, start in _present(masks)
    ]


def _present(masks: PackedMasks) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.int64]]]:
    """Bit, mask and place of every present class, the mask cropped to where its codes are."""
    if len(masks.table) == 1:
        return
    boxes = [None, *ndimage.find_objects(masks.codes)]  # by code; background needs none
    union = 0
    for entry in masks.table:
        union |= entry.classes
    for bit in (b for b in range(union.bit_length()) if union >> b & 1):
        holding = [boxes[code] for code, entry in enumerate(masks.table) if entry.classes >> bit & 1]
        low = np.min([[s.start for s in box] for box in holding], axis=0)
        high = np.max([[s.stop for s in box] for box in holding], axis=0)
        crop = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        yield bit, masks.lookup(bit)[masks.codes[crop]], low


def _class_measure(
    bit: int,
    mask: NDArray[np.bool_],
    start: NDArray[np.int64],
    grid: Grid,
    samples: int,
    rng: np.random.Generator,
) -> ClassMeasure:
    where = np.flatnonzero(mask)
    stop = start + mask.shape
    sizes = [mask.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    centre = [float(np.average(np.arange(n.size), weights=n)) + s for n, s in zip(sizes, start, strict=True)]
    _, components = connected(mask)
    chosen = where if where.size <= samples else np.sort(rng.choice(where, samples, replace=False))
    sample = np.stack(np.unravel_index(chosen, mask.shape), axis=1) + start
    position = (o + grid.spacing * c for o, c in zip(grid.origin, reversed(centre), strict=True))
    x, y, z = position
    return ClassMeasure(
        bit=bit,
        voxels=int(where.size),
        volume_ml=where.size * grid.spacing**3 / 1000,
        bbox=(*(int(v) for v in start), *(int(v) for v in stop)),  # type: ignore[arg-type]
        centroid_mm=(round(x, 3), round(y, 3), round(z, 3)),
        components=components,
        touches_border=bool((start == 0).any() or (stop == grid.shape).any()),
        sample=sample.astype(np.uint16),
    )


def body_box(ct: NDArray[np.int16]) -> tuple[int, int, int, int, int, int] | None:
    """Box (z0, y0, x0, z1, y1, x1) around the body, to within `STRIDE` voxels; None in an empty scan.

    The body is the largest connected part that is denser than air, found on every `STRIDE`-th voxel, so that
    table and blankets stay outside where they do not touch it.
    """
    parts = cc3d.largest_k((ct[::STRIDE, ::STRIDE, ::STRIDE] > AIR).astype(np.uint8), k=1, connectivity=6)
    box = bounding_box(parts > 0)
    if box is None:
        return None
    low = [max(0, (s.start - 1) * STRIDE + 1) for s in box]
    high = [min(n, s.stop * STRIDE) for s, n in zip(box, ct.shape, strict=True)]
    return low[0], low[1], low[2], high[0], high[1], high[2]
