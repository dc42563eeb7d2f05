"""Volumes in NIfTI files as a publisher stores them: axes, affine codes, number formats."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from atlas.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.phantom.solids import Floats, Vector
    from atlas.spec.files import Storage

Field = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
"""Box that a scan shows: from and to along x, y, z (RAS mm)."""

_AXES = ("LR", "PA", "IS")
_SCANNER = 1
"""NIfTI code of a position in the scanner's own coordinates."""


def storage_grid(field: Field, spacing: Vector, orientation: str) -> tuple[tuple[int, int, int], Floats]:
    """Lay a voxel grid over a field of view.

    Parameters
    ----------
    field : tuple
        What the scan shows (RAS mm).
    spacing : tuple of float
        Along x, y, z (mm), whatever the order of the axes in the file.
    orientation : str
        Where the file's axes point: "LPS".

    Returns
    -------
    shape : tuple of int
        Voxels along the file's axes.
    affine : ndarray, (4, 4)
        Indices along the file's axes to RAS mm.
    """
    shape, affine = [0, 0, 0], np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(orientation):
        row = next(i for i, ends in enumerate(_AXES) if code in ends)
        (low, high), step = field[row], spacing[row]
        shape[axis] = max(1, round((high - low) / step))
        forward = code == _AXES[row][1]
        affine[row, axis] = step if forward else -step
        affine[row, 3] = low + step * (0.5 if forward else shape[axis] - 0.5)
    return (shape[0], shape[1], shape[2]), affine


def header(shape: tuple[int, int, int], affine: Floats, storage: Storage) -> nib.Nifti1Header:
    """Header with the position where the publisher writes it: sform, qform or both.

    A header holds float32 (and quaternions), so `header(...).get_best_affine()` is what a reader will see.
    """
    made = nib.Nifti1Header()
    made.set_data_shape(shape)
    made.set_xyzt_units("mm")
    made.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    if storage.affine in ("both", "sform"):
        made.set_sform(affine, _SCANNER)
    if storage.affine in ("both", "qform"):
        made.set_qform(affine, _SCANNER)
    return made


def encoded(labels: NDArray[np.integer], dtype: str) -> tuple[NDArray[np.generic], tuple[float, float]]:
    """Labels in a publisher's number format: stored numbers, and the slope and intercept that decode them."""
    if dtype == "scaled_int8":
        stored = np.where(labels > 0, 127, -128).astype(np.int8)
        return stored, (float(np.float32(1 / 255)), float(np.float32(128 / 255)))
    return labels.astype(dtype), (1.0, 0.0)


def save(
    path: Path, stored: NDArray[np.generic], base: nib.Nifti1Header, scale: tuple[float, float] = (1.0, 0.0)
) -> None:
    """Write a NIfTI file, always with the same bytes for the same content.

    Raises
    ------
    SpecError
        If the name is not that of a NIfTI file.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise SpecError(f"phantoms are written as .nii or .nii.gz, not as {path.name}")
    own = base.copy()
    own.set_data_dtype(stored.dtype)
    image = nib.Nifti1Image(stored, None, own)
    image.header.set_slope_inter(*scale)  # an image forgets the scale of the header that it is made from
    content = image.to_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, compresslevel=1, mtime=0) if path.suffix == ".gz" else content)
