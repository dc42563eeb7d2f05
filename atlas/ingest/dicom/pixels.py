"""Hounsfield units of CT slices: decoded by GDCM through SimpleITK, file by file, into one volume.

GDCM decodes every transfer syntax in use and rescales. What it does not mind, or does otherwise, is seen to
here: it fills a truncated file with zeros, it inverts MONOCHROME1 before it rescales (HU are about the stored
values, however a screen should show them), and it rescales all frames of a file alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from atlas.errors import ScanError
from atlas.ingest.dicom.header import BIG_ENDIAN, IMPLICIT, NATIVE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from atlas.ingest.dicom.frames import Frame
    from atlas.ingest.dicom.header import Header

AIR = -1000
"""HU."""

PADDED = -1024
"""HU of what the scanner did not see: the least that the corpus holds."""

_END_OF_FRAMES = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_TAIL = 1 << 16


def read_frames(
    frames: Sequence[tuple[Header, Frame]], shape: tuple[int, int, int]
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read slices, in the order given, into one volume.

    Parameters
    ----------
    frames
        A file and one of its frames for each slice; both checked.
    shape
        (i, j, k): columns, rows, slices.

    Returns
    -------
    tuple
        (i, j, k), i fastest in memory, HU: int16 where all slopes and intercepts are whole numbers (what is
        beyond its range saturates), else float32; and sentences about what was odd.

    Raises
    ------
    ScanError
        If a file is incomplete or cannot be decoded.
    """
    whole = all(float(number).is_integer() for _, f in frames for number in (f.slope, f.inter) if number is not None)
    out: NDArray[Any] = np.empty(shape, np.int16 if whole else np.float32, order="F")
    planes = out.T  # (k, rows, columns), each slice in one piece
    wanted: dict[Path, list[tuple[int, Header, Frame]]] = {}
    for k, (header, frame) in enumerate(frames):
        wanted.setdefault(header.path, []).append((k, header, frame))
    padded = 0
    for places in wanted.values():
        image = _decoded(places[0][1])
        decoded = sitk.GetArrayViewFromImage(image)  # valid as long as `image` lives
        for k, header, frame in places:
            hu = _hounsfield(decoded[frame.number], header, frame)
            planes[k] = _saturated(hu) if whole else hu
            padded += _clear_padding(planes[k], header, frame)
    note = f"padding above air: {padded} voxels at the edges of slices set to {PADDED} HU"
    return out, ((note,) if padded else ())


def stored_values(header: Header) -> NDArray[np.int64]:
    """Read the numbers of a file as they are stored, whatever they mean: (frame, row, column).

    Raises
    ------
    ScanError
        If the file is incomplete or cannot be decoded.
    """
    return _unscaled(sitk.GetArrayFromImage(_decoded(header)), header).astype(np.int64)


def _decoded(header: Header) -> sitk.Image:
    """All frames of a file, rescaled as GDCM does."""
    check_complete(header)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(header.path))
    reader.SetImageIO("GDCMImageIO")
    try:
        image = reader.Execute()
    except RuntimeError as error:
        told = " ".join(str(error).rpartition("ERROR:")[2].split())[:200]
        raise ScanError(f"{header.path}: GDCM cannot decode it ({told}). Fetch it again") from error
    found, expected = tuple(image.GetSize()), (header.columns, header.rows, len(header.frames))
    if found != expected or image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"{header.path}: its pixels are {found}, its header says {expected}. Fetch it again")
    return image


def check_complete(header: Header) -> None:
    """Refuse a file that ends before its pixels do.

    Raises
    ------
    ScanError
        If bytes are missing.
    """
    if header.transfer_syntax in ("", *NATIVE):
        need = header.rows * header.columns * header.samples * header.bits * len(header.frames) // 8
        missing = need - _native_bytes(header)
        if missing > 0:
            raise ScanError(f"{header.path}: its pixels need {need} bytes, {missing} are missing. Fetch it again")
        return
    with header.path.open("rb") as file:
        file.seek(max(header.pixels_at, header.bytes - _TAIL))
        if _END_OF_FRAMES not in file.read(_TAIL):
            raise ScanError(f"{header.path}: its compressed pixels have no end; it is incomplete. Fetch it again")


def _native_bytes(header: Header) -> int:
    """Bytes of pixels that are there: as many as the element says it has, unless the file ends before."""
    start = 8 if header.transfer_syntax in ("", IMPLICIT) else 12  # tag, type, and four bytes of length at the end
    with header.path.open("rb") as file:
        file.seek(header.pixels_at)
        length = file.read(start)[-4:]
    order: Literal["little", "big"] = "big" if header.transfer_syntax == BIG_ENDIAN else "little"
    return min(int.from_bytes(length, order), header.bytes - header.pixels_at - start)


def _hounsfield(plane: NDArray[Any], header: Header, frame: Frame) -> NDArray[Any]:
    """HU of a frame out of what GDCM made of it."""
    if header.photometric != "MONOCHROME1" and header.decoder_rescale == (frame.slope, frame.inter):
        return plane
    return np.asarray((frame.slope or 1.0) * _unscaled(plane, header) + (frame.inter or 0.0))


def _unscaled(decoded: NDArray[Any], header: Header) -> NDArray[np.float64]:
    """Stored numbers out of what GDCM made of them."""
    slope, inter = header.decoder_rescale
    if slope == 0:
        raise ScanError(f"{header.path}: its RescaleSlope is 0, so all its pixels are one. Fetch it again")
    stored = np.rint((decoded.astype(np.float64) - inter) / slope)
    if header.photometric == "MONOCHROME1":
        stored = (-1 if header.signed else 2**header.bits_stored - 1) - stored
    return stored


def _saturated(hu: NDArray[Any]) -> NDArray[Any]:
    limits = np.iinfo(np.int16)
    if hu.dtype == np.int16:
        return hu
    clipped: NDArray[Any] = np.clip(np.rint(hu) if hu.dtype.kind == "f" else hu, limits.min, limits.max)
    return clipped


def _clear_padding(plane: NDArray[Any], header: Header, frame: Frame) -> int:
    """Turn padding that looks like tissue into air; tell how many pixels that were.

    Only pixels of the padding value that reach the edge of the slice are padding: the same value inside the
    patient is tissue.
    """
    if header.padding is None or frame.slope is None or frame.inter is None:
        return 0
    low, high = sorted(frame.slope * value + frame.inter for value in header.padding)
    if high <= AIR:
        return 0
    half = abs(frame.slope) / 2  # float32 rounds
    regions, _ = ndimage.label((plane > low - half) & (plane < high + half))
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    outside = np.isin(regions, edge[edge > 0])
    plane[outside] = PADDED
    return int(outside.sum())
