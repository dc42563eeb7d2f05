"""Patches by this stream, by zarr-python, and by copying out of plain arrays, which is the limit."""

from functools import partial

import numpy as np
from stream_peers import Peer
from stream_volumes import AIR, BATCH, MASKS, arrays, origin, padded

WORKERS = 2
CHUNK = 64
EPOCH = 10_000_000


def no_files(volumes, folder, patch):
    """Read the corpus itself."""


def corpus_of(volumes):
    return str(volumes.parent / "corpus.zarr")


def stream(volumes, _, patch, device=None):
    """Up to the packed batch; with a device, up to 32 masks there."""
    import atlas

    corpus = atlas.open(corpus_of(volumes))
    classes = {} if device is None else {"classes": corpus.taxonomy.names[:MASKS]}
    batches = atlas.stream(corpus, batch_size=BATCH, patch_size=patch, device=device, seed=0, **classes)
    for batch in batches:
        yield len(batch)


def dataset(volumes, _, patch, workers=0):
    """Packed items, many a worker's batch; one epoch does not end."""
    from torch.utils.data import DataLoader

    import atlas

    patches = atlas.PatchDataset(atlas.open(corpus_of(volumes)), patch_size=patch, length=EPOCH, packed=True)
    start = {"multiprocessing_context": "forkserver"} if workers else {}
    for batch in DataLoader(patches, BATCH, num_workers=workers, collate_fn=patches.collate, **start):
        yield len(batch)


def zarr_files(volumes, folder, patch):
    """CT and one uint8 array a class that occurs, in chunks of 64^3 with zarr-python's own compression, zstd."""
    import zarr

    for name, ct, codes, _, known in arrays(volumes):
        group = zarr.open_group(folder / name, mode="w")
        chunks = tuple(min(CHUNK, n) for n in padded(ct, patch, AIR).shape)
        group.create_array("ct", data=padded(ct, patch, AIR), chunks=chunks)
        for bit, wanted in enumerate(known["masks"]):
            if wanted:
                mask = np.isin(padded(codes, patch, 0), wanted).astype(np.uint8)
                group.create_array(str(bit), data=mask, chunks=chunks)


def zarr_python(_, folder, patch):
    import torch
    import zarr

    cases = [zarr.open_group(place, mode="r") for place in sorted(folder.iterdir()) if place.is_dir()]
    cases = [(group["ct"], [group[name] for name in group.array_keys() if name != "ct"]) for group in cases]
    rng = np.random.default_rng(0)
    while True:
        ct, masks = cases[rng.integers(len(cases))]
        box = tuple(slice(o, o + patch) for o in origin(rng, ct.shape, patch))
        torch.from_numpy(ct[box])
        if masks:  # some real scans have none of the 32
            torch.from_numpy(np.stack([mask[box] for mask in masks]))
        yield 1


def raw_files(volumes, folder, patch):
    for name, ct, codes, _, _ in arrays(volumes):
        np.save(folder / f"{name}_ct.npy", padded(ct, patch, AIR))
        np.save(folder / f"{name}_codes.npy", padded(codes, patch, 0))


def raw(_, folder, patch):
    """Copies out of memory-mapped arrays into one batch that is used again and again."""
    import torch

    cases = [
        [np.load(str(path).replace("_ct", kind), mmap_mode="r") for kind in ("_ct", "_codes")]
        for path in sorted(folder.glob("*_ct.npy"))
    ]
    rng = np.random.default_rng(0)
    batch = [torch.empty((BATCH, patch, patch, patch), dtype=dtype) for dtype in (torch.int16, torch.uint8)]
    views = [tensor.numpy() for tensor in batch]
    while True:
        for row in range(BATCH):
            case = cases[rng.integers(len(cases))]
            box = tuple(slice(o, o + patch) for o in origin(rng, case[0].shape, patch))
            for view, array in zip(views, case, strict=True):
                view[row] = array[box]
        yield BATCH


STREAM, UNPACKED = "atlas.stream, packed", f"atlas.stream, {MASKS} masks on the CPU"
READERS = {
    STREAM: Peer(no_files, stream, ("atlas", "numba", "torch"), "all classes"),
    "PatchDataset, DataLoader": Peer(no_files, dataset, ("atlas", "numba", "torch"), "all classes"),
    f"PatchDataset, DataLoader, {WORKERS} workers": Peer(
        no_files, partial(dataset, workers=WORKERS), ("atlas", "numba", "torch"), "all classes"
    ),
    UNPACKED: Peer(no_files, partial(stream, device="cpu"), ("atlas", "numba", "torch"), f"{MASKS} masks, unpacked"),
    "zarr-python, an array a class": Peer(zarr_files, zarr_python, ("zarr", "torch"), "a mask a class"),
    "copy of memory-mapped arrays (the limit)": Peer(raw_files, raw, ("torch",), "all classes"),
}
