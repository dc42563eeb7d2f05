"""A small corpus that a small network can learn from: boxes of a HU of their own, partial labels, three splits."""

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
from atlas.spec.training import TrainingRecipe

SHAPE = (32, 36, 40)
HU = {"liver": 100, "spleen": 180, "liver_tumor": -60}
BOXES = {"liver": (6, 26, 8, 28, 20, 36), "spleen": (10, 22, 12, 26, 4, 14), "liver_tumor": (12, 18, 14, 20, 24, 30)}
LABELLED = {  # case id: patient, classes. The hash of dataset and patient says the split
    "one/a": ("p1", ("liver", "liver_tumor")),
    "one/b": ("p2", ("liver", "liver_tumor")),
    "one/c": ("p7", ("liver", "liver_tumor")),
    "two/a": ("p0", ("spleen",)),
    "two/b": ("p5", ("spleen",)),
    "two/c": ("p2", ("spleen",)),
    "two/d": ("p1", ("spleen",)),
}
RECIPE = Recipe.model_validate(
    {
        "name": "toy",
        "datasets": ["one", "two"],
        "storage": {"shard": 64, "foreground": 20},
        "splits": {"train": 0.5, "val": 0.25, "test": 0.25},
    }
)


def _volume(case_id):
    """CT and masks of all classes, whether labelled or not."""
    rng = np.random.default_rng(sum(case_id.encode()))
    ct = np.full(SHAPE, -1000, np.int16)
    ct[2:-2, 2:-2, 2:-2] = 0
    shift = rng.integers(-2, 3, 3)
    masks = {}
    for name, box in BOXES.items():
        where = tuple(slice(a + s, b + s) for a, b, s in zip(box[::2], box[1::2], shift, strict=True))
        masks[name] = np.zeros(SHAPE, bool)
        masks[name][where] = True
        ct[where] = HU[name]
    return ct + rng.integers(-10, 11, SHAPE, dtype=np.int16), masks


def write_one(folder, case_id, patient, labelled, taxonomy):
    """A case of the corpus."""
    ct, masks = _volume(case_id)
    packer = MaskPacker(SHAPE)
    for name in labelled:
        bit = 1 << taxonomy.bit(name)
        packer.update((0, 0, 0), masks[name], lambda e, _, b=bit: Entry(e.classes | b, e.unknown))
    packed = packer.packed(keep=-1)
    grid = Grid(shape=SHAPE, spacing=1.5, origin=(0.0, 0.0, 0.0))
    found = {taxonomy.names[m.bit]: m for m in measure(packed, grid, samples=RECIPE.storage.foreground, seed=0)}
    fields = set(ClassRecord.model_fields) - {"name", "provenance", "model"}
    classes = tuple(
        ClassRecord(name=name, provenance="manual", **{k: getattr(found[name], k) for k in fields})
        for name in sorted(labelled, key=taxonomy.bit)
    )
    dataset, source_case = case_id.split("/")
    record = CaseRecord(
        case_id=case_id,
        dataset=dataset,
        source_case=source_case,
        patient_id=patient,
        licence="CC0-1.0",
        shape=SHAPE,
        spacing=grid.spacing,
        origin=grid.origin,
        affine=grid.affine.tolist(),
        native=NativeRecord(shape=SHAPE[::-1], spacing=(1.5, 1.5, 1.5), orientation="RAS"),
        hu_min=int(ct.min()),
        hu_max=int(ct.max()),
        body_bbox=body_box(ct),
        available=hex(sum(1 << taxonomy.bit(name) for name in labelled)),
        classes=classes,
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


def write_corpus(folder, cases=LABELLED):
    """The corpus, or one of other cases."""
    taxonomy = load_taxonomy()
    write_root(folder, taxonomy, RECIPE, "0.0.0")
    for case_id, (patient, labelled) in cases.items():
        write_one(folder, case_id, patient, labelled, taxonomy)
    write_quarantine(folder, {})
    write_catalog(folder, taxonomy, RECIPE.splits)
    return folder


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """Folder of the corpus, not to be changed."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "toy.zarr")


@pytest.fixture(scope="session")
def corpus(corpus_folder):
    """The corpus."""
    return open_corpus(corpus_folder)


@pytest.fixture(scope="session")
def recipe_of():
    """Recipes of a training of a few seconds; keywords change entries, `a__b` for the entry b of a."""

    def made(**changes):
        content = {
            "name": "toy",
            "data": {"split": None, "patch": 16},
            "model": {"backbone": {"kind": "unet", "features": [8, 16, 32]}},
            "optimiser": {"steps": 6, "batch": 2, "lr": 0.003, "precision": "fp32"},
            "validation": {"every": 100, "split": ["nowhere"]},
        }
        for name, value in changes.items():
            *path, last = name.split("__")
            entry = content
            for step in path:
                entry = entry.setdefault(step, {})
            entry[last] = value
        return TrainingRecipe.model_validate(content)

    return made
