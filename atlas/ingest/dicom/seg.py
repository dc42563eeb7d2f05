"""Masks out of a DICOM segmentation object: a segment is a structure, its frames go where their positions say.

Frames are placed by position and orientation, never by their order, so frames may come in any order, be left
out where empty, and run the other way than the rows and columns of the CT. Frames that are no slices of the
CT's grid make a volume of their own, with its own affine.

* A structure is named by its segment's label; failing that by its description, or by the meaning of its type.
  Segments of one name are one structure. Segments may overlap: each is a mask of its own.
* BINARY: a pixel is in or out. FRACTIONAL: in where the stored value is at least half of the Maximum Fractional
  Value, be it a probability or an occupied share. LABELMAP: in where the pixel holds the segment's number.
* A segment without frames is an empty mask: frames that hold nothing may be left out (DICOM PS3.3 C.8.20.2).
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import GeometryError, ScanError
from atlas.ingest.dicom.planes import Placement, on_grid, own_grid
from atlas.ingest.dicom.references import Reference, dataset, first, naming, uids
from atlas.ingest.dicom.seg_frames import opened_frames
from atlas.ingest.geometry import FARTHEST_MM, SPACING_MM
from atlas.ingest.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom import Dataset

    from atlas.ingest.dicom.series import Series

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")

_ODD_COSINES = 0.02
"""What direction cosines rounded to two decimals may be off, as in `geometry`."""


@dataclass(frozen=True)
class Segmentation:
    """A segmentation object whose header has been read; parameters as in `references.LabelObject`."""

    path: Path
    names: tuple[str, ...]
    reference: Reference
    notes: tuple[str, ...]

    @contextmanager
    def opened(self, series: Series) -> Iterator[Callable[[str], Volume]]:
        """Make ready to read one segment after another on the grid of a CT.

        One mask is held at a time, and for a LABELMAP the labels besides.
        """
        with naming(self.path):
            found = dataset(self.path)
            content = _content(found)
            placed = _placed(content, series)
        with opened_frames(self.path, found) as frame:
            reader = _Reader(content, placed, frame)

            def mask(name: str) -> Volume:
                with naming(self.path):
                    return reader.mask(name)

            yield mask


@dataclass(frozen=True)
class _Content:
    """What the header says: segments by name, and for each frame its segment and its plane."""

    kind: str
    segments: dict[str, list[int]]
    segment_of: list[int | None]
    planes: NDArray[np.float64]
    size: tuple[int, int]
    spacing: float | None
    half: float


def read_segmentation(path: Path) -> Segmentation:
    """Read which segments a DICOM-SEG file holds, and what CT they were drawn on.

    Raises
    ------
    ScanError
        If the file is damaged, or of a kind that cannot be read.
    GeometryError
        If it does not say where its frames lie.
    """
    with naming(path):
        found = dataset(path)
        content = _content(found)
        notes = []
        if content.kind == "FRACTIONAL":
            what = str(found.get("SegmentationFractionalType") or "fraction").lower()
            notes.append(f"fractional segments: voxels with a {what} of at least a half count as inside")
        return Segmentation(path, tuple(content.segments), _reference(found, content), tuple(notes))


class _Reader:
    """Masks by name out of frames that are fetched one at a time."""

    def __init__(
        self, content: _Content, placed: Placement, frame: Callable[[int], NDArray[np.unsignedinteger]]
    ) -> None:
        self._content = content
        self._placed = placed
        self._frame = frame
        self._labels: NDArray[np.unsignedinteger] | None = None

    def mask(self, name: str) -> Volume:
        numbers = self._content.segments[name]
        notes = (f"{len(numbers)} segments are called {name!r}: taken together",) if len(numbers) > 1 else ()
        if self._content.kind == "LABELMAP":
            data = np.isin(self._labelled(), numbers).astype(np.uint8, order="F")
        else:
            data = self._drawn(numbers)
        return Volume(data, self._placed.affine, notes)

    def _drawn(self, numbers: list[int]) -> NDArray[np.uint8]:
        volume = np.zeros(self._placed.shape, np.uint8, order="F")
        for index, number in enumerate(self._content.segment_of):
            if number in numbers:
                frame = self._frame(index)
                if self._content.kind == "BINARY" and frame.max(initial=0) > 1:
                    raise ScanError(f"frame {index + 1} holds {frame.max()}, where a BINARY segment has 0 and 1 only")
                self._placed.add(volume, index, (frame >= self._content.half).astype(np.uint8))
        return volume

    def _labelled(self) -> NDArray[np.unsignedinteger]:
        if self._labels is None:
            if len(np.unique(self._placed.index)) < len(self._placed.index):
                raise ScanError("holds two LABELMAP frames in one place; nobody can tell which counts")
            for index in range(len(self._content.planes)):
                frame = self._frame(index)
                if self._labels is None:
                    self._labels = np.zeros(self._placed.shape, frame.dtype, order="F")
                self._placed.add(self._labels, index, frame)
        assert self._labels is not None, "_content saw to it that there is a frame"
        return self._labels


def _placed(content: _Content, series: Series) -> Placement:
    placed = on_grid(content.planes, content.size, series)
    return placed or own_grid(content.planes, content.size, content.spacing)


def _content(found: Dataset) -> _Content:
    kind = str(found.get("SegmentationType", ""))
    if kind not in KINDS:
        raise ScanError(f"holds a segmentation of type {kind!r}; those that are read are {', '.join(KINDS)}")
    frames = found.get("PerFrameFunctionalGroupsSequence") or ()
    claimed = int(found.get("NumberOfFrames") or 0)
    if not frames or claimed != len(frames):
        raise ScanError(f"claims {claimed} frames and describes {len(frames)}. Fetch it again")
    shared = first(found, "SharedFunctionalGroupsSequence")
    segments = _segments(found)
    known = {number for numbers in segments.values() for number in numbers}
    size = int(found.Columns), int(found.Rows)
    if min(size) < 1:
        raise ScanError(f"holds frames of {size[0]} x {size[1]} pixels. Fetch it again")
    measures = first(shared, "PixelMeasuresSequence") or first(frames[0], "PixelMeasuresSequence")
    spacing = measures.get("SpacingBetweenSlices") if measures is not None else None
    return _Content(
        kind=kind,
        segments=segments,
        segment_of=[None if kind == "LABELMAP" else _segment_of(frame, shared, known) for frame in frames],
        planes=np.array([_plane(frame, shared) for frame in frames]),
        size=size,
        spacing=float(spacing) if spacing else None,
        half=_half(found) if kind == "FRACTIONAL" else 1.0,
    )


def _segments(found: Dataset) -> dict[str, list[int]]:
    """Segment numbers by name, in the order of the object."""
    background = found.get("PixelPaddingValue") if found.get("SegmentationType") == "LABELMAP" else None
    segments = defaultdict(list)
    for item in found.get("SegmentSequence") or ():
        number = int(item.SegmentNumber)
        if number == background:
            continue
        code = first(item, "SegmentedPropertyTypeCodeSequence")
        choices = (item.get("SegmentLabel"), item.get("SegmentDescription"), code.get("CodeMeaning") if code else None)
        name = next((text for choice in choices if choice and (text := str(choice).strip())), None)
        if name is None:
            raise ScanError(f"segment {number} has no label, description or type, so nothing can say what it is")
        segments[name].append(number)
    if not segments:
        raise ScanError("holds no segments. Fetch it again, or leave the case out in the manifest")
    return dict(segments)


def _segment_of(frame: Dataset, shared: Dataset | None, known: set[int]) -> int:
    named = first(frame, "SegmentIdentificationSequence") or first(shared, "SegmentIdentificationSequence")
    number = named.get("ReferencedSegmentNumber") if named is not None else None
    if number is None and len(known) == 1:
        return next(iter(known))
    if number is None or int(number) not in known:
        raise ScanError(f"a frame belongs to segment {number}, which is not among {sorted(known)}. Fetch it again")
    return int(number)


def _half(found: Dataset) -> float:
    most = found.get("MaximumFractionalValue")
    if not most:
        raise ScanError("holds fractions but not what the whole is (MaximumFractionalValue). Fetch it again")
    return float(most) / 2


def _plane(frame: Dataset, shared: Dataset | None) -> NDArray[np.float64]:
    """Steps along columns and rows, and position, of a frame; see `planes`."""

    def numbers(sequence: str, keyword: str, count: int) -> NDArray[np.float64]:
        item = first(frame, sequence) or first(shared, sequence)
        value = item.get(keyword) if item is not None else None
        if value is None or isinstance(value, str) or len(value) != count:
            raise GeometryError(f"a frame does not say where it lies: {keyword} is missing or not {count} numbers")
        return np.array([float(number) for number in value])

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    cosines = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6).reshape(2, 3)
    between_rows, between_columns = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    lengths = np.linalg.norm(cosines, axis=1)
    least, most = SPACING_MM
    # written so that NaN fails too
    sound = max(*np.abs(lengths - 1), abs(cosines[0] @ cosines[1])) <= _ODD_COSINES
    if not (sound and least <= between_rows <= most and least <= between_columns <= most):
        raise GeometryError(
            f"a frame has the orientation {cosines.ravel().tolist()} and pixels of {between_rows:g} x "
            f"{between_columns:g} mm; the header is damaged. Fetch it again"
        )
    if not (np.abs(position) <= FARTHEST_MM).all():
        raise GeometryError(f"a frame lies at {position.tolist()} mm; the header is damaged. Fetch it again")
    return np.stack([cosines[0] * between_columns, cosines[1] * between_rows, position], axis=1)


def _reference(found: Dataset, content: _Content) -> Reference:
    series, instances, drawn = set(), set(), set()
    for item in found.get("ReferencedSeriesSequence") or ():
        series |= uids([item], "SeriesInstanceUID")
        instances |= uids(item.get("ReferencedInstanceSequence"))
    for group in (*(found.get("SharedFunctionalGroupsSequence") or ()), *found.PerFrameFunctionalGroupsSequence):
        for derivation in group.get("DerivationImageSequence") or ():
            drawn |= uids(derivation.get("SourceImageSequence"))
    middle = np.array([(content.size[0] - 1) / 2, (content.size[1] - 1) / 2, 1])
    frame = found.get("FrameOfReferenceUID")
    points = np.unique(content.planes @ middle, axis=0)
    return Reference(frozenset(series), frozenset(instances), frozenset(drawn), str(frame) if frame else None, points)
