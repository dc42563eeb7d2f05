"""How good a network is while it learns: Dice on held-out cases, to choose the best weights by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from atlas.stream.run import patch_shape
from atlas.train.evaluation.metrics import dice
from atlas.train.evaluation.truth import packed_masks, scored_classes, truths
from atlas.train.run import precision_on
from atlas.train.sliding import HALF, predict_volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from atlas.corpus import Corpus
    from atlas.model.network import UniversalNetwork
    from atlas.train.run import RunDescription


def validate(
    network: UniversalNetwork,
    corpus: Corpus,
    cases: Sequence[str],
    description: RunDescription,
    device: str | torch.device = "cpu",
) -> float:
    """Mean Dice over all pairs of a case and an available class; see `validation_scores`.

    Returns
    -------
    float
        NaN if there is no pair to score.
    """
    return mean_dice(validation_scores(network, corpus, cases, description, device))


def mean_dice(scores: pd.DataFrame) -> float:
    """Mean over the pairs where Dice is defined; NaN if there is none."""
    return float(scores["dice"].mean())


def class_dice(scores: pd.DataFrame) -> dict[str, float]:
    """Mean Dice of each class that was scored, NaN where it was defined nowhere."""
    return {str(name): float(mean) for name, mean in scores.groupby("class", sort=False)["dice"].mean().items()}


def validation_scores(
    network: UniversalNetwork,
    corpus: Corpus,
    cases: Sequence[str],
    description: RunDescription,
    device: str | torch.device = "cpu",
) -> pd.DataFrame:
    """Dice of each case and available class, case by case, without post-processing.

    Classes of a case that were made by a model are no measure and are left out, as are voxels that are not known.

    Parameters
    ----------
    network
        In any mode, which it keeps; it is moved to the device.
    corpus, cases
        Ids of the cases to predict, whole, by sliding windows.
    description
        Of the run: window, patch, overlap and precision (fp32 on a CPU).
    device
        Where to predict.

    Returns
    -------
    DataFrame
        case_id, class, dice (NaN where truth and prediction are both empty).

    Raises
    ------
    CorpusError
        If a case cannot be read.
    """
    recipe, rows = description.recipe, []
    network.to(device)
    for case_id in cases:
        case = corpus[case_id]
        names = scored_classes(case, description.classes)
        if not names:
            continue
        probabilities = predict_volume(
            network,
            np.asarray(case.ct[...]),
            rows=[description.classes.index(name) for name in names],
            window=recipe.data.window,
            patch=patch_shape(recipe.data.patch),
            overlap=recipe.validation.overlap,
            batch=recipe.optimiser.batch,
            precision=precision_on(device, recipe.optimiser.precision),
        )
        for truth, probability in zip(truths(packed_masks(case), names, case.taxonomy), probabilities, strict=True):
            rows.append((case_id, truth.name, dice(truth.mask, probability >= HALF, truth.known)))
    return pd.DataFrame(rows, columns=["case_id", "class", "dice"]).astype({"dice": np.float64})
