"""Predict scans with a trained model: read, resample, predict, post-process, write on the scan's own grid.

Memory is bounded whatever the height of a scan and the number of classes: probabilities of more than
`MOST_BYTES` lie in a file beside the results while a scan is worked on, and classes are handled one at a time.
"""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import atlas
from atlas.errors import ScanError
from atlas.harmonize.grid import canonical_grid
from atlas.harmonize.resample import resample_ct
from atlas.predict.results import check_replaceable, write_results
from atlas.predict.scans import LOADING
from atlas.predict.select import Selection, select
from atlas.predict.tidy import tidy
from atlas.spec.training import PostprocessSpec
from atlas.train.sliding import predict_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid
    from atlas.predict.scans import Frame, Scan
    from atlas.train.run import Trained

MOST_BYTES = 512 * 2**20
"""Probabilities or masks that are kept in memory; more are kept in a file."""

MOST_MM = 4000.0
"""No patient is longer, nor any scan of one; the memory for such a grid is not asked for on a header's word."""

OVERLAP = 0.5
THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """What became of a scan.

    Attributes
    ----------
    scan
        Its name.
    folder
        Of the results; None if it could not be used.
    reason
        Why not.
    volumes
        Millilitres of each class.
    warnings
        What a person should know about it.
    seconds
        Of each stage: read, network, postprocess, write.
    """

    scan: str
    folder: Path | None = None
    reason: str | None = None
    volumes: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def predict_scans(
    trained: Trained,
    scans: Iterable[Scan],
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    overlap: float = OVERLAP,
    tidied: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Prediction]:
    """Predict scan after scan. One that cannot be read is told of with its reason, and the rest go on.

    Parameters
    ----------
    trained
        The model, on its device.
    scans
        What to predict.
    out
        Folder for a folder of results for each scan; see `atlas.predict.results`.
    classes
        To be written; None: all of the model.
    overlap
        Of the windows, in [0, 1).
    tidied
        Post-process as the recipe of the model declares.
    progress
        Told (scan, windows done, windows in all).

    Raises
    ------
    SpecError
        If the model has no such class.
    """
    spec = trained.description.recipe.postprocess if tidied else PostprocessSpec()
    selection = select(trained.classes, classes, trained.description.taxonomy, spec)
    for scan in scans:
        told = None if progress is None else partial(progress, scan.name)
        try:
            yield predict_scan(trained, scan, out, selection, spec, overlap=overlap, progress=told)
        except ScanUnreadableError as error:
            yield Prediction(scan.name, reason=str(error))


class ScanUnreadableError(ScanError):
    """A scan that cannot be used; others can."""


def predict_scan(
    trained: Trained,
    scan: Scan,
    out: Path,
    selection: Selection,
    spec: PostprocessSpec,
    *,
    overlap: float = OVERLAP,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Predict one scan; see `predict_scans`.

    Raises
    ------
    ScanUnreadableError
        If it cannot be used.
    """
    clock = _Clock()
    check_replaceable(out / scan.name)
    ct, grid, frame = _canonical(scan, trained.description.corpus.spacing)
    clock.lap("read")
    out.mkdir(parents=True, exist_ok=True)
    with _Room(out) as room:
        probabilities = predict_volume(
            trained.network,
            ct,
            rows=selection.rows,
            window=trained.description.recipe.data.window,
            patch=trained.patch,
            overlap=overlap,
            precision=_precision(trained),
            out=room.array((len(selection.rows), *grid.shape), np.dtype(np.uint8)),
            progress=progress,
        )
        clock.lap("network")
        if spec != PostprocessSpec():
            masks = room.array(probabilities.shape, np.dtype(bool))
            tidy(probabilities, masks, selection.predicted, trained.description.taxonomy, spec, grid.spacing, ct)
        clock.lap("postprocess")
        about = _about(trained, scan, frame, grid, spec, overlap)
        folder = out / scan.name
        taxonomy = trained.description.taxonomy
        volumes = write_results(folder, probabilities, grid, frame, selection, taxonomy, about)
        clock.lap("write")
    return Prediction(scan.name, folder, None, volumes, frame.warnings, clock.seconds)


def _canonical(scan: Scan, spacing: float) -> tuple[NDArray[np.int16], Grid, Frame]:
    """The CT on the grid of the model; its own voxels are let go."""
    try:
        data, frame = scan.load()
        extent = float((np.abs(frame.affine[:3, :3]) @ frame.shape).max())
        if extent > MOST_MM:
            raise ScanError(f"{frame.source}: is {extent / 1000:.1f} m long; the spacing in its header is wrong")
        grid = canonical_grid(frame.shape, frame.affine, spacing)
        return resample_ct(data, frame.affine, grid), grid, frame
    except LOADING as error:
        raise ScanUnreadableError(str(error) or type(error).__name__) from error


def _precision(trained: Trained) -> Any:  # noqa: ANN401 - a literal that two modules spell
    """As in training on a GPU; on a CPU lower precision only costs time."""
    on_gpu = next(trained.network.parameters()).device.type == "cuda"
    return trained.description.recipe.optimiser.precision if on_gpu else "fp32"


def _about(
    trained: Trained, scan: Scan, frame: Frame, grid: Grid, spec: PostprocessSpec, overlap: float
) -> dict[str, Any]:
    spacing = np.linalg.norm(frame.affine[:3, :3], axis=0)
    return {
        "scan": scan.name,
        "input": frame.source,
        "sha256": frame.sha256,
        "shape": list(frame.shape),
        "spacing_mm": [round(float(step), 6) for step in spacing],
        "model": {
            "run": str(trained.folder.resolve()),
            "recipe": trained.description.recipe.name,
            "sha256": trained.digest,
            "spacing_mm": grid.spacing,
        },
        "atlas": atlas.__version__,
        "threshold": THRESHOLD,
        "overlap": overlap,
        "postprocess": spec.model_dump(mode="json"),
        "warnings": list(frame.warnings),
    }


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


class _Room(ExitStack):
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
