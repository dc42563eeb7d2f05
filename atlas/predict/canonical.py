"""What a model sees of a scan, and what it says: the CT and the probabilities on the model's own grid.

Memory is bounded whatever the height of a scan and the number of classes: probabilities of more than
`MOST_BYTES` lie in a file while a scan is worked on.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlas.errors import ScanError
from atlas.harmonize.grid import canonical_grid
from atlas.harmonize.resample import resample_ct
from atlas.predict.tidy import tidy
from atlas.spec.training import PostprocessSpec
from atlas.train.run import precision_of
from atlas.train.sliding import predict_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid
    from atlas.predict.select import Selection
    from atlas.train.run import CorpusRecord, Trained

MOST_BYTES = 512 * 2**20
"""Probabilities or masks that are kept in memory; more are kept in a file."""

MOST_MM = 4000.0
"""No patient is longer, nor any scan of one; the memory for such a grid is not asked for on a header's word."""


def canonical_ct(
    data: NDArray[Any], affine: NDArray[np.float64], corpus: CorpusRecord
) -> tuple[NDArray[np.int16], Grid]:
    """A scan as it would be in the corpus that a model was trained on.

    Parameters
    ----------
    data
        HU (i, j, k) as stored.
    affine
        (4, 4), (i, j, k) to RAS mm.
    corpus
        Spacing and smoothing.

    Returns
    -------
    int16 (z, y, x), HU, and where it lies.

    Raises
    ------
    ScanError
        If it is longer than any scan.
    """
    i, j, k = data.shape
    extent = float((np.abs(affine[:3, :3]) @ data.shape).max())
    if extent > MOST_MM:
        raise ScanError(f"is {extent / 1000:.1f} m long; the spacing in its header is wrong")
    grid = canonical_grid((i, j, k), affine, corpus.spacing)
    return resample_ct(data, affine, grid, antialias=corpus.antialias), grid


def probabilities_of(
    trained: Trained,
    ct: NDArray[np.int16],
    selection: Selection,
    room: Room,
    *,
    overlap: float,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """What the network says.

    Parameters
    ----------
    trained
        The model, on its device.
    ct
        int16 HU (z, y, x) on the model's grid.
    selection
        What to predict.
    room
        For the result.
    overlap
        Of the windows, in [0, 1).
    progress
        Told (windows done, windows in all).

    Returns
    -------
    uint8 (rows, z, y, x), x 255.
    """
    return predict_volume(
        trained.network,
        ct,
        rows=selection.rows,
        window=trained.description.recipe.data.window,
        patch=trained.patch,
        overlap=overlap,
        precision=precision_of(trained),
        out=room.array((len(selection.rows), *ct.shape), np.dtype(np.uint8)),
        progress=progress,
    )


def tidy_up(
    probabilities: NDArray[np.uint8],
    trained: Trained,
    ct: NDArray[np.int16],
    selection: Selection,
    spec: PostprocessSpec,
    room: Room,
) -> None:
    """Post-process what `probabilities_of` returned, in place."""
    if spec != PostprocessSpec():
        description = trained.description
        masks = room.array(probabilities.shape, np.dtype(bool))
        tidy(probabilities, masks, selection.predicted, description.taxonomy, spec, description.corpus.spacing, ct)


class Room(ExitStack):
    """Large arrays for the time of a scan: in memory, or in files in a folder that is removed afterwards."""

    def __init__(self, beside: Path) -> None:
        super().__init__()
        self._beside = beside

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """New array; what is in it counts for nothing."""
        if math.prod(shape) * dtype.itemsize <= MOST_BYTES:
            return np.empty(shape, dtype)
        folder = self.enter_context(tempfile.TemporaryDirectory(prefix=".predict-", dir=self._beside))
        return np.memmap(Path(folder) / "array", dtype, "w+", shape=shape)
