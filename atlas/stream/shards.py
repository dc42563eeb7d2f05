"""Patches out of the shards of a Zarr v3 array on a local disk, in one compiled call a shard.

A shard holds its chunks and, at its end, an index: offset and length of each chunk, and a checksum. Only the chunks
that a patch touches are read, those of a row in one go, and only what it needs of them is decoded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from atlas.stream import blosc, lz4
from atlas.stream.native import address, compiled, read_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Triple = tuple[int, int, int]

OK, UNREADABLE, DAMAGED = 0, 1, 2
ABSENT = (1 << 64) - 1
"""Offset of a chunk that is not stored: all its voxels have the fill value."""

CHECKSUM = 4
OVERHEAD = blosc.HEADER
"""Bytes by which a chunk that does not compress is longer than its voxels."""

LARGEST_CHUNK, LARGEST_ROW = 1 << 26, 1 << 28
"""Bytes of a chunk, and of the chunks of a row, for which memory is set aside."""

decode_box = blosc.decode_box


@dataclass(frozen=True)
class Sharding:
    """How an array is stored.

    Attributes
    ----------
    shard, chunk
        Voxels (z, y, x).
    dtype
        int16, uint16 or uint8.
    fill
        Value of voxels that are not stored.
    """

    shard: Triple
    chunk: Triple
    dtype: np.dtype[Any]
    fill: int

    @property
    def chunks(self) -> Triple:
        """Chunks a shard along (z, y, x)."""
        z, y, x = (s // c for s, c in zip(self.shard, self.chunk, strict=True))
        return z, y, x

    @property
    def index_bytes(self) -> int:
        """Of the index of a shard, with its checksum."""
        return 16 * math.prod(self.chunks) + CHECKSUM

    @property
    def row_bytes(self) -> int:
        """Room for the chunks of a row as they are stored."""
        return self.chunks[2] * (math.prod(self.chunk) * self.dtype.itemsize + OVERHEAD)

    def scratch(self) -> NDArray[np.uint8]:
        """Memory for `read_box`; one for each thread."""
        decoded = math.prod(self.chunk) * self.dtype.itemsize
        return np.empty(self.row_bytes + 2 * decoded + 4 * lz4.SLACK, np.uint8)


def sharding_of(metadata: Mapping[str, Any]) -> Sharding | None:
    """How an array is stored, from its zarr.json; None if this module does not read arrays stored so."""
    (codec,) = metadata["codecs"] if len(metadata["codecs"]) == 1 else ({},)
    inner = codec.get("configuration", {})
    if codec.get("name") != "sharding_indexed" or not _known(metadata, inner):
        return None
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = inner["chunk_shape"]
    if len(shard) != 3 or any(c < 1 or s < c or s % c for s, c in zip(shard, chunk, strict=True)):  # noqa: PLR2004
        return None
    dtype = np.dtype(metadata["data_type"])
    if math.prod(chunk) * dtype.itemsize > LARGEST_CHUNK or math.prod(shard) // math.prod(chunk) > LARGEST_CHUNK:
        return None
    z, y, x = (int(n) for n in shard)
    c, b, a = (int(n) for n in chunk)
    fill = int(metadata["fill_value"])
    if fill != metadata["fill_value"] or not np.iinfo(dtype).min <= fill <= np.iinfo(dtype).max:
        return None
    found = Sharding((z, y, x), (c, b, a), dtype, fill)
    return found if found.row_bytes <= LARGEST_ROW else None


def _known(metadata: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    first, *rest = inner["codecs"]
    size = {"int16": 2, "uint16": 2, "uint8": 1}.get(metadata["data_type"])
    return bool(
        metadata["chunk_grid"]["name"] == "regular"
        and metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and size is not None
        and inner["index_codecs"] == [little, {"name": "crc32c"}]
        and inner.get("index_location", "end") == "end"
        and first["name"] == "bytes"
        and first.get("configuration", little["configuration"]) == little["configuration"]
        and len(rest) == 1
        and rest[0]["name"] == "blosc"
        and rest[0]["configuration"]["cname"] in {"lz4", "lz4hc"}
        and rest[0]["configuration"]["shuffle"] in {"shuffle", "noshuffle"}
        and rest[0]["configuration"].get("typesize", size) == size
    )


def parse_index(stored: bytes, sharding: Sharding) -> NDArray[np.uint64] | None:
    """Offset and length of each chunk, uint64 (chunks, 2); None if it is damaged."""
    body, checksum = stored[:-CHECKSUM], stored[-CHECKSUM:]
    if len(stored) != sharding.index_bytes or google_crc32c.value(body) != int.from_bytes(checksum, "little"):
        return None
    return np.frombuffer(body, "<u8").reshape(-1, 2).astype(np.uint64)


@compiled
def read_box(  # noqa: C901
    descriptor: int,
    data_end: int,
    index: NDArray[np.uint64],
    chunks: Triple,
    chunk: Triple,
    first: Triple,
    last: Triple,
    out: NDArray[Any],
    fill: int,
    scratch: NDArray[np.uint8],
    row_bytes: int,
) -> int:
    """Copy a box of a shard.

    Parameters
    ----------
    descriptor
        Of the shard's file.
    data_end
        Where its index begins.
    index
        uint64 (chunks, 2), see `parse_index`.
    chunks, chunk
        Chunks a shard and voxels a chunk, (z, y, x).
    first, last
        The box in the shard: first voxel, and last + 1.
    out
        (z, y, x) of the box's shape; rows are contiguous.
    fill
        Value of chunks that are not stored.
    scratch, row_bytes
        See `Sharding`.

    Returns
    -------
    int
        `OK`, `UNREADABLE` (the system could not read), or `DAMAGED`.
    """
    size = out.itemsize
    absent = np.uint64(ABSENT)
    raw = address(scratch)
    decoded = raw + row_bytes + lz4.SLACK
    stride = (out.strides[0], out.strides[1])
    for cz in range(first[0] // chunk[0], (last[0] - 1) // chunk[0] + 1):
        for cy in range(first[1] // chunk[1], (last[1] - 1) // chunk[1] + 1):
            row = (cz * chunks[1] + cy) * chunks[2]
            left, right = row + first[2] // chunk[2], row + (last[2] - 1) // chunk[2] + 1
            begin: Any = data_end
            end: Any = 0
            for number in range(left, right):
                if index[number, 0] != absent:
                    if index[number, 0] > np.uint64(data_end) or index[number, 1] > np.uint64(data_end):
                        return DAMAGED
                    offset, length = np.int64(index[number, 0]), np.int64(index[number, 1])
                    if offset + length > data_end or length > row_bytes:
                        return DAMAGED
                    begin, end = min(begin, offset), max(end, offset + length)
            together = end - begin <= row_bytes  # as written: the chunks of a row lie side by side
            if together and end > begin and read_at(descriptor, raw, end - begin, begin) != end - begin:
                return UNREADABLE
            for number in range(left, right):
                corner = (cz * chunk[0], cy * chunk[1], (number - row) * chunk[2])
                z0, y0, x0 = max(corner[0], first[0]), max(corner[1], first[1]), max(corner[2], first[2])
                z1 = min(corner[0] + chunk[0], last[0])
                y1 = min(corner[1] + chunk[1], last[1])
                x1 = min(corner[2] + chunk[2], last[2])
                box = out[z0 - first[0] : z1 - first[0], y0 - first[1] : y1 - first[1], x0 - first[2] : x1 - first[2]]
                if index[number, 0] == absent:
                    box[...] = fill
                    continue
                offset, length = np.int64(index[number, 0]), np.int64(index[number, 1])
                place: Any = raw + offset - begin
                if not together:
                    place = raw
                    if read_at(descriptor, raw, length, offset) != length:
                        return UNREADABLE
                error = decode_box(
                    place,
                    length,  # type: ignore[arg-type]
                    size,
                    chunk,
                    (z0 - corner[0], y0 - corner[1], x0 - corner[2]),
                    (z1 - corner[0], y1 - corner[1], x1 - corner[2]),
                    address(box),
                    stride,
                    decoded,
                )
                if error:
                    return DAMAGED
    return OK
