"""Which weights to predict with: those that did best on held-out cases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import CorpusError
from atlas.spec.label_map import PROVENANCES
from atlas.stream.select import select
from atlas.train.evaluation import validate as judge
from atlas.train.run import save_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

    from atlas.corpus import Corpus
    from atlas.model.network import UniversalNetwork
    from atlas.spec.training import TrainingRecipe
    from atlas.train.run import RunDescription


NO_VALIDATION = "no validation, the last weights are kept to predict with"


def validation_cases(recipe: TrainingRecipe, corpus: Corpus, classes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cases to choose the best weights by, evenly over the selection, and what there is to say of it.

    Cases in which none of the classes is available say nothing and are left out, and so do labels made by a model.
    """
    data, wanted = recipe.data, recipe.validation
    made = [kind for kind in PROVENANCES if kind != "pseudo"]
    try:
        index = select(corpus, split=wanted.split, datasets=data.datasets, where=data.where, provenance=made)
    except CorpusError as error:
        return [], [f"{NO_VALIDATION}: {error}"]
    told = np.any([index.annotated(corpus.taxonomy.bit(name)) for name in classes], axis=0)
    cases = index.case_ids[told].tolist()
    if not cases:
        why = f"in no case of {', '.join(wanted.split)} has a person labelled a class of the model"
        return [], [f"{NO_VALIDATION}: {why}"]
    count = min(wanted.cases or len(cases), len(cases))
    return [cases[i] for i in np.linspace(0, len(cases) - 1, count).round().astype(int)], []


class Best:
    """The best weights so far, in the folder of the run.

    Parameters
    ----------
    run
        The folder.
    corpus, cases
        What is validated on; without cases the last weights are taken as the best.
    description
        Of the run.
    """

    def __init__(self, run: Path, corpus: Corpus, cases: Sequence[str], description: RunDescription) -> None:
        self.run, self.corpus, self.cases, self.description = run, corpus, cases, description
        self.step: int | None = None
        self.score: float | None = None

    def judge(self, step: int, network: UniversalNetwork, device: torch.device) -> float | None:
        """Score of a network, and its weights written if it is the best so far; None: there is nothing to judge by."""
        score = judge.validate(network, self.corpus, self.cases, self.description, device) if self.cases else math.nan
        if math.isnan(score):
            return None
        if self.score is None or score > self.score:
            self.step, self.score = step, score
            save_model(self.run, network.state_dict())
        return score
