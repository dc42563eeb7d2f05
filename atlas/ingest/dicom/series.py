"""A CT series: which files belong to it, in which order, and where it lies. Checked before a pixel is read.

Everything is told from the headers. File names and instance numbers order nothing, and SliceThickness is no
spacing: it may be more or less than the distance between slices.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import ScanError
from atlas.ingest import geometry, values
from atlas.ingest.dicom.checks import check_image, check_one, check_units, is_ct, localizer, placed, tilt_note
from atlas.ingest.dicom.frames import Frame
from atlas.ingest.dicom.header import Header, is_dicom, read_headers
from atlas.ingest.dicom.pixels import read_frames
from atlas.ingest.folders import MOST_FILES, files_below
from atlas.ingest.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Frame", "Header", "Series", "check_series", "only_series", "read_headers", "read_series", "series_in"]

SCRAPS = 0.1
"""A series with fewer slices than this part of the largest one is a by-product (monitoring, a dose report)."""

_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class Series:
    """A CT series whose headers were checked; its voxels are yet to be read.

    Attributes
    ----------
    files
        In the order of slices, each once.
    frames
        For each slice its file and the frame in it.
    sop_uids
        For each slice; those of a multi-frame object are the same.
    positions
        (k, 3), centre of each slice's first pixel, LPS mm.
    shape
        (i, j, k): columns, rows, slices.
    affine
        (4, 4), (i, j, k) to RAS mm, as the headers have it.
    notes
        Sentences about what was odd but usable.
    """

    uid: str
    frame_of_reference: str | None
    files: tuple[Path, ...]
    frames: tuple[tuple[Header, Frame], ...]
    sop_uids: tuple[str, ...]
    positions: NDArray[np.float64]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    notes: tuple[str, ...]


def series_in(where: Path | Iterable[Path]) -> list[list[Header]]:
    """CT series in a folder (at any depth) or among files, the largest first; other objects are passed over.

    Files that are no DICOM are passed over too, unless they are named as if they were.

    Raises
    ------
    ScanError
        If a file is damaged, or there are too many.
    """
    files = _below(where) if isinstance(where, Path) else list(where)
    return grouped(read_headers(path for path in files if expected_dicom(path)))


def grouped(headers: Iterable[Header]) -> list[list[Header]]:
    """Headers of CT images by series, the one with most slices first."""
    groups: dict[str, list[Header]] = {}
    for header in headers:
        if is_ct(header):
            groups.setdefault(header.series_uid, []).append(header)
    return sorted(groups.values(), key=lambda group: (-_count(group), group[0].series_uid))


def expected_dicom(path: Path) -> bool:
    """Whether a file is DICOM, or empty or named so that it should be one; the latter are damaged."""
    return is_dicom(path) or path.suffix.lower() in _DICOM_SUFFIXES or path.stat().st_size == 0


def only_series(files: Sequence[Path]) -> Series:
    """Check the one CT series among the files of a folder.

    Series of less than a tenth of its slices are left out with a note.

    Raises
    ------
    ScanError
        If there is none, or more than one.
    GeometryError
        As `check_series`.
    """
    dicom = [path for path in files if expected_dicom(path)]
    headers = read_headers(dicom)
    notes = []
    if len(dicom) < len(files):
        strange = sorted({path.name for path in files} - {path.name for path in dicom})
        notes.append(f"{len(strange)} files that are no DICOM left out ({', '.join(strange[:3])})")
    if others := Counter(f"{h.modality or 'unknown'}" for h in headers if not is_ct(h)):
        notes.append("objects that are no CT images left out: " + ", ".join(f"{n} {m}" for m, n in others.items()))
    groups = [g for g in grouped(headers) if any(not localizer(f) for h in g for f in h.frames)]
    if not groups:
        found = Counter("CT localizer" if is_ct(h) else f"{h.modality or 'unknown'}" for h in headers)
        listed = ", ".join(f"{n} {kind}" for kind, n in found.items()) or "no DICOM"
        raise ScanError(f"holds no CT series ({listed}). Put the CT there, or correct the manifest")
    large = [group for group in groups if _count(group) >= SCRAPS * _count(groups[0])]
    if len(large) > 1:
        listed = "; ".join(f"{group[0].name}: {_count(group)} slices" for group in large)
        raise ScanError(f"holds {len(large)} CT series ({listed}). Leave the one that was annotated")
    notes += [f"series {group[0].name} of {_count(group)} slices left out" for group in groups[1:]]
    series = check_series(large[0])
    return replace(series, notes=(*notes, *series.notes))


def check_series(headers: Sequence[Header], *, only: frozenset[str] | None = None) -> Series:
    """Put the slices of a series in order and check that they make a volume.

    Parameters
    ----------
    headers
        Of one series.
    only
        SOP instance UIDs of the files to keep, where one of several acquisitions is meant.

    Raises
    ------
    ScanError
        If it is no CT in HU, or two series.
    GeometryError
        If its slices do not make a volume: tilted, uneven, missing, double or turned.
    """
    kept = [h for h in headers if only is None or h.sop_uid in only]
    frames = [(h, f) for h in kept for f in h.frames]
    images = [(h, f) for h, f in frames if not localizer(f)]
    notes = [f"{len(frames) - len(images)} localizer images left out"] if len(images) < len(frames) else []
    if not images:
        raise ScanError(f"holds {len(frames)} localizer images and no slices of a CT. Put the CT there")
    for header in {h for h, _ in images}:
        check_image(header)
    check_one(images)
    notes += check_units(images)
    ordered, affine = placed(images)
    shape = values.volume_shape((ordered[0][0].columns, ordered[0][0].rows, len(ordered)))
    _, repair = geometry.repaired(affine, shape)
    notes += ([] if repair is None else [repair]) + tilt_note(ordered[0][0])
    header = ordered[0][0]
    return Series(
        uid=header.series_uid,
        frame_of_reference=header.frame_of_reference or None,
        files=tuple(dict.fromkeys(h.path for h, _ in ordered)),
        frames=tuple(ordered),
        sop_uids=tuple(h.sop_uid for h, _ in ordered),
        positions=np.array([f.position for _, f in ordered], dtype=float),
        shape=shape,
        affine=affine,
        notes=tuple(notes),
    )


def read_series(series: Series) -> Volume:
    """Read the voxels of a checked series.

    Returns
    -------
    Volume
        HU, axes (i, j, k) of the series, i fastest in memory; int16, or float32 where slope or intercept are
        no whole numbers.

    Raises
    ------
    ScanError
        If a file is incomplete or cannot be decoded.
    """
    affine, _ = geometry.repaired(series.affine, series.shape)
    data, notes = read_frames(series.frames, series.shape)
    return Volume(data, affine, (*series.notes, *notes))


def _below(folder: Path) -> list[Path]:
    paths = []
    for path in files_below(folder):
        paths.append(folder / path)
        if len(paths) > MOST_FILES:
            raise ScanError(f"{folder}: holds more than {MOST_FILES} files; this is no folder of one case")
    return paths


def _count(group: Sequence[Header]) -> int:
    return sum(not localizer(f) for h in group for f in h.frames)
