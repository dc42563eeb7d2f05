"""Boxes out of shards that zarr-python, tensorstore and hands wrote, against zarr-python's reading."""

import copy
import json
import os
from itertools import product

import google_crc32c
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from atlas.stream.lz4 import SLACK
from atlas.stream.shards import ABSENT, DAMAGED, OK, UNREADABLE, parse_index, read_box, sharding_of

GUARD = 256
SHAPE, SHARD, CHUNK = (50, 41, 70), (32, 20, 36), (8, 10, 12)


def content(dtype, shape=SHAPE, fill=0):
    """Voxels of which some chunks, and the whole first shard, have the fill value."""
    rng = np.random.default_rng(11)
    low, high = (-1024, 1500) if dtype == "int16" else (0, min(np.iinfo(dtype).max, 3000))
    values = rng.integers(low, high, shape).astype(dtype)
    values[: SHARD[0], : SHARD[1], : SHARD[2]] = fill
    values[40:] = fill  # chunks of a shard that holds others
    values[:, :, 60:66] = 9
    return values


def by_zarr(folder, values, *, fill=0, shape=SHAPE, shard=SHARD, chunk=CHUNK, codec=None, **options):
    array = zarr.create_array(
        folder,
        shape=shape,
        shards=shard,
        chunks=chunk,
        dtype=values.dtype,
        fill_value=fill,
        compressors=codec or BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        **options,
    )
    array[...] = values
    return folder


def by_tensorstore(folder, values, *, fill=0, shuffle="shuffle", cname="lz4hc"):
    blosc = {"cname": cname, "clevel": 5, "shuffle": shuffle, "typesize": values.itemsize, "blocksize": 0}
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    metadata = {
        "shape": list(values.shape),
        "data_type": values.dtype.name,
        "fill_value": fill,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(SHARD)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(CHUNK),
                    "codecs": [little, {"name": "blosc", "configuration": blosc}],
                    "index_codecs": [little, {"name": "crc32c"}],
                },
            }
        ],
    }
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}, "metadata": metadata}
    store = tensorstore.open(spec, create=True).result()
    (folder / "zarr.json").write_text(json.dumps({**metadata, "zarr_format": 3, "node_type": "array"}))  # as given
    store.write(values).result()
    return folder


def rewritten(folder, change):
    """Every shard of an array anew: `change` gets the numbers of its chunks and gives each, in an order, with a gap."""
    sharding = sharding_of(document(folder))
    for path in sorted(p for p in (folder / "c").rglob("*") if p.is_file()):
        stored = path.read_bytes()
        index = np.frombuffer(stored[-sharding.index_bytes : -4], "<u8").reshape(-1, 2)
        chunks = {k: stored[a : a + n] for k, (a, n) in enumerate(index.tolist()) if a != ABSENT}
        body, places = b"", {}
        for k, before in change(list(chunks)):
            body += before
            places[k] = len(body), len(chunks[k])
            body += chunks[k]
        path.write_bytes(body + index_of([places.get(k, (ABSENT, ABSENT)) for k in range(len(index))]))
    return folder


def index_of(places):
    body = np.array(places, "<u8").tobytes()
    return body + google_crc32c.value(body).to_bytes(4, "little")


def document(folder):
    return json.loads((folder / "zarr.json").read_text())


def read_shard(path, sharding, first, last, dtype):
    """(result, box); nothing but the box and the scratch memory may change."""
    size = path.stat().st_size
    with path.open("rb") as file:
        index = parse_index(file.read()[size - sharding.index_bytes :], sharding)
        return read_by(file.fileno(), size - sharding.index_bytes, index, sharding, first, last, dtype)


def read_by(descriptor, data_end, index, sharding, first, last, dtype):
    room = sharding.scratch().size
    scratch = np.full(GUARD + room + GUARD, 0xA5, np.uint8)
    mark = np.dtype(dtype).type(0x5A)
    out = np.full([b - a + 2 for a, b in zip(first, last, strict=True)], mark, dtype)
    inner = out[1:-1, 1:-1, 1:-1]
    result = read_box(
        descriptor,
        data_end,
        index,
        sharding.chunks,
        sharding.chunk,
        first,
        last,
        inner,
        sharding.fill,
        scratch[GUARD:-GUARD],
        sharding.row_bytes,
    )
    found = inner.copy()
    inner[...] = mark
    assert (out == mark).all()
    assert (scratch[:GUARD] == 0xA5).all()
    assert (scratch[-GUARD:] == 0xA5).all()
    return result, found


def read(folder, box):
    """A box of an array, shard by shard."""
    sharding = sharding_of(document(folder))
    found = np.empty([s.stop - s.start for s in box], sharding.dtype)
    for place in product(
        *[range(s.start // n, (s.stop - 1) // n + 1) for s, n in zip(box, sharding.shard, strict=True)]
    ):
        corner = [p * n for p, n in zip(place, sharding.shard, strict=True)]
        first = tuple(max(s.start - c, 0) for s, c in zip(box, corner, strict=True))
        last = tuple(min(s.stop - c, n) for s, c, n in zip(box, corner, sharding.shard, strict=True))
        part = tuple(
            slice(c + a - s.start, c + b - s.start) for c, a, b, s in zip(corner, first, last, box, strict=True)
        )
        path = folder / "c" / "/".join(map(str, place))
        result, values = OK, sharding.fill
        if path.exists():
            result, values = read_shard(path, sharding, first, last, sharding.dtype)
        assert result == OK
        found[part] = values
    return found


def boxes(shape=SHAPE):
    axes = [
        st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).map(lambda p: slice(min(p), max(p) + 1)) for n in shape
    ]
    return st.tuples(*axes)


def backwards(chunks):
    return [(k, b"") for k in reversed(chunks)]


def scattered(chunks):
    """No two chunks of a row side by side, and gaps that are longer than what a read of a row may take."""
    rng = np.random.default_rng(1)
    return [(int(k), bytes(int(rng.integers(0, 9000)))) for k in rng.permutation(chunks)]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Name -> folder of an array, and zarr-python's array."""
    folder = tmp_path_factory.mktemp("arrays")
    int16, uint8, uint16 = (content(d, fill=f) for d, f in (("int16", -1024), ("uint8", 0), ("uint16", 40_000)))
    made = {
        "zarr": by_zarr(folder / "a", int16, fill=-1024),
        "zarr, uint8": by_zarr(folder / "b", uint8),
        "zarr, not shuffled": by_zarr(
            folder / "c", int16, fill=-1024, codec=BloscCodec(cname="lz4", shuffle="noshuffle")
        ),
        "tensorstore": by_tensorstore(folder / "d", int16, fill=-1024),
        "tensorstore, not shuffled": by_tensorstore(folder / "e", int16, fill=-1024, shuffle="noshuffle"),
        "tensorstore, uint16": by_tensorstore(folder / "f", uint16, fill=40_000, cname="lz4"),
        "backwards": rewritten(by_tensorstore(folder / "g", int16, fill=-1024), backwards),
        "scattered": rewritten(by_tensorstore(folder / "h", int16, fill=-1024), scattered),
        "scattered, uint8": rewritten(by_zarr(folder / "i", uint8), scattered),
    }
    return {name: (path, zarr.open_array(path, mode="r")) for name, path in made.items()}


NAMES = [
    "zarr",
    "zarr, uint8",
    "zarr, not shuffled",
    "tensorstore",
    "tensorstore, not shuffled",
    "tensorstore, uint16",
    "backwards",
    "scattered",
    "scattered, uint8",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_array(arrays, name):
    folder, array = arrays[name]
    whole = tuple(slice(0, n) for n in SHAPE)
    expected = array[...]
    np.testing.assert_array_equal(expected, content(array.dtype.name, fill=array.fill_value))
    np.testing.assert_array_equal(read(folder, whole), expected)
    assert not (folder / "c/0/0/0").exists()  # a shard that holds nothing is not written


@given(name=st.sampled_from(NAMES), box=boxes())
def test_any_box(arrays, name, box):
    folder, array = arrays[name]
    np.testing.assert_array_equal(read(folder, box), array[box])


@given(data=st.data())
def test_any_chunks_and_shards(tmp_path_factory, data):
    side = st.integers(1, 9)
    chunk = data.draw(st.tuples(side, side, side))
    shard = tuple(c * data.draw(st.integers(1, 3)) for c in chunk)
    shape = tuple(data.draw(st.integers(1, 2 * s + 1)) for s in shard)
    values = np.random.default_rng(0).integers(-50, 50, shape).astype("int16")
    folder = by_zarr(tmp_path_factory.mktemp("one") / "a", values, shape=shape, shard=shard, chunk=chunk, fill=3)
    for box in data.draw(st.lists(boxes(shape), min_size=2, max_size=2)):
        np.testing.assert_array_equal(read(folder, box), values[box])


def test_what_is_read_of_an_array():
    sharding = sharding_of(METADATA)
    assert (sharding.shard, sharding.chunk, sharding.chunks) == ((8, 8, 12), (4, 4, 4), (2, 2, 3))
    assert (sharding.dtype, sharding.fill) == (np.int16, -7)
    assert sharding.index_bytes == 16 * 12 + 4


BLOSC = {"cname": "lz4hc", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
METADATA = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [20, 20, 20],
    "data_type": "int16",
    "fill_value": -7,
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 8, 12]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [4, 4, 4],
                "codecs": [LITTLE, {"name": "blosc", "configuration": BLOSC}],
                "index_codecs": [LITTLE, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
    ],
    "attributes": {},
}
INNER = ("codecs", 0, "configuration")
BIG = {"name": "bytes", "configuration": {"endian": "big"}}


def changed(path, value):
    result = copy.deepcopy(METADATA)
    place = result
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("codecs",), [LITTLE, {"name": "blosc", "configuration": BLOSC}]),
        (("codecs",), []),
        (("codecs",), [{"name": "transpose", "configuration": {"order": [2, 1, 0]}}, *METADATA["codecs"]]),
        (("codecs",), [*METADATA["codecs"], {"name": "crc32c"}]),
        (("data_type",), "float32"),
        (("data_type",), "int32"),
        (("chunk_key_encoding",), {"name": "v2", "configuration": {"separator": "/"}}),
        (("chunk_key_encoding", "configuration", "separator"), "."),
        (("chunk_grid", "name"), "rectilinear"),
        (("chunk_grid", "configuration", "chunk_shape"), [8, 8]),
        (("chunk_grid", "configuration", "chunk_shape"), [8, 8, 10]),
        ((*INNER, "chunk_shape"), [4, 4, 5]),
        ((*INNER, "chunk_shape"), [0, 4, 4]),
        ((*INNER, "index_location"), "start"),
        ((*INNER, "index_codecs"), [LITTLE]),
        ((*INNER, "index_codecs"), [BIG, {"name": "crc32c"}]),
        ((*INNER, "codecs"), [BIG, {"name": "blosc", "configuration": BLOSC}]),
        ((*INNER, "codecs"), [LITTLE]),
        ((*INNER, "codecs"), [LITTLE, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}]),
        ((*INNER, "codecs"), [LITTLE, {"name": "gzip", "configuration": {"level": 1}}]),
        ((*INNER, "codecs"), [LITTLE, {"name": "blosc", "configuration": BLOSC}, {"name": "crc32c"}]),
        (
            (*INNER, "codecs"),
            [
                {"name": "transpose", "configuration": {"order": [2, 1, 0]}},
                LITTLE,
                {"name": "blosc", "configuration": BLOSC},
            ],
        ),
        ((*INNER, "codecs", 1, "configuration", "cname"), "zstd"),
        ((*INNER, "codecs", 1, "configuration", "cname"), "blosclz"),
        ((*INNER, "codecs", 1, "configuration", "shuffle"), "bitshuffle"),
        ((*INNER, "codecs", 1, "configuration", "typesize"), 1),
        ((*INNER, "codecs", 1, "configuration", "typesize"), 4),
        (("fill_value",), 40_000),
        (("fill_value",), 0.5),
    ],
)
def test_what_is_left_to_others(path, value):
    assert sharding_of(METADATA) is not None
    assert sharding_of(changed(path, value)) is None


@pytest.mark.parametrize(
    "options",
    [
        {"codec": ZstdCodec()},
        {"codec": GzipCodec()},
        {"codec": BloscCodec(cname="lz4", shuffle="bitshuffle")},
        {"codec": BloscCodec(cname="zstd", shuffle="shuffle")},
        {"codec": BloscCodec(cname="lz4", shuffle="shuffle", typesize=1)},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"filters": [zarr.codecs.TransposeCodec(order=(2, 1, 0))]},
    ],
    ids=str,
)
def test_what_zarr_writes_otherwise_is_left_to_others(tmp_path, options):
    folder = by_zarr(tmp_path / "a", content("int16"), **options)
    assert sharding_of(document(folder)) is None


@pytest.fixture
def shard(arrays):
    """A shard that holds all of its chunks, and how it is stored."""
    folder, _ = arrays["tensorstore"]
    return folder / "c/0/1/1", sharding_of(document(folder))


def test_a_wrong_checksum(shard):
    path, sharding = shard
    stored = path.read_bytes()[-sharding.index_bytes :]
    assert parse_index(stored, sharding) is not None
    for bit in range(8 * len(stored)):
        changed = bytearray(stored)
        changed[bit // 8] ^= 1 << bit % 8
        assert parse_index(bytes(changed), sharding) is None
    for cut in (0, 1, 4, len(stored) - 1):
        assert parse_index(stored[:cut], sharding) is None
    assert parse_index(stored + b"0", sharding) is None


FIRST, LAST = (3, 4, 2), (30, 19, 34)
NUMBERS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 70_000),
    st.sampled_from([0, 1, 15, 2**31 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]),
)


@given(changes=st.lists(st.tuples(st.integers(0, 23), st.integers(0, 1), NUMBERS), min_size=1, max_size=5))
def test_an_index_may_say_anything(arrays, changes):
    folder, _ = arrays["tensorstore"]
    path, sharding = folder / "c/0/1/1", sharding_of(document(folder))
    stored = path.read_bytes()
    index = parse_index(stored[-sharding.index_bytes :], sharding)
    for chunk, column, value in changes:
        index[chunk, column] = value
    with path.open("rb") as file:
        data_end = len(stored) - sharding.index_bytes
        result, _ = read_by(file.fileno(), data_end, index, sharding, FIRST, LAST, sharding.dtype)
    assert result in {OK, DAMAGED}


@pytest.mark.parametrize(
    ("place", "column", "value"),
    [
        (0, 0, 2**63),
        (0, 0, 2**64 - 2),
        (5, 1, 2**63),
        (5, 1, 2**64 - 1),
        (5, 1, 0),
        (5, 1, 10),
        (7, 0, "end"),
        (7, 1, "end"),
    ],
)
def test_chunks_beyond_the_shard(shard, place, column, value):
    path, sharding = shard
    stored = path.read_bytes()
    data_end = len(stored) - sharding.index_bytes
    index = parse_index(stored[data_end:], sharding)
    index[place, column] = data_end if value == "end" else value
    with path.open("rb") as file:
        assert read_by(file.fileno(), data_end, index, sharding, (0, 0, 0), (32, 20, 36), np.int16)[0] == DAMAGED


def test_a_chunk_said_to_be_absent_has_the_fill_value(shard, arrays):
    path, sharding = shard
    _, array = arrays["tensorstore"]
    stored = path.read_bytes()
    data_end = len(stored) - sharding.index_bytes
    index = parse_index(stored[data_end:], sharding)
    index[4] = ABSENT  # the second of the second row
    expected = array[:32, 20:40, 36:70]
    expected[:8, 10:20, 12:24] = -1024
    with path.open("rb") as file:
        result, found = read_by(file.fileno(), data_end, index, sharding, (0, 0, 0), (32, 20, 34), np.int16)
    assert result == OK
    np.testing.assert_array_equal(found, expected)


def test_a_shard_that_became_shorter_cannot_be_read(shard, tmp_path):
    path, sharding = shard
    stored = path.read_bytes()
    data_end = len(stored) - sharding.index_bytes
    index = parse_index(stored[data_end:], sharding)
    cut = tmp_path / "cut"
    cut.write_bytes(stored[: data_end // 2])
    with cut.open("rb") as file:
        assert read_by(file.fileno(), data_end, index, sharding, (0, 0, 0), (32, 20, 36), np.int16)[0] == UNREADABLE


def test_a_descriptor_that_cannot_be_read(shard):
    path, sharding = shard
    stored = path.read_bytes()
    index = parse_index(stored[-sharding.index_bytes :], sharding)
    descriptor = os.open(path, os.O_WRONLY)
    try:
        found = read_by(descriptor, len(stored) - sharding.index_bytes, index, sharding, FIRST, LAST, np.int16)
    finally:
        os.close(descriptor)
    assert found[0] == UNREADABLE


@given(place=st.integers(0, 80_000), values=st.binary(min_size=1, max_size=8))
def test_changed_bytes_of_chunks(arrays, tmp_path_factory, place, values):
    folder, _ = arrays["scattered"]
    path, sharding = folder / "c/0/1/1", sharding_of(document(folder))
    stored = path.read_bytes()
    index = parse_index(stored[-sharding.index_bytes :], sharding)
    # where chunks are, not in the gaps between them
    chunk = place % len(index)
    at = int(index[chunk, 0]) + (place % 40 if place % 3 else place % int(index[chunk, 1]))
    changed = tmp_path_factory.mktemp("changed") / "shard"
    changed.write_bytes(stored[:at] + values + stored[at + len(values) :])
    result, found = read_shard(changed, sharding, (0, 0, 0), (32, 20, 36), np.int16)
    assert result in {OK, DAMAGED}
    assert found.shape == (32, 20, 36)


def test_the_scratch_memory_has_room_for_what_an_index_may_ask(shard):
    _, sharding = shard
    decoded = 8 * 10 * 12 * 2
    assert sharding.scratch().size >= 3 * (decoded + 16) + SLACK + 2 * decoded + 2 * SLACK
