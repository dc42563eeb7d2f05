"""Boxes out of Blosc chunks, against slices of what C-Blosc decodes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc as encoder
from numcodecs import lz4 as lz4_encoder

from atlas.stream.blosc import DAMAGED, HEADER, OK, decode_box, decode_list
from atlas.stream.lz4 import SLACK

GUARD = 256
EXTENT = (13, 17, 21)
SHUFFLED, STORED, BIT_SHUFFLED, WHOLE, LZ4 = 1, 2, 4, 16, 1 << 5


def voxels(kind, extent=EXTENT, dtype=np.int16):
    """Voxels that compress well, a little, in one of their bytes alone, or not at all."""
    rng = np.random.default_rng(7)
    count = int(np.prod(extent))
    if kind == "smooth":
        values = np.arange(count) // 50
    elif kind == "ct":
        values = rng.normal(40, 60, count)
    elif kind == "noise":
        values = np.frombuffer(rng.bytes(2 * count), np.int16)
    else:
        values = np.full(count, -1024)
    with np.errstate(invalid="ignore"):
        return values.astype(np.int64).astype(dtype).reshape(extent)


def box_of(chunk, values, first, last):
    """The box, or None if the chunk is damaged. Nothing but the box, the scratch and the slack may change."""
    size, extent = values.itemsize, values.shape
    stored = np.full(len(chunk) + SLACK, 0xEE, np.uint8)
    stored[: len(chunk)] = np.frombuffer(chunk, np.uint8)
    before = stored.copy()
    room = 2 * values.nbytes + 2 * SLACK
    scratch = np.full(GUARD + room + GUARD, 0xA5, np.uint8)
    mark = 0x5A if size == 1 else 0x5A5A
    # the box lies inside a larger patch
    out = np.full([b - a + 2 for a, b in zip(first, last, strict=True)], mark, values.dtype)
    inner = out[1:-1, 1:-1, 1:-1]
    result = decode_box(
        stored.ctypes.data,
        len(chunk),
        size,
        extent,
        first,
        last,
        inner.ctypes.data,
        (out.strides[0], out.strides[1]),
        scratch.ctypes.data + GUARD,
    )
    assert result in {OK, DAMAGED}
    found = inner.copy()
    inner[...] = mark
    assert (out == mark).all()
    assert (scratch[:GUARD] == 0xA5).all()
    assert (scratch[GUARD + room :] == 0xA5).all()
    np.testing.assert_array_equal(stored, before)
    return found if result == OK else None


def slices(first, last):
    return tuple(slice(a, b) for a, b in zip(first, last, strict=True))


def boxes(extent):
    axes = [st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).map(lambda p: (min(p), max(p) + 1)) for n in extent]
    return st.tuples(*axes).map(lambda b: tuple(zip(*b, strict=True)))


def check_boxes(chunk, values, drawn):
    for first, last in drawn:
        np.testing.assert_array_equal(box_of(chunk, values, first, last), values[slices(first, last)])


def container(values, *, block, split, shuffled, version=2):
    """A chunk after C-Blosc's description of the format, with blocks of so many bytes."""
    data, size = values.tobytes(), values.itemsize
    flags = LZ4 | (SHUFFLED if shuffled else 0) | (0 if split else WHOLE)
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    position = HEADER + 4 * len(blocks)
    positions, body = b"", b""
    for piece in blocks:
        positions += (position + len(body)).to_bytes(4, "little")
        ordered = b"".join(piece[k::size] for k in range(size)) if shuffled else piece
        parts = size if split and len(piece) == block else 1
        step = len(piece) // parts
        for k in range(parts):
            stream = ordered[k * step : (k + 1) * step]
            packed = lz4_encoder.compress(stream)[4:]
            packed = packed if len(packed) < len(stream) else stream
            body += len(packed).to_bytes(4, "little") + packed
    head = bytes([version, 1, flags, size])
    total = position + len(body)
    return head + b"".join(n.to_bytes(4, "little") for n in (len(data), block, total)) + positions + body


@pytest.mark.parametrize("split", ["ALWAYS", "NEVER"])
@pytest.mark.parametrize("shuffle", [encoder.SHUFFLE, encoder.NOSHUFFLE])
@pytest.mark.parametrize("compressor", [b"lz4", b"lz4hc"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_what_c_blosc_wrote(dtype, compressor, shuffle, split, monkeypatch):
    monkeypatch.setenv("BLOSC_SPLITMODE", split)
    rng = np.random.default_rng(3)
    for kind in ("smooth", "ct", "noise", "air"):
        values = voxels(kind, dtype=dtype)
        for level in range(10):
            for block in (0, 300, 2000, 3333):
                chunk = encoder.compress(values.ravel(), compressor, level, shuffle, block, values.itemsize)
                a, b = rng.integers(0, values.shape, 3), rng.integers(0, values.shape, 3)
                first, last = np.minimum(a, b).tolist(), (np.maximum(a, b) + 1).tolist()
                check_boxes(chunk, values, [(tuple(first), tuple(last)), ((0, 0, 0), values.shape)])


@given(
    extent=st.tuples(*[st.integers(1, 40)] * 3),
    kind=st.sampled_from(["smooth", "ct", "noise", "air"]),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16]),
    shuffle=st.sampled_from([encoder.SHUFFLE, encoder.NOSHUFFLE]),
    level=st.integers(0, 9),
    data=st.data(),
)
def test_any_box(extent, kind, dtype, shuffle, level, data):
    values = voxels(kind, extent, dtype)
    chunk = encoder.compress(values.ravel(), b"lz4hc", level, shuffle, 0, values.itemsize)
    check_boxes(chunk, values, data.draw(st.lists(boxes(extent), min_size=3, max_size=3)))


@given(
    extent=st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 70)),
    kind=st.sampled_from(["smooth", "ct", "noise", "air"]),
    dtype=st.sampled_from([np.uint8, np.int16]),
    split=st.booleans(),
    shuffled=st.booleans(),
    rows=st.integers(1, 400),
    data=st.data(),
)
@settings(max_examples=120)
def test_any_way_to_cut_a_chunk_into_blocks(extent, kind, dtype, split, shuffled, rows, data):
    values = voxels(kind, extent, dtype)
    block = min(rows * values.itemsize * 8, values.nbytes)
    chunk = container(values, block=block, split=split, shuffled=shuffled)
    assert encoder.decompress(chunk) == values.tobytes()
    check_boxes(chunk, values, data.draw(st.lists(boxes(extent), min_size=3, max_size=3)))


@pytest.mark.parametrize("kind", ["smooth", "ct", "noise", "air"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_the_chunks_of_a_corpus(kind, dtype):
    """32 voxels along each axis, of which whole rows are the usual case."""
    values = voxels(kind, (32, 32, 32), dtype)
    chunk = encoder.compress(values.ravel(), b"lz4hc", 5, encoder.SHUFFLE, 0, values.itemsize)
    widths = [(x, x + w) for w in (1, 7, 8, 9, 15, 31, 32) for x in {0, 32 - w}]
    check_boxes(chunk, values, [((3, 0, a), (5, 32, b)) for a, b in widths])
    check_boxes(chunk, values, [((z, y, 0), (z + 1, y + 1, 32)) for z in (0, 17, 31) for y in (0, 31)])


@pytest.mark.parametrize("count", [1, 5, 8, 31, 64, 1000, 40_000])
@pytest.mark.parametrize("block", [0, 600])
@pytest.mark.parametrize("level", [0, 5])
def test_lists(count, block, level):
    values = np.random.default_rng(count).integers(0, 300, 3 * count).astype(np.uint16)
    chunk = encoder.compress(values, b"lz4hc", level, encoder.SHUFFLE, block, 2)
    out = np.full(3 * count + 8, 7, np.uint16)
    scratch = np.empty(2 * values.nbytes + 2 * SLACK, np.uint8)

    def decode(stored):
        return decode_list(np.frombuffer(stored + bytes(SLACK), np.uint8), out[: 3 * count], scratch)

    assert decode(chunk) == OK
    np.testing.assert_array_equal(out[:-8], values)
    assert (out[-8:] == 7).all()
    for cut in {0, 1, 15, HEADER, len(chunk) // 2, len(chunk) - 1}:
        assert decode(chunk[:cut]) == DAMAGED
    shorter = encoder.compress(values[:-1], b"lz4hc", level, encoder.SHUFFLE, block, 2)
    assert decode(shorter) == DAMAGED


def chunks():
    """Chunks with one block and with many, in one stream and in two, stored and not."""
    values = voxels("ct", (5, 6, 30))
    codes = voxels("smooth", (5, 6, 30), np.uint8)
    return {
        "usual": (encoder.compress(values.ravel(), b"lz4hc", 5, encoder.SHUFFLE, 0, 2), values),
        "codes": (encoder.compress(codes.ravel(), b"lz4hc", 5, encoder.SHUFFLE, 0, 1), codes),
        "stored": (encoder.compress(values.ravel(), b"lz4hc", 0, encoder.SHUFFLE, 0, 2), values),
        "blocks": (container(values, block=256, split=True, shuffled=True), values),
        "whole": (container(values, block=400, split=False, shuffled=True), values),
        "unshuffled": (container(values, block=512, split=True, shuffled=False), values),
    }


@pytest.mark.parametrize("name", chunks())
def test_every_cut_is_noticed(name):
    chunk, values = chunks()[name]
    for cut in range(len(chunk)):
        found = box_of(chunk[:cut], values, (0, 0, 0), values.shape)
        if found is not None:  # what an LZ4 stream ends with may not be needed
            assert cut > 0.9 * len(chunk)
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("name", chunks())
def test_any_byte_of_the_header_may_be_anything(name):
    chunk, values = chunks()[name]
    blocks = -(-values.nbytes // int.from_bytes(chunk[8:12], "little"))
    rng = np.random.default_rng(5)
    refused = 0
    for place in range(HEADER + 4 * blocks + 4):
        for value in {0, 1, 2, 127, 128, 255, *rng.integers(0, 256, 6).tolist()}:
            changed = bytearray(chunk)
            changed[place] = value
            refused += box_of(bytes(changed), values, (1, 2, 3), (5, 6, 30)) is None
    assert refused > 50


@given(name=st.sampled_from(sorted(chunks())), data=st.data())
@settings(max_examples=200)
def test_several_changed_bytes(name, data):
    chunk, values = chunks()[name]
    changed = bytearray(chunk)
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, 60) | st.integers(0, len(chunk) - 1), st.integers(0, 255)), max_size=8)
    ):
        changed[place] = value
    first, last = data.draw(boxes(values.shape))
    box_of(bytes(changed[: data.draw(st.just(len(chunk)) | st.integers(0, len(chunk)))]), values, first, last)


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (3, 1, "another size of the type"),
        (3, 4, "another size of the type"),
        (2, 1 | 4 | LZ4, "bits shuffled"),
        (2, 1, "BloscLZ"),
        (2, 1 | 3 << 5, "zlib"),
        (2, 1 | 4 << 5, "zstd"),
    ],
)
def test_what_is_not_expected_is_refused(place, value, why):
    chunk, values = chunks()["usual"]
    changed = bytearray(chunk)
    changed[place] = value
    assert box_of(bytes(changed), values, (0, 0, 0), values.shape) is None, why


def test_a_chunk_of_another_extent_is_refused():
    chunk, values = chunks()["usual"]
    for other in (values[:-1], values[:, :, :-1]):
        assert box_of(chunk, other, (0, 0, 0), (1, 1, 1)) is None


def test_only_what_is_needed_must_be_sound():
    """The blocks behind the box are not looked at, nor the end of those that it begins."""
    chunk, values = chunks()["blocks"]
    start = int.from_bytes(chunk[HEADER + 4 : HEADER + 8], "little")
    changed = chunk[:start] + bytes(len(chunk) - start)
    check_boxes(changed, values, [((0, 0, 0), (1, 4, 30))])
    assert box_of(changed, values, (0, 0, 0), (1, 5, 30)) is None


def test_nothing_beyond_the_slack_is_touched():
    """In a process that ends if anything is."""
    script = Path(__file__).with_name("walled.py")
    done = subprocess.run(
        [sys.executable, script, "chunks", "0"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    refused, decoded = map(int, done.stdout.split())
    assert refused > 1000
    assert decoded > 1000
