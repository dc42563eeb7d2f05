"""Evaluation on the grids of the scans as published, with the masks that a user gets from `atlas predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from atlas.predict.canonical import Room, canonical_ct, probabilities_of, tidy_up
from atlas.predict.native import native_planes
from atlas.predict.native_truth import Published
from atlas.predict.select import select
from atlas.train.evaluation.score import score_case
from atlas.train.evaluation.truth import truths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.corpus import Case, Corpus
    from atlas.harmonize.grid import Grid
    from atlas.harmonize.native import NativeGrid
    from atlas.train.evaluation.run import Method
    from atlas.train.evaluation.score import Score
    from atlas.train.run import Trained


class NativeScorer:
    """Compares on the scans' own grids, for `atlas.train.evaluation.run.evaluate`.

    Parameters
    ----------
    corpus
        Whose cases are evaluated: it says what is available.
    sources
        Folder with a folder for each dataset, as for `atlas build`.
    scratch
        Folder for arrays that are too large for memory.
    """

    grid: Literal["corpus", "native"] = "native"

    def __init__(self, corpus: Corpus, sources: Path, scratch: Path) -> None:
        self._published, self._scratch = Published(corpus, sources), scratch

    def __call__(self, trained: Trained, case: Case, names: Sequence[str], method: Method) -> list[Score]:
        """Scores of the classes that the published files of a case tell.

        Raises
        ------
        ScanError, LabelError, SpecError
            If the truth on the scan's own grid cannot be had; says why.
        """
        published = self._published.case(case)
        volume = published.image()
        i, j, k = volume.data.shape
        affine, (ct, grid) = volume.affine, canonical_ct(volume.data, volume.affine, trained.description.corpus)
        del volume
        truth, native = published.truth((i, j, k), affine)
        told = [name for name in names if truth.available >> case.taxonomy.bit(name) & 1]
        if not told:
            return []
        selection = select(trained.classes, told, trained.description.taxonomy, method.postprocess)
        with Room(self._scratch) as room:
            probabilities = probabilities_of(trained, ct, selection, room, overlap=method.overlap)
            tidy_up(probabilities, trained, ct, selection, method.postprocess, room)
            masks = (native_mask(probabilities[row], grid, native) for row in range(len(told)))
            return score_case(masks, truths(truth.masks, told, case.taxonomy), native.spacing, method.tolerance_mm)


def native_mask(probability: NDArray[np.uint8], grid: Grid, native: NativeGrid) -> NDArray[np.bool_]:
    """Mask of a class, bool (z, y, x), on the grid of a scan; see `atlas.predict.native.native_planes`."""
    z, y, x = native.shape
    mask = np.empty(native.shape, bool)
    for target, plane in zip(mask, native_planes(probability, grid, native.affine, (x, y, z)), strict=True):
        target[...] = plane
    return mask
