"""Closed contours along the edges of pixels: filled by the even-odd rule, they give back the mask."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from atlas.phantom.solids import Bools

    Point = tuple[int, int]


def outlines(mask: Bools) -> list[NDArray[np.float64]]:
    """Trace a mask.

    Parameters
    ----------
    mask : ndarray of bool, (i, j)
        Pixel (0, 0) has its centre at (0, 0).

    Returns
    -------
    list of ndarray, (n, 2)
        Corners of closed polygons, at half pixels; holes are polygons inside others. The last corner is joined to
        the first.
    """
    edges = _edges(mask)
    contours = []
    while edges:
        contours.append(np.array(_corners(_loop(edges)), dtype=float) - 0.5)
    return contours


def _edges(mask: Bools) -> dict[Point, list[Point]]:
    """Edges between a pixel inside and one outside, from corner to corner with the inside on the left.

    Corner (i, j) is the lower corner of pixel (i, j).
    """
    padded = np.pad(mask, 1)
    out: dict[Point, list[Point]] = defaultdict(list)
    for i, j in np.argwhere(mask).tolist():
        if not padded[i + 1, j]:
            out[i, j].append((i + 1, j))
        if not padded[i + 2, j + 1]:
            out[i + 1, j].append((i + 1, j + 1))
        if not padded[i + 1, j + 2]:
            out[i + 1, j + 1].append((i, j + 1))
        if not padded[i, j + 1]:
            out[i, j + 1].append((i, j))
    return dict(out)


def _loop(edges: dict[Point, list[Point]]) -> list[Point]:
    """Take a closed walk out of the edges. As many edges enter a corner as leave it, so no walk gets stuck."""
    start = next(iter(edges))
    walk = [start]
    while True:
        ways = edges[walk[-1]]
        step = ways.pop()
        if not ways:
            del edges[walk[-1]]
        if step == start:
            return walk
        walk.append(step)


def _corners(walk: list[Point]) -> list[Point]:
    """Corners at which a walk turns."""
    return [b for (a, b), (_, c) in pairwise(_steps(walk)) if (b[0] - a[0], b[1] - a[1]) != (c[0] - b[0], c[1] - b[1])]


def _steps(walk: list[Point]) -> Iterator[tuple[Point, Point]]:
    yield from pairwise([*walk, walk[0], walk[1]])
