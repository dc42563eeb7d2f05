"""What reading patches of a case needs to know of it: a few kilobytes, made from its JSON documents."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from atlas.corpus import layout
from atlas.corpus.layout import WORD
from atlas.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CT, CODES, FOREGROUND = layout.CT, layout.CODES, layout.FOREGROUND
DOCUMENTS = ("zarr.json", *(f"{name}/zarr.json" for name in (layout.MASKS, CT, CODES, FOREGROUND)))
"""Documents of a case, below its group."""

LARGEST_LIST = 1 << 24
"""Listed voxels that are still believed."""

LARGEST, MOST_BITS = 1 << 34, 1 << 12
"""Voxels of a volume, and bits of a bitmask, that are still believed."""


@dataclass(frozen=True)
class OpenCase:
    """A case whose patches can be read.

    Attributes
    ----------
    case_id
        <dataset>/<source case>.
    shape
        (z, y, x).
    affine
        float64 (4, 4): (x, y, z) voxel indices to RAS mm.
    table
        uint32 (codes, 2, words): the classes (0) and the unknown classes (1) at voxels of each code.
    available
        uint32 (words,).
    arrays
        zarr.json of the CT, the codes and the foreground list, by their path below the case.
    spans
        Class -> first and last + 1 row of its voxels in `voxels`.
    voxels
        uint16 (n, 3), (z, y, x): voxels of each class, to aim patches at.
    """

    case_id: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    table: NDArray[np.uint32]
    available: NDArray[np.uint32]
    arrays: Mapping[str, Mapping[str, Any]]
    spans: Mapping[str, tuple[int, int]]
    voxels: NDArray[np.uint16]

    @property
    def codes_dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """uint8, or uint16 past 256 codes."""
        dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype(self.arrays[CODES]["data_type"])
        return dtype

    @property
    def nbytes(self) -> int:
        """Memory it takes, about; for caches that hold so many bytes."""
        return 4000 + self.table.nbytes + self.voxels.nbytes + 200 * len(self.spans)

    def target(self, name: str, fraction: float) -> NDArray[np.uint16]:
        """One of the stored voxels of a class, (z, y, x); `fraction` in [0, 1) says which.

        Raises
        ------
        CorpusError
            If there is none, although the catalog says that the class is present.
        """
        first, last = self.spans.get(name, (0, 0))
        if first == last:
            raise CorpusError(
                f"{self.case_id}: the catalog says that {name} is present, but the case holds no voxel of it; "
                "the catalog is out of step, make it again with: atlas verify CORPUS --rebuild-catalog"
            )
        voxel: NDArray[np.uint16] = self.voxels[first + int(fraction * (last - first))]
        return voxel


class Source(Protocol):
    """Where cases lie. One object a process; it may be called from several threads at once."""

    def open_case(self, case_id: str) -> OpenCase:
        """Read what is to be known of a case.

        Raises
        ------
        CorpusError
            If the case is not there, is damaged or cannot be reached.
        """

    def read(self, case: OpenCase, origin: tuple[int, int, int], ct: NDArray[np.int16], codes: NDArray[Any]) -> None:
        """Fill both (z, y, x) patches, whose first voxel is `origin` of the case; only voxels inside are written.

        `codes` has the case's own dtype. Both are C-contiguous.

        Raises
        ------
        CorpusError
            If the case is not there any more, is damaged or cannot be reached.
        """


def parse_case(case_id: str, documents: Mapping[str, bytes], voxels: NDArray[np.uint16] | None = None) -> OpenCase:
    """Case out of its `DOCUMENTS`, without its voxel list if that is not given yet.

    Raises
    ------
    CorpusError
        If they are not what a case of a corpus has.
    """
    try:
        group, packed, *arrays = (json.loads(documents[name]) for name in DOCUMENTS)
        record, tables = group["attributes"]["atlas"], packed["attributes"]["atlas"]
        masks = [_bits(m) for m in (record["available"], *tables["bitmasks"], *tables["unknown"])]
        words = max(1, -(-max(masks).bit_length() // WORD))
        available, *table = (words_of(m, words) for m in masks)
        codes = len(tables["bitmasks"])
        spans = arrays[2]["attributes"]["atlas"]["classes"]
        case = OpenCase(
            case_id=case_id,
            shape=_shape(record["shape"], arrays[0], arrays[1]),
            affine=np.array(record["affine"], float).reshape(4, 4),
            table=np.array(table, np.uint32).reshape(2, codes, words).swapaxes(0, 1).copy(),
            available=np.array(available, np.uint32),
            arrays=dict(zip((CT, CODES, FOREGROUND), arrays, strict=True)),
            spans={name: (int(first), int(last)) for name, (first, last) in spans.items()},
            voxels=np.zeros((0, 3), np.uint16) if voxels is None else voxels,
        )
        _check_spans(case.spans, arrays[2]["shape"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CorpusError(f"{case_id}: the case is damaged ({error!r}); build it again") from error
    return case


def words_of(bitmask: int, words: int) -> list[int]:
    """A bitmask as so many 32-bit words, the lowest first."""
    return [bitmask >> WORD * w & (1 << WORD) - 1 for w in range(words)]


def same(one: OpenCase, other: OpenCase) -> bool:
    """Whether two openings of a case, perhaps in two processes, found the same."""
    return one is other or (
        one.arrays == other.arrays
        and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("affine", "table", "available", "voxels"))
    )


def _bits(bitmask: str) -> int:
    """Number of a hexadecimal bitmask."""
    number = int(bitmask, 16)
    if number < 0 or number.bit_length() > MOST_BITS:
        raise ValueError(f"bitmask {bitmask:.40}")
    return number


def _shape(shape: list[int], ct: Mapping[str, Any], codes: Mapping[str, Any]) -> tuple[int, int, int]:
    z, y, x = (int(n) for n in shape)
    if not ct["shape"] == codes["shape"] == [z, y, x] or min(z, y, x) < 1 or z * y * x > LARGEST:
        raise ValueError(f"shapes {shape}, {ct['shape']} and {codes['shape']} do not belong together")
    if ct["data_type"] != "int16" or codes["data_type"] not in {"uint8", "uint16"}:
        raise ValueError(f"types {ct['data_type']} and {codes['data_type']}")
    return z, y, x


def _check_spans(spans: Mapping[str, tuple[int, int]], shape: list[int]) -> None:
    for name, (first, last) in spans.items():
        if not 0 <= first <= last <= shape[0]:
            raise ValueError(f"voxels of {name}: {first} to {last} of {shape[0]}")


def inside(
    shape: tuple[int, int, int], origin: tuple[int, int, int], patch: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part of a patch that lies inside the volume: where in the volume, and where in the patch."""
    volume, within = [], []
    for n, first, size in zip(shape, origin, patch, strict=True):
        start, stop = min(max(first, 0), n), max(min(first + size, n), 0)
        volume.append(slice(start, stop))
        within.append(slice(start - first, stop - first))
    return tuple(volume), tuple(within)
