"""Post-processing of probabilities: what it did to the masks is done to the probabilities that they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from atlas.harmonize.pieces import bounding_box
from atlas.train.postprocess import lateral_pairs, postprocess_in_place
from atlas.train.sliding import HALF

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.spec.taxonomy import Taxonomy
    from atlas.spec.training import PostprocessSpec

RIM = 2
"""Voxels around a piece whose probability moves along with it, so that its surface stays where it was."""


def tidy(
    probabilities: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    classes: Sequence[str],
    taxonomy: Taxonomy,
    spec: PostprocessSpec,
    spacing: float,
    ct: NDArray[np.int16],
) -> None:
    """Post-process, in place, what is above one half.

    Where a class lost voxels its probability there becomes 0; where a piece went to the other side of a pair, its
    probability went with it.

    Parameters
    ----------
    probabilities
        uint8 (K, z, y, x), x 255.
    masks
        bool (K, z, y, x), to work in.
    classes, taxonomy, spec, spacing, ct
        As of `atlas.train.postprocess.postprocess`.
    """
    for mask, probability in zip(masks, probabilities, strict=True):
        np.greater_equal(probability, HALF, out=mask)
    postprocess_in_place(masks, classes, taxonomy, spec, spacing, ct)
    if spec.sides:
        for left, right in lateral_pairs(taxonomy, classes):
            a, b = classes.index(left), classes.index(right)
            _move(probabilities[a], probabilities[b], masks[a], masks[b])
    for mask, probability in zip(masks, probabilities, strict=True):
        probability[(probability >= HALF) & ~mask] = 0


def _move(one: NDArray[np.uint8], other: NDArray[np.uint8], mask: NDArray[np.bool_], mask_b: NDArray[np.bool_]) -> None:
    """Give both of a pair the probability of the voxels that they took over from each other."""
    taken = [m & (p < HALF) for m, p in ((mask, one), (mask_b, other))]
    before = [_around(new, given) for new, given in zip(taken, (other, one), strict=True)]
    for target, moved in zip((one, other), before, strict=True):
        if moved is not None:
            box, probability = moved
            np.maximum(target[box], probability, out=target[box])


def _around(
    taken: NDArray[np.bool_], given: NDArray[np.uint8]
) -> tuple[tuple[slice, slice, slice], NDArray[np.uint8]] | None:
    """Probability of what was taken and of the rim around it, 0 elsewhere, in a box; None if nothing was."""
    box = bounding_box(taken)
    if box is None:
        return None
    z, y, x = (slice(max(0, s.start - RIM), s.stop + RIM) for s in box)
    near = ndimage.binary_dilation(taken[z, y, x], np.ones((3, 3, 3)), iterations=RIM)
    rim = near & ~taken[z, y, x] & (given[z, y, x] < HALF)
    return (z, y, x), np.where(rim | taken[z, y, x], given[z, y, x], np.uint8(0))
