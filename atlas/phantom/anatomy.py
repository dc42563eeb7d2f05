"""A human body of simple solids, whose every class is known at every point by a formula.

Positions are RAS millimetres: x to the right, y to the front, z to the head, as in the affines of nibabel.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from atlas.phantom.shapes import Sex, Structure, load_shapes
from atlas.phantom.solids import Bools, Capsule, Ellipsoid, Floats, Solid, Vector
from atlas.spec import load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from atlas.spec import Taxonomy

AIR_HU = -1000.0
SIZE_SPREAD = 0.06
"""Bodies are up to this much larger or smaller along each axis."""
ORGAN_SPREAD = 0.04
"""And organs, beside that."""
ORGAN_SHIFT = 2.0
"""Organs lie up to so many mm from their usual place, along each axis."""
BODY_SHIFT = 8.0
"""And bodies from the centre of the scanner."""


@dataclass(frozen=True)
class Cell:
    """One structure of one body. Cells paint in order: later ones cover earlier ones."""

    name: str
    classes: frozenset[str]
    """Everything that a point of the cell belongs to: kidney_tumor, kidney_left, skin."""
    hu: float
    solids: tuple[Solid, ...]
    over: str | None = None
    """Covers only what belongs to this class."""


@dataclass(frozen=True)
class Anatomy:
    """A body: cells, and where it lies.

    A point belongs to the last cell that covers it, and so to the classes of that cell. Number 0 is the air
    outside, number k the cell `cells[k - 1]`.
    """

    cells: tuple[Cell, ...]
    to_body: tuple[tuple[float, ...], ...]
    """4x4 matrix from RAS millimetres to the body's own."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Classes that this body has, whether or not a scan shows them."""
        return frozenset().union(*(cell.classes for cell in self.cells))

    @cached_property
    def hu(self) -> Floats:
        """Mean attenuation by cell number (Hounsfield units)."""
        return np.array([AIR_HU, *(cell.hu for cell in self.cells)])

    def members(self, name: str) -> Bools:
        """By cell number: whether the cell belongs to a class."""
        return np.array([False, *(name in cell.classes for cell in self.cells)])

    def present(self, numbers: NDArray[np.integer]) -> frozenset[str]:
        """Classes of the cells whose numbers occur."""
        cells = [self.cells[number - 1] for number in np.unique(numbers) if number]
        return frozenset().union(*(cell.classes for cell in cells))

    def moved(self, by: ArrayLike) -> Anatomy:
        """Return the same body shifted by a vector (RAS mm)."""
        back = np.eye(4)
        back[:3, 3] = -np.asarray(by, dtype=float)
        return replace(self, to_body=_rows(np.asarray(self.to_body) @ back))

    def paint(self, shape: tuple[int, int, int], affine: ArrayLike) -> NDArray[np.uint16]:
        """Cell numbers at the voxel centres of a grid.

        Parameters
        ----------
        shape : tuple of int
            Voxels along the array's axes, in whatever order the affine has them.
        affine : array_like, (4, 4)
            Voxel indices to RAS millimetres.

        Returns
        -------
        ndarray of uint16
            Of the given shape.
        """
        to_body = np.asarray(self.to_body) @ np.asarray(affine, dtype=float)
        out = np.zeros(shape, dtype=np.uint16)
        for number, cell in enumerate(self.cells, start=1):
            coverable = None if cell.over is None else self.members(cell.over)
            for solid in cell.solids:
                window = _window(solid, np.linalg.inv(to_body), shape)
                view = out[window]
                inside = solid.contains(*_coordinates(window, to_body))
                view[inside if coverable is None else inside & coverable[view]] = number
        return out

    def mask(self, name: str, shape: tuple[int, int, int], affine: ArrayLike) -> Bools:
        """Voxels of a grid whose centre belongs to a class (see `paint`)."""
        return np.asarray(self.members(name)[self.paint(shape, affine)])


def anatomy(
    seed: int,
    *,
    absent: frozenset[str] = frozenset(),
    sex: Sex | None = None,
    rotation_deg: float = 0.0,
    offset_mm: Vector | None = None,
    taxonomy: Taxonomy | None = None,
) -> Anatomy:
    """Make a body.

    Parameters
    ----------
    seed : int
        Bodies differ in size, sex, position of organs, and lesions. The same seed is the same body, and
        leaving a class out changes nothing else.
    absent : frozenset of str
        Classes that it lacks, with what lies in them: kidney_left after nephrectomy.
    sex : {"female", "male"}, optional
        By lot if not given.
    rotation_deg : float
        Turn about the long axis, seen from the feet clockwise: 90 lies on the left side.
    offset_mm : tuple of float, optional
        Where the body's origin (between L1 and L2) lies in the scanner, RAS mm; near 0 by lot if not given.
    taxonomy : Taxonomy, optional
        Read if not given.
    """
    rng = np.random.default_rng(seed)
    size = 1 + rng.uniform(-SIZE_SPREAD, SIZE_SPREAD, 3)
    lot = BODY_SHIFT * rng.uniform(-1, 1, 3)
    drawn: Sex = "female" if rng.random() < 0.5 else "male"  # noqa: PLR2004
    cells: list[Cell] = []
    surrounding: frozenset[str] = frozenset()
    taxonomy = taxonomy or load_taxonomy()
    for place, structure in enumerate(load_shapes().structures):
        own = np.random.default_rng([seed, zlib.crc32(f"{place}/{structure.name}".encode())])
        for variant in _sides(structure, own, absent):
            cell = _cell(variant, surrounding, taxonomy, own)
            occurs = own.random() < structure.chance and structure.sex in (None, sex or drawn)
            if occurs and not cell.classes & absent:
                cells.append(cell)
            if structure.filled:
                surrounding |= {cell.name}
    return Anatomy(tuple(cells), _placed(size, rotation_deg, lot if offset_mm is None else offset_mm))


def _placed(size: Floats, rotation_deg: float, offset: ArrayLike) -> tuple[tuple[float, ...], ...]:
    angle = np.deg2rad(rotation_deg)
    to_ras = np.eye(4)
    to_ras[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    to_ras[:3, :3] *= size
    to_ras[:3, 3] = offset
    return _rows(np.linalg.inv(to_ras))


def _rows(matrix: NDArray[np.floating]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _sides(structure: Structure, rng: np.random.Generator, absent: frozenset[str]) -> Iterator[Structure]:
    """Resolve {side}: both, or one by lot (of those whose organ is there)."""
    if "{side}" in structure.name:
        yield structure.on("right")
        yield structure.on("left")
    elif "{side}" in (structure.inside or ""):
        both = [structure.on("right"), structure.on("left")]
        there = [variant for variant in both if variant.inside not in absent]
        draw = rng.random()
        yield from there[int(draw * len(there)) :][:1]
    else:
        yield structure


def _cell(s: Structure, surrounding: frozenset[str], taxonomy: Taxonomy, rng: np.random.Generator) -> Cell:
    shift = rng.uniform(-ORGAN_SHIFT, ORGAN_SHIFT, 3)
    size = 1 + rng.uniform(-ORGAN_SPREAD, ORGAN_SPREAD)
    solids = tuple(_solids(s, shift, size))
    return Cell(s.name, _classes(s, taxonomy) | surrounding, s.hu, solids, s.inside or s.over)


def _classes(structure: Structure, taxonomy: Taxonomy) -> frozenset[str]:
    """Own class and all wholes, on the structure's own side where a whole has two."""
    named = {structure.name, *structure.also, *([structure.inside] if structure.inside else [])}
    known = named & set(taxonomy.by_name)
    candidates = known.union(*(taxonomy.wholes(name) for name in known)) & set(taxonomy.by_name)
    side = next((taxonomy.by_name[name].side for name in sorted(known) if taxonomy.by_name[name].side), None)
    either = {c for c in candidates if taxonomy.by_name[c].mirror in candidates}
    return frozenset(c for c in candidates if c not in either or taxonomy.by_name[c].side == side)


def _solids(s: Structure, shift: Floats, size: float) -> Iterator[Solid]:
    for mirror in (1.0, -1.0) if s.mirrored else (-1.0,) if s.side == "left" else (1.0,):
        for x, y, z, a, b, c in s.blobs:
            centre = (mirror * x + shift[0], y + shift[1], z + shift[2])
            yield Ellipsoid(centre, (a * size, b * size, c * size), s.power)
        for tube in s.tubes:
            points = [((mirror * x + shift[0], y + shift[1], z + shift[2]), r * size) for x, y, z, r in tube]
            for (start, start_radius), (end, end_radius) in pairwise(points):
                yield Capsule(start, end, start_radius, end_radius)


def _window(solid: Solid, to_voxel: Floats, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Part of a grid that holds every voxel centre of a solid."""
    low, high = (np.asarray(corner) for corner in solid.bounds())
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
    voxels = to_voxel[:3, :3] @ corners + to_voxel[:3, 3:]
    first = np.clip(np.ceil(voxels.min(axis=1)), 0, shape).astype(int)
    stop = np.clip(np.floor(voxels.max(axis=1)) + 1, first, shape).astype(int)
    return tuple(slice(a, b) for a, b in zip(first, stop, strict=True))


def _coordinates(window: tuple[slice, ...], to_body: Floats) -> tuple[Floats, Floats, Floats]:
    """Body coordinates (mm) of the voxels of a window; axes that do not matter to one keep length 1 in it."""
    index = np.ogrid[window]
    x, y, z = (
        np.asarray(sum((to_body[row, axis] * index[axis] for axis in range(3) if to_body[row, axis]), 0.0))
        + to_body[row, 3]
        for row in range(3)
    )
    return x, y, z
