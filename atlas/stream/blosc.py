"""A box of voxels out of a Blosc chunk, without decoding what the box does not touch.

The container is that of C-Blosc 1 (its README_CHUNK_FORMAT): a header of 16 bytes; the positions of the blocks; each
block one stream, or one stream a byte of the type, each preceded by its length. A stream as long as what it stands for
is stored as it is: the low bytes of a CT are mostly noise, so they are taken from where they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas.stream import lz4
from atlas.stream.native import WIDE, address, compiled, copy, copy_wide, load8, load32, weave8, weave_one, weave_wide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEADER = 16
SHUFFLED, STORED, BIT_SHUFFLED, WHOLE = 0x1, 0x2, 0x4, 0x10
"""Bits of the header's flags: bytes shuffled, not compressed, bits shuffled, blocks not split into streams."""

LZ4_FORMAT = 1
"""Code of the compressor in the upper bits of the flags; lz4hc writes the same."""

OK, DAMAGED = 0, 1
NARROW = 8
"""Numbers of a step where a row is shorter than a wide one."""

decode = lz4.decode


@compiled
def _stream(at: int, end: int, size: int, target: int, wanted: int) -> tuple[int, int]:
    """Where the bytes of a stream are, and where the next one begins; 0 if it is damaged."""
    if end - at < 4:  # noqa: PLR2004
        return 0, 0
    length = load32(at)
    at += 4
    if length <= 0 or length > end - at:
        return 0, 0
    if length == size:
        return at, at + length
    if decode(at, length, target, size, wanted) < wanted:
        return 0, 0
    return target, at + length


@compiled
def _block(
    at: int, end: int, count: int, size: int, wanted: int, split: bool, shuffled: bool, target: int
) -> tuple[int, int]:
    """Decode a block of `count` voxels as far as the first `wanted`, if need be to `target`.

    Returns the addresses of the low and of the high bytes. The second is 0 if they lie together; the first, if the
    block is damaged.
    """
    whole = count * size
    if not split:
        low, _ = _stream(at, end, whole, target, whole if shuffled else wanted * size)
        return low, low + count if low and shuffled else 0
    part = whole // size
    low, at = _stream(at, end, part, target, wanted if shuffled else part)
    if not low:
        return 0, 0
    high, _ = _stream(at, end, part, target + part, wanted if shuffled else part)
    if not high:
        return 0, 0
    if shuffled:
        return low, high
    if low != target:
        copy(target, low, part)
    if high != target + part:
        copy(target + part, high, part)
    return target, 0


@compiled
def _weave(target: int, low: int, high: int, count: int) -> None:
    """`count` 16-bit numbers out of their low and high bytes."""
    done = 0
    while done + WIDE <= count:
        weave_wide(target + 2 * done, low + done, high + done)
        done += WIDE
    while done < count:
        if count >= NARROW:
            done = min(done, count - NARROW)  # the last step may do some again
            weave8(target + 2 * done, low + done, high + done)
            done += NARROW
        else:
            weave_one(target + 2 * done, low + done, high + done)
            done += 1


@compiled
def _weave_box(
    low: int, high: int, pitch: tuple[int, int], box: tuple[int, int, int], out: int, stride: tuple[int, int]
) -> None:
    """Weave rows: `pitch` voxels from one (slice, row) to the next here, `stride` bytes there."""
    for z in range(box[0]):
        here, there = z * pitch[0], out + z * stride[0]
        for _ in range(box[1]):
            if box[2] == WIDE:
                weave_wide(there, low + here, high + here)
            else:
                _weave(there, low + here, high + here, box[2])
            here += pitch[1]
            there += stride[1]


@compiled
def _copy_box(
    source: int, size: int, pitch: tuple[int, int], box: tuple[int, int, int], out: int, stride: tuple[int, int]
) -> None:
    """Copy rows of voxels of so many bytes, in the same way."""
    width = box[2] * size
    for z in range(box[0]):
        here, there = source + z * pitch[0] * size, out + z * stride[0]
        for _ in range(box[1]):
            if width == WIDE:
                copy_wide(there, here)
            else:
                copy(there, here, width)
            here += pitch[1] * size
            there += stride[1]


@compiled
def _decoded(  # noqa: C901, PLR0911
    chunk: int, length: int, size: int, count: int, begin: int, until: int, scratch: int
) -> tuple[int, int]:
    """Decode a chunk of `count` voxels, of which those from `begin` to `until` are wanted.

    Returns the addresses of the low and of the high bytes of voxel 0, as `_block` does.
    """
    if length < HEADER:
        return 0, 0
    flags, total, block = load8(chunk + 2), load32(chunk + 4), load32(chunk + 8)
    if total != count * size or load8(chunk + 3) != size or flags & BIT_SHUFFLED:
        return 0, 0
    if flags & STORED:
        return (chunk + HEADER, 0) if length >= HEADER + total else (0, 0)
    blocks = -(-total // block) if block > 0 else 0
    if not 0 < block <= total or block % size or flags >> 5 != LZ4_FORMAT or length < HEADER + 4 * blocks:
        return 0, 0
    shuffled = size > 1 and flags & SHUFFLED != 0
    per, whole = block // size, scratch + total + lz4.SLACK
    for number in range(begin // per, -(-until // per)):
        start = number * per
        here = min(per, count - start)
        offset = load32(chunk + HEADER + 4 * number)
        if offset < HEADER + 4 * blocks or offset >= length:
            return 0, 0
        # a short last block is one stream
        split = size > 1 and not flags & WHOLE and here == per
        low, high = _block(
            chunk + offset, chunk + length, here, size, min(until - start, here), split, shuffled, scratch
        )
        if not low or blocks == 1:
            return low, high
        if high:
            _weave(whole + start * size, low, high, here)
        else:
            copy(whole + start * size, low, here * size)
    return whole, 0


@compiled
def decode_box(
    chunk: int,
    length: int,
    size: int,
    extent: tuple[int, int, int],
    first: tuple[int, int, int],
    last: tuple[int, int, int],
    out: int,
    stride: tuple[int, int],
    scratch: int,
) -> int:
    """Copy a box out of a chunk.

    Parameters
    ----------
    chunk, length
        Address and bytes of the compressed chunk; `lz4.SLACK` more bytes can be read.
    size
        Bytes a voxel, 1 or 2.
    extent
        Voxels of the chunk (z, y, x).
    first, last
        The box in the chunk: first voxel, and last + 1, (z, y, x).
    out, stride
        Address of the box's first voxel in the result, and bytes from one (slice, row) to the next; rows are
        contiguous.
    scratch
        Address of memory for twice the decoded chunk and twice `lz4.SLACK`.

    Returns
    -------
    int
        `OK` or `DAMAGED`.
    """
    pitch = (extent[1] * extent[2], extent[2])
    begin = first[0] * pitch[0] + first[1] * pitch[1] + first[2]
    until = (last[0] - 1) * pitch[0] + (last[1] - 1) * pitch[1] + last[2]
    low, high = _decoded(chunk, length, size, extent[0] * pitch[0], begin, until, scratch)
    if not low:
        return DAMAGED
    box = (last[0] - first[0], last[1] - first[1], last[2] - first[2])
    if high:
        _weave_box(low + begin, high + begin, pitch, box, out, stride)
    else:
        _copy_box(low + begin * size, size, pitch, box, out, stride)
    return OK


@compiled
def decode_list(stored: NDArray[np.uint8], out: NDArray[np.uint16], scratch: NDArray[np.uint8]) -> int:
    """Decode all of a chunk; `stored` ends with `lz4.SLACK` bytes that do not count. `OK` or `DAMAGED`."""
    size, count = out.itemsize, out.size
    length = stored.size - lz4.SLACK
    low, high = _decoded(address(stored), length, size, count, 0, count, address(scratch))
    if not low:
        return DAMAGED
    if high:
        _weave(address(out), low, high, count)
    else:
        copy(address(out), low, count * size)
    return OK
