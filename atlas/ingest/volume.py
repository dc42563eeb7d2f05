"""Read one volume, checked before use: the only door to the formats behind it.

Every error raised here begins with the path of the file.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError, ScanError
from atlas.ingest import geometry, itk, nifti, values
from atlas.ingest.geometry import AffineSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from atlas.ingest.values import Stored

__all__ = ["SUFFIXES", "AffineSource", "Volume", "read_ct", "read_labels"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = itk.META_SUFFIXES + itk.NRRD_SUFFIXES
SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
"""What file names may end in, in any case of letters."""


@dataclass(frozen=True)
class Volume:
    """One volume and where it lies in space.

    Parameters
    ----------
    data
        Axes (i, j, k) as stored in the file, i fastest in memory. A CT: HU, int16 where the file holds
        unscaled integers, else float32. Labels: uint8, or uint16 where one is above 255.
    affine
        (4, 4), (i, j, k) to RAS millimetres as in nibabel; the direction is orthonormal.
    warnings
        Sentences about what was odd but usable.
    """

    data: "NDArray[Any]"
    affine: "NDArray[np.float64]"
    warnings: tuple[str, ...]


def read_ct(path: Path, *, affine: AffineSource = "agree") -> Volume:
    """Read a CT.

    Parameters
    ----------
    path
        A file that ends in one of `SUFFIXES`, or a folder with one DICOM series right in it.
    affine
        Which of the two affines of a NIfTI header counts: "agree" takes either and refuses a file whose two
        contradict each other. The other formats have one affine and take no notice.

    Raises
    ------
    ScanError
        If the file cannot be read, is no volume, or has voxels that are NaN or infinite.
    GeometryError
        If its position in space is missing, contradictory or impossible.
    """
    if path.is_dir() and not path.name.lower().endswith(SUFFIXES):
        return _read_folder(path)
    return _read(path, affine, values.hounsfield)


def read_labels(path: Path, *, affine: AffineSource | None = "agree") -> Volume:
    """Read a label volume out of one file; parameters and errors as in `read_ct`.

    With `affine` None the header's position is not looked at, be it missing or absurd: the result's is the
    identity.

    Raises
    ------
    LabelError
        If a voxel is not, within 0.001, a whole number from 0 to 65535.
    """
    return _read(path, affine, values.labels)


def _read(path: Path, source: AffineSource | None, decode: "Callable[[Stored], NDArray[Any]]") -> Volume:
    with _named(path), _opened(path, source) as stored:
        # first the geometry: a file refused for it need not be read
        affine, repair = geometry.repaired(stored.affine, stored.shape) if source else (stored.affine, None)
        data = decode(stored)
    return Volume(data, affine, stored.notes if repair is None else (*stored.notes, repair))


def _read_folder(folder: Path) -> Volume:
    from atlas.ingest.dicom.series import only_series, read_series  # it makes volumes, so it imports this module
    from atlas.ingest.folders import slices_in

    with _named(folder):
        return read_series(only_series(slices_in(folder)))


@contextmanager
def _named(path: Path) -> "Iterator[None]":
    """Let every error begin with the path, or with that of a file in the folder."""
    try:
        yield
    except AtlasError as error:
        if str(error).startswith(f"{path}/"):
            raise
        raise type(error)(f"{path}: {error}") from error
    except MemoryError as error:
        raise ScanError(f"{path}: does not fit into the memory that is left. Use fewer workers") from error


def _opened(path: Path, source: AffineSource | None) -> "AbstractContextManager[Stored]":
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return nifti.opened(path, source)
    if name.endswith(ITK_SUFFIXES):
        return itk.opened(path, placed=source is not None)
    raise ScanError(f"is not of a format that can be read; names must end in one of {', '.join(SUFFIXES)}")
