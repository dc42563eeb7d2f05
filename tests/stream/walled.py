"""Memory between pages that nobody may touch: one byte too far ends the process.

As a script it decodes damaged input in such memory, and prints how many results of each kind there were.
"""

import collections
import ctypes
import mmap
import sys

import numpy as np
from numcodecs import blosc as c_blosc
from numcodecs import lz4 as c_lz4

from atlas.stream import blosc, lz4

TIMES = 8000
NO_ACCESS = 0
KINDS = ("changed", "cut", "lengthened", "noise", "whole")


class Walled:
    """So many bytes, with a forbidden page before the first page of them and one after the last."""

    def __init__(self, size):
        page = mmap.PAGESIZE
        room = -(-size // page) * page
        self._map = mmap.mmap(-1, room + 2 * page)
        self._libc = ctypes.CDLL(None, use_errno=True)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for wall in (base, base + page + room):
            if self._libc.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(page), NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.start, self.end = base + page, base + page + room
        self.bytes = np.frombuffer(self._map, np.uint8)[page:-page]

    def put(self, content, slack):
        """Address of bytes that end so many before the wall."""
        at = self.bytes.size - slack - len(content)
        self.bytes[at : at + len(content)] = np.frombuffer(content, np.uint8)
        return self.start + at


def damaged(rng, content):
    """The content, or what may have become of it."""
    kind = KINDS[rng.integers(len(KINDS))]
    if kind == "noise":
        return rng.bytes(rng.integers(0, 300))
    if kind == "cut":
        return content[: rng.integers(0, len(content) + 1)]
    changed = np.frombuffer(content, np.uint8).copy()
    if kind == "changed":
        places = rng.integers(0, len(content), rng.integers(1, 5))
        changed[places] = rng.integers(0, 256, len(places))
    if kind == "lengthened":
        first = int(rng.integers(len(content)))
        changed[first : first + int(rng.integers(1, 60))] = 255
    return changed.tobytes()


def some_bytes(rng):
    """Bytes that compress more or less."""
    values = rng.integers(0, rng.integers(1, 256, endpoint=True), rng.integers(1, 3000), dtype=np.uint8)
    return np.repeat(values, rng.integers(1, 40))[: rng.integers(200, 6000)].tobytes()


def blocks(rng):
    """Decode damaged LZ4 blocks; the output begins at one wall, or its slack ends at the other."""
    source, target = Walled(20_000), Walled(20_000)
    results = collections.Counter()
    for _ in range(TIMES):
        plain = some_bytes(rng)
        block = damaged(rng, c_lz4.compress(plain)[4:])
        at = source.put(block, lz4.SLACK)
        capacity = int(rng.integers(0, len(plain) + 1)) if rng.random() < 0.3 else len(plain)
        out = target.start if rng.random() < 0.5 else target.end - lz4.SLACK - capacity
        result = lz4.decode(at, len(block), out, capacity, int(rng.integers(0, capacity + 1)))
        results["refused" if result == lz4.DAMAGED else "decoded"] += 1
        assert result == lz4.DAMAGED or 0 <= result <= capacity
    return results


def chunks(rng):
    """Copy boxes out of damaged Blosc chunks; the last row of the box ends at a wall."""
    stored, scratch, target = Walled(40_000), Walled(60_000), Walled(30_000)
    results = collections.Counter()
    for _ in range(TIMES):
        extent = tuple(int(n) for n in rng.integers(1, 24, 3))
        size = int(rng.integers(1, 3))
        plain = some_bytes(rng) * 20
        plain += bytes(max(0, 2 * 24**3 - len(plain)))
        total = int(np.prod(extent)) * size
        level, shuffle = int(rng.integers(0, 10)), int(rng.integers(0, 2))
        chunk = c_blosc.compress(plain[:total], b"lz4", level, shuffle, int(rng.integers(0, 400)), size)
        if rng.random() < 0.8:
            head = damaged(rng, chunk[:40])
            chunk = head + chunk[40:] if rng.random() < 0.7 else damaged(rng, chunk)
        first = tuple(int(rng.integers(0, n)) for n in extent)
        last = tuple(int(rng.integers(f + 1, n + 1)) for f, n in zip(first, extent, strict=True))
        shape = np.subtract(last, first)
        at = stored.put(chunk, lz4.SLACK)
        stride = (int(shape[1] * shape[2]) * size, int(shape[2]) * size)
        out = target.end - int(shape.prod()) * size
        room = scratch.end - 2 * total - 2 * lz4.SLACK
        result = blosc.decode_box(at, len(chunk), size, extent, first, last, out, stride, room)
        results["refused" if result else "decoded"] += 1
    return results


def main(what, seed):
    found = {"blocks": blocks, "chunks": chunks}[what](np.random.default_rng(seed))
    print(found["refused"], found["decoded"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
