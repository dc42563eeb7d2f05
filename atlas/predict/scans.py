"""What to predict: scans in files and folders as anybody has them, and cases of a corpus. No manifest is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import nibabel as nib
import numpy as np

from atlas.errors import AtlasError, ScanError
from atlas.ingest.dicom.series import expected_dicom
from atlas.ingest.folders import slices_in, walked
from atlas.ingest.nifti import read_header
from atlas.ingest.volume import NIFTI_SUFFIXES, SUFFIXES, read_ct

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

    from atlas.corpus.corpus import Corpus

MASK_FIELDS = {"scl_slope": 1, "scl_inter": 0, "cal_max": 0, "cal_min": 0, "intent_code": 0, "intent_name": b""}
"""What a header says of the numbers of a CT, which is not so of a mask; the rest of it is about the place."""

SCANNER = 1
"""NIfTI code of a position in the scanner's own coordinates."""


@dataclass(frozen=True)
class Frame:
    """Where the voxels of a scan lie as it is stored, and which scan it is: all that outlives its voxels.

    Attributes
    ----------
    shape
        Voxels along (i, j, k).
    affine
        (4, 4), (i, j, k) to RAS mm, directions orthonormal: what is computed with.
    header
        Of the masks: that of a NIfTI input, position and all, to the bit.
    source
        The input, for a person.
    sha256
        Of the input file; of a DICOM series, of the digests of its files in natural order of their names.
    warnings
        Sentences about what was odd but usable.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    header: Nifti1Header
    source: str
    sha256: str
    warnings: tuple[str, ...] = ()

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


class Scan(Protocol):
    """Something to predict; `name` is the folder of its results, below that of all results."""

    @property
    def name(self) -> str:
        """Path of the folder of its results."""
        ...

    def load(self) -> tuple[NDArray[Any], Frame]:
        """Voxels (i, j, k) in HU, and where they lie."""
        ...


@dataclass(frozen=True)
class FileScan:
    """A CT in a file, or in a folder of DICOM slices."""

    name: str
    path: Path

    def load(self) -> tuple[NDArray[Any], Frame]:
        """Read and check it; errors as of `atlas.ingest.volume.read_ct`."""
        volume = read_ct(self.path)
        i, j, k = volume.data.shape
        nifti = self.path.name.lower().endswith(NIFTI_SUFFIXES)
        header = read_header(self.path) if nifti else made_header((i, j, k), volume.affine)
        source, digest = str(self.path.resolve()), _digest(self.path)
        return volume.data, Frame((i, j, k), volume.affine, header, source, digest, volume.warnings)


@dataclass(frozen=True, eq=False)
class CaseScan:
    """A case of a corpus; its masks lie on the grid of the corpus."""

    name: str
    corpus: Corpus

    def load(self) -> tuple[NDArray[Any], Frame]:
        """Read it.

        Raises
        ------
        CorpusError
            If there is no such case.
        """
        case = self.corpus[self.name]
        data = np.asarray(case.ct[...]).transpose(2, 1, 0)
        i, j, k = data.shape
        source = f"{self.corpus.location}: {self.name}"
        return data, Frame((i, j, k), case.affine, made_header((i, j, k), case.affine), source, case.record.ct_sha256)


def scans_at(path: Path) -> list[FileScan]:
    """Scans of a file or a folder.

    A file is a scan. So is each file right in a folder that has the suffix of a volume. Where there is none, so is
    each folder of DICOM slices, at any depth.

    Raises
    ------
    ScanError
        If there is nothing there, or two scans would have one name.
    """
    if path.is_file():
        return [FileScan(stem(path.name), path)]
    if not path.is_dir():
        raise ScanError(f"{path}: no such file or folder")
    volumes = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".") and _is_volume(p)]
    scans = [FileScan(stem(p.name), p) for p in volumes] or _dicom_folders(path)
    if not scans:
        raise ScanError(f"{path}: holds no scan: neither files named {', '.join(SUFFIXES)} nor DICOM slices")
    names = [scan.name for scan in scans]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ScanError(f"{path}: several scans are called {', '.join(twice)}; predict them one by one")
    return scans


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _dicom_folders(folder: Path) -> list[FileScan]:
    """Folders right in which at least one file is DICOM; patient/study/series is called patient_study_series."""
    found = []
    for place, names in walked(folder):
        if any(expected_dicom(folder / place / name) for name in names):
            name = place.rstrip("/").replace("/", "_")
            found.append(FileScan(name or folder.resolve().name or "scan", folder / place))
    return found


def corpus_scans(corpus: Corpus, case_ids: Sequence[str] = ()) -> list[CaseScan]:
    """Cases of a corpus: those named, else all."""
    return [CaseScan(str(case_id), corpus) for case_id in (case_ids or corpus.cases.case_id)]


def stem(name: str) -> str:
    """File name without the suffix of its format: ct for ct.nii.gz."""
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    kept = name[: len(name) - len(suffix)]
    return kept if kept.strip(".") else name  # it becomes the name of a folder


def made_header(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Nifti1Header:
    """Header of a mask whose input has no NIfTI header."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(affine, SCANNER)
    header.set_sform(affine, SCANNER)
    header.set_xyzt_units("mm")
    return header


def mask_header(frame: Frame, dtype: np.dtype[Any]) -> Nifti1Header:
    """Header of a mask of the scan: little endian, no extensions, its numbers the labels themselves."""
    header = frame.header.as_byteswapped("<")
    header.set_data_dtype(dtype)
    for field, value in MASK_FIELDS.items():
        header[field] = value
    header["vox_offset"] = header.single_vox_offset
    return header


def _digest(path: Path) -> str:
    files = slices_in(path) if path.is_dir() else [path]
    try:
        digests = [_file_digest(file) for file in files]
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digests[0] if path.is_file() else hashlib.sha256("".join(digests).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LOADING = (AtlasError, OSError, MemoryError)
"""What a scan that cannot be used raises."""
