"""Open one NIfTI-1 or NIfTI-2 file (.nii, .nii.gz): header by nibabel, voxels as a stream.

nibabel knows the header exactly but reads scaled data by way of a float64 copy; ITK reads fast but squares up
sheared axes in silence. So the header is nibabel's, and the voxels go straight into the caller's memory.
Headers are not trusted: every field is checked before it is used.
"""

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from atlas.errors import GeometryError, ScanError
from atlas.ingest import bytestream
from atlas.ingest.geometry import AffineSource, largest_distance
from atlas.ingest.values import Stored, number_type, volume_shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.ingest.bytestream import ByteStream

_CLASSES = {348: Nifti1Header, 540: Nifti2Header}
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by xyzt_units & 7: unknown, metre, millimetre, micron
_UNIT_BITS = 7
_MOST_DIMENSIONS = 7
_QUATERNION_SLACK = 1e-4


@contextmanager
def opened(path: "Path", source: AffineSource | None) -> "Iterator[Stored]":
    """Open a NIfTI file, check its header, and leave the voxels to be read.

    Parameters
    ----------
    path
        A .nii or .nii.gz file.
    source
        Which affine counts; None: neither, the result's is the identity.

    Raises
    ------
    ScanError
        If the file is not a readable volume. On leaving the context too, if its checksum is wrong.
    GeometryError
        If the header does not say where the volume lies, or says two things.
    """
    with bytestream.opened(path) as stream:
        header = _header(stream)
        shape = volume_shape(_sizes(header))
        dtype = _number_type(header)
        slope, inter = _scaling(header)
        start = _data_offset(header)
        stream.expect(start + math.prod(shape) * dtype.itemsize)
        affine = np.eye(4) if source is None else _affine(header, shape, source)
        stream.skip(start - stream.position)
        yield Stored(shape, dtype, slope, inter, affine, (), stream.fill)
        stream.finish()


def read_header(path: "Path") -> Nifti1Header:
    """Read the header of a NIfTI file as it is, without extensions; unlike `opened`, it checks no field.

    Raises
    ------
    ScanError
        If the file is no NIfTI file.
    """
    with bytestream.opened(path) as stream:
        return _header(stream)


def _header(stream: "ByteStream") -> Nifti1Header:
    """Read the fixed part of the header; extensions are left unread."""
    first = np.zeros(4, np.uint8)
    stream.fill(first)
    for order in "<>":
        size = int(first.view(f"{order}i4")[0])
        if size in _CLASSES:
            break
    else:
        raise ScanError(f"is not a NIfTI file: it begins with the bytes {first.tobytes()!r}. Fetch it again")
    rest = np.zeros(size - len(first), np.uint8)
    stream.fill(rest)
    # nibabel's own check would mend odd fields in silence; each is checked here where it is used
    header = _CLASSES[size](first.tobytes() + rest.tobytes(), endianness=order, check=False)
    magic = header["magic"].item()
    if magic not in (Nifti1Header.single_magic, Nifti2Header.single_magic):
        pair = magic in (Nifti1Header.pair_magic, Nifti2Header.pair_magic)
        kind = "one half of a .hdr/.img pair" if pair else f"no NIfTI file (its magic is {magic!r})"
        raise ScanError(f"is {kind}; only single .nii and .nii.gz files are read. Convert it")
    return header


def _sizes(header: Nifti1Header) -> list[int]:
    dimensions = int(header["dim"][0])
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ScanError(f"claims {dimensions} dimensions (1 to {_MOST_DIMENSIONS} are possible); it is damaged")
    return [int(size) for size in header["dim"][1 : dimensions + 1]]


def _number_type(header: Nifti1Header) -> "np.dtype[Any]":
    try:
        return number_type(header.get_data_dtype())
    except (HeaderDataError, KeyError) as error:
        code = int(header["datatype"])
        raise ScanError(f"stores voxels of an unknown type (datatype {code}); convert the file") from error


def _scaling(header: Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 or NaN means none, as the standard and nibabel have it."""
    try:
        slope, inter = header.get_slope_inter()
    except HeaderDataError as error:
        raise ScanError(f"its scaling cannot be used: {error}. Correct the header") from error
    return (1.0, 0.0) if slope is None else (slope, inter)


def _data_offset(header: Nifti1Header) -> int:
    least = int(header.single_vox_offset)
    offset = float(header["vox_offset"])
    if offset == 0:
        return least
    if not least <= offset <= np.iinfo(np.int64).max:
        raise ScanError(f"says its voxels begin at byte {offset:g}, inside or outside of what is possible")
    return int(offset)


def _affine(header: Nifti1Header, shape: tuple[int, int, int], source: AffineSource) -> "NDArray[np.float64]":
    """Choose between sform and qform. Both set and both heeded: no corner may move by half a voxel."""
    coded: list[AffineSource] = [name for name in ("sform", "qform") if header[f"{name}_code"] > 0]
    if not coded:
        raise GeometryError(
            "its header has neither sform nor qform (both codes are 0): position and orientation are "
            "unknown. Write the true affine into the header, or leave the case out in the manifest"
        )
    if source != "agree" and source not in coded:
        raise GeometryError(
            f"the manifest says `affine: {source}`, but this header has only the {coded[0]}; "
            f"say `affine: {coded[0]}` or `affine: agree`"
        )
    if source != "agree":
        return _form(header, source)
    first, *others = (_form(header, name) for name in coded)
    for other in others:
        spacing = np.linalg.norm(first[:3, :3], axis=0)
        moved = largest_distance(first, other, shape)
        if not moved <= spacing.min() / 2:  # so that NaN counts as disagreement
            raise GeometryError(
                f"sform and qform disagree: they put a corner of the volume {moved:.3g} mm apart (allowed is "
                f"half the smallest voxel step, {spacing.min() / 2:.3g} mm). "
                "Find out which is right and say `affine: sform` or `affine: qform` in the manifest"
            )
    return first


def _form(header: Nifti1Header, name: str) -> "NDArray[np.float64]":
    """Give the sform or the qform in millimetres."""
    try:
        with np.errstate(all="ignore"):
            form = header.get_sform() if name == "sform" else _with_usable_quaternion(header).get_qform()
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(
            f"its {name} is not valid ({error}). Correct the header, or, if the other affine is right, say "
            "so in the manifest (`affine: sform` or `affine: qform`)"
        ) from error
    affine = np.array(form, dtype=np.float64)
    affine[:3] *= _millimetres(header)
    return affine


def _with_usable_quaternion(header: Nifti1Header) -> Nifti1Header:
    """Allow what the reference implementation allows: a quaternion a rounding error too long, and no qfac."""
    header = header.copy()
    parts = [float(header[f"quatern_{part}"]) for part in "bcd"]
    length = math.hypot(*parts)
    if 1 < length <= 1 + _QUATERNION_SLACK:
        for part, value in zip("bcd", parts, strict=True):
            # towards zero, so that rounding to the header's precision cannot lengthen it again
            header[f"quatern_{part}"] = value / length * (1 - 1e-7)
    header["pixdim"][0] = -1.0 if header["pixdim"][0] < 0 else 1.0
    return header


def _millimetres(header: Nifti1Header) -> float:
    unit = int(header["xyzt_units"]) & _UNIT_BITS
    if unit not in _MILLIMETRES:
        raise GeometryError(
            f"its unit of length has the unknown code {unit}; correct it (1 metre, 2 millimetre, 3 micron)"
        )
    return _MILLIMETRES[unit]
