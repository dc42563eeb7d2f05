"""Solids that know by a formula which points lie in them.

Coordinates are millimetres in the body's own frame: x to the patient's right, y to the front, z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Vector = tuple[float, float, float]


class Solid(Protocol):
    """A closed set of points."""

    def bounds(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner of a box around the solid (mm)."""
        ...

    def contains(self, x: Floats, y: Floats, z: Floats) -> Bools:
        """Whether points lie in the solid.

        Parameters
        ----------
        x, y, z : ndarray
            Coordinates (mm), of shapes that broadcast against each other.
        """
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """Points with |x/a|^px + |y/b|^py + |z/c|^pz <= 1; powers above 2 make it boxy along that axis."""

    centre: Vector
    half: Vector
    power: Vector = (2.0, 2.0, 2.0)

    def bounds(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner of a box around the solid (mm)."""
        (x, y, z), (a, b, c) = self.centre, self.half
        return (x - a, y - b, z - c), (x + a, y + b, z + c)

    def contains(self, x: Floats, y: Floats, z: Floats) -> Bools:
        """Whether points lie in the solid (see `Solid.contains`)."""
        terms = [
            np.abs((axis - centre) / half) ** power
            for axis, centre, half, power in zip((x, y, z), self.centre, self.half, self.power, strict=True)
        ]
        return np.asarray(terms[0] + terms[1] + terms[2] <= 1)


@dataclass(frozen=True)
class Capsule:
    """A piece of a tube with round ends, whose radius changes evenly from `start_radius` to `end_radius`."""

    start: Vector
    end: Vector
    start_radius: float
    end_radius: float

    def bounds(self) -> tuple[Vector, Vector]:
        """Lowest and highest corner of a box around the solid (mm)."""
        ends = [(self.start, self.start_radius), (self.end, self.end_radius)]
        low = np.min([np.subtract(point, radius) for point, radius in ends], axis=0)
        high = np.max([np.add(point, radius) for point, radius in ends], axis=0)
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def contains(self, x: Floats, y: Floats, z: Floats) -> Bools:
        """Whether points lie in the solid (see `Solid.contains`)."""
        away = [axis - origin for axis, origin in zip((x, y, z), self.start, strict=True)]
        along = np.subtract(self.end, self.start)
        length2 = float(along @ along) or 1.0
        share = np.clip((away[0] * along[0] + away[1] * along[1] + away[2] * along[2]) / length2, 0, 1)
        radius = self.start_radius + share * (self.end_radius - self.start_radius)
        distance2 = sum((a - share * d) ** 2 for a, d in zip(away, along, strict=True))
        return np.asarray(distance2 <= radius**2)
