"""Nothing present at the source vanishes: 26-connected components that won no voxel get one back.

A component of a source label is *kept* if some target voxel has its label and lies where the component's own
linear weight is at least half of the largest it has anywhere. One that is not kept gets the target voxel of
its largest weight or, if it has weight nowhere because it lies between the target centres, the one nearest
to it.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atlas.harmonize.grid import Shape, limits
from atlas.harmonize.thin import ThinComponents, thin_components

Labels = NDArray[Any]
Points = NDArray[np.int_]
Floats = NDArray[np.float64]

PAIRS = 1_000_000  # pairs of source point and target voxel handled at a time
DIGITS = 6  # of weights and distances, so that storage order and rounding decide nothing
NONE = 10.0**-DIGITS  # weights up to this are none


class Claims(NamedTuple):
    """Pairs of a component and a target voxel, sorted by component and then the best first.

    Parameters
    ----------
    component, target
        Number of the component, flat index of the target voxel.
    weight
        The component's linear weight there: the sum over its points.
    distance
        From the target voxel's centre to the component's nearest point, target voxels.
    """

    component: Points
    target: Points
    weight: Floats
    distance: Floats

    def only(self, rows: NDArray[Any]) -> Claims:
        """Those of some rows: indices or a mask."""
        return Claims(self.component[rows], self.target[rows], self.weight[rows], self.distance[rows])


class _Geometry(NamedTuple):
    """Shapes of source and target, and target index to source index."""

    source_shape: Shape
    shape: Shape
    matrix: Floats
    offset: Floats


def restore(values: Labels, source: Labels, matrix: Floats, offset: Floats) -> None:
    """Give every vanished component of the source a voxel of `values`, in place.

    Of several that want the same voxel the one with the larger weight gets it and the other its next best;
    none takes the last voxel of another. (One can stay lost only if the target has too few voxels for that.)

    Parameters
    ----------
    values
        (z, y, x) labels that won.
    source
        (a, b, c) source labels.
    matrix, offset
        Target index to source index.
    """
    thin = thin_components(source, _window(matrix))
    if not len(thin.points):
        return
    geometry = _Geometry(source.shape, values.shape, matrix, offset)
    claims = _claims(thin, geometry, weighted=True)
    best = np.zeros(len(thin.label))
    np.maximum.at(best, claims.component, claims.weight)
    strong = claims.weight >= best[claims.component] / 2
    component, target = claims.component[strong], claims.target[strong]
    held = values.ravel()[target] == thin.label[component]
    kept = np.bincount(component[held], minlength=len(best))  # strong voxels each component holds
    vanished = kept == 0
    if vanished.any():
        by_target = np.argsort(target, kind="stable")
        strong_pairs = target[by_target], component[by_target]
        _settle(values, thin, geometry, vanished=vanished, kept=kept, strong=strong_pairs)


def _window(matrix: Floats) -> tuple[int, ...]:
    """Source voxels along each axis that surely have a target centre between them.

    A window of that size, all of one label, has a target voxel with that label only, which it has won.
    """
    size = np.linalg.norm(np.linalg.inv(matrix), axis=0)  # source spacing, in target voxels
    oblique = np.count_nonzero(np.abs(matrix) > 1e-3 * np.abs(matrix).max()) > 3  # noqa: PLR2004
    need = 3**0.5 if oblique else 1.0  # a ball of this diameter holds a point of the unit lattice however rotated
    return tuple(ceil(need / s - 1e-3) + 1 for s in size.tolist())


def _settle(
    values: Labels,
    thin: ThinComponents,
    geometry: _Geometry,
    *,
    vanished: NDArray[np.bool_],
    kept: Points,
    strong: tuple[Points, Points],
) -> None:
    """Hand out voxels to the vanished components, the largest weight first."""
    flat = values.reshape(-1)
    taken: set[int] = set()
    for number, wishes in _by_weight(_vanished_claims(thin, vanished, geometry), thin.label):
        if kept[number]:  # another of its label was given a voxel that is as good for this one
            continue
        for less, _, target in wishes:
            sharing = strong[1][slice(*np.searchsorted(strong[0], [target, target + 1]))]
            losing = sharing[thin.label[sharing] == flat[target]]
            if target in taken or (kept[losing] == 1).any() or (less == 0 and _alone(values, target)):
                continue
            kept[losing] -= 1
            flat[target] = thin.label[number]
            kept[sharing[thin.label[sharing] == flat[target]]] += 1
            taken.add(target)
            break


def _vanished_claims(thin: ThinComponents, vanished: NDArray[np.bool_], geometry: _Geometry) -> Claims:
    use = vanished[thin.component]
    return _claims(ThinComponents(thin.points[use], thin.component[use], thin.label), geometry, weighted=False)


def _by_weight(claims: Claims, label: Labels) -> list[tuple[int, list[tuple[float, float, int]]]]:
    """Components and their wishes, best first: the component with the largest weight, its best voxel.

    A wish is (-weight, distance, target). Sorting whole lists of them leaves nothing to the order of the source.
    """
    numbers, first = np.unique(claims.component, return_index=True)
    columns = (-claims.weight).tolist(), claims.distance.tolist(), claims.target.tolist()
    wishes = list(zip(*columns, strict=True))
    ends = [*first[1:].tolist(), len(wishes)]
    lists = [wishes[a:b] for a, b in zip(first.tolist(), ends, strict=True)]
    return sorted(zip(numbers.tolist(), lists, strict=True), key=lambda item: (item[1], int(label[item[0]])))


def _alone(values: Labels, target: int) -> bool:
    """Whether a labelled voxel has no neighbour of its label: perhaps all that is left of a structure."""
    at = np.array(np.unravel_index(target, values.shape))
    around = values[tuple(slice(max(0, i - 1), i + 2) for i in at.tolist())]
    own = values[tuple(at)]
    return bool(own) and np.count_nonzero(around == own) == 1


def _claims(thin: ThinComponents, geometry: _Geometry, *, weighted: bool) -> Claims:
    """Target voxels around the components; `weighted`: only those where they have weight."""
    inverse = np.linalg.inv(geometry.matrix)
    reach = np.ceil(np.abs(inverse).sum(axis=1) + 0.5).astype(int)  # a voxel's weight ends one voxel off
    around = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    centres = (thin.points - geometry.offset) @ inverse.T
    step = max(1, PAIRS // len(around))
    parts = []
    for first in range(0, len(centres), step):
        some = slice(first, first + step)
        pairs = _pairs(thin.points[some], centres[some], around, geometry)
        part = Claims(thin.component[some][pairs[0]], *pairs[1:])
        parts.append(part.only(part.weight > NONE) if weighted else part)
    return _merged(Claims(*(np.concatenate(column) for column in zip(*parts, strict=True))), geometry.shape)


def _pairs(
    points: Points, centres: Floats, around: Points, geometry: _Geometry
) -> tuple[Points, Points, Floats, Floats]:
    """Point number, flat target index, linear weight and distance of all targets around each point."""
    # Clipped: a point outside the target's box still has its nearest voxels there.
    middle = np.clip(np.rint(centres).astype(int), 0, np.array(geometry.shape) - 1)
    target = (middle[:, None] + around).reshape(-1, 3)
    number = np.repeat(np.arange(len(points)), len(around))
    valid = ((target >= 0) & (target < geometry.shape)).all(axis=1)
    target, number = target[valid], number[valid]
    distance = np.linalg.norm(target - centres[number], axis=1)
    at = target @ geometry.matrix.T + geometry.offset
    low, high = limits(geometry.source_shape, geometry.matrix)
    known = ((at >= low) & (at <= high)).all(axis=1)
    apart = np.abs(np.clip(at, 0, np.array(geometry.source_shape) - 1) - points[number])
    weight = np.maximum(1 - apart, 0).prod(axis=1) * known
    return number, np.ravel_multi_index(tuple(target.T), geometry.shape), weight, distance


def _merged(claims: Claims, shape: tuple[int, ...]) -> Claims:
    """One row for each pair, its weights added up, the best of each component first."""
    size = int(np.prod(shape))
    key, row = np.unique(claims.component * size + claims.target, return_inverse=True)
    weight = np.asarray(np.bincount(row, claims.weight, len(key)), dtype=np.float64).round(DIGITS)
    distance = np.full(len(key), np.inf)
    np.minimum.at(distance, row, claims.distance)
    merged = Claims(key // size, key % size, weight, distance.round(DIGITS))
    return merged.only(np.lexsort((merged.target, merged.distance, -weight, merged.component)))
