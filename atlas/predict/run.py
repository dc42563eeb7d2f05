"""Predict scans with a trained model: read, resample, predict, post-process, write on the scan's own grid.

Memory is bounded whatever the height of a scan and the number of classes: see `atlas.predict.canonical`; classes are
handled one at a time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import atlas
from atlas.errors import ScanError
from atlas.predict.canonical import Room, canonical_ct, probabilities_of, tidy_up
from atlas.predict.results import check_replaceable, write_results
from atlas.predict.scans import LOADING
from atlas.predict.select import Selection, select
from atlas.spec.training import PostprocessSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.harmonize.grid import Grid
    from atlas.predict.scans import Frame, Scan
    from atlas.train.run import CorpusRecord, Trained

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
    ct, grid, frame = _canonical(scan, trained.description.corpus)
    clock.lap("read")
    out.mkdir(parents=True, exist_ok=True)
    with Room(out) as room:
        probabilities = probabilities_of(trained, ct, selection, room, overlap=overlap, progress=progress)
        clock.lap("network")
        tidy_up(probabilities, trained, ct, selection, spec, room)
        clock.lap("postprocess")
        about = _about(trained, scan, frame, grid, spec, overlap)
        folder = out / scan.name
        taxonomy = trained.description.taxonomy
        volumes = write_results(folder, probabilities, grid, frame, selection, taxonomy, about)
        clock.lap("write")
    return Prediction(scan.name, folder, None, volumes, frame.warnings, clock.seconds)


def _canonical(scan: Scan, corpus: CorpusRecord) -> tuple[NDArray[np.int16], Grid, Frame]:
    """The CT on the grid of the model; its own voxels are let go."""
    try:
        data, frame = scan.load()
        try:
            return *canonical_ct(data, frame.affine, corpus), frame
        except ScanError as error:
            raise ScanError(f"{frame.source}: {error}") from error
    except LOADING as error:
        raise ScanUnreadableError(str(error) or type(error).__name__) from error


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
