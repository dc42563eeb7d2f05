"""Which chunks, which codec, which reader: patches per CPU-second out of one array each of CT and codes.

python benchmarks/stream_layouts.py [--patches 400] [--out FOLDER]

Writes the generated volumes of stream_volumes.py in other chunks and codecs than those of the corpus, and reads the
same random patches (CT and codes) by this program's reader and by tensorstore, each on one thread, in one process, out
of the page cache. Then the parts of this program's own time: reading the bytes, decoding, and all of it.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from stream_volumes import CASES, make

PATCH, ROUNDS = 96, 3
LAYOUTS = (
    ((32, 32, 32), "lz4hc", 5),
    ((16, 16, 16), "lz4hc", 5),
    ((16, 16, 32), "lz4hc", 5),
    ((16, 32, 32), "lz4hc", 5),
    ((24, 24, 24), "lz4hc", 5),
    ((32, 32, 64), "lz4hc", 5),
    ((48, 48, 48), "lz4hc", 5),
    ((64, 64, 64), "lz4hc", 5),
    ((32, 32, 32), "lz4hc", 9),
    ((32, 32, 32), "lz4", 5),
    ((32, 32, 32), "zstd", 1),
    ((32, 32, 32), None, 0),
)
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def metadata(array, chunk, codec, level):
    """zarr.json of an array in so many voxels a chunk, and one shard."""
    shard = [-(-n // c) * c for n, c in zip(array.shape, chunk, strict=True)]
    blosc = {"cname": codec, "clevel": level, "shuffle": "shuffle", "typesize": array.itemsize, "blocksize": 0}
    sharding = {
        "chunk_shape": list(chunk),
        "codecs": [LITTLE, {"name": "blosc", "configuration": blosc}] if codec else [LITTLE],
        "index_codecs": [LITTLE, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(array.shape),
        "data_type": array.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": int(array.flat[0]) if array.dtype == np.int16 else 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def write(folder, arrays, layout):
    """Write all volumes; CPU seconds and bytes of a case."""
    import tensorstore as ts

    start = time.process_time()
    for number, pair in enumerate(arrays):
        for name, array in zip(("ct", "codes"), pair, strict=True):
            place = folder / str(number) / name
            place.mkdir(parents=True)
            (place / "zarr.json").write_text(json.dumps(metadata(array, *layout)))
            store = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{place}/"}}, open=True).result()
            store.write(array).result()
    spent = time.process_time() - start
    return spent / len(arrays), sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / len(arrays)


def origins(arrays, count):
    """Volume and first voxel of random patches, the same for everybody."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        number = int(rng.integers(len(arrays)))
        yield number, tuple(int(rng.integers(n - PATCH + 1)) for n in arrays[number][0].shape)


def ours(folder, *, decode=True):
    """Reader of this program, as a function of (volume, array, first voxel, patch); None if it lacks the codec."""
    from atlas.stream.shards import parse_index, read_box, sharding_of

    shards = {}
    for place in folder.glob("*/*/"):
        sharding = sharding_of(json.loads((place / "zarr.json").read_text()))
        if sharding is None:
            return None
        stored = (place / "c/0/0/0").read_bytes()  # one shard holds the volume
        end = len(stored) - sharding.index_bytes
        index = parse_index(stored[end:], sharding)
        shards[int(place.parent.name), place.name] = (str(place / "c/0/0/0"), end, index, sharding, sharding.scratch())

    def read(number, name, first, out):
        path, end, index, s, scratch = shards[number, name]
        last = tuple(a + PATCH for a in first)
        descriptor = os.open(path, os.O_RDONLY)
        if decode:
            read_box(descriptor, end, index, s.chunks, s.chunk, first, last, out, s.fill, scratch, s.row_bytes)
        else:
            rows_alone(descriptor, index, s, first, last, scratch)
        os.close(descriptor)

    return read


def rows_alone(descriptor, index, sharding, low, high, scratch):
    """Read the stored bytes of the chunks that a box touches, row by row, and do nothing with them."""
    index = index.astype(np.int64).reshape(*sharding.chunks, 2)
    spans = [range(a // c, (b - 1) // c + 1) for a, b, c in zip(low, high, sharding.chunk, strict=True)]
    for z in spans[0]:
        for y in spans[1]:
            row = index[z, y, spans[2][0] : spans[2][-1] + 1]
            row = row[row[:, 0] >= 0]
            if len(row):
                begin = int(row[:, 0].min())
                os.preadv(descriptor, [memoryview(scratch)[: int(row.sum(axis=1).max()) - begin]], begin)


def tensorstore(folder):
    """The same by tensorstore, with the shard indices cached."""
    import tensorstore as ts

    context = ts.Context(
        {
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
            "cache_pool": {"total_bytes_limit": 1_000_000},
        }
    )
    stores = {
        (number, name): ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/{number}/{name}/"}},
            open=True,
            read=True,
            context=context,
            recheck_cached="open",
        ).result()
        for number in range(CASES)
        for name in ("ct", "codes")
    }

    def read(number, name, first, out):
        box = tuple(slice(a, a + PATCH) for a in first)
        ts.array(out, copy=False).write(stores[number, name][box]).result()

    return read


def mapped(folder, arrays):
    """Copies out of raw memory-mapped arrays: the limit."""
    for number, pair in enumerate(arrays):
        for name, array in zip(("ct", "codes"), pair, strict=True):
            np.save(folder / f"{number}-{name}.npy", array)
    maps = {
        (number, name): np.load(folder / f"{number}-{name}.npy", mmap_mode="r")
        for number in range(len(arrays))
        for name in ("ct", "codes")
    }

    def read(number, name, first, out):
        out[...] = maps[number, name][tuple(slice(a, a + PATCH) for a in first)]

    return read


def rate(read, arrays, count, *, check=True):
    """Patches per CPU-second; the best of several rounds."""
    out = {"ct": np.zeros((PATCH,) * 3, np.int16), "codes": np.zeros((PATCH,) * 3, np.uint8)}
    for number, first in origins(arrays, 20):
        for name, array in zip(out, arrays[number], strict=True):
            read(number, name, first, out[name])
            if check:
                assert (out[name] == array[tuple(slice(a, a + PATCH) for a in first)]).all()
    best = 0.0
    for _ in range(ROUNDS):
        start = time.process_time()
        for number, first in origins(arrays, count):
            for name, patch in out.items():
                read(number, name, first, patch)
        best = max(best, count / (time.process_time() - start))
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out) as name:
        compare(Path(name), options.patches)


def compare(folder, count):
    make("generated", folder / "volumes")
    arrays = [
        tuple(np.load(folder / f"volumes/volumes/{number}/{name}.npy") for name in ("ct", "codes"))
        for number in range(CASES)
    ]
    print(f"{CASES} volumes of {' x '.join(map(str, arrays[0][0].shape))}, patches of {PATCH}^3, per CPU-second\n")
    print("| chunk | codec | MB a case | writing, CPU s | this reader | tensorstore |\n|---|---|---|---|---|---|")
    for number, layout in enumerate(LAYOUTS):
        place = folder / str(number)
        spent, size = write(place, arrays, layout)
        read = ours(place)
        own = f"{rate(read, arrays, count):.0f}" if read else "-"
        theirs = rate(tensorstore(place), arrays, count)
        chunk, codec, level = layout
        label = f"{codec} {level}" if codec else "none"
        print(
            f"| {'x'.join(map(str, chunk))} | {label} | {size / 1e6:.1f} | {spent:.2f} | {own} | {theirs:.0f} |",
            flush=True,
        )
    print(f"\nbytes alone, as stored: {rate(ours(folder / '0', decode=False), arrays, count, check=False):.0f}")
    limit = folder / "raw"
    limit.mkdir()
    print(f"copies out of raw memory-mapped arrays: {rate(mapped(limit, arrays), arrays, count):.0f}")


if __name__ == "__main__":
    main()
