"""A corpus written from arrays, without a build."""

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

GRID = Grid(shape=(40, 50, 70), spacing=1.5, origin=(-50.0, -40.0, 100.0))
RECIPE = Recipe.model_validate({"name": "toy", "datasets": ["one", "two"], "storage": {"shard": 64, "foreground": 20}})
AVAILABLE = {"one/a": ["liver", "liver_tumor"], "one/b": ["liver", "liver_tumor"], "two/a": ["kidney_left", "aorta"]}


def arrays(case_id, taxonomy):
    """CT and masks by class of a case; liver and tumour overlap, one/b has no tumour, part of the aorta is unknown."""
    rng = np.random.default_rng(sum(case_id.encode()))
    ct = rng.integers(-1024, 1500, GRID.shape, dtype=np.int16)
    masks = {name: np.zeros(GRID.shape, bool) for name in AVAILABLE[case_id]}
    if case_id.startswith("one"):
        masks["liver"][10:30, 10:40, 33:66] = True
        masks["liver_tumor"][12:16, 12:16, 40:44] = case_id == "one/a"
    else:
        masks["kidney_left"][5:20, 10:20, 2:12] = True
        masks["aorta"][:, 22:26, 30:34] = True
    return ct, masks


def write(folder, case_id, taxonomy):
    ct, masks = arrays(case_id, taxonomy)
    packer = MaskPacker(GRID.shape)
    for name, mask in masks.items():
        bit = taxonomy.bit(name)
        packer.update((0, 0, 0), mask, lambda e, _, b=bit: Entry(e.classes | 1 << b, e.unknown))
    if "aorta" in masks:
        top = np.zeros(GRID.shape, bool)
        top[35:] = True
        packer.update((0, 0, 0), top, lambda e, _: Entry(e.classes, e.unknown | 1 << taxonomy.bit("aorta")))
    available = sum(1 << taxonomy.bit(name) for name in masks)
    packed = packer.packed(keep=available)
    found = {m.bit: m for m in measure(packed, GRID, samples=20, seed=0)}
    classes = []
    for name in taxonomy.members(available):
        m = found.get(taxonomy.bit(name))
        measured = {} if m is None else {k: getattr(m, k) for k in ClassRecord.model_fields if hasattr(m, k)}
        classes.append(ClassRecord(name=name, provenance="manual", **measured))
    dataset, source_case = case_id.split("/")
    record = CaseRecord(
        case_id=case_id,
        dataset=dataset,
        source_case=source_case,
        patient_id=source_case,
        licence="CC-BY-4.0" if dataset == "one" else "CC-BY-NC-4.0",
        shape=GRID.shape,
        spacing=GRID.spacing,
        origin=GRID.origin,
        affine=GRID.affine.tolist(),
        native=NativeRecord(shape=(70, 50, 40), spacing=(1.5, 1.5, 1.5), orientation="RAS"),
        hu_min=int(ct.min()),
        hu_max=int(ct.max()),
        body_bbox=body_box(ct),
        available=hex(available),
        classes=tuple(classes),
        sources=(SourceRecord(path="ct.nii.gz", bytes=1, sha256="0" * 64),),
        identity=Identity(label_map="l", recipe="r", software="1"),
        ct_sha256=array_digest(ct),
        codes_sha256=array_digest(packed.codes),
        warnings=("a warning",) if case_id == "one/b" else (),
    )
    foreground = {taxonomy.names[bit]: m.sample for bit, m in found.items()}
    write_case(
        folder,
        record,
        ct=ct,
        codes=packed.codes,
        table=packed.table,
        foreground=foreground,
        taxonomy=taxonomy,
        storage=RECIPE.storage,
    )


def make_corpus(folder, taxonomy):
    write_root(folder, taxonomy, RECIPE, "0.0.0")
    for case_id in AVAILABLE:
        write(folder, case_id, taxonomy)
    write_quarantine(folder, {"two/b": ("two", "truncated")})
    write_catalog(folder, taxonomy, RECIPE.splits)
    return folder


@pytest.fixture(scope="session")
def make():
    """Function that writes the whole corpus into a folder."""
    return make_corpus


@pytest.fixture(scope="session")
def write_one():
    """Function that writes one case into an existing corpus."""
    return write


@pytest.fixture
def folder(tmp_path, taxonomy):
    """Folder of a corpus that a test may damage."""
    return make_corpus(tmp_path / "toy.zarr", taxonomy)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, taxonomy):
    """A corpus to read."""
    return open_corpus(make_corpus(tmp_path_factory.mktemp("corpus") / "toy.zarr", taxonomy))


@pytest.fixture(scope="session")
def truth(taxonomy):
    """CT and masks that were written: case id -> (ct, masks)."""
    return {case_id: arrays(case_id, taxonomy) for case_id in AVAILABLE}
