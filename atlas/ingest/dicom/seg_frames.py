"""The stored frames of a segmentation object, fetched from its file one at a time.

The frames of a BINARY object are a stream of bits: a frame may begin in the middle of a byte. Unpacking and
decompressing are highdicom's.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import UID, ImplicitVRLittleEndian

from atlas.errors import ScanError
from atlas.ingest.dicom.header import NATIVE
from atlas.ingest.dicom.references import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_BITS = (1, 8, 16)
_PIXEL_DATA = b"\xe0\x7f\x10\x00"


@contextmanager
def opened_frames(path: Path, header: Dataset) -> Iterator[Callable[[int], NDArray[np.unsignedinteger]]]:
    """Open a file to read its frames, (rows, columns), by their number from 0.

    Parameters
    ----------
    path
        A DICOM file with one sample a pixel.
    header
        What pydicom read of it.

    Raises
    ------
    ScanError
        If highdicom is missing, or the frames are stored in a way that cannot be read.
    """
    with ExitStack() as stack:
        with naming(path):
            decode = _decoder(header)
            file = stack.enter_context(path.open("rb"))
            offset = _offset(file)

        def frame(index: int) -> NDArray[np.unsignedinteger]:
            return decode(_stored(file, offset, header, index), index)

        yield frame


def _decoder(header: Dataset) -> Callable[[bytes, int], NDArray[np.unsignedinteger]]:
    try:
        from highdicom.frame import decode_frame
    except ImportError as error:
        raise ScanError("DICOM-SEG needs highdicom: pip install 'atlas-corpus[segmentations]'") from error
    syntax, bits = _syntax(header), int(header.BitsAllocated)
    if syntax == _BIG_ENDIAN or bits not in _BITS or int(header.get("SamplesPerPixel", 1)) != 1:
        raise ScanError(f"stores {bits} bits a pixel in {syntax.name}, which no segmentation does. Fetch it again")

    def decode(stored: bytes, index: int) -> NDArray[np.unsignedinteger]:
        try:
            frame: NDArray[np.unsignedinteger] = decode_frame(
                stored,
                transfer_syntax_uid=syntax,
                rows=header.Rows,
                columns=header.Columns,
                samples_per_pixel=1,
                bits_allocated=bits,
                bits_stored=header.get("BitsStored", bits),
                photometric_interpretation=header.get("PhotometricInterpretation", "MONOCHROME2"),
                pixel_representation=0,
                index=index,
            )
        except (ImportError, RuntimeError) as error:
            raise ScanError(
                f"its frames are compressed ({syntax.name}) and cannot be decompressed: {str(error)[:300]}. "
                "Install what is missing (pip install 'pylibjpeg[all]'), or decompress it with DCMTK's dcmconv"
            ) from error
        if frame.shape != (header.Rows, header.Columns):
            raise ScanError(f"frame {index + 1} is of shape {frame.shape}, not {header.Rows} x {header.Columns}")
        return frame

    return decode


def _syntax(header: Dataset) -> UID:
    return UID(getattr(header, "file_meta", {}).get("TransferSyntaxUID") or ImplicitVRLittleEndian)


def _offset(file: IO[bytes]) -> int:
    """Where in the file the pixel data begin."""
    pydicom.dcmread(file, stop_before_pixels=True, force=True)
    start = file.read(12)
    if not start.startswith(_PIXEL_DATA):
        raise ScanError("holds no pixels. Fetch it again")
    # after the tag: type, two bytes of nothing and the length, or the length alone (PS3.5 7.1)
    return file.tell() if start[4:6] in {b"OB", b"OW", b"UN"} else file.tell() - 4


def _stored(file: IO[bytes], offset: int, header: Dataset, index: int) -> bytes:
    """Bytes of a frame as stored; for bits, all bytes that hold any of its."""
    if _syntax(header) not in NATIVE:
        file.seek(offset)
        frame: bytes = get_frame(
            file, index, number_of_frames=int(header.NumberOfFrames), extended_offsets=_extended(header)
        )
        return frame
    bits = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated)
    begin, end = index * bits // 8, ((index + 1) * bits + 7) // 8
    file.seek(offset + begin)
    stored = file.read(end - begin)
    if len(stored) < end - begin:
        raise ScanError(f"ends in the middle of frame {index + 1} of {header.NumberOfFrames}. Fetch it again")
    return stored


def _extended(header: Dataset) -> tuple[bytes, bytes] | None:
    offsets, lengths = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    return (offsets, lengths) if offsets and lengths else None
