"""A small corpus with everything that makes streaming hard, and what was written into it.

| case    | why it is there                                                                                        |
|---------|--------------------------------------------------------------------------------------------------------|
| one/a   | a tumour of two voxels inside the liver, both kidneys                                                  |
| one/b   | narrower than a chunk of 32 along x; tumour annotated and absent                                       |
| one/c   | thinner than 32 along z; a kidney that is absent; a tumour of one voxel at a corner; split test        |
| two/a   | larger than a shard of 64 along all axes; the aorta is unknown above its last slice                    |
| two/b   | more than 256 combinations of classes: uint16 codes                                                    |
| two/c   | air alone: no body, nothing present; split val                                                         |
| three/a | first and last bit of the taxonomy; both lungs                                                         |
| three/b | tumour of three voxels at the edge of the pancreas, part of it unknown; another licence than three/a   |
"""

import shutil

import numpy as np
import pytest

from atlas.corpus import open_corpus
from atlas.corpus.catalog import write_catalog, write_quarantine
from atlas.corpus.record import CaseRecord, ClassRecord, Identity, NativeRecord, SourceRecord
from atlas.corpus.write import array_digest, write_case, write_root
from atlas.harmonize.grid import Grid
from atlas.harmonize.measure import body_box, measure
from atlas.harmonize.pack import Entry, MaskPacker
from atlas.spec import Recipe
from atlas.spec.library import load_taxonomy

RECIPE = Recipe.model_validate(
    {
        "name": "toy",
        "datasets": ["one", "two", "three"],
        "storage": {"shard": 64, "foreground": 20},
        "splits": {"train": 0.6, "val": 0.2, "test": 0.2},
    }
)
RAGGED = ["spleen", "liver", "stomach", "aorta", "colon", "duodenum", "pancreas", "rectum", "heart", "brain"]
CASES = {  # case id: shape (z, y, x), patient, licence, class -> box (z0, z1, y0, y1, x0, x1), or None where absent
    "one/a": (
        (40, 50, 70),
        "p1",
        "CC-BY-4.0",
        {
            "liver": (10, 30, 10, 40, 33, 66),
            "liver_tumor": (12, 13, 20, 21, 40, 42),
            "kidney_left": (8, 20, 30, 40, 4, 14),
            "kidney_right": (8, 22, 30, 40, 50, 62),
        },
    ),
    "one/b": (
        (80, 70, 24),
        "p2",
        "CC-BY-4.0",
        {"liver": (20, 70, 5, 66, 3, 20), "liver_tumor": None, "spleen": (60, 75, 10, 20, 2, 9)},
    ),
    "one/c": (
        (20, 33, 65),
        "p3",
        "CC-BY-4.0",
        {"kidney_left": (5, 15, 10, 20, 3, 12), "kidney_right": None, "kidney_tumor": (19, 20, 32, 33, 64, 65)},
    ),
    "two/a": (
        (130, 96, 70),
        "p3",
        "CC-BY-NC-4.0",
        {"aorta": (0, 100, 40, 46, 30, 36), "spleen": (70, 90, 50, 80, 5, 25), "inferior_vena_cava": None},
    ),
    "two/b": ((36, 40, 44), "p3", "CC-BY-NC-4.0", dict.fromkeys(RAGGED)),  # drawn voxel by voxel
    "two/c": ((33, 32, 31), "p1", "CC-BY-NC-4.0", {"liver": None, "liver_tumor": None}),
    "three/a": (
        (96, 100, 100),
        "p1",
        "CC0-1.0",
        {
            "spleen": (40, 60, 60, 80, 5, 30),
            "lung_left": (60, 96, 30, 70, 10, 45),
            "lung_right": (60, 96, 30, 70, 55, 90),
            "face": (90, 96, 5, 15, 48, 52),
        },
    ),
    "three/b": (
        (48, 64, 64),
        "p2",
        "CC-BY-SA-4.0",
        {"pancreas": (20, 28, 25, 40, 20, 50), "pancreas_tumor": (27, 28, 39, 40, 30, 33)},
    ),
}
UNKNOWN = {"two/a": {"aorta": (100, 130, 0, 96, 0, 70)}, "three/b": {"pancreas_tumor": (0, 20, 0, 64, 0, 32)}}


def _filled(shape, box):
    mask = np.zeros(shape, bool)
    if box:
        mask[tuple(slice(a, b) for a, b in zip(box[::2], box[1::2], strict=True))] = True
    return mask


def arrays(case_id):
    """CT, masks of the available classes, and where these are unknown."""
    shape, _, _, boxes = CASES[case_id]
    rng = np.random.default_rng(sum(case_id.encode()))
    ct = np.full(shape, -1000, np.int16)
    if case_id != "two/c":
        body = tuple(slice(n // 8, n - n // 8) for n in shape)
        ct[body] = rng.integers(-200, 1500, ct[body].shape)
    masks = {name: _filled(shape, box) for name, box in boxes.items()}
    if case_id == "two/b":
        masks = {name: rng.random(shape) < 0.4 for name in masks}
    unknown = {name: _filled(shape, UNKNOWN.get(case_id, {}).get(name)) for name in masks}
    return ct, masks, unknown


def _packed(masks, unknown, shape, taxonomy):
    packer = MaskPacker(shape)
    for name in masks:
        bit = 1 << taxonomy.bit(name)
        packer.update((0, 0, 0), masks[name], lambda e, _, b=bit: Entry(e.classes | b, e.unknown))
        packer.update((0, 0, 0), unknown[name], lambda e, _, b=bit: Entry(e.classes, e.unknown | b))
    return packer.packed(keep=-1)


def _write(folder, case_id, taxonomy):
    shape, patient, licence, _ = CASES[case_id]
    ct, masks, unknown = arrays(case_id)
    packed = _packed(masks, unknown, shape, taxonomy)
    grid = Grid(shape=shape, spacing=1.5, origin=(-50.0, -40.0, 100.0))
    found = {taxonomy.names[m.bit]: m for m in measure(packed, grid, samples=RECIPE.storage.foreground, seed=0)}
    classes = []
    for name in sorted(masks, key=taxonomy.bit):
        measured = {k: getattr(found[name], k) for k in ClassRecord.model_fields if name in found and k not in EXTRA}
        classes.append(ClassRecord(name=name, provenance="manual", **measured))
    dataset, source_case = case_id.split("/")
    record = CaseRecord(
        case_id=case_id,
        dataset=dataset,
        source_case=source_case,
        patient_id=patient,
        licence=licence,
        shape=shape,
        spacing=grid.spacing,
        origin=grid.origin,
        affine=grid.affine.tolist(),
        native=NativeRecord(shape=shape[::-1], spacing=(1.5, 1.5, 1.5), orientation="RAS"),
        hu_min=int(ct.min()),
        hu_max=int(ct.max()),
        body_bbox=body_box(ct),
        available=hex(sum(1 << taxonomy.bit(name) for name in masks)),
        classes=tuple(classes),
        sources=(SourceRecord(path="ct.nii.gz", bytes=1, sha256="0" * 64),),
        identity=Identity(label_map="l", recipe="r", software="1"),
        ct_sha256=array_digest(ct),
        codes_sha256=array_digest(packed.codes),
        warnings=(),
    )
    write_case(
        folder,
        record,
        ct=ct,
        codes=packed.codes,
        table=packed.table,
        foreground={name: found[name].sample for name in sorted(found, key=taxonomy.bit)},
        taxonomy=taxonomy,
        storage=RECIPE.storage,
    )


EXTRA = {"name", "provenance", "model"}


@pytest.fixture(scope="session")
def taxonomy():
    """The shipped taxonomy: 148 classes, five words of 32 bits."""
    return load_taxonomy()


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory, taxonomy):
    """Folder of the corpus, not to be changed: see `own_folder`."""
    folder = tmp_path_factory.mktemp("corpus") / "toy.zarr"
    write_root(folder, taxonomy, RECIPE, "0.0.0")
    for case_id in CASES:
        _write(folder, case_id, taxonomy)
    write_quarantine(folder, {"two/d": ("two", "truncated")})
    write_catalog(folder, taxonomy, RECIPE.splits)
    return folder


@pytest.fixture
def own_folder(corpus_folder, tmp_path):
    """Copy of the corpus that a test may damage."""
    return shutil.copytree(corpus_folder, tmp_path / "own.zarr")


@pytest.fixture(scope="session")
def corpus(corpus_folder):
    """The corpus, to read."""
    return open_corpus(corpus_folder)


@pytest.fixture(scope="session")
def truth():
    """What was written: case id -> (ct, masks of the available classes, where each of these is unknown)."""
    return {case_id: arrays(case_id) for case_id in CASES}
