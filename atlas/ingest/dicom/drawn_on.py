"""Which CT series labels were drawn on, and which of its slices: judged from headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError, ScanError
from atlas.ingest.dicom import slices
from atlas.ingest.dicom.references import ON_GRID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from atlas.ingest.dicom.frames import Frame
    from atlas.ingest.dicom.header import Header
    from atlas.ingest.dicom.references import Reference


def choose(reference: Reference, groups: Sequence[list[Header]], name: str) -> tuple[list[Header], list[str]]:
    """Choose the CT series that a label object was drawn on; and what was odd.

    Parameters
    ----------
    reference
        What the object says.
    groups
        Headers of each CT series.
    name
        Of the object, for messages.

    Raises
    ------
    ScanError
        If none can have been meant, or several.
    """
    named = _naming(groups, reference.drawn) or _naming(groups, reference.instances)
    named = named or [group for group in groups if group[0].series_uid in reference.series]
    fitting = [group for group in named if _holds(group, reference.points)]
    others = [group for group in groups if _same_space(group, reference) and _holds(group, reference.points)]
    found = fitting or _narrowed(others, reference.points)
    if len(found) != 1:
        what = f"names {', '.join(map(name_of, named))}" if named else "names no CT series that is here"
        choices = ", ".join(sorted(map(name_of, found or groups)))
        which = "and several can hold it" if found else "and none can hold it"
        raise ScanError(f"{name} {what}, {which}: {choices}. Leave the CT it was drawn on, or leave the case out")
    if not fitting:
        why = "names a CT that cannot hold it" if named else "names no CT that is here"
        note = f"{name} {why}; taken to be drawn on {name_of(found[0])}, the only one that fits"
        return found[0], [note]
    if not _same_space(found[0], reference):
        return found[0], [f"{name} has another frame of reference than the CT it names"]
    return found[0], []


def slices_of(group: Iterable[Header]) -> list[tuple[Header, Frame]]:
    """Slices of a series whose place is known; not its localizers."""
    images = [(header, frame) for header in group for frame in header.frames if "LOCALIZER" not in frame.kind]
    return [(h, f) for h, f in images if f.position and f.orientation and f.spacing]


def name_of(group: Sequence[Header]) -> str:
    """Series of a user's list."""
    header = group[0]
    return f"series {header.series_number or '?'} {header.description!r} ({len(slices_of(group))} slices)"


def _naming(groups: Sequence[list[Header]], instances: frozenset[str]) -> list[list[Header]]:
    return [group for group in groups if any(header.sop_uid in instances for header in group)]


def _same_space(group: Sequence[Header], reference: Reference) -> bool:
    known = group[0].frame_of_reference, reference.frame_of_reference
    return not all(known) or known[0] == known[1]


def _heights(group: Sequence[Header]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances of the slices along their normal, mm, each once and upwards; and the directions, (3, 3) in rows."""
    found = slices_of(group)
    directions = slices.one_orientation(np.array([frame.orientation for _, frame in found], dtype=float))
    heights = np.sort(np.array([frame.position for _, frame in found], dtype=float) @ directions[2])
    return heights[np.diff(heights, prepend=-np.inf) >= slices.SAME_MM], directions


def _holds(group: Sequence[Header], points: NDArray[np.float64]) -> bool:
    """Whether points lie between the slices of a series, and their middle within a slice."""
    found = slices_of(group)
    if not found:
        return False
    try:
        heights, directions = _heights(group)
    except GeometryError:
        return False  # no stack of slices
    half = float(np.median(np.diff(heights))) / 2 if len(heights) > 1 else 0.0
    along = points @ directions[2]
    header, frame = found[0]
    assert frame.position is not None and frame.spacing is not None  # noqa: PT018 - _slices saw to it
    column, row, _ = directions @ (points.mean(axis=0) - frame.position) / (*frame.spacing[::-1], 1.0)
    sizes = np.array([header.columns, header.rows])
    within = (np.abs([column, row] - (sizes - 1) / 2) <= sizes / 2).all()
    slack = half + slices.OFF_LINE_MM
    return bool(within and along.min() >= heights[0] - slack and along.max() <= heights[-1] + slack)


def _narrowed(groups: list[list[Header]], points: NDArray[np.float64]) -> list[list[Header]]:
    """Of several series, those with slices where the planes are; of several of these, those with as many."""

    def misses(group: list[Header]) -> tuple[bool, bool]:
        heights, directions = _heights(group)
        along = np.unique(np.round(points @ directions[2], 3))
        step = float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0
        off = np.abs(along[:, np.newaxis] - heights).min(axis=1).max()
        return bool(off > max(ON_GRID * step, slices.OFF_LINE_MM)), len(along) != len(heights)

    ranks = [misses(group) for group in groups]
    return [group for group, rank in zip(groups, ranks, strict=True) if rank == min(ranks)]


def meant(group: Sequence[Header], drawn: frozenset[str], instances: frozenset[str]) -> frozenset[str] | None:
    """Choose the slices to keep where a series has several in one place.

    These are the acquisitions that were drawn on, or else those that are named, or the named slices alone.

    Parameters
    ----------
    group
        Headers of the series.
    drawn, instances
        As in `references.Reference`.

    Returns
    -------
    frozenset or None
        SOPInstanceUIDs; None for all of them, also where nobody can tell.
    """
    found = slices_of(group)
    if not _doubled(found):
        return None

    def acquired(named: frozenset[str]) -> frozenset[str]:
        numbers = {frame.acquisition for header, frame in found if header.sop_uid in named}
        return frozenset(header.sop_uid for header, frame in found if frame.acquisition in numbers)

    for choice in (acquired(drawn), acquired(instances), instances, drawn):
        kept = [(header, frame) for header, frame in found if header.sop_uid in choice]
        if kept and not _doubled(kept):
            return choice
    return None


def _doubled(found: Sequence[tuple[Header, Frame]]) -> bool:
    places = np.round(np.array([frame.position for _, frame in found], dtype=float) / slices.SAME_MM)
    return len(np.unique(places, axis=0)) < len(places)
