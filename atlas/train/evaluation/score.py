"""How well predicted masks of one case agree with what is known of it, class by class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from atlas.train.evaluation.metrics import bounding_box, dice, surface_dice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from atlas.train.evaluation.truth import Truth

MM3_PER_ML = 1000.0


class Score(NamedTuple):
    """Of a class in a case.

    Attributes
    ----------
    name
        Of the class.
    known
        Part of the volume where the truth is known, in [0, 1].
    truth_ml, predicted_ml
        Volumes in ml, of the known voxels.
    dice, nsd
        See `atlas.train.evaluation.metrics`; NaN where both masks are empty.
    """

    name: str
    known: float
    truth_ml: float
    predicted_ml: float
    dice: float
    nsd: float


def score_case(
    predicted: Iterable[NDArray[np.bool_]], truths: Iterable[Truth], spacing: Sequence[float], tolerance_mm: float
) -> list[Score]:
    """Scores of the classes of a case, on any grid.

    Parameters
    ----------
    predicted
        Masks, bool (z, y, x), such as an array (K, z, y, x). One at a time is in use.
    truths
        Of the same classes in the same order and on the same grid; likewise.
    spacing
        mm of a voxel along (z, y, x); need not be the same along all axes.
    tolerance_mm
        Of the surface Dice.

    Raises
    ------
    SpecError
        If masks are not bool, or of different shapes.
    """
    return [_score(mask, truth, spacing, tolerance_mm) for mask, truth in zip(predicted, truths, strict=True)]


def _score(predicted: NDArray[np.bool_], truth: Truth, spacing: Sequence[float], tolerance_mm: float) -> Score:
    ml = math.prod(spacing) / MM3_PER_ML
    true, known = truth.mask, truth.known
    share = 1.0 if known is None else float(known.mean())
    box = bounding_box([true, predicted], margin=1)  # nothing outside it changes a number
    if box is None:
        return Score(truth.name, share, 0.0, 0.0, math.nan, math.nan)
    true, predicted, known = true[box], predicted[box], None if known is None else known[box]
    true_ml, predicted_ml = (ml * np.count_nonzero(m if known is None else m & known) for m in (true, predicted))
    overlap, surface = dice(true, predicted, known), surface_dice(true, predicted, spacing, tolerance_mm, known)
    return Score(truth.name, share, true_ml, predicted_ml, overlap, surface)
