"""DICOM objects that hold labels: opening them with care, and what they say about the CT they were drawn on."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pydicom

from atlas.errors import AtlasError, ScanError
from atlas.ingest.dicom.header import DEFLATED, MAGIC, PREAMBLE, is_dicom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom import Dataset

    from atlas.ingest.dicom.series import Series
    from atlas.ingest.volume import Volume

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""SOP classes: Segmentation Storage and Label Map Segmentation Storage."""

STRUCTURE_SETS = ("1.2.840.10008.5.1.4.1.1.481.3",)
"""SOP class: RT Structure Set Storage."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

ON_GRID = 0.1
"""Voxels by which a plane or pixel may miss a CT voxel that it is meant to be. Coordinates are decimal text, often
rounded to 0.01 mm; another grid is off by more at some corner."""


@dataclass(frozen=True)
class Reference:
    """What a label object says about the CT it was drawn on.

    Parameters
    ----------
    series
        SeriesInstanceUIDs that it names.
    instances
        SOPInstanceUIDs of the slices that it names as a whole.
    drawn
        SOPInstanceUIDs of the slices that its frames or contours name.
    frame_of_reference
        FrameOfReferenceUID of its coordinates.
    points
        (n, 3), LPS mm: a point of every plane it has content in. The CT must hold them all.
    """

    series: frozenset[str]
    instances: frozenset[str]
    drawn: frozenset[str]
    frame_of_reference: str | None
    points: NDArray[np.float64]


class LabelObject(Protocol):
    """A DICOM-SEG or RTSTRUCT file whose header has been read."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def names(self) -> tuple[str, ...]:
        """Structures it holds, each once."""

    @property
    def reference(self) -> Reference:
        """The CT it was drawn on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was odd but usable."""

    def opened(self, series: Series) -> AbstractContextManager[Callable[[str], Volume]]:
        """Open the file to read the mask of one structure after another, on the grid of a CT."""


def voxels_of(series: Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How to tell voxels of a CT from millimetres.

    Returns
    -------
    to_voxels : NDArray
        (4, 4), LPS mm to (i, j, k).
    drift : NDArray
        (k, 3), voxels by which each slice lies off its place in an evenly spaced stack, as its positions have it.
    """
    to_voxels = np.asarray(np.linalg.inv(series.affine) @ LPS_TO_RAS, np.float64)
    drift = series.positions @ to_voxels[:3, :3].T + to_voxels[:3, 3]
    drift[:, 2] -= np.arange(len(drift))
    return to_voxels, drift


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let every error begin with the path of the file, and pydicom keep its remarks to itself.

    pydicom warns of values that break a rule of DICOM; those used here are checked here.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom|highdicom")
            yield
    except AtlasError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise ScanError(f"{path}: does not fit into the memory that is left. Use fewer workers") from error
    except Exception as error:  # pydicom raises all sorts of errors on damaged files
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise ScanError(f"{path}: is damaged, or not what its header claims ({what}). Fetch it again") from error


def dataset(path: Path) -> Dataset:
    """Read a DICOM file up to its pixels.

    Raises
    ------
    ScanError
        If it is no DICOM file, or compressed as a whole.
    """
    if not is_dicom(path):
        raise ScanError("is not a DICOM file. Fetch it again")
    with path.open("rb") as file:
        begin = file.read(PREAMBLE + len(MAGIC))
    if begin.endswith(MAGIC):
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax in DEFLATED:
            raise ScanError("is stored deflated, which is not read. Convert it (for example with dcmconv +te)")
    return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def first(found: Dataset | None, *keywords: str) -> Dataset | None:
    """Item of nested sequences: the first item of each. None where one is missing or empty."""
    for keyword in keywords:
        items = found.get(keyword) if found is not None else None
        found = items[0] if items else None
    return found


def uids(items: Iterable[Dataset] | None, keyword: str = "ReferencedSOPInstanceUID") -> set[str]:
    """UIDs of the items of a sequence, which may be missing."""
    return {str(item.get(keyword)) for item in items or () if item.get(keyword)}


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Names in their order, each once."""
    return tuple(dict.fromkeys(names))
