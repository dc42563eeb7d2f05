"""Volumes for the streaming benchmarks, generated or real; as a corpus and as arrays.

python benchmarks/stream_volumes.py generated|real FOLDER

Writes FOLDER/corpus.zarr, by the program's own code, and FOLDER/volumes/<number>/{ct,codes,label}.npy with
classes.json, from which every peer makes what it reads. The real scans are those beside the checkout.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

CHECKOUT = Path(__file__).resolve().parent.parent
REAL = CHECKOUT.parent / "shared/realdata"
SHAPE, CASES, STRUCTURES = (280, 260, 260), 3, 28
NOISE_HU, SMOOTH = 20.0, 0.6
"""Noise in the body, and the standard deviation in voxels of the filter that makes neighbours alike, as in a CT."""
AIR_NOISE = 0.4
"""Of the noise in the body."""
MASKS = 32
"""Classes of the reference system; what keeps a mask for each class keeps these."""
SPACING, AIR = 1.5, -1024
BATCH = 4
"""Patches a batch, whoever reads."""

REAL_CASES = (
    "chaos_ct/3",
    "ibsi/ibsi_1",
    "odd_dicom/CRLM-CT-1004",
    "odd_nifti/CT_pitch",
    "ts_example/example_ct",
    "ts_example/example_ct_sm",
    "ts_thorax/thorax_1.5mm",
)
"""Real scans that are larger than 48 voxels (72 mm) along every axis."""
PARTLY = 3
"""Exit status of a build that left cases out."""


# Generated ------------------------------------------------------------------------------------------------------


def volume(seed):
    """CT with noise, int16 HU, and masks of overlapping structures; (z, y, x)."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(n) for n in SHAPE)]
    body = np.broadcast_to(((y - 130) / 110) ** 2 + ((x - 130) / 120) ** 2 < 1, SHAPE)
    ct = np.where(body, np.float32(40), np.float32(-1000))
    masks = []
    for _ in range(STRUCTURES):
        centre, radius = rng.uniform([40, 50, 50], [240, 210, 210]), rng.uniform(8, 45, 3)
        mask = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), centre, radius, strict=True)) < 1
        ct[mask] += rng.uniform(-60, 90)
        masks.append(mask)
    noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE, np.float32), SMOOTH)
    noise *= NOISE_HU / noise.std()
    ct += np.where(body, noise, AIR_NOISE * noise)
    return np.clip(np.rint(ct), -1024, 3071).astype(np.int16), masks


def generate(corpus):
    from atlas.corpus.catalog import write_catalog, write_quarantine
    from atlas.corpus.write import write_root
    from atlas.spec import Recipe, load_taxonomy

    taxonomy, recipe = load_taxonomy(), Recipe(name="benchmark", datasets=("benchmark",))
    write_root(corpus, taxonomy, recipe, "benchmark")
    for seed in range(CASES):
        write_volume(corpus, f"benchmark/{seed}", *volume(seed), taxonomy, recipe)
    write_quarantine(corpus, {})
    write_catalog(corpus, taxonomy, recipe.splits)


def write_volume(corpus, case_id, ct, masks, taxonomy, recipe):
    """Write a case whose class k is mask k."""
    from atlas.corpus.record import CaseRecord, ClassRecord, Identity, NativeRecord, SourceRecord
    from atlas.corpus.write import array_digest, write_case
    from atlas.harmonize.grid import Grid
    from atlas.harmonize.measure import body_box, measure
    from atlas.harmonize.pack import Entry, MaskPacker

    available = (1 << len(masks)) - 1
    packer = MaskPacker(ct.shape)
    for bit, mask in enumerate(masks):
        packer.update((0, 0, 0), mask, lambda e, _, b=bit: Entry(e.classes | 1 << b, e.unknown))
    packed = packer.packed(keep=available)
    grid = Grid(shape=ct.shape, spacing=SPACING, origin=(0.0, 0.0, 0.0))
    found = measure(packed, grid, samples=recipe.storage.foreground, seed=0)
    kept = {"voxels", "volume_ml", "bbox", "centroid_mm", "components", "touches_border"}
    dataset, source_case = case_id.split("/")
    record = CaseRecord(
        case_id=case_id,
        dataset=dataset,
        source_case=source_case,
        patient_id=source_case,
        licence="CC0-1.0",
        shape=ct.shape,
        spacing=SPACING,
        origin=grid.origin,
        affine=grid.affine.tolist(),
        native=NativeRecord(shape=ct.shape[::-1], spacing=(SPACING,) * 3, orientation="RAS"),
        hu_min=int(ct.min()),
        hu_max=int(ct.max()),
        body_bbox=body_box(ct),
        available=hex(available),
        classes=tuple(
            ClassRecord(name=taxonomy.names[m.bit], provenance="manual", **{k: getattr(m, k) for k in kept})
            for m in found
        ),
        sources=(SourceRecord(path="none", bytes=0, sha256="0" * 64),),
        identity=Identity(label_map="none", recipe="none", software="benchmark"),
        ct_sha256=array_digest(ct),
        codes_sha256=array_digest(packed.codes),
        warnings=(),
    )
    write_case(
        corpus,
        record,
        ct=ct,
        codes=packed.codes,
        table=packed.table,
        foreground={taxonomy.names[m.bit]: m.sample for m in found},
        taxonomy=taxonomy,
        storage=recipe.storage,
    )


# Real -----------------------------------------------------------------------------------------------------------


def build_real(corpus, sources):
    """Lay out the real scans and build them, as the tests do."""
    tests = CHECKOUT / "tests/realdata"
    sys.path.insert(0, str(tests))
    import prepare

    prepare.keep(prepare.lay_out(REAL, sources), REAL_CASES)
    only = [word for name in sorted({case.split("/")[0] for case in REAL_CASES}) for word in ("--only", name)]
    build = ["build", "realdata", "--offline", "--sources", str(sources), "--out", str(corpus), *only]
    command = [sys.executable, "-m", "atlas", *build]
    status = subprocess.run(command, env=os.environ | {"ATLAS_PATH": str(tests)}, check=False).returncode
    if status not in {0, PARTLY}:
        raise SystemExit(f"the real scans could not be built: exit status {status}")


# For the peers --------------------------------------------------------------------------------------------------


def write_arrays(corpus, folder):
    """Write every case of a corpus as plain arrays.

    ct.npy, int16; codes.npy; label.npy, uint8: the class of the highest bit at each voxel, numbered from 1, for peers
    that carry one label; classes.json: how many numbers there are, and which codes belong to each of the 32 masks.
    """
    import atlas

    opened = atlas.open(str(corpus))
    cases = [opened[case_id] for case_id in sorted(opened.cases.case_id)]
    highest = sorted({mask.bit_length() for case in cases for mask in case.table} - {0})
    number = {0: 0, **{bits: n for n, bits in enumerate(highest, start=1)}}
    for index, case in enumerate(cases):
        place = folder / str(index)
        place.mkdir(parents=True)
        codes = np.asarray(case.codes[...])
        np.save(place / "ct.npy", np.asarray(case.ct[...]))
        np.save(place / "codes.npy", codes)
        np.save(place / "label.npy", np.array([number[m.bit_length()] for m in case.table], np.uint8)[codes])
        masks = [[code for code, mask in enumerate(case.table) if mask >> bit & 1] for bit in range(MASKS)]
        content = {"case_id": case.case_id, "labels": len(highest), "masks": masks}
        (place / "classes.json").write_text(json.dumps(content))


def arrays(volumes):
    """CT, codes, label and what is known of the classes, of each case."""
    for place in sorted(volumes.iterdir()):
        found = [np.load(place / f"{name}.npy") for name in ("ct", "codes", "label")]
        yield place.name, *found, json.loads((place / "classes.json").read_text())


def padded(array, patch, value):
    """At least as large as a patch, for peers that want it so."""
    missing = [max(0, patch - n) for n in array.shape]
    return np.pad(array, [(m // 2, m - m // 2) for m in missing], constant_values=value)


def origin(rng, shape, patch):
    return [int(rng.integers(0, n - patch + 1)) for n in shape]


def make(kind, folder):
    corpus = folder / "corpus.zarr"
    if kind == "real":
        build_real(corpus, folder / "sources")
    else:
        generate(corpus)
    write_arrays(corpus, folder / "volumes")


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
