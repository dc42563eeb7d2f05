"""What lies in a folder: which files are CTs and which labels, and what the labels hold. Reads, writes nothing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from atlas.draft.roles import SUFFIXES, spread
from atlas.errors import AtlasError, ScanError
from atlas.ingest.cases import find_cases
from atlas.ingest.folders import walked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.ingest.cases import CaseFiles
    from atlas.spec import Manifest

SAMPLE = 20
"""Cases whose voxels are read."""

CT_BELOW = -200.0
"""HU that every CT has voxels below (air, lung, fat is at -100), and no label volume."""

FEW = 200
"""Different values that a label volume has at most; the largest public one has 145."""

_CT_VALUES = 16
_LOOKED_AT = 1 << 22
"""Voxels of a file among which different values are counted."""
_SPATIAL = 3
_BESIDE = 0.05
"""Part of the width by which a structure's centre is off the middle before a side is named."""


@dataclass
class Tally:
    """Where a label was seen in the sample."""

    voxels: int = 0
    cases: int = 0
    side: float = 0.0
    """Sum over cases: centre's distance from the middle of the scan, to the right, as a part of its width."""
    height: float = 0.0
    """Sum over cases: height of the centre as a part of the scan's, from the feet."""

    def add(self, voxels: int, place: NDArray[np.float64]) -> None:
        """Count one more case; `place` is the centre as a part of the scan along x, y, z (RAS), 0 to 1."""
        self.voxels += voxels
        self.cases += 1
        self.side += float(place[0]) - 0.5
        self.height += float(place[2])

    def where(self) -> str:
        """Side and height in words."""
        side, height = self.side / self.cases, self.height / self.cases
        word = "in the middle" if abs(side) < _BESIDE else "on the right" if side > 0 else "on the left"
        return f"{word}, at {min(max(height, 0), 1):.0%} of the height"


@dataclass
class Findings:
    """What the cases of a folder hold.

    Attributes
    ----------
    cases
        Those that fit the layout.
    unlabelled
        Those that have a CT and nothing else.
    problems
        Case -> what is wrong with it.
    sampled
        Cases whose voxels were read.
    values, structures
        Label file -> value -> where it was seen; structure -> the same.
    spacing
        (cases, 3), mm along x, y, z as stored.
    """

    cases: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    sampled: int = 0
    values: dict[str, dict[int, Tally]] = field(default_factory=dict)
    structures: dict[str, Tally] = field(default_factory=dict)
    spacing: list[NDArray[np.float64]] = field(default_factory=list)


def volumes(folder: Path) -> list[str]:
    """Volume files below a folder, as paths below it; hidden files and what archivers add left out."""
    return [place + name for place, names in walked(folder) for name in names if name.lower().endswith(SUFFIXES)]


def modalities(folder: Path) -> Iterator[tuple[str, str]]:
    """Path and modality of every DICOM file below a folder."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    for place, names in walked(folder):
        for name in names:
            try:
                with warnings.catch_warnings(action="ignore"):
                    header = pydicom.dcmread(folder / place / name, stop_before_pixels=True, specific_tags=["Modality"])
                    modality = str(header.get("Modality") or "")
            except (InvalidDicomError, OSError, ValueError, TypeError, AttributeError, KeyError, EOFError):
                continue
            yield place + name, modality


class Eye:
    """Tells CTs from labels by their voxels; reads each file once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, bool | None] = {}
        self.unreadable: dict[str, str] = {}
        """Path -> why it cannot be read."""

    def is_ct(self, path: str) -> bool | None:
        """Whether a file is a CT (True) or labels (False); None where it cannot be read.

        Raises
        ------
        ScanError
            If it is neither, with what was seen in it.
        """
        from atlas.ingest.volume import read_ct

        if path not in self._seen:
            try:
                data = read_ct(self._folder / path).data
            except AtlasError as error:
                self.unreadable[path] = str(error)
                self._seen[path] = None
            else:
                self._seen[path] = judged(data, path)
        return self._seen[path]


def judged(data: NDArray[np.int16] | NDArray[np.float32], path: str) -> bool:
    """Whether voxels are those of a CT or of labels, by their range and by how many different ones there are.

    Raises
    ------
    ScanError
        If neither is certain.
    """
    low, high = float(data.min()), float(data.max())
    flat = data.reshape(-1, order="F")
    different = np.unique(flat[:: max(1, len(flat) // _LOOKED_AT)])
    whole = bool((different == np.rint(different)).all())
    if low < CT_BELOW and len(different) > _CT_VALUES:
        return True
    if low >= 0 and whole and len(different) <= FEW:
        return False
    numbers = "whole numbers" if whole else "not all whole"
    raise ScanError(
        f"{path}: holds values from {low:g} to {high:g}, {len(different)} different ones, {numbers}; that is neither "
        f"certainly a CT in HU (reaches below {CT_BELOW:g}, many values) nor labels (at most {FEW} whole numbers "
        "from 0). Take it out of the folder, or put it right"
    )


def findings(manifest: Manifest, folder: Path) -> Findings:
    """Read a sample of the cases that a manifest finds in a folder.

    Raises
    ------
    ScanError
        If no case can be used.
    """
    result = Findings()
    cases = find_cases(manifest, folder)
    fitting = {case.source_case: case for case in cases if case.problem is None}
    for case in cases:
        if case.problem is not None and case.image and not case.labels and not case.masks:
            result.unlabelled.append(case.source_case)
        elif case.problem is not None:
            result.problems[case.source_case] = case.problem
    result.cases = list(fitting)
    result.structures = {name: Tally() for case in fitting.values() for name in sorted(case.masks)}
    for name in spread(result.cases, SAMPLE):
        try:
            _read(fitting[name], manifest, folder, result)
            result.sampled += 1
        except (AtlasError, MemoryError) as error:
            result.problems[name] = str(error)
    if not result.sampled:
        shown = next(iter(result.problems.values()), "every CT lacks its labels")
        raise ScanError(f"of {len(cases)} cases in {folder} none can be used; the first: {shown}")
    return result


def _read(case: CaseFiles, manifest: Manifest, folder: Path, result: Findings) -> None:
    from atlas.ingest.scan import read_image, read_layers

    image = read_image(case, folder, manifest.layout)
    shape, affine = image.data.shape, image.affine
    read = read_layers(case, folder, manifest.layout, shape=shape, affine=affine)
    layers = [(name, is_mask, _tallies(volume.data, volume.affine)) for name, is_mask, volume, _ in read]
    # only now that all of it could be read
    result.spacing.append(np.linalg.norm(affine[:_SPATIAL, :_SPATIAL], axis=0))
    for name, is_mask, seen in layers:
        if is_mask:
            result.structures.setdefault(name, Tally())
        else:
            result.values.setdefault(name, {})
        for value, (count, centre) in seen.items():
            tally = result.structures[name] if is_mask else result.values[name].setdefault(value, Tally())
            tally.add(count, _relative(centre, shape, affine))


def _tallies(data: NDArray[np.integer], affine: NDArray[np.float64]) -> dict[int, tuple[int, NDArray[np.float64]]]:
    """Value -> its voxels, and their centre (RAS mm)."""
    size = int(data.max(initial=0)) + 1
    counts, sums = np.zeros(size), np.zeros((_SPATIAL, size))
    for k in range(data.shape[2]):
        i, j = np.nonzero(data[:, :, k])
        values = data[i, j, k]
        count = np.bincount(values, minlength=size)
        counts += count
        sums += [np.bincount(values, i, size), np.bincount(values, j, size), k * count]
    return {
        int(v): (int(counts[v]), affine[:_SPATIAL, :_SPATIAL] @ (sums[:, v] / counts[v]) + affine[:_SPATIAL, _SPATIAL])
        for v in np.flatnonzero(counts)
    }


def _relative(centre: NDArray[np.float64], shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A point (RAS mm) as a part of the box around a scan, 0 to 1 along x, y, z."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :_SPATIAL] = corners[:, :_SPATIAL] * shape - 0.5
    box = (corners @ affine.T)[:, :_SPATIAL]
    return np.asarray((centre - box.min(axis=0)) / np.ptp(box, axis=0))
