"""Open one MetaImage (.mha, .mhd) or NRRD (.nrrd, .nhdr) file through SimpleITK.

The header's text is looked at before ITK sees it, for what ITK does not mind: a header may name any file of
the computer as its data; ITK takes an unknown frame of reference for LPS; and it hands out unfinished memory
where compressed MetaImage data is damaged. Sheared axes ITK passes on as they are in these formats, for the
caller to check.
"""

import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from atlas.errors import GeometryError, ScanError
from atlas.ingest.bytestream import DEFLATE_LIMIT, InflatedStream
from atlas.ingest.values import Stored, number_type, volume_shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

META_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd", ".nhdr")

_MOST_HEADER_BYTES = 1 << 16
_LPS_TO_RAS = np.array([[-1.0], [-1.0], [1.0]])
_META_DIMENSIONS = {"1", "2", "3", "4", "5"}
_META_DIRECTIONS = {"TransformMatrix", "Rotation", "Orientation"}
_NRRD_FRAMES = (
    "left-posterior-superior",
    "right-anterior-superior",
    "left-anterior-superior",
    "LPS",
    "RAS",
    "LAS",
)


@contextmanager
def opened(path: "Path", *, placed: bool = True) -> "Iterator[Stored]":
    """Open a MetaImage or NRRD file, check its header, and make ready to hand out its voxels.

    ITK holds the whole stored volume meanwhile: twice the memory that a NIfTI file takes.

    Parameters
    ----------
    path
        A .mha, .mhd, .nrrd or .nhdr file.
    placed
        Whether it matters where the volume lies; if not, the affine is the identity.

    Raises
    ------
    ScanError
        If the file is not a readable volume, or its header points out of its folder.
    GeometryError
        If the header does not say where the volume lies.
    """
    meta = path.suffix.lower() in META_SUFFIXES
    try:
        header = _meta_header(path) if meta else _nrrd_header(path, placed=placed)
        image, shape = _read(path, "MetaImageIO" if meta else "NrrdImageIO", header)
    except OSError as error:
        raise ScanError(f"cannot be read: {error.strerror or error}") from error
    voxels: NDArray[Any] = sitk.GetArrayViewFromImage(image).reshape(-1)  # a view, i fastest
    dtype = number_type(voxels.dtype)
    affine = _affine(image) if placed else np.eye(4)
    yield Stored(shape, dtype, 1.0, 0.0, affine, header.notes, _Cursor(voxels).fill)


class _Cursor:
    """Hands out an array from front to back."""

    def __init__(self, voxels: "NDArray[Any]") -> None:
        self._voxels = voxels
        self._position = 0

    def fill(self, target: "NDArray[Any]") -> None:
        end = self._position + len(target)
        target[:] = self._voxels[self._position : end]
        self._position = end


@dataclass(frozen=True)
class _Header:
    """What the text of a header says about the data.

    Parameters
    ----------
    data
        The file that holds it.
    start
        Its first byte there.
    ratio
        Bytes of voxels that one byte of the file can make, at most.
    unchecked
        Whether ITK would not notice damaged compressed data.
    notes
        Sentences about what was odd but usable.
    """

    data: "Path"
    start: int
    ratio: int
    unchecked: bool
    notes: tuple[str, ...] = ()


def _meta_header(path: "Path") -> _Header:
    fields, end = _meta_fields(_text(path))
    if fields.get("NDims") not in _META_DIMENSIONS:  # more overrun ITK's memory and end the process
        raise ScanError(f"claims {fields.get('NDims', 'no')} dimensions; a volume has 3. Fetch the file again")
    local = fields["ElementDataFile"].upper() == "LOCAL"
    data = path if local else _beside(path, fields["ElementDataFile"])
    start = end if local else 0
    compressed = _true(fields.get("CompressedData"))
    size = data.stat().st_size - start
    declared = fields.get("CompressedDataSize", "no" if local else str(size))
    if compressed and declared != str(size):  # ITK would hand out unfinished memory
        raise ScanError(
            f"its header promises {declared} bytes of compressed data, there are {size}; the file is "
            "incomplete or damaged. Fetch it again"
        )
    note = "header has no TransformMatrix: axes taken to run left, posterior, superior"
    return _Header(
        data=data,
        start=start,
        ratio=1 if _true(fields.get("BinaryData")) and not compressed else DEFLATE_LIMIT,
        unchecked=compressed,
        notes=() if fields.keys() & _META_DIRECTIONS else (note,),
    )


def _meta_fields(text: str) -> tuple[dict[str, str], int]:
    """Split a MetaImage header into its fields; also tell where it ends, for there the data may follow."""
    fields: dict[str, str] = {}
    end = 0
    for line in text.split("\n"):
        end += len(line) + 1
        name, _, value = (part.strip() for part in re.sub("[=:]", "\0", line, count=1).partition("\0"))
        # a field given twice means both, so that none hides from the checks what ITK sees
        fields[name] = f"{fields[name]} {value}" if name in fields else value
        if name == "ElementDataFile":
            return fields, end
    raise ScanError("is not a MetaImage: its header has no ElementDataFile. Fetch the file again")


def _true(value: str | None) -> bool:
    return value is not None and value[:1] in {"T", "t", "1"}


def _nrrd_header(path: "Path", *, placed: bool) -> _Header:
    text = _text(path)
    if not text.startswith("NRRD"):
        raise ScanError(f"is not an NRRD file: it begins with {text[:8]!r}. Fetch it again")
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if not line:  # data follows
            break
        name, colon, value = line.partition(":")
        if colon and not value.startswith("="):  # `name:=value` is free text
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    space = fields.get("space", "")
    if placed and space.lower().removesuffix("-time") not in {frame.lower() for frame in _NRRD_FRAMES}:
        raise GeometryError(
            f"its header gives {space!r} as the space, so which way the axes run in the patient is unknown. "
            f"Write the true one into the header: {', '.join(_NRRD_FRAMES[:3])}"
        )
    data = _beside(path, fields["datafile"]) if "datafile" in fields else path
    return _Header(data, start=0, ratio=DEFLATE_LIMIT, unchecked=False)


def _text(path: "Path") -> str:
    """Read the beginning of a file as text, a character a byte."""
    with path.open("rb") as file:
        return file.read(_MOST_HEADER_BYTES).decode("latin-1")


def _beside(path: "Path", name: str) -> "Path":
    """Find the data file of a header: one plain name in the same folder, since headers are not trusted."""
    plain = name and name not in {".", ".."} and not re.search(r"[/\\%\0]", name)
    if not plain or name.upper().startswith("LIST"):
        raise ScanError(
            f"its header names {name!r} as the data; only one plain file name in the same folder is "
            "followed. Write the volume as a single file"
        )
    data = path.with_name(name)
    if not data.is_file():
        raise ScanError(f"its header names {name!r} as the data, but there is no such file beside it")
    return data


def _read(path: "Path", image_io: str, header: _Header) -> tuple[sitk.Image, tuple[int, int, int]]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(image_io)
    try:
        reader.ReadImageInformation()
        shape = _shape(reader)
        voxel = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
        _check_data(header, math.prod(shape) * voxel)
        return reader.Execute(), shape
    except RuntimeError as error:
        raise ScanError(f"ITK cannot read it ({_reason(error)}). Fetch the file again") from error


def _shape(reader: sitk.ImageFileReader) -> tuple[int, int, int]:
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    components = reader.GetNumberOfComponents()
    if components != 1 or "complex" in kind:
        raise ScanError(
            f"stores a {kind} of {components} components in each voxel, not one real number. Convert the file"
        )
    return volume_shape(reader.GetSize())


def _check_data(header: _Header, need: int) -> None:
    """Refuse data that is missing or damaged, before ITK sets memory aside for it."""
    size = header.data.stat().st_size - header.start
    if need > size * header.ratio:
        raise ScanError(
            f"the header promises {need} bytes of voxels, but the {size} bytes of data hold at most "
            f"{size * header.ratio}; the file is incomplete or its header is damaged. Fetch it again"
        )
    if header.unchecked:
        with header.data.open("rb", buffering=0) as file:
            file.seek(header.start)
            stream = InflatedStream(file, size)
            stream.skip(need)
            if more := stream.finish():  # ITK would hand out unfinished memory
                raise ScanError(
                    f"its compressed data inflates to {need + more} bytes, its header promises {need}; one of "
                    "them is damaged. Fetch the file again"
                )


def _affine(image: sitk.Image) -> "NDArray[np.float64]":
    """Turn ITK's LPS geometry into (i, j, k) -> RAS mm; of a 4-D image, the spatial part."""
    n = image.GetDimension()
    direction = np.array(image.GetDirection()).reshape(n, n)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS * direction * np.array(image.GetSpacing()[:3])
    affine[:3, 3] = _LPS_TO_RAS[:, 0] * np.array(image.GetOrigin()[:3])
    return affine


def _reason(error: RuntimeError) -> str:
    """Shorten ITK's message to what went wrong."""
    told = str(error).rpartition("ERROR:")[2]
    return " ".join(re.sub(r"\w+\(0x[0-9a-f]+\):", "", told).split())[:300]
