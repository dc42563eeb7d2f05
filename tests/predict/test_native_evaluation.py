"""Evaluation on the scans' own grids: phantoms as published, against formulas, nibabel and scipy."""

import json
import shutil
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from distributed import Client, LocalCluster
from predicting import model
from scipy import ndimage
from typer.testing import CliRunner

from atlas.build import build
from atlas.cli import app
from atlas.corpus import open_corpus
from atlas.corpus.write import array_digest
from atlas.errors import AtlasError, LabelError, ScanError
from atlas.harmonize.native import native_grid, reconcile_native
from atlas.harmonize.pack import PackedMasks
from atlas.harmonize.reconcile import SourceLabels
from atlas.phantom import write_dataset
from atlas.predict import canonical
from atlas.predict.evaluate import NativeScorer
from atlas.predict.native_truth import Published
from atlas.spec import Recipe
from atlas.train.evaluation.run import evaluate
from atlas.train.evaluation.truth import packed_masks, truths

SPACING = (6.0, 5.0, 7.0)
"""Of the scans, along x, y, z; the corpus has 5 mm."""
FIELD = ((-180.0, 180.0), (-135.0, 135.0), (-230.0, 170.0))
SEED = 2
"""Of bodies with tumours and cysts."""
DATASETS = {
    "amos22": "LAS, one label file",
    "kits23": "IPL, kidneys without sides, lesions in them",
    "ct_org": "kidneys and lungs without sides, some made by a program",
    "flare22": "vessels drawn in part of the slices",
    "abdomenatlas_10_mini": "a mask for each structure",
    "crlm": "DICOM segmentations, veins drawn in part",
    "gibson_multiorgan_tcia": "annotated in part of the slices, labels that run the other way than the CT",
}
EVERYTHING = ("manual", "revised", "pseudo")


def made(root, datasets, spacing, grid):
    """Sources and corpus of some phantoms, and what is in them."""
    phantoms = {}
    for name in datasets:
        for phantom in write_dataset(name, root / "sources", cases=1, seed=SEED, spacing=spacing, field=FIELD):
            phantoms[phantom.case_id] = phantom
    splits = {"train": 0, "val": 0, "test": 1}
    recipe = Recipe.model_validate(
        {"name": "some", "datasets": list(datasets), "grid": {"spacing": grid}, "splits": splits}
    )
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
        summary = build(recipe, root / "sources", root / "some.zarr", scheduler=client.scheduler.address)
    assert not summary.quarantined
    return SimpleNamespace(
        sources=root / "sources", corpus=open_corpus(root / "some.zarr"), phantoms=phantoms, spacing=grid, natives={}
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A case of each of some datasets."""
    return made(tmp_path_factory.mktemp("many"), DATASETS, SPACING, 5.0)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    """A scan whose voxels are those of the corpus."""
    return made(tmp_path_factory.mktemp("cubes"), ["kits23"], (6.0, 6.0, 6.0), 6.0)


@pytest.fixture
def knowing(monkeypatch):
    """Put a "network" in the place of the real one that knows every case by its CT; `change` is done to its masks."""

    def install(world, change=lambda mask: mask):
        cases = {world.corpus[name].record.ct_sha256: world.corpus[name] for name in world.phantoms}

        def predict_volume(network, ct, *, rows, out, **_):
            case = cases[array_digest(ct)]
            for number, row in enumerate(rows):
                name = case.taxonomy.names[row]
                out[number] = np.uint8(255) * (change(case.mask(name)) if name in case.available else False)
            return out

        monkeypatch.setattr(canonical, "predict_volume", predict_volume)
        taxonomy = world.corpus.taxonomy
        return model(taxonomy, taxonomy.names, world.spacing)

    return install


def run(world, trained, tmp_path, **options):
    options = {"provenance": EVERYTHING, **options}
    return evaluate(trained, world.corpus, scorer=NativeScorer(world.corpus, world.sources, tmp_path), **options)


def native(world, case_id):
    """Truth of a case on its own grid, and the CT."""
    if case_id not in world.natives:
        published = Published(world.corpus, world.sources).case(world.corpus[case_id])
        volume = published.image()
        world.natives[case_id] = *published.truth(volume.data.shape, volume.affine), volume
    return world.natives[case_id]


def test_truth_is_that_of_the_formula_voxel_by_voxel(many):
    """Sides, parts and wholes included; no voxel is lost or moved."""
    seen = set()
    for case_id, phantom in many.phantoms.items():
        done, grid, _ = native(many, case_id)
        case = many.corpus[case_id]
        assert set(case.taxonomy.members(done.available)) == case.available
        formula = phantom.truth(grid.shape, grid.affine)
        annotated = phantom.annotated(grid.shape, grid.affine)
        for truth in truths(done.masks, sorted(case.available), case.taxonomy):
            np.testing.assert_array_equal(
                truth.mask, formula[truth.name] & annotated, err_msg=f"{case_id} {truth.name}"
            )
            if truth.mask.any():
                seen.add((case_id.split("/")[0], truth.name))
    for dataset in ("kits23", "ct_org"):
        assert {(dataset, "kidney_left"), (dataset, "kidney_right")} <= seen
    assert {("ct_org", "lung_left"), ("kits23", "kidney_tumor")} <= seen
    assert ("crlm", "liver") in seen


def test_truth_against_the_files_read_with_nibabel(many):
    """Values and masks meant by hand, in the order in which the files store them."""
    meant = {
        "amos22": {"liver": [6], "kidney_right": [2], "aorta": [8]},
        "kits23": {"kidney_tumor": [2], "kidney_cyst": [3]},
        "ct_org": {"liver": [1], "bone": [5]},
        "flare22": {"liver": [1], "kidney_left": [13]},
    }
    pairs = {"kits23": ("kidney", [1, 2, 3]), "ct_org": ("lung", [3])}
    for dataset, classes in meant.items():
        (case_id,) = (name for name in many.phantoms if name.startswith(f"{dataset}/"))
        source = many.corpus[case_id].record.sources
        (path,) = (s.path for s in source if np.unique(stored(many, dataset, s.path)[0]).size < 30)
        labels, affine = stored(many, dataset, path)
        for name, values in classes.items():
            np.testing.assert_array_equal(as_stored(many, case_id, name, affine), np.isin(labels, values), err_msg=name)
        if dataset in pairs:
            name, values = pairs[dataset]
            left, right = (as_stored(many, case_id, f"{name}_{side}", affine) for side in ("left", "right"))
            np.testing.assert_array_equal(left | right, np.isin(labels, values))
            assert not (left & right).any()
            x = [(affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3])[0] for mask in (left, right)]
            assert x[0] < x[1] - 80  # RAS: the patient's right has the larger x


def stored(world, dataset, path):
    image = nib.load(world.sources / dataset / path)
    return np.asarray(image.dataobj), image.affine


def as_stored(world, case_id, name, affine):
    """Native truth of a class, turned as a file stores it."""
    done, _, _ = native(world, case_id)
    (truth,) = truths(done.masks, [name], world.corpus.taxonomy)
    xyz = nib.orientations.axcodes2ornt("RAS")
    turn = nib.orientations.ornt_transform(xyz, nib.io_orientation(affine))
    return nib.orientations.apply_orientation(truth.mask.T, turn)


def test_what_is_not_known(many):
    """Vessels beyond their slices, surroundings of vessels (mm, whatever the voxels), slices of a table."""
    for dataset, name in (("flare22", "aorta"), ("crlm", "portal_vein"), ("gibson_multiorgan_tcia", "liver")):
        (case_id,) = (c for c in many.phantoms if c.startswith(f"{dataset}/"))
        done, grid, _ = native(many, case_id)
        (truth,) = truths(done.masks, [name], many.corpus.taxonomy)
        assert truth.mask.any()
        if dataset == "flare22":
            shown = truth.mask.any(axis=(1, 2))
            expected = np.broadcast_to((np.cumsum(shown) > 0)[:, None, None], grid.shape)
            expected = expected & (np.cumsum(shown[::-1]) > 0)[::-1, None, None]
        elif dataset == "crlm":
            away = ndimage.distance_transform_edt(~truth.mask, sampling=grid.spacing)
            expected = truth.mask | (away > 20)
        else:
            expected = many.phantoms[case_id].annotated(grid.shape, grid.affine)
        assert 0 < expected.mean() < 1
        known = np.ones(grid.shape, bool) if truth.known is None else truth.known
        np.testing.assert_array_equal(known, expected, err_msg=dataset)


def test_a_perfect_model_is_nearly_perfect(many, knowing, tmp_path):
    """What is lost is what 5 mm voxels cannot show of voxels of 6 x 5 x 7 mm. Sides are right: else it would be 0."""
    found = run(many, knowing(many), tmp_path)
    assert found.failures == {}
    assert found.method.grid == "native"
    assert set(found.scores["case_id"]) == set(many.phantoms)
    large = found.scores[found.scores["truth_ml"] > 100]
    assert {"kidney_left", "kidney_right", "lung_left", "liver", "spleen"} <= set(large["class"])
    assert large["dice"].min() > 0.93
    assert large["nsd"].min() > 0.9
    pairs = {(c.case_id, name) for c in map(many.corpus.__getitem__, many.phantoms) for name in c.available}
    assert set(zip(found.scores["case_id"], found.scores["class"], strict=True)) == pairs


def test_scores_equal_an_independent_computation(many, knowing, tmp_path):
    """A model that sees everything 10 mm too far up; scored on arrays as the files store them."""
    found = run(many, knowing(many, lambda mask: np.roll(mask, 2, axis=0)), tmp_path, tolerance_mm=6.5)
    for dataset, name, value in (("amos22", "liver", 6), ("kits23", "kidney_tumor", 2), ("flare22", "spleen", 3)):
        (case_id,) = (c for c in many.phantoms if c.startswith(f"{dataset}/"))
        case = many.corpus[case_id]
        (path,) = (s.path for s in case.record.sources if np.unique(stored(many, dataset, s.path)[0]).size < 30)
        labels, affine = stored(many, dataset, path)
        affine = nib.load(many.phantoms[case_id].image).affine if dataset != "kits23" else native_affine(many, case_id)
        truth = labels == value
        at = np.linalg.inv(case.affine) @ affine  # voxel of the file to voxel (x, y, z) of the corpus
        index = np.indices(truth.shape).reshape(3, -1)
        xyz = at[:3, :3] @ index + at[:3, 3:]
        probability = np.roll(case.mask(name), 2, axis=0).astype(float)
        inside = ndimage.map_coordinates(probability, xyz[::-1], order=1, mode="nearest").reshape(truth.shape)
        unsure = np.abs(inside - 0.5) < 1e-3
        predicted = inside > 0.5
        row = found.scores[(found.scores["case_id"] == case_id) & (found.scores["class"] == name)].iloc[0]
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        ml = spacing.prod() / 1000
        slack = unsure.sum() * ml
        assert row["truth_ml"] == pytest.approx(truth.sum() * ml)
        assert row["predicted_ml"] == pytest.approx(predicted.sum() * ml, abs=slack + 1e-9)
        expected = 2 * (truth & predicted).sum() / (truth.sum() + predicted.sum())
        assert row["dice"] == pytest.approx(expected, abs=2 * slack / row["truth_ml"] + 1e-9)
        assert row["nsd"] == pytest.approx(surface_dice(truth, predicted, spacing, 6.5), abs=0.02)


def native_affine(world, case_id):
    return native(world, case_id)[2].affine


def surface_dice(truth, predicted, spacing, tolerance):
    """Brute force: all distances between all voxels of both surfaces."""
    faces = [np.argwhere(m & ~ndimage.binary_erosion(m)) * spacing for m in (truth, predicted)]
    apart = np.linalg.norm(faces[0][:, None] - faces[1][None], axis=2)
    near = [(apart.min(axis=axis) <= tolerance + 1e-6).sum() for axis in (1, 0)]
    return sum(near) / sum(map(len, faces))


def test_same_voxels_give_one_and_a_shift_costs_its_millimetres(cubes, knowing, tmp_path):
    perfect = run(cubes, knowing(cubes), tmp_path).scores
    assert set(perfect["dice"].dropna()) == set(perfect["nsd"].dropna()) == {1.0}
    assert {"kidney_left", "kidney_right", "kidney_tumor"} <= set(perfect.dropna()["class"])
    for axis in range(3):
        trained = knowing(cubes, lambda mask, axis=axis: np.roll(mask, 1, axis=axis))
        within, below = (run(cubes, trained, tmp_path, tolerance_mm=mm).scores for mm in (6.0, 5.9))
        assert set(within["nsd"].dropna()) == {1.0}
        assert below["nsd"].max() < 0.9
        assert within["dice"].max() < 1
        assert within["dice"].tolist() == pytest.approx(below["dice"].tolist(), nan_ok=True)


def test_only_what_counts_is_scored(many, knowing, tmp_path):
    found = run(many, knowing(many), tmp_path, provenance=("manual", "revised"))
    assert "abdomenatlas_10_mini" not in set(found.scores["dataset"])
    assert {name.split("/")[0] for name in found.unlabelled} == {"abdomenatlas_10_mini"}
    of_ct_org = found.scores[found.scores["dataset"] == "ct_org"]
    assert "liver" in set(of_ct_org["class"])
    assert not {"lung_left", "bone"} & set(of_ct_org["class"])


def test_classes_that_a_model_gave_to_the_corpus_have_no_truth_in_the_files(cubes):
    (case_id,) = cubes.phantoms
    case = cubes.corpus[case_id]
    made = {"provenance": "pseudo", "model": "another"}
    changed = [c.model_copy(update=made if c.name == "kidney_left" else {}) for c in case.record.classes]
    vars(case)["record"] = case.record.model_copy(update={"classes": tuple(changed)})
    published = Published(cubes.corpus, cubes.sources).case(case)
    volume = published.image()
    done, _ = published.truth(volume.data.shape, volume.affine)
    assert set(case.taxonomy.members(done.available)) == case.available - {"kidney_left"}


def test_other_files_than_those_of_the_corpus(many, knowing, tmp_path):
    """Each case says what is wrong with it; the others are scored."""
    world = SimpleNamespace(**{**vars(many), "sources": tmp_path / "sources"})
    shutil.copytree(many.sources, world.sources)
    (kits,) = (c for c in many.phantoms if c.startswith("kits23/"))
    (amos,) = (c for c in many.phantoms if c.startswith("amos22/"))
    (path,) = (s.path for s in many.corpus[kits].record.sources if "segmentation" in s.path)
    with (world.sources / "kits23" / path).open("ab") as file:
        file.write(b"\0")
    (label,) = (s.path for s in many.corpus[amos].record.sources if "labels" in s.path)
    (world.sources / "amos22" / label).unlink()
    shutil.rmtree(world.sources / "flare22")
    found = run(world, knowing(many), tmp_path)
    reasons = {name.split("/")[0]: reason for name, reason in found.failures.items()}
    assert set(reasons) == {"kits23", "amos22", "flare22"}
    assert f"not the files that the corpus was built from: {path} (sha256 differs" in reasons["kits23"]
    assert "no label file 'segmentation'" in reasons["amos22"]
    assert "no folder" in reasons["flare22"]
    assert {"ct_org", "crlm"} <= set(found.scores["dataset"])


def test_another_label_map_than_then(cubes, tmp_path, monkeypatch):
    from atlas.spec.library import shipped

    (tmp_path / "label_maps").mkdir()
    text = (shipped("label_maps") / "kits23.yaml").read_text()
    (tmp_path / "label_maps" / "kits23.yaml").write_text(text.replace("2: kidney_tumor", "2: kidney_cyst"))
    monkeypatch.setenv("ATLAS_PATH", str(tmp_path))
    (case_id,) = cubes.phantoms
    with pytest.raises(ScanError, match="built with another label map than the library has now for kits23"):
        Published(cubes.corpus, cubes.sources).case(cubes.corpus[case_id])


def test_labels_on_another_grid_are_refused(cubes):
    (case_id,) = cubes.phantoms
    published = Published(cubes.corpus, cubes.sources).case(cubes.corpus[case_id])
    rules = published.context.rules
    grid = native_grid((12, 10, 8), np.diag([2.0, 3.0, 4.0, 1.0]))
    nothing = PackedMasks(np.zeros((4, 4, 4), np.uint8), packed_masks(cubes.corpus[case_id]).table[:1])
    common = {"grid": grid, "canonical": nothing, "canonical_grid": None, "available": -1}

    def reconciled(affine, shape=(12, 10, 8), value=2):
        labels = np.zeros(shape, np.uint8)
        labels[1, 2, 3] = value
        whole = shape == (12, 10, 8)
        layer = SourceLabels("segmentation", "values", labels, affine, whole)
        return reconcile_native([layer], rules, "case", **common)

    half, wide, turned = (np.diag([2.0, 3.0, 4.0, 1.0]) for _ in range(3))
    half[0, 3] = 1.0
    wide[1, 1] = 3.1
    turned[:3, :3] = nib.affines.apply_affine(np.eye(4), turned[:3, :3]) @ [[0.98, -0.2, 0], [0.2, 0.98, 0], [0, 0, 1]]
    for affine in (half, wide, turned):
        with pytest.raises(LabelError, match="'segmentation' is on another grid than the scan"):
            reconciled(affine)
    # a part of the same lattice is no other grid; beyond it nothing is known
    part = np.diag([2.0, 3.0, 4.0, 1.0])
    part[:3, 3] = [4.0, 6.0, 8.0]
    done = reconciled(part, (6, 5, 5))
    bit = rules.taxonomy.bit("kidney_tumor")
    assert np.argwhere(done.masks.lookup(bit)[done.masks.codes]).tolist() == [[5, 4, 3]]
    unknown = np.array([e.unknown >> bit & 1 for e in done.masks.table], bool)[done.masks.codes]
    assert not unknown[2:7, 2:7, 2:8].any()
    assert unknown.sum() == unknown.size - 5 * 5 * 6
    # where the corpus shows no side at all, nobody can tell it, and nobody guesses
    left, right = (rules.taxonomy.bit(f"kidney_{side}") for side in ("left", "right"))
    for b in (left, right):
        known = ~np.array([e.unknown >> b & 1 for e in done.masks.table], bool)[done.masks.codes]
        assert not known[5, 4, 3]
        assert not done.masks.lookup(b).any()


def test_command(cubes, knowing, tmp_path, monkeypatch):
    trained = knowing(cubes)
    monkeypatch.setattr("atlas.train.run.load_run", lambda folder, device: trained)
    words = ["evaluate", tmp_path / "run", "--corpus", cubes.corpus.location, "--device", "cpu", "--format", "json"]
    done = CliRunner().invoke(app, [*map(str, words), "--native", str(cubes.sources)])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert (document["grid"], document["spacing_mm"], document["mean"]) == ("native", None, {"dice": 1.0, "nsd": 1.0})
    folder = tmp_path / "run" / "evaluation-test" / "native"
    assert json.loads((folder / "summary.json").read_text()) == document
    assert (folder / "scores.csv").is_file()
    failed = CliRunner().invoke(app, [*map(str, words), "--native", str(tmp_path / "nowhere")])
    assert isinstance(failed.exception, AtlasError)
    assert "nowhere: no such folder; --native wants" in str(failed.exception)
