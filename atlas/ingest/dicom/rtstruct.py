"""Masks out of the contours of a DICOM RT structure set.

Which voxels lie inside is decided in `contours`; here contours find their slice. A contour belongs to the slice
whose centre plane is nearest: half a slice step off at most, or it is refused. Where several planes of contours
are nearest to one slice (drawn on a finer CT), the nearest of them counts. Slices between contours stay empty:
nothing is interpolated.

A region that is listed without any closed contour is left out, not taken for empty: templates list regions that
nobody has looked for. Regions of one name are one structure.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError, ScanError
from atlas.ingest import geometry
from atlas.ingest.dicom.contours import fill
from atlas.ingest.dicom.references import ON_GRID, Reference, dataset, naming, uids, unique, voxels_of
from atlas.ingest.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom import Dataset

    from atlas.ingest.dicom.series import Series

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contour Geometric Types that enclose something (DICOM PS3.3 C.8.8.6.1)."""

MOST_BYTES = 1 << 30
"""More than any structure set has."""

_FEWEST_POINTS = 3


@dataclass(frozen=True)
class StructureSet:
    """An RT structure set whose contours have been looked at; parameters as in `references.LabelObject`."""

    path: Path
    names: tuple[str, ...]
    reference: Reference
    notes: tuple[str, ...]

    @contextmanager
    def opened(self, series: Series) -> Iterator[Callable[[str], Volume]]:
        """Make ready to draw one structure after another on the grid of a CT."""
        with naming(self.path):
            regions, _ = _regions(_read(self.path))
            by_name = defaultdict(list)
            for name, contours in regions:
                by_name[name].append(contours)

        def mask(name: str) -> Volume:
            with naming(self.path):
                return _union(name, by_name[name], series)

        yield mask


def read_structure_set(path: Path) -> StructureSet:
    """Read which structures an RTSTRUCT file holds, and what CT they were drawn on.

    Raises
    ------
    ScanError
        If the file is damaged, or holds no closed contour.
    """
    with naming(path):
        found = _read(path)
        regions, notes = _regions(found)
        if not regions:
            raise ScanError("holds no closed contour, so there is nothing to read. Leave the case out in the manifest")
        points = np.concatenate([contour for _, contours in regions for contour in contours])
        return StructureSet(path, unique(name for name, _ in regions), _reference(found, points), tuple(notes))


def _read(path: Path) -> Dataset:
    if path.stat().st_size > MOST_BYTES:
        raise ScanError(f"is larger than {MOST_BYTES} bytes, which no structure set is")
    return dataset(path)


def _regions(found: Dataset) -> tuple[list[tuple[str, list[NDArray[np.float64]]]], list[str]]:
    """Name and closed contours, (n, 3) LPS mm, of every region that has any; and what was left out."""
    contours_of = {int(item.ReferencedROINumber): item for item in found.get("ROIContourSequence") or ()}
    regions, notes = [], []
    for item in found.get("StructureSetROISequence") or ():
        number, name = int(item.ROINumber), str(item.get("ROIName") or "").strip()
        drawn = contours_of.get(number)
        contours, skipped = _closed(drawn.get("ContourSequence") if drawn is not None else None)
        if skipped:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
            notes.append(f"region {name!r}: contours that enclose nothing left out ({kinds})")
        if not contours:
            notes.append(f"region {name!r}: listed without a closed contour, left out")
        elif not name:
            raise ScanError(f"region number {number} has contours but no name, so nothing can say what it is")
        else:
            regions.append((name, contours))
    return regions, notes


def _closed(contours: Sequence[Dataset] | None) -> tuple[list[NDArray[np.float64]], dict[str, int]]:
    closed, skipped = [], defaultdict[str, int](int)
    for contour in contours or ():
        kind = str(contour.get("ContourGeometricType", "of no type"))
        if kind not in CLOSED:
            skipped[kind] += 1
            continue
        if any(float(number) for number in contour.get("ContourOffsetVector") or ()):
            raise GeometryError("a contour is shifted by a ContourOffsetVector, which is not supported")
        points = _points(contour)
        if len(points) < _FEWEST_POINTS:
            skipped["of fewer than three points"] += 1
        else:
            closed.append(points)
    return closed, skipped


def _points(contour: Dataset) -> NDArray[np.float64]:
    # as text straight from the file: pydicom makes an object of every number, 50 times slower
    stored = contour.get_item("ContourData")
    value = stored.value if stored is not None else None
    numbers = np.array(value.split(b"\\") if isinstance(value, bytes) else list(value or ()), dtype=object)
    points = numbers.astype(np.float64)
    if len(points) % 3:
        raise ScanError(f"a contour has {len(points)} numbers, which are not points of three coordinates")
    return points.reshape(-1, 3)


def _reference(found: Dataset, points: NDArray[np.float64]) -> Reference:
    series, instances, drawn, frames = set(), set(), set(), set()
    for frame in found.get("ReferencedFrameOfReferenceSequence") or ():
        frames |= {str(frame.FrameOfReferenceUID)} if frame.get("FrameOfReferenceUID") else set()
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                series |= uids([item], "SeriesInstanceUID")
                instances |= uids(item.get("ContourImageSequence"))
    for region in found.get("ROIContourSequence") or ():
        for contour in region.get("ContourSequence") or ():
            drawn |= uids(contour.get("ContourImageSequence"))
    own = uids(found.get("StructureSetROISequence"), "ReferencedFrameOfReferenceUID") or frames
    space = own.pop() if len(own) == 1 else None
    return Reference(frozenset(series), frozenset(instances), frozenset(drawn), space, points)


def _union(name: str, regions: list[list[NDArray[np.float64]]], series: Series) -> Volume:
    mask = np.zeros(series.shape, np.uint8, order="F")
    notes = [f"{len(regions)} regions are called {name!r}: taken together"] if len(regions) > 1 else []
    to_voxels, drift = voxels_of(series)
    for contours in regions:
        in_voxels = [points @ to_voxels[:3, :3].T + to_voxels[:3, 3] for points in contours]
        notes += _draw(f"region {name!r}: ", in_voxels, drift, mask)
    affine, _ = geometry.repaired(series.affine, series.shape)
    return Volume(mask, affine, unique(notes))


def _draw(
    what: str, contours: list[NDArray[np.float64]], drift: NDArray[np.float64], mask: NDArray[np.uint8]
) -> Iterator[str]:
    """Add contours, (n, 3) in voxels, to a mask; what was odd about them."""
    planes, doubles = _planes(contours)
    if doubles:
        # the even-odd rule would make nothing of a contour and its double
        yield what + f"{doubles} contours are given twice, taken once"
    slices = _slices(planes, drift[:, 2])
    if len(slices) < len(planes):
        yield what + f"{len(planes) - len(slices)} planes of contours left out; others are nearer to a slice"
    off = max(abs(plane.height - k - drift[k, 2]) for k, plane in slices.items())
    if off > ON_GRID:
        yield what + f"contours up to {off:.2f} slice steps off their slice moved to the nearest"
    missing = max(slices) - min(slices) + 1 - len(slices)
    if missing:
        yield what + f"{missing} slices between contours have none and stay empty"
    edges = np.concatenate([contour for plane in slices.values() for contour in plane.contours])[:, :2]
    if (edges < -0.5 - ON_GRID).any() or (edges > np.array(mask.shape[:2]) - 0.5 + ON_GRID).any():
        yield what + "contours reach beyond the CT and are cut off there"
    for k, plane in slices.items():
        mask[:, :, k] |= fill([contour[:, :2] - drift[k, :2] for contour in plane.contours], mask.shape[:2])


@dataclass(frozen=True)
class _Plane:
    height: float
    contours: list[NDArray[np.float64]]


def _planes(contours: list[NDArray[np.float64]]) -> tuple[list[_Plane], int]:
    """Contours by plane, upwards; and how many there were twice."""
    planes: list[_Plane] = []
    seen: set[bytes] = set()
    for contour in sorted(contours, key=lambda points: float(points[:, 2].mean())):
        leaning = float(np.ptp(contour[:, 2]))
        # written so that NaN fails too
        if not leaning <= ON_GRID:
            raise GeometryError(
                f"a contour leans by {leaning:.2f} slice steps across the slices of the CT (at most {ON_GRID:g}): it "
                "was drawn on another plane. Convert it to a mask, or leave the case out in the manifest"
            )
        if contour.tobytes() in seen:
            continue
        seen.add(contour.tobytes())
        height = float(contour[:, 2].mean())
        if not planes or height - planes[-1].height > ON_GRID:
            planes.append(_Plane(height, []))
        planes[-1].contours.append(contour)
    return planes, len(contours) - len(seen)


def _slices(planes: list[_Plane], drift: NDArray[np.float64]) -> dict[int, _Plane]:
    """Slice -> the plane that is drawn on it; slices lie at k + drift[k]."""
    heights = np.arange(len(drift)) + drift
    chosen: dict[int, _Plane] = {}
    for plane in planes:
        k = int(np.abs(heights - plane.height).argmin())
        off = abs(plane.height - heights[k])
        if off > 0.5 + ON_GRID and not 0 < plane.height < len(drift) - 1:
            raise GeometryError(
                f"a contour lies {off:.2f} slice steps beyond the last slice of the CT (at most half a step): "
                "it was drawn on another CT, or slices are missing"
            )
        if k not in chosen or off < abs(chosen[k].height - heights[k]):
            chosen[k] = plane
    return chosen
