"""Evaluation and validation with a network that reads the truth from the image, tables against numbers by hand."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from atlas.cli import app
from atlas.corpus import open_corpus
from atlas.corpus.catalog import write_catalog, write_quarantine
from atlas.corpus.record import CaseRecord, ClassRecord, Identity, NativeRecord, SourceRecord
from atlas.corpus.write import array_digest, write_case, write_root
from atlas.errors import AtlasError, CheckpointError, CorpusError
from atlas.harmonize.grid import Grid
from atlas.harmonize.measure import body_box, measure
from atlas.harmonize.pack import Entry, MaskPacker
from atlas.model.head import Logits
from atlas.spec import Recipe
from atlas.spec.training import TrainingRecipe
from atlas.train import masks as module
from atlas.train.evaluation.files import summarise, write_evaluation
from atlas.train.evaluation.intervals import bootstrap_mean, wilson
from atlas.train.evaluation.run import evaluate
from atlas.train.evaluation.score import score_case
from atlas.train.evaluation.tables import class_table, detection_table
from atlas.train.evaluation.truth import Truth, packed_masks, scored_classes, truths
from atlas.train.evaluation.validate import class_dice, mean_dice, validate, validation_scores
from atlas.train.run import CorpusRecord, RunDescription, Trained, network_of, save_description, save_model

SHAPE = (20, 24, 28)
WINDOW = (0.0, 255.0)
BOXES = {
    "liver": (4, 16, 4, 18, 14, 25),
    "liver_tumor": (8, 11, 8, 11, 16, 20),
    "kidney_left": (6, 12, 6, 12, 3, 8),
    "kidney_right": (3, 9, 12, 20, 20, 26),
    "aorta": (0, 20, 14, 17, 12, 15),
}
# case id: patient, what the image shows, class -> whether it is present in the truth
CASES = {
    "one/a": ("p1", ["liver", "liver_tumor", "kidney_left", "kidney_right", "aorta"], {"liver": 1, "liver_tumor": 1}),
    "one/b": ("p2", ["liver"], {"liver": 1, "liver_tumor": 0}),
    "one/c": ("p2", ["liver", "liver_tumor"], {"liver": 1, "liver_tumor": 0}),  # the image shows one that is not there
    "two/a": (
        "p3",
        ["liver", "kidney_left", "kidney_right", "aorta"],
        {"kidney_left": 1, "kidney_right": 1, "aorta": 1},
    ),
    "two/b": ("p4", ["liver"], {"kidney_left": 0, "kidney_right": 0, "cyst_left": 0}),
    "two/c": ("p4", ["aorta"], {"cyst_right": 0}),
}
PSEUDO = {("two/b", "kidney_left"), ("two/c", "cyst_right")}
END = 12
"""First slice where the aorta of two/a is not known."""


def box_of(name):
    mask = np.zeros(SHAPE, bool)
    if name in BOXES:
        z, y, x = zip(BOXES[name][::2], BOXES[name][1::2], strict=True)
        mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def arrays(case_id, taxonomy):
    """CT whose HU are the bitmask of what it shows, masks, and what is unknown."""
    _, shown, labelled = CASES[case_id]
    ct = sum(box_of(name).astype(np.int16) << taxonomy.bit(name) for name in shown)
    masks = {name: box_of(name) & bool(present) for name, present in labelled.items()}
    unknown = {name: np.zeros(SHAPE, bool) for name in masks}
    if case_id == "two/a":
        masks["aorta"][END:], unknown["aorta"][END:] = False, True
    if case_id == "two/b":
        unknown["kidney_right"][:] = True
    return ct, masks, unknown


def write(folder, case_id, taxonomy, recipe):
    ct, masks, unknown = arrays(case_id, taxonomy)
    packer = MaskPacker(SHAPE)
    for name in masks:
        bit = 1 << taxonomy.bit(name)
        packer.update((0, 0, 0), masks[name], lambda e, _, b=bit: Entry(e.classes | b, e.unknown))
        packer.update((0, 0, 0), unknown[name], lambda e, _, b=bit: Entry(e.classes, e.unknown | b))
    packed = packer.packed(keep=-1)
    grid = Grid(shape=SHAPE, spacing=recipe.grid.spacing, origin=(0.0, 0.0, 0.0))
    found = {taxonomy.names[m.bit]: m for m in measure(packed, grid, samples=20, seed=0)}
    fields = set(ClassRecord.model_fields) - {"name", "provenance", "model"}
    classes = []
    for name in sorted(masks, key=taxonomy.bit):
        measured = {k: getattr(found[name], k) for k in fields} if name in found else {}
        who = {"provenance": "pseudo", "model": "m"} if (case_id, name) in PSEUDO else {"provenance": "manual"}
        classes.append(ClassRecord(name=name, **who, **measured))
    dataset, source_case = case_id.split("/")
    record = CaseRecord(
        case_id=case_id, dataset=dataset, source_case=source_case, patient_id=CASES[case_id][0], licence="CC0-1.0",
        shape=SHAPE, spacing=grid.spacing, origin=grid.origin, affine=grid.affine.tolist(),
        native=NativeRecord(shape=SHAPE[::-1], spacing=(1.5, 1.5, 1.5), orientation="RAS"),
        hu_min=int(ct.min()), hu_max=int(ct.max()), body_bbox=body_box(ct),
        available=hex(sum(1 << taxonomy.bit(name) for name in masks)), classes=tuple(classes),
        sources=(SourceRecord(path="ct.nii.gz", bytes=1, sha256="0" * 64),),
        identity=Identity(label_map="l", recipe="r", software="1"),
        ct_sha256=array_digest(ct), codes_sha256=array_digest(packed.codes), warnings=(),
    )  # fmt: skip
    foreground = {name: found[name].sample for name in sorted(found, key=taxonomy.bit)}
    write_case(
        folder, record, ct=ct, codes=packed.codes, table=packed.table, foreground=foreground, taxonomy=taxonomy,
        storage=recipe.storage,
    )  # fmt: skip


def make(folder, taxonomy, spacing=1.5):
    recipe = Recipe.model_validate(
        {
            "name": "toy", "datasets": ["one", "two"], "storage": {"shard": 64, "foreground": 20},
            "grid": {"spacing": spacing}, "splits": {"train": 0, "val": 0, "test": 1},
        }
    )  # fmt: skip
    write_root(folder, taxonomy, recipe, "0.0.0")
    for case_id in CASES:
        write(folder, case_id, taxonomy, recipe)
    write_quarantine(folder, {})
    write_catalog(folder, taxonomy, recipe.splits)
    return open_corpus(folder)


@pytest.fixture(scope="module")
def coded(tmp_path_factory, taxonomy):
    """Corpus whose images tell the truth."""
    return make(tmp_path_factory.mktemp("coded") / "toy.zarr", taxonomy)


@pytest.fixture
def damaged(coded, tmp_path):
    """A copy in which the CT of one case cannot be read, and another case has no metadata."""
    folder = shutil.copytree(coded.location, tmp_path / "damaged.zarr")
    for shard in (folder / "cases/one/a/ct").rglob("c/*/*/*"):
        shard.write_bytes(b"\0" * 50)
    (folder / "cases/two/a/labels/masks/zarr.json").unlink()
    return open_corpus(folder)


class Reader(nn.Module):
    """Reads each class from the bits of the image; `change` is done to the image first."""

    def __init__(self, taxonomy, change=lambda image: image):
        super().__init__()
        self.classes, self.change = taxonomy.names, change
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked = []

    def forward(self, image, available=None, *, levels=False):
        self.asked.append(available.any(0).nonzero().flatten().tolist())
        codes = (self.change(image)[:, 0] * 255).round().long()
        pairs = available.nonzero()
        bits = torch.stack([codes[b] >> k & 1 for b, k in pairs.tolist()])
        return Logits(20.0 * bits - 10, pairs)


def described(taxonomy, **changes):
    recipe = {
        "name": "toy",
        "data": {"patch": 16, "window": WINDOW},
        "model": {"backbone": {"kind": "unet", "features": [8, 8, 16]}},
        "optimiser": {"steps": 1, "batch": 3, "precision": "bf16"},
        "validation": {"overlap": 0.25},
        **changes,
    }
    return RunDescription(
        version="0", recipe=TrainingRecipe.model_validate(recipe), classes=taxonomy.names, heads=(len(taxonomy),),
        taxonomy=taxonomy, corpus=CorpusRecord(location="elsewhere", spacing=1.5, cases=1, fingerprint=0),
    )  # fmt: skip


@pytest.fixture
def reader(taxonomy, tmp_path):
    """Make a trained model of the network that reads the truth."""

    def made(change=lambda image: image, **recipe):
        description = described(taxonomy, **recipe)
        return Trained(tmp_path / "run", Reader(taxonomy, change).eval(), description, "d" * 64)

    return made


EXPECTED = {  # Dice of a network that sees everything that the image shows; None: not defined
    ("one/a", "liver"): 1, ("one/a", "liver_tumor"): 1,
    ("one/b", "liver"): 1, ("one/b", "liver_tumor"): None,
    ("one/c", "liver"): 1, ("one/c", "liver_tumor"): 0,
    ("two/a", "kidney_left"): 1, ("two/a", "kidney_right"): 1, ("two/a", "aorta"): 1,
    ("two/b", "cyst_left"): None,
}  # fmt: skip


def by_pair(scores, column="dice"):
    values = [None if math.isnan(v) else v for v in scores[column]]
    return dict(zip(zip(scores["case_id"], scores["class"], strict=True), values, strict=True))


def test_reader_of_the_truth_is_perfect(coded, reader):
    """Classes that the image shows are not scored where unavailable, unknown or labelled by a model."""
    evaluation = evaluate(reader(), coded)
    assert by_pair(evaluation.scores) == EXPECTED
    assert by_pair(evaluation.scores, "nsd") == EXPECTED
    assert evaluation.failures == {}
    assert evaluation.unlabelled == ("two/c",)
    assert evaluation.unscored == ("kidney_tumor", "cyst_right")
    known = by_pair(evaluation.scores, "known")
    assert known.pop(("two/a", "aorta")) == END / SHAPE[0]
    assert set(known.values()) == {1.0}


def test_volumes_groups_and_provenance(coded, reader):
    scores = evaluate(reader(), coded).scores
    truth_ml = by_pair(scores, "truth_ml")
    for row in coded.annotations.to_dict("records"):
        if (row["case_id"], row["class"]) in truth_ml:
            assert truth_ml[row["case_id"], row["class"]] == pytest.approx(row["volume_ml"], abs=1e-6)
    assert by_pair(scores, "predicted_ml")["one/c", "liver_tumor"] == pytest.approx(3 * 3 * 4 * 1.5**3 / 1000)
    groups = dict(zip(coded.cases["case_id"], coded.cases["group_id"], strict=True))
    assert scores["group"].tolist() == [groups[case_id] for case_id in scores["case_id"]]
    assert set(scores["provenance"]) == {"manual"}
    assert scores.groupby("class")["kind"].first().to_dict()["liver_tumor"] == "lesion"


def test_only_the_classes_of_a_case_are_computed(coded, reader, taxonomy):
    trained = reader()
    evaluate(trained, coded, datasets="two")
    assert {tuple(rows) for rows in trained.network.asked} == {
        tuple(sorted(map(taxonomy.bit, names)))
        for names in (("kidney_left", "kidney_right", "aorta"), ("kidney_right", "cyst_left"))
    }


def test_flipped_left_to_right_scores_nothing(coded, reader):
    trained = reader(lambda image: image.flip(-1), data={"patch": [20, 24, 28], "window": WINDOW})
    found = by_pair(evaluate(trained, coded).scores)
    for pair in (("two/a", "kidney_left"), ("two/a", "kidney_right"), ("one/a", "liver_tumor")):
        assert found[pair] == 0


def test_pseudo_labels_where_they_are_wanted(coded, reader):
    found = evaluate(reader(), coded, provenance=["pseudo"])
    assert by_pair(found.scores) == {("two/b", "kidney_left"): None, ("two/c", "cyst_right"): None}


def test_selection(coded, reader):
    assert set(evaluate(reader(), coded, split=None, datasets=["two"]).scores["dataset"]) == {"two"}
    with pytest.raises(CorpusError, match="no case of this corpus has the split 'val'; there is: test"):
        evaluate(reader(), coded, split="val")
    with pytest.raises(CorpusError, match="none of the 6 selected cases has a class of the model that is revised"):
        evaluate(reader(), coded, provenance=["revised"])


def test_postprocessing_as_the_recipe_says(coded, reader):
    """The image gets a second piece of liver; the recipe keeps the largest."""

    def island(image):
        image = image.clone()
        image[:, :, :2, :2, :2] = 1 / 255
        return image

    trained = reader(island, postprocess={"largest": ["liver"]}, data={"patch": [20, 24, 28], "window": WINDOW})
    assert by_pair(evaluate(trained, coded).scores) == EXPECTED
    assert by_pair(evaluate(trained, coded, postprocess=False).scores)["one/a", "liver"] < 1


def test_postprocessing_sees_all_classes_and_the_ct(coded, reader, taxonomy, monkeypatch):
    seen = []

    def spy(masks, classes, tax, spec, spacing, ct):
        seen.append((masks.shape, tuple(classes), tax, spec.sides, spacing, ct.dtype))
        masks[:] = False

    monkeypatch.setattr(module, "postprocess_in_place", spy)
    scores = evaluate(reader(postprocess={"sides": True}), coded, datasets="one").scores
    assert seen == [((8, *SHAPE), taxonomy.names, taxonomy, True, 1.5, np.int16)] * 3
    assert set(scores["predicted_ml"]) == {0.0}


def test_damaged_cases_are_listed_and_the_others_scored(damaged, reader):
    evaluation = evaluate(reader(), damaged)
    assert set(evaluation.failures) == {"one/a", "two/a"}
    assert all(len(reason) > 10 for reason in evaluation.failures.values())
    assert by_pair(evaluation.scores) == {k: v for k, v in EXPECTED.items() if k[0] not in evaluation.failures}


def test_nothing_left_is_an_error(damaged, reader):
    shutil.rmtree(f"{damaged.location}/cases/two/b")
    with pytest.raises(CorpusError, match="nothing could be scored, 2 of 3 cases failed; two/a: "):
        evaluate(reader(), damaged, datasets="two")


def test_other_grid_or_other_classes(coded, reader, taxonomy, tmp_path):
    wide = make(tmp_path / "wide.zarr", taxonomy, spacing=2.0)
    with pytest.raises(CorpusError, match=r"its grid is 2 mm, that of the model in .*run is 1\.5 mm"):
        evaluate(reader(), wide)
    content = taxonomy.model_dump()
    content["classes"][0]["name"] = "leber"
    content["classes"][1]["parents"] = ["leber"]
    other = make_trained(reader(), type(taxonomy).model_validate(content))
    with pytest.raises(CorpusError, match=r"its taxonomy does not have leber, which the model"):
        evaluate(other, coded)
    content = taxonomy.model_dump()
    first, last = content["classes"][0], content["classes"][-1]
    first["bit"], last["bit"] = last["bit"], first["bit"]
    content["classes"] = [last, *content["classes"][1:-1], first]
    other = make_trained(reader(), type(taxonomy).model_validate(content))
    with pytest.raises(CorpusError, match="aorta, liver: another bit"):
        evaluate(other, coded)


def make_trained(trained, taxonomy):
    description = trained.description.model_copy(update={"taxonomy": taxonomy, "classes": taxonomy.names})
    return Trained(trained.folder, trained.network, description, trained.digest)


def test_truth_is_that_of_the_case(coded, taxonomy):
    for case_id in CASES:
        case = coded[case_id]
        names = scored_classes(case, taxonomy.names, ["manual", "pseudo"])
        assert set(names) == set(CASES[case_id][2])
        assert [n for n in taxonomy.names if n in names] == names
        for truth in truths(packed_masks(case), names, taxonomy):
            np.testing.assert_array_equal(truth.mask, case.mask(truth.name))
            known = np.ones(SHAPE, bool) if truth.known is None else truth.known
            np.testing.assert_array_equal(~known, case.unknown(truth.name))


def test_scores_on_any_grid():
    """Volumes and distances where the voxels are not cubes."""
    truth, predicted = np.zeros((2, 6, 8, 8), bool)
    truth[2, 2:5, 2:5], predicted[3, 2:5, 2:5] = True, True
    known = np.ones(truth.shape, bool)
    known[0] = False
    near, far = (
        score_case([predicted], [Truth("a", truth, known)], (5.0, 0.7, 0.8), tolerance)[0] for tolerance in (5.0, 4.9)
    )
    assert near.truth_ml == near.predicted_ml == pytest.approx(9 * 5 * 0.7 * 0.8 / 1000)
    assert (near.dice, near.nsd, far.nsd) == (0, 1, 0)
    assert near.known == pytest.approx(5 / 6)


# -- validation


def test_validation_is_the_evaluation_without_postprocessing(coded, reader):
    trained, cases = reader(), list(CASES)
    scores = validation_scores(trained.network.train(), coded, cases, trained.description)
    assert by_pair(scores) == EXPECTED | {("two/b", "kidney_right"): None}  # of which nothing is known
    assert mean_dice(scores) == pytest.approx(7 / 8)
    assert class_dice(scores)["liver_tumor"] == 0.5
    assert math.isnan(class_dice(scores)["cyst_left"])
    assert validate(trained.network, coded, cases, trained.description, "cpu") == mean_dice(scores)
    assert trained.network.training


def test_validation_uses_the_overlap_and_the_window_of_the_recipe(coded, reader):
    trained = reader()
    validate(trained.network, coded, ["one/a"], trained.description)
    few = len(trained.network.asked)
    often = reader(validation={"overlap": 0.75})
    validate(often.network, coded, ["one/a"], often.description)
    assert len(often.network.asked) > few
    other = reader(data={"patch": 16, "window": (0.0, 300.0)})
    assert validate(other.network, coded, ["one/a"], other.description) < 1


def test_validation_of_nothing_is_nan(coded, reader):
    trained = reader()
    assert math.isnan(validate(trained.network, coded, [], trained.description))
    assert math.isnan(validate(trained.network, coded, ["two/c"], trained.description))


# -- tables


def scores_of(rows):
    fill = {"provenance": "manual", "known": 1.0, "nsd": 0.5}
    return pd.DataFrame([{**fill, "case_id": str(i), **row} for i, row in enumerate(rows)])


def table_rows(seed=0, count=60):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        name, present, called = rng.choice(["liver", "liver_tumor"]), rng.random() < 0.6, rng.random() < 0.7
        yield {
            "dataset": f"d{rng.integers(2)}", "group": f"g{rng.integers(20)}", "class": name,
            "kind": "lesion" if name == "liver_tumor" else "organ", "truth_ml": present * 3.0,
            "predicted_ml": called * rng.choice([0.05, 2.0]),
            "dice": rng.random() if present and called else 0.0 if present or called else np.nan,
        }  # fmt: skip


def test_class_table_by_hand():
    scores = scores_of(table_rows())
    for by, table in (
        (("class",), class_table(scores)),
        (("dataset", "class"), class_table(scores, ("dataset", "class"))),
    ):
        assert len(table) == len({tuple(row) for row in scores[list(by)].to_numpy()})
        for row in table.to_dict("records"):
            part = [r for r in scores.to_dict("records") if all(r[c] == row[c] for c in by)]
            values = [r["dice"] for r in part if r["dice"] == r["dice"]]
            assert row["cases"] == len(part)
            assert row["patients"] == len({r["group"] for r in part})
            assert row["present"] == sum(r["truth_ml"] > 0 for r in part) == len(part) - row["absent"]
            assert row["dice_n"] == len(values) < len(part)
            assert row["dice_mean"] == pytest.approx(np.mean(values))
            assert row["dice_median"] == pytest.approx(np.median(values))
            assert row["dice_present"] == pytest.approx(np.mean([r["dice"] for r in part if r["truth_ml"] > 0]))
            assert row["dice_low"] < row["dice_mean"] < row["dice_high"]
            assert (row["nsd_mean"], row["nsd_low"], row["nsd_high"]) == (0.5, 0.5, 0.5)


def test_detection_table_by_hand():
    scores = scores_of(table_rows(3))
    for least in (0.0, 0.1):
        (row,) = detection_table(scores, least).to_dict("records")
        lesions = [r for r in scores.to_dict("records") if r["class"] == "liver_tumor"]
        called = {r["case_id"]: r["predicted_ml"] > 0 and r["predicted_ml"] >= least for r in lesions}
        sick, healthy = ([r for r in lesions if (r["truth_ml"] > 0) is has] for has in (True, False))
        assert (row["present"], row["absent"]) == (len(sick), len(healthy))
        assert row["sensitivity"] == np.mean([called[r["case_id"]] for r in sick])
        assert row["specificity"] == np.mean([not called[r["case_id"]] for r in healthy])
        assert (row["sensitivity_low"], row["sensitivity_high"]) == wilson(row["found"], row["present"])
    assert detection_table(scores, 0.1)["sensitivity"][0] < detection_table(scores)["sensitivity"][0]


def test_detection_of_the_corpus(coded, reader):
    table = detection_table(evaluate(reader(), coded).scores).set_index("class")
    tumour = table.loc["liver_tumor"]
    assert (tumour["present"], tumour["found"], tumour["absent"], tumour["cleared"]) == (1, 1, 2, 1)
    cyst = table.loc["cyst_left"]
    assert math.isnan(cyst["sensitivity"])
    assert (cyst["absent"], cyst["specificity"]) == (1, 1.0)


def test_wilson_by_formula():
    z = 1.959963984540054
    for hits, total in ((0, 5), (3, 7), (20, 20), (41, 100)):
        p = hits / total
        middle, half = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
        expected = ((middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total))
        assert wilson(hits, total) == pytest.approx(expected, abs=1e-9)
    assert all(map(math.isnan, wilson(0, 0)))


def test_bootstrap_draws_patients():
    rng = np.random.default_rng(1)
    offsets = rng.normal(0.7, 0.1, 12)
    groups = rng.integers(0, 12, 80)
    values = offsets[groups] + rng.normal(0, 0.01, 80)  # cases of a patient are alike
    names = [f"p{g}" for g in groups]
    low, high = bootstrap_mean(values, names)
    means, present = [], np.unique(groups)
    for _ in range(4000):  # the same, written out
        drawn = rng.choice(present, len(present))
        means.append(np.concatenate([values[groups == g] for g in drawn]).mean())
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.006)
    single = bootstrap_mean(values, [str(i) for i in range(80)])
    assert single[1] - single[0] < 0.7 * (high - low)
    assert bootstrap_mean(values, names) == (low, high)
    assert bootstrap_mean(values, names, seed=1) != (low, high)
    assert all(map(math.isnan, bootstrap_mean([0.5, 0.6], ["a", "a"])))
    assert all(map(math.isnan, bootstrap_mean([], [])))


# -- files and command line


def test_files(coded, reader, tmp_path):
    evaluation = evaluate(reader(), coded)
    summary = summarise(evaluation)
    write_evaluation(tmp_path / "out", evaluation, summary)
    names = {"scores.csv", "summary.csv", "datasets.csv", "detection.csv", "summary.json", "scores.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert by_pair(pd.read_csv(tmp_path / "out/scores.csv")) == EXPECTED
    classes = pd.read_csv(tmp_path / "out/summary.csv")
    order = ["liver", "liver_tumor", "kidney_left", "kidney_right", "cyst_left", "aorta"]
    assert classes["class"].tolist() == order
    datasets = pd.read_csv(tmp_path / "out/datasets.csv")
    assert datasets[["dataset", "class"]].to_numpy().tolist() == [
        *(["one", name] for name in order[:2]), *(["two", name] for name in order[2:])
    ]  # fmt: skip
    document = json.loads((tmp_path / "out/summary.json").read_text())
    assert document == summary.document
    tumour = document["classes"][1]
    assert (tumour["cases"], tumour["dice_n"], tumour["dice_mean"], tumour["dice_present"]) == (3, 2, 0.5, 1.0)
    assert document["mean"]["dice"] == pytest.approx((4 + 0.5) / 5)
    assert (document["cases"], document["patients"], document["model_sha256"]) == (5, 4, "d" * 64)
    assert document["not_scored"] == ["kidney_tumor", "cyst_right"]
    assert (tmp_path / "out/scores.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run_folder(tmp_path, taxonomy):
    """Run with a real network, as it was born."""
    folder = tmp_path / "run"
    description = described(taxonomy, embeddings={"kind": "learned"})
    torch.manual_seed(0)
    save_description(folder, description, None)
    save_model(folder, network_of(description, None).state_dict())
    return folder


def cli(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_command_prints_json_alone_and_writes(coded, run_folder):
    result = cli(run_folder, "--corpus", coded.location, "--format", "json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["run"] == str(run_folder)
    assert {row["class"] for row in document["classes"]} == {name for _, name in EXPECTED}
    assert json.loads((run_folder / "evaluation-test/summary.json").read_text()) == document


def test_command_prints_tables(coded, reader, run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("atlas.train.run.load_run", lambda folder, device: reader())
    words = (run_folder, "--corpus", coded.location, "--device", "cpu", "--out", tmp_path / "elsewhere")
    table = cli(*words, "--tolerance", "3")
    assert table.exit_code == 0
    for text in ("NSD 3 mm", "kidney_left", "0.500", "sensitivity", "1/2"):
        assert text in table.stdout
    assert "kidney_tumor, cyst_right" in table.stderr
    assert (tmp_path / "elsewhere/scores.png").is_file()
    rows = cli(*words, "--format", "csv").stdout.splitlines()
    assert rows[0].startswith("class,kind,cases,patients")
    assert len(rows) == 7


def test_command_ends_with_3_if_cases_failed(damaged, run_folder):
    result = cli(run_folder, "--corpus", damaged.location, "--device", "cpu")
    assert result.exit_code == 3
    assert "failed: one/a: " in result.stderr
    assert json.loads((run_folder / "evaluation-test/summary.json").read_text())["failed"].keys() == {"one/a", "two/a"}


def test_command_without_a_run(coded, tmp_path):
    result = cli(tmp_path, "--corpus", coded.location)
    assert isinstance(result.exception, CheckpointError)


def test_command_sees_before_the_work_that_it_cannot_write(coded, run_folder, tmp_path):
    (tmp_path / "file").touch()
    result = cli(run_folder, "--corpus", coded.location, "--device", "cpu", "--out", tmp_path / "file")
    assert isinstance(result.exception, AtlasError)
    assert "file: cannot be written to" in str(result.exception)
