"""Components of source labels that are nowhere thick: what a coarser grid may lose.

They are found without labelling the connected components of the whole volume, which would cost more time
than the resampling and four bytes a voxel. What belongs to a window of voxels of one label, or is joined to
such a window, is thick; the few voxels that are left (thin sheets, vessels, specks) are followed as a list
of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels = NDArray[Any]
Points = NDArray[np.int_]

SLAB_VOXELS = 4_000_000  # source voxels handled at a time
NEIGHBOURS = np.array([step for step in product((-1, 0, 1), repeat=3) if any(step)])


@dataclass(frozen=True)
class ThinComponents:
    """26-connected components of source labels that hold no window of one label.

    Parameters
    ----------
    points
        (n, 3) voxel indices.
    component
        (n,) number of each point's component, from 0.
    label
        (components,) source label of each component.
    """

    points: Points
    component: Points
    label: Labels


def thin_components(source: Labels, window: tuple[int, ...]) -> ThinComponents:
    """Find the components of a label volume that hold no window of one label.

    Parameters
    ----------
    source
        (a, b, c) labels, 0 is background.
    window
        Edges of the window, voxels along (a, b, c).
    """
    points, joined = _thin_points(source, window)
    labels = source[tuple(points.T)]
    component = _components(points, labels, source.shape)
    loose = ~np.isin(component, component[joined])
    points, labels = points[loose], labels[loose]
    _, first, component = np.unique(component[loose], return_index=True, return_inverse=True)
    return ThinComponents(points, component, labels[first])


def _thin_points(source: Labels, window: tuple[int, ...]) -> tuple[Points, NDArray[np.bool_]]:
    """Foreground voxels (n, 3) that belong to no one-label window, and whether they touch one.

    Most of those next to a window are left out already: they are joined to it, hence kept.
    """
    halo = window[0] + 2
    step = max(halo, SLAB_VOXELS // prod(source.shape[1:]))
    found: list[Points] = []
    touching: list[NDArray[np.bool_]] = []
    for first in range(0, source.shape[0], step):
        last = min(first + step, source.shape[0])
        begin = max(0, first - halo)
        slab = np.ascontiguousarray(source[begin : last + halo])
        solid = _solid(slab, window)
        thin = np.argwhere((slab[first - begin : last - begin] > 0) & ~solid[first - begin : last - begin])
        thin[:, 0] += first - begin
        touching.append(_touches(thin, slab, solid))
        thin[:, 0] += begin
        found.append(thin)
    return np.concatenate(found), np.concatenate(touching)


def _solid(slab: Labels, window: tuple[int, ...]) -> NDArray[np.bool_]:
    """Voxels of one-label windows of the foreground, and those joined to them by a step along each axis."""
    if any(n < w for n, w in zip(slab.shape, window, strict=True)):
        return np.zeros(slab.shape, dtype=np.bool_)
    lowest, highest = slab, slab
    for axis, width in enumerate(window):
        lowest, highest = (
            _sliding(lowest, width, axis, np.minimum),
            _sliding(highest, width, axis, np.maximum),
        )
    solid = np.pad((lowest == highest) & (lowest > 0), [(w - 1, w - 1) for w in window])
    for axis, width in enumerate(window):
        solid = _sliding(solid, width, axis, np.logical_or)
    for axis in range(3):
        ahead, behind = _shifted(axis, 1, None), _shifted(axis, 0, -1)
        same = slab[ahead] == slab[behind]
        solid[ahead] |= same & solid[behind]
        solid[behind] |= same & solid[ahead]
    return solid


def _shifted(axis: int, start: int, stop: int | None) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))


def _sliding(volume: NDArray[Any], width: int, axis: int, extreme: np.ufunc) -> NDArray[Any]:
    """Extreme over windows of `width` along an axis, by doubling; shorter by ``width - 1``."""
    reach = 1
    while reach < width:
        more = min(reach, width - reach)
        volume = extreme(volume[_shifted(axis, more, None)], volume[_shifted(axis, 0, -more)])
        reach += more
    return volume


def _touches(points: Points, labels: Labels, solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a point has a solid voxel of its own label among its 26 neighbours."""
    own = labels[tuple(points.T)]
    result = np.zeros(len(points), dtype=np.bool_)
    for step in NEIGHBOURS:
        beside = points + step
        valid = ((beside >= 0) & (beside < labels.shape)).all(axis=1)
        at = tuple(np.where(valid[:, None], beside, points).T)
        result |= solid[at] & (labels[at] == own)
    return result


def _components(points: Points, labels: Labels, shape: tuple[int, ...]) -> Points:
    """Number the 26-connected components of equal label in a list of points, sorted as np.argwhere does."""
    strides = np.array([(shape[1] + 2) * (shape[2] + 2), shape[2] + 2, 1])  # padded: no neighbour wraps around
    key = points @ strides
    rows, columns = [], []
    for step in NEIGHBOURS[len(NEIGHBOURS) // 2 :]:
        at = np.minimum(np.searchsorted(key, key + step @ strides), len(key) - 1)
        match = np.flatnonzero((key[at] == key + step @ strides) & (labels[at] == labels))
        rows.append(match)
        columns.append(at[match])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(row), dtype=np.bool_), (row, column)), shape=(len(key), len(key)))
    return np.asarray(connected_components(graph, directed=False)[1])
