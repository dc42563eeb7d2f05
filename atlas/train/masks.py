"""Masks of a volume as a user of a trained model gets them: predicted, at one half, post-processed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.train.postprocess import postprocess_in_place
from atlas.train.run import precision_of
from atlas.train.sliding import HALF, predict_volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from atlas.spec.training import PostprocessSpec
    from atlas.train.run import Trained


def predicted_masks(
    trained: Trained, ct: NDArray[np.int16], classes: Sequence[str], spec: PostprocessSpec, overlap: float
) -> NDArray[np.bool_]:
    """Predict a volume on the model's grid.

    Parameters
    ----------
    trained
        The model, on its device.
    ct
        int16 HU (z, y, x).
    classes
        Of the model. Rules of post-processing that need another one do nothing.
    spec
        What is done to the masks.
    overlap
        Fraction of a window that the next one repeats.

    Returns
    -------
    bool (K, z, y, x)
    """
    description = trained.description
    coded = predict_volume(
        trained.network,
        ct,
        rows=[trained.classes.index(name) for name in classes],
        window=description.recipe.data.window,
        patch=trained.patch,
        overlap=overlap,
        batch=description.recipe.optimiser.batch,
        precision=precision_of(trained),
    )
    masks: NDArray[np.bool_] = np.greater_equal(coded, HALF, out=coded.view(np.bool_))  # in place: may be gigabytes
    postprocess_in_place(masks, classes, description.taxonomy, spec, description.corpus.spacing, ct)
    return masks
