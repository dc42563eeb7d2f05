"""Left from right, for paired organs that a source labels as one.

The mask falls into connected pieces. A piece that lies on both sides of the midline is cut at its waist if it
has one (lungs joined at the carina, a horseshoe kidney). The largest piece on each side is that side's organ,
its anchor; every other piece joins the anchor it is close to, or the side it lies on. Where a mask leaves
open which side an organ belongs to, the answer says so: a wrong side is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.harmonize.pieces import (
    LEFT,
    MAJOR,
    RIGHT,
    Piece,
    Scene,
    bounding_box,
    connected,
    cut_at_waist,
    distances,
    divide,
    major_pieces,
    side_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from atlas.harmonize.midplane import Midplane

    Pair = tuple[Piece, Piece]  # the left one first
    Anchors = dict[int, set[int]]  # side -> labels of the pieces that are of that side for sure

NAME = {LEFT: "left", RIGHT: "right"}
# Measured on 35 label volumes of the real data beside the checkout, in mm:
GAP_MM = 30.0  # side by side as a pair: adrenal glands are 34 apart and more, kidneys 51
MIDDLES_GAP_MM = 60.0  # the same for the middle halves of lungs and hips, whose edges interlock: 84 and more
FAR_GAP_MM = 50.0  # wider than any gap within an organ or between its lesions; outweighs the midplane
WAIST_MM = 60.0  # between the middles of a fused pair, left and right of the midline; poles of a kidney are nearer
FAR_WAIST_MM = 100.0  # where no midline confirms it; halves of a bent kidney on one side reach 81, kidneys have 104
ASTRIDE = 0.1  # share on the lesser side from which a piece may be two organs grown together
ECTOPIC_MM = 30.0  # a piece astride the midline that far from the organ of one side is the other side's
CLOSE_MM = 15.0  # a piece that near to an anchor belongs to it, wherever the midline runs


@dataclass(frozen=True)
class SideSplit:
    """What of a mask is the right organ.

    Parameters
    ----------
    right
        Voxels of the mask, (z, y, x), on the patient's right; the left ones are ``mask & ~right``.
    resolved
        False if there is no honest answer: the pair is then unavailable, and `right` is empty.
    note
        One clause for a person where the split was not obvious, or why it is impossible.
    """

    right: NDArray[np.bool_]
    resolved: bool
    note: str | None


def split_sides(
    mask: NDArray[np.bool_],
    spacing: float,
    midplane: Midplane | None,
    *,
    left_seed: NDArray[np.bool_] | None = None,
    right_seed: NDArray[np.bool_] | None = None,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> SideSplit:
    """Split a mask of a paired organ into the patient's left and right.

    Parameters
    ----------
    mask
        Everything in the organs, lesions included: (z, y, x), RAS+. May be a crop of the volume.
    spacing
        Edge of a voxel in mm.
    midplane
        In indices of the whole volume; None if it is not known.
    left_seed, right_seed
        Voxels, in the shape of `mask`, whose side the source tells; the rest joins them.
    origin
        Index (z, y, x) of the first voxel of `mask` in the whole volume.
    """
    right = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return SideSplit(right, resolved=True, note=None)
    labels, _ = connected(mask[box])
    y, x = (np.arange(part.start, part.stop) + o for part, o in zip(box[1:], origin[1:], strict=True))
    lateral = spacing * (midplane.lateral(y[:, None], x) if midplane else x + 0.0 * y[:, None])
    scene = Scene(labels, lateral, midplane is not None, spacing)
    seeds = {
        side: seed[box] & mask[box]
        for side, seed in ((LEFT, left_seed), (RIGHT, right_seed))
        if seed is not None and (seed & mask).any()
    }
    anchors, note = (_seeded_anchors(scene, seeds), None) if seeds else _anchors(scene)
    if not anchors:
        return SideSplit(right, resolved=False, note=note)
    sides, contested = _sides(scene, anchors)
    right[box] = (sides == RIGHT)[labels]
    for side, seed in seeds.items():
        right[box][seed] = side == RIGHT
    return SideSplit(right, resolved=True, note=note or contested)


def _seeded_anchors(scene: Scene, seeds: dict[int, NDArray[np.bool_]]) -> Anchors:
    """Pieces that hold seeds; one that holds seeds of both sides is divided between them."""
    anchors = {side: set(np.unique(scene.labels[seed]).tolist()) for side, seed in seeds.items()}
    both = anchors.get(LEFT, set()) & anchors.get(RIGHT, set())
    for piece in major_pieces(scene):
        if piece.label in both:
            own = scene.labels[piece.box] == piece.label
            new = divide(scene, piece, own & seeds[LEFT][piece.box], own & seeds[RIGHT][piece.box])
            anchors[RIGHT].add(new)
    if both:
        anchors[RIGHT] -= both
    return anchors


def _anchors(scene: Scene) -> tuple[Anchors, str | None]:
    """Organs by geometry alone, none if it cannot be told; and what was not obvious about it."""
    pieces = major_pieces(scene)
    pair = _clear_pair(pieces) if scene.midline else _side_by_side(pieces)
    suspects = [piece for piece in pieces if piece.astride >= ASTRIDE]
    if not scene.midline and not pair:
        suspects = pieces[:1]
    halves = {piece.label: cut_at_waist(scene, piece, _halves) for piece in suspects}
    cut = {left: right for left, right in halves.items() if right is not None}
    if cut:
        return {LEFT: set(cut), RIGHT: set(cut.values())}, "fused: cut at the narrowest place"
    if pair:
        across = [f"the {NAME[piece.side]} one reaches across the midline" for piece in pair if piece in suspects]
        return {LEFT: {pair[0].label}, RIGHT: {pair[1].label}}, "; ".join(across) or None
    if not scene.midline:
        return {}, "neither a pair side by side nor a midline to go by"
    return _anchors_off_midline(scene, pieces)


def _anchors_off_midline(scene: Scene, pieces: list[Piece]) -> tuple[Anchors, str | None]:
    """Organs where the midplane does not run between two of them."""
    if pair := _side_by_side(pieces):
        note = "not on either side of the midline: told apart by their relative position"
        return {LEFT: {pair[0].label}, RIGHT: {pair[1].label}}, note
    clear = sorted((piece for piece in pieces if piece.side), key=lambda piece: piece.astride >= ASTRIDE)
    if not clear:
        return {}, "astride the midline and without a waist"
    organ = clear[0]
    for piece in pieces:
        if piece.astride >= ASTRIDE and _is_ectopic(scene, piece, organ):
            note = f"one astride the midline: taken for the {NAME[-organ.side]} one, the other being clear"
            return {organ.side: {organ.label}, -organ.side: {piece.label}}, note
    what = "one organ only," if len(pieces) == 1 else "several pieces, all"
    return {organ.side: {organ.label}}, f"{what} on the {NAME[organ.side]}"


def _clear_pair(pieces: list[Piece]) -> Pair | None:
    """The largest piece on the left of the midplane and the largest on its right."""
    left = next((piece for piece in pieces if piece.side == LEFT), None)
    right = next((piece for piece in pieces if piece.side == RIGHT), None)
    return (left, right) if left and right else None


def _side_by_side(pieces: list[Piece]) -> Pair | None:
    """The largest piece and the next that lies beside it as the other of a pair would."""
    for piece in pieces[1:]:
        left, right = sorted((pieces[0], piece), key=lambda p: p.middle)
        on_one_side = left.side == right.side != 0
        if left.gap(right) >= (FAR_GAP_MM if on_one_side else GAP_MM):
            return left, right
        if not on_one_side and left.middles_gap(right) >= MIDDLES_GAP_MM:
            return left, right
    return None


def _halves(parts: list[Piece]) -> Pair | None:
    """Left and right part of what was one piece, if they are as far from each other as two organs."""
    for pair, least in ((_clear_pair(parts), WAIST_MM), (_side_by_side(parts), FAR_WAIST_MM)):
        if pair and pair[1].middle - pair[0].middle >= least:
            return pair
    return None


def _is_ectopic(scene: Scene, piece: Piece, organ: Piece) -> bool:
    """Whether a piece astride the midline is too far from the organ of one side to be part of it."""
    if organ.side * (organ.middle - piece.middle) < ECTOPIC_MM:
        return False
    voxels = np.nonzero(scene.labels == piece.label)
    return bool(distances(scene, {organ.label}, voxels).min() >= ECTOPIC_MM)


def _sides(scene: Scene, anchors: Anchors) -> tuple[NDArray[np.int64], str | None]:
    """Side of every label (0 for the background), and a note if pieces of weight were hard to place."""
    sizes = np.bincount(scene.labels.ravel())
    sides = np.zeros(len(sizes), np.int64)
    for side, labels in anchors.items():
        sides[list(labels)] = side
    rest = sides == 0
    rest[0] = False
    if not rest.any():
        return sides, None
    voxels = np.nonzero(rest[scene.labels])
    of = scene.labels[voxels]
    left, right = (_nearest(distances(scene, anchors.get(side, ()), voxels), of, len(sizes)) for side in NAME)
    near, far = np.minimum(left, right), np.maximum(left, right)
    close = (near <= CLOSE_MM) & (far > 2 * near)
    on_right = np.bincount(of, scene.lateral[voxels[1:]] > 0, len(sizes))
    lies = side_of(on_right / np.maximum(sizes, 1)) * scene.midline
    placed = np.where(close | (lies == 0), np.where(right < left, RIGHT, LEFT), lies)
    sides[rest] = placed[rest]
    hard = scene.midline & rest & (placed != lies) & (sizes >= MAJOR * sizes[1:].max())
    return sides, "a piece joined the nearer organ, across the midline" if hard.any() else None


def _nearest(distance: NDArray[np.float64], of: NDArray[np.uint32], labels: int) -> NDArray[np.float64]:
    """Smallest distance of each label, from the distances of its voxels."""
    nearest = np.full(labels, np.inf)
    np.minimum.at(nearest, of, distance)
    return nearest
