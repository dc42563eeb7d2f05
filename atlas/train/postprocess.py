"""What is done to predicted masks before anyone sees them: sides, largest pieces, lesions within their organs.

In that order: a piece of a kidney that bears the other one's name first joins it, and only then is the largest
piece of each looked for; lesions come last, when their organs are settled. Pieces are 26-connected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from atlas.harmonize.midplane import find_midplane
from atlas.harmonize.pieces import bounding_box, connected
from atlas.harmonize.sides import ASTRIDE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from atlas.harmonize.midplane import Midplane
    from atlas.spec.taxonomy import AnatomicalClass, Taxonomy
    from atlas.spec.training import PostprocessSpec

    Box = tuple[slice, slice, slice]


def postprocess(
    masks: NDArray[np.bool_],
    classes: Sequence[str],
    taxonomy: Taxonomy,
    spec: PostprocessSpec,
    spacing: float,
    ct: NDArray[np.int16],
) -> NDArray[np.bool_]:
    """Post-process predicted masks as a recipe declares it.

    Parameters
    ----------
    masks
        bool (K, z, y, x), RAS+; stays as it is.
    classes
        Of the K masks. Rules that need a class which is not among them do nothing.
    taxonomy
        Parts, wholes and sides.
    spec
        What to do.
    spacing
        Edge of a voxel in mm.
    ct
        int16 HU (z, y, x) on the same grid, in which the body's midplane is looked for.

    Returns
    -------
    bool (K, z, y, x)
    """
    result = masks.copy()
    postprocess_in_place(result, classes, taxonomy, spec, spacing, ct)
    return result


def postprocess_in_place(
    masks: NDArray[np.bool_],
    classes: Sequence[str],
    taxonomy: Taxonomy,
    spec: PostprocessSpec,
    spacing: float,
    ct: NDArray[np.int16],
) -> None:
    """As `postprocess`, changing `masks`, which may be a memory map: one or two classes are touched at a time."""
    of = {name: masks[row] for row, name in enumerate(classes)}
    pairs = list(lateral_pairs(taxonomy, classes)) if spec.sides else []
    midplane = find_midplane(ct, spacing) if pairs else None
    if midplane is not None:
        for left, right in pairs:
            swap_sides(of[left], of[right], midplane)
    for name in spec.largest:
        if name in of:
            keep_largest(of[name])
    if spec.organ_margin is None:
        return
    for name, organs in lesions_within(taxonomy, classes).items():
        keep_within(of[name], [of[organ] for organ in organs], spec.organ_margin / spacing)


def lateral_pairs(taxonomy: Taxonomy, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs (left, right) among the classes of which each lies on its own side of the body.

    Parts of one organ are none: the chambers of the heart are named for the circulation, and both ventricles of
    most people lie left of the spine.
    """
    for left, right in taxonomy.pairs.values():
        inner = any(_is_single_organ(taxonomy.by_name.get(whole)) for whole in taxonomy.wholes(left.name))
        if left.name in classes and right.name in classes and not inner:
            yield left.name, right.name


def _is_single_organ(whole: AnatomicalClass | None) -> bool:
    return whole is not None and whole.kind == "organ" and whole.side is None


def lesions_within(taxonomy: Taxonomy, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The organs among the classes in which each lesion among them lies; both sides where it may be in either.

    Wholes that are lesions themselves (all cysts, of which the cysts of a side are part) bound nothing.
    """
    result = {}
    for lesion in (taxonomy.by_name[name] for name in classes if taxonomy.by_name[name].kind == "lesion"):
        bits = {bit for whole in taxonomy.wholes(lesion.name) for bit in taxonomy.target_bits(whole)}
        found = [taxonomy.classes[bit] for bit in sorted(bits)]
        organs = tuple(c.name for c in found if c.kind != "lesion" and c.name in classes)
        if organs:
            result[lesion.name] = organs
    return result


def swap_sides(left: NDArray[np.bool_], right: NDArray[np.bool_], midplane: Midplane) -> None:
    """Hand pieces of a pair that lie on the wrong side of the midplane to the other of the two, in place.

    A piece of which `ASTRIDE` or more is on its own side crosses the midplane and stays: a horseshoe kidney,
    lungs that meet in front of the heart. A class whose pieces all lie on the other side is emptied.

    Parameters
    ----------
    left, right
        bool (z, y, x)
    midplane
        In voxels of the same grid.
    """
    strays = [_beyond(mask, side, midplane) for mask, side in ((left, -1), (right, 1))]
    for stray, own in zip(strays, (left, right), strict=True):
        if stray is not None:
            box, where = stray
            own[box] &= ~where
    for stray, other in zip(strays, (right, left), strict=True):
        if stray is not None:
            box, where = stray
            other[box] |= where


def _beyond(mask: NDArray[np.bool_], side: int, midplane: Midplane) -> tuple[Box, NDArray[np.bool_]] | None:
    """The pieces of a mask beyond the midplane, in a box; `side` is the sign of its own; None if there are none."""
    box = bounding_box(mask)
    if box is None:
        return None
    y, x = (np.arange(part.start, part.stop) for part in box[1:])
    at_home = midplane.lateral(y[:, None], x) * side >= 0
    if at_home[mask[box].any(axis=0)].all():
        return None
    labels = connected(mask[box])[0]
    size = np.bincount(labels.ravel())
    home = np.bincount(labels[:, at_home].ravel(), minlength=len(size))
    stray = home < ASTRIDE * size
    stray[0] = False
    return (box, stray[labels]) if stray.any() else None


def keep_largest(mask: NDArray[np.bool_]) -> None:
    """Keep the largest connected piece, in place; of several as large, one. bool (z, y, x), may be empty."""
    box = bounding_box(mask)
    if box is None:
        return
    labels = connected(mask[box])[0]
    size = np.bincount(labels.ravel())
    size[0] = 0
    mask[box] = labels == size.argmax()


def keep_within(lesion: NDArray[np.bool_], organs: Sequence[NDArray[np.bool_]], margin: float) -> None:
    """Keep what of a lesion lies in its organs or at most `margin` voxels from one, in place.

    Where none of the organs was found at all there is nothing to hold the lesion against, and it stays: a lesion
    that is seen is worth more than the rule.

    Parameters
    ----------
    lesion
        bool (z, y, x)
    organs
        bool (z, y, x) each; the union counts.
    margin
        Voxels between centres.
    """
    box = bounding_box(lesion)
    if box is None or not any(organ.any() for organ in organs):
        return
    reach = int(np.ceil(margin))
    near = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
    organ = np.zeros(lesion[near].shape, bool)
    for each in organs:
        organ |= each[near]
    if not organ.any():
        lesion[box] = False
        return
    # the rounding of a margin such as 4.5 mm / 1.5 mm must not cost a shell of voxels
    lesion[near] &= ndimage.distance_transform_edt(~organ) <= margin + 1e-6
