"""One case as a DICOM study: CT series, and segmentations or structure sets drawn on one of them.

Which file is what stands in the headers. The CT is the one that the label objects name, by its slices or its
series. Where they name none, or one that is not there or cannot hold them, it is the only CT of their frame of
reference that can: with a note, and never one of several.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from atlas.errors import ScanError
from atlas.ingest.dicom.drawn_on import choose, meant, name_of, slices_of
from atlas.ingest.dicom.references import SEGMENTATIONS, STRUCTURE_SETS, naming, unique
from atlas.ingest.dicom.rtstruct import read_structure_set
from atlas.ingest.dicom.seg import read_segmentation
from atlas.ingest.dicom.series import check_series, expected_dicom, grouped, read_headers, read_series
from atlas.ingest.folders import MOST_FILES, files_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from atlas.ingest.dicom.references import LabelObject
    from atlas.ingest.dicom.series import Header, Series
    from atlas.ingest.volume import Volume


@dataclass(frozen=True)
class Study:
    """A case whose headers were read and found to belong together.

    Parameters
    ----------
    folder
        Where it lies.
    series
        The CT.
    objects
        What was drawn on it, in the order of their paths.
    notes
        Sentences about what was odd but usable, in the headers of any of them.
    """

    folder: Path
    series: Series
    objects: tuple[LabelObject, ...]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Structures that were drawn, each once."""
        return unique(name for each in self.objects for name in each.names)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the case: the CT, then the label objects."""
        return (*self.series.files, *(each.path for each in self.objects))

    def image(self) -> Volume:
        """Read the CT; see `dicom.read_series`."""
        with naming(self.folder):
            volume = read_series(self.series)
        return replace(volume, warnings=unique((*self.notes, *volume.warnings)))

    def layers(self) -> Iterator[tuple[str, Volume]]:
        """Read one structure after another.

        What has one name in several objects is one structure: the voxels of any of them.

        Yields
        ------
        name : str
            Of a segment or region.
        mask : Volume
            uint8, 0 or 1, on the grid of the CT; of a segmentation on another grid, with the affine of that.

        Raises
        ------
        ScanError
            If an object is damaged, or two give one structure on different grids.
        """
        with ExitStack() as stack:
            opened = [(each, stack.enter_context(each.opened(self.series))) for each in self.objects]
            for name in self.names:
                masks = ((each.path, mask(name)) for each, mask in opened if name in each.names)
                yield name, _united(name, masks)


def read_study(folder: Path) -> Study:
    """Find out what a folder holds, at any depth, from the headers alone.

    Raises
    ------
    ScanError
        If it holds no CT, no labels, or labels that were not drawn on one CT that is there.
    GeometryError
        If the slices of the CT do not make a volume.
    """
    headers = _headers(folder)
    objects = [read for header in headers if (read := _labels(header)) is not None]
    with naming(folder):
        groups = grouped(headers)
        if not groups or not objects:
            kinds = Counter(header.modality or "unknown" for header in headers)
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no DICOM"
            lacks = "CT series" if not groups else "DICOM-SEG or RTSTRUCT object"
            raise ScanError(f"holds no {lacks} (found {listed}). Fetch the rest, or leave the case out")
        chosen = [choose(each.reference, groups, each.path.name) for each in objects]
        if len({id(group) for group, _ in chosen}) > 1:
            where = (f"{o.path.name} on {name_of(group)}" for o, (group, _) in zip(objects, chosen, strict=True))
            raise ScanError(f"holds labels drawn on different CTs: {'; '.join(where)}. Leave those on one of them")
        group = chosen[0][0]
        drawn = frozenset[str]().union(*(each.reference.drawn for each in objects))
        instances = frozenset[str]().union(*(each.reference.instances for each in objects))
        series = check_series(group, only=meant(group, drawn, instances))
    notes = [note for _, found in chosen for note in found]
    if series.shape[2] < len(slices_of(group)):
        notes.append(
            f"series holds several acquisitions; {series.shape[2]} of {len(slices_of(group))} slices were meant"
        )
    notes += [note for each in objects for note in each.notes]
    return Study(folder, series, tuple(objects), unique(notes))


def _headers(folder: Path) -> list[Header]:
    paths = []
    for path in files_below(folder):
        paths.append(folder / path)
        if len(paths) > MOST_FILES:
            raise ScanError(f"{folder}: holds more than {MOST_FILES} files; this is no folder of one case")
    if not paths:
        raise ScanError(f"{folder}: holds no files, or is no folder")
    return read_headers(path for path in paths if expected_dicom(path))


def _labels(header: Header) -> LabelObject | None:
    if header.sop_class in SEGMENTATIONS:
        return read_segmentation(header.path)
    return read_structure_set(header.path) if header.sop_class in STRUCTURE_SETS else None


def _united(name: str, masks: Iterable[tuple[Path, Volume]]) -> Volume:
    (path, first), *others = masks
    for other_path, other in others:
        if other.data.shape != first.data.shape or not np.array_equal(other.affine, first.affine):
            raise ScanError(f"{other_path}: {name!r} is on another grid than in {path.name}; leave one of the two")
        first.data[:] |= other.data
        note = f"{name!r} is in {path.name} and in {other_path.name}: taken together"
        first = replace(first, warnings=unique((*first.warnings, *other.warnings, note)))
    return first
