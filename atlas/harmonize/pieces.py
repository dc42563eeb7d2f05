"""Connected pieces of a mask: where they lie from left to right, how far apart they are, where they break.

What `atlas.harmonize.sides` decides by. Lengths are in mm, arrays (z, y, x). Distances are computed on coarse
copies: a few millimetres do not matter between organs, and exact distances of a pair of lungs take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cc3d
import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    Box = tuple[slice, slice, slice]

LEFT, RIGHT = -1, 1  # the sign of the lateral coordinate
MAJOR = 0.05  # of the largest piece; smaller ones are fragments, which decide nothing
CLEAR = 0.75  # share of a piece on one side of the midplane from which it counts as lying there
QUANTILES = (0.02, 0.25, 0.5, 0.75, 0.98)
FILLED = 0.5  # a coarse voxel is solid from here
COARSE_VOXELS = 400_000
CONNECTIVITY = 26
"""Voxels that share a corner are one component, as in the reference systems (facts, universal_model 1.6)."""


@dataclass(frozen=True)
class Scene:
    """The pieces in the bounding box of a mask, and where they lie.

    Parameters
    ----------
    labels
        (z, y, x), the number of the piece, from 1; `divide` adds numbers.
    lateral
        (y, x), coordinate along the patient's left-right axis in mm, growing to the right: from the midplane
        if there is one, else from anywhere.
    midline
        Whether there is one, so that the sign of `lateral` is a side.
    spacing
        Edge of a voxel in mm.
    """

    labels: NDArray[np.uint32]
    lateral: NDArray[np.float64]
    midline: bool
    spacing: float


@dataclass(frozen=True)
class Piece:
    """A connected piece: its label, its bounding box, and how it spreads along the lateral axis."""

    label: int
    box: Box
    side: int  # 0 if it lies astride the midplane, or if there is none
    astride: float  # share of its voxels on the side with fewer of them; 0 if there is no midplane
    spread: tuple[float, ...]  # `QUANTILES` of its lateral coordinate

    @property
    def middle(self) -> float:
        """Its median lateral coordinate."""
        return self.spread[2]

    def gap(self, right: Piece) -> float:
        """Lateral distance to a piece further right; negative if they overlap."""
        return right.spread[0] - self.spread[4]

    def middles_gap(self, right: Piece) -> float:
        """The same between the middle halves of both."""
        return right.spread[1] - self.spread[3]


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """Smallest box that holds the mask; None if the mask is empty."""
    z = np.flatnonzero(np.any(mask, axis=(1, 2)))
    if not len(z):
        return None
    plane = np.any(mask[z[0] : z[-1] + 1], axis=0)
    y, x = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    return slice(z[0], z[-1] + 1), slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


def connected(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], int]:
    """Number of the connected piece of each voxel, from 1 (0 outside the mask), and how many there are."""
    # cc3d 4.1 sets aside too little memory where a volume is thin and its border is full, and then fails
    framed, count = cc3d.connected_components(
        np.pad(mask, 1), connectivity=CONNECTIVITY, out_dtype=np.uint32, return_N=True
    )
    return framed[1:-1, 1:-1, 1:-1], int(count)


def major_pieces(scene: Scene) -> list[Piece]:
    """All pieces but fragments, the largest first."""
    statistics = cc3d.statistics(scene.labels)
    voxels = statistics["voxel_counts"].astype(np.int64)
    voxels[0] = 0
    largest_first = np.argsort(-voxels, kind="stable")
    major = largest_first[voxels[largest_first] >= max(1, MAJOR * voxels.max())]
    return [_measure(scene, int(label), statistics["bounding_boxes"][label]) for label in major]


def _measure(scene: Scene, label: int, box: Box) -> Piece:
    columns = (scene.labels[box] == label).sum(axis=0)
    lateral = scene.lateral[box[1:]]
    order = np.argsort(lateral, axis=None, kind="stable")
    count = columns.ravel()[order].cumsum()
    spread = lateral.ravel()[order][np.searchsorted(count, [q * count[-1] for q in QUANTILES])]
    share = float(columns[lateral > 0].sum() / count[-1])
    side, astride = (int(side_of(share)), min(share, 1 - share)) if scene.midline else (0, 0.0)
    return Piece(label, box, side, astride, tuple(spread.tolist()))


def side_of(right_share: float | NDArray[np.float64]) -> NDArray[np.int64]:
    """Side on which something lies of which that share is on the right; 0 if it lies astride."""
    return np.select([right_share >= np.float64(CLEAR), right_share <= np.float64(1 - CLEAR)], [RIGHT, LEFT])


def distances(scene: Scene, to: Iterable[int], voxels: tuple[NDArray[np.intp], ...]) -> NDArray[np.float64]:
    """Distance from each of the voxels (index arrays) to the pieces of those labels; infinite if none."""
    wanted = np.isin(scene.labels, list(to))
    if not wanted.any():
        return np.full(len(voxels[0]), np.inf)
    step = _coarse_step(wanted)
    distance = ndimage.distance_transform_edt(_coarse(wanted, step) == 0, sampling=step * scene.spacing)
    result: NDArray[np.float64] = distance[tuple(index // step for index in voxels)]
    return result


def divide(scene: Scene, piece: Piece, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> int:
    """Give the part of a piece that is nearer to `right` than to `left` a label of its own, and return it.

    `left` and `right` have the shape of the piece's box.
    """
    step = _coarse_step(left)
    return _relabel_nearer(scene, piece, _coarse(left, step) > 0, _coarse(right, step) > 0)


def cut_at_waist(
    scene: Scene, piece: Piece, find_pair: Callable[[list[Piece]], tuple[Piece, Piece] | None]
) -> int | None:
    """Cut a piece that, worn off from its surface, falls into a left and a right part.

    The first depth at which `find_pair` recognises them decides: what it wears through is the waist. The
    rest goes to the nearer part, which puts the cut there.

    Returns
    -------
    int or None
        The label of the right half; the left one keeps the label of the piece. None if there is no waist.
    """
    whole = scene.labels[piece.box] == piece.label
    step = _coarse_step(whole)
    size = step * scene.spacing
    # the frame lets the surface be worn off where the bounding box touches it
    solid = np.pad(_coarse(whole, step) >= FILLED, 1)
    depth = ndimage.distance_transform_edt(solid, sampling=size)[1:-1, 1:-1, 1:-1]
    y, x = (np.arange(n) * step for n in depth.shape[1:])
    lateral = scene.lateral[piece.box[1:]][np.ix_(y, x)]
    for level in np.arange(size, depth.max(), size / 2):
        worn = Scene(connected(depth > level)[0], lateral, scene.midline, size)
        if pair := find_pair(major_pieces(worn)):
            left, right = (worn.labels == part.label for part in pair)
            return _relabel_nearer(scene, piece, left, right)
    return None


def _relabel_nearer(scene: Scene, piece: Piece, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> int:
    """`divide` with `left` and `right` on the coarse copy of the piece's box."""
    labels = scene.labels[piece.box]
    nearer = ndimage.distance_transform_edt(~right) < ndimage.distance_transform_edt(~left)
    step = _coarse_step(labels)
    fine = nearer[np.ix_(*(np.arange(n) // step for n in labels.shape))]
    new = int(scene.labels.max()) + 1
    labels[(labels == piece.label) & fine] = new
    return new


def _coarse_step(array: NDArray[np.generic]) -> int:
    """Edge in voxels of the blocks that make a copy of about `COARSE_VOXELS`."""
    return max(1, int(np.ceil(np.cbrt(array.size / COARSE_VOXELS))))


def _coarse(mask: NDArray[np.bool_], step: int) -> NDArray[np.float32]:
    """Share of each block of `step`^3 voxels that the mask fills."""
    padded = np.pad(mask, [(0, -n % step) for n in mask.shape])
    z, y, x = (n // step for n in padded.shape)
    filled = padded.reshape(z, step, y, step, x, step).sum(axis=(1, 3, 5), dtype=np.uint16)
    share: NDArray[np.float32] = filled.astype(np.float32) / np.float32(step**3)
    return share
