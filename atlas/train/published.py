"""A published model as the folder of a run, to predict with, to evaluate and to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import atlas
from atlas.errors import CheckpointError
from atlas.model.published import load_published
from atlas.spec.training import TrainingRecipe
from atlas.train.run import DESCRIPTION, EMBEDDINGS, CorpusRecord, RunDescription, save_description, save_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from atlas.spec.taxonomy import Taxonomy

SPACING = 1.5
"""mm, of the images that the published models were trained on."""

PATCH = 96
"""Voxels a side, of the same."""


def import_published(path: Path, out: Path, taxonomy: Taxonomy, classes: Sequence[str] | None = None) -> RunDescription:
    """Write the folder of a run that predicts what a published checkpoint predicts.

    Its recipe says what is known: network, window, patch and vectors. It was not trained by atlas, so the steps are
    the least that a recipe may say, and its corpus has no cases.

    Parameters
    ----------
    path
        The published file; see `load_published`.
    out
        Folder of the run. Must not be one yet.
    taxonomy
        Classes of the corpus.
    classes
        Of the channels, in their order; has to be said where there are not 32 of them.

    Raises
    ------
    CheckpointError
        If there is a run in `out`, a class is not in the taxonomy, or the file is not of such a model.
    """
    if (out / DESCRIPTION).exists():
        raise CheckpointError(f"{out}: there is a run already; choose another folder")
    unknown = [name for name in classes or () if name not in taxonomy.by_name]
    if unknown:
        raise CheckpointError(f"{path}: {', '.join(unknown)}: no such classes; there are {', '.join(taxonomy.names)}")
    found = load_published(path, taxonomy, classes)
    recipe = TrainingRecipe.model_validate(
        {
            "name": "published",
            "description": f"Imported from {path.name}, {found.embeddings.model}; not trained by atlas.",
            "classes": found.embeddings.names,
            "data": {"patch": PATCH},
            "model": {"backbone": found.backbone.model_dump()},
            "embeddings": {"kind": "file", "file": EMBEDDINGS},
            "optimiser": {"steps": 1},
        }
    )
    description = RunDescription(
        version=atlas.__version__,
        recipe=recipe,
        classes=found.embeddings.names,
        heads=found.network.counts,
        taxonomy=taxonomy,
        corpus=CorpusRecord(location=path.name, spacing=SPACING, cases=0, fingerprint=0),
    )
    save_model(out, found.network.state_dict())
    save_description(out, description, found.embeddings)
    return description
