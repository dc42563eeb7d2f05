"""Pseudo labels in a corpus: what is written, what is left alone, and what happens when something is wrong."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import atlas
from atlas.cli import app
from atlas.corpus import open_corpus
from atlas.corpus.journal import journal
from atlas.corpus.verify import verify
from atlas.errors import BuildError, CorpusError, SpecError
from atlas.train import masks
from atlas.train.embed import embeddings_of
from atlas.train.pseudo import model_name, pseudo_label
from atlas.train.run import CorpusRecord, RunDescription, load_run, network_of, save_description, save_model

CLASSES = ("liver", "spleen", "liver_tumor")
SHAPE = (32, 36, 40)
FOUND = {"liver": (4, 24, 6, 30, 18, 38), "spleen": (8, 20, 10, 24, 2, 12), "liver_tumor": (10, 28, 12, 20, 22, 30)}


def save_run(folder, recipe, taxonomy, seed=0):
    """A run whose network has learned nothing."""
    torch.manual_seed(seed)
    record = CorpusRecord(location="toy.zarr", spacing=1.5, cases=6, fingerprint=0)
    embeddings = embeddings_of(recipe.embeddings, taxonomy, CLASSES)
    description = RunDescription(
        version=atlas.__version__,
        recipe=recipe,
        classes=CLASSES,
        heads=(len(CLASSES),),
        taxonomy=taxonomy,
        corpus=record,
    )
    save_description(folder, description, embeddings)
    save_model(folder, network_of(description, embeddings).state_dict())
    return load_run(folder)


@pytest.fixture
def folder(corpus_folder, tmp_path):
    """Folder of a corpus to label."""
    return shutil.copytree(corpus_folder, tmp_path / "toy.zarr")


@pytest.fixture
def trained(tmp_path, recipe_of, corpus):
    """A model."""
    return save_run(tmp_path / "run", recipe_of(), corpus.taxonomy)


@pytest.fixture
def other(tmp_path, recipe_of, corpus):
    """Another model."""
    return save_run(tmp_path / "other", recipe_of(), corpus.taxonomy, seed=1)


def predicted(name, shift=0):
    mask = np.zeros(SHAPE, bool)
    z0, z1, y0, y1, x0, x1 = FOUND[name]
    mask[z0 + shift : z1 + shift, y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def calls(monkeypatch):
    """The network replaced by boxes; returns the CTs that it was asked for."""
    asked = []

    def predict(network, ct, **keywords):
        asked.append((ct, keywords))
        return np.stack([np.where(predicted(name), 128, 127).astype(np.uint8) for name in CLASSES])

    monkeypatch.setattr(masks, "predict_volume", predict)
    return asked


def state(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def problems(folder):
    return [f"{f.where}: {f.problem}" for _, findings in verify(folder) for f in findings]


def test_what_is_lacking_is_predicted(folder, trained, calls, corpus):
    outcomes = pseudo_label(trained, folder)
    assert [o.case_id for o in outcomes] == sorted(corpus.cases.case_id)
    assert {o.case_id: set(o.classes) for o in outcomes} == {
        case: {"spleen"} if case.startswith("one") else {"liver", "liver_tumor"} for case in corpus.cases.case_id
    }
    assert {o.state for o in outcomes} == {"labelled"}
    assert problems(folder) == []
    after = open_corpus(folder)
    for case_id in corpus.cases.case_id:
        for name in CLASSES:
            if name in corpus[case_id].available:
                expected = corpus[case_id].mask(name)
            else:
                expected = predicted(name) & predicted("liver") if name == "liver_tumor" else predicted(name)
            assert np.array_equal(after[case_id].mask(name), expected)
        before, record = corpus[case_id].record, after[case_id].record
        assert (record.identity, record.sources, record.ct_sha256) == (
            before.identity,
            before.sources,
            before.ct_sha256,
        )
        made = {c.name: c.model for c in record.classes if c.provenance == "pseudo"}
        assert made == dict.fromkeys(set(CLASSES) - corpus[case_id].available, model_name(trained))
        assert trained.digest in model_name(trained)


def test_the_network_is_asked_as_the_run_says(folder, calls, recipe_of, tmp_path, corpus):
    recipe = recipe_of(data__patch=[16, 32, 16], data__window=[-100.0, 300.0], optimiser__precision="bf16")
    trained = save_run(tmp_path / "third", recipe, corpus.taxonomy)
    pseudo_label(trained, folder, overlap=0.25)
    ct, keywords = calls[0]
    assert np.array_equal(ct, corpus["one/a"].ct[...])
    assert keywords == {
        "rows": [0, 1, 2], "patch": (16, 32, 16), "window": (-100.0, 300.0), "overlap": 0.25, "batch": 2,
        "precision": "fp32",
    }  # fmt: skip


def test_masks_are_post_processed_as_the_run_says(folder, monkeypatch, recipe_of, tmp_path, corpus):
    trained = save_run(tmp_path / "third", recipe_of(postprocess__largest=["spleen"]), corpus.taxonomy)
    speck = predicted("spleen")
    speck[30, 30, 30] = True
    boxes = np.stack([speck if name == "spleen" else predicted(name) for name in CLASSES])
    monkeypatch.setattr(masks, "predict_volume", lambda *_, **__: np.where(boxes, 255, 0).astype(np.uint8))
    pseudo_label(trained, folder, datasets="one")
    assert np.array_equal(open_corpus(folder)["one/a"].mask("spleen"), predicted("spleen"))


def test_again_changes_nothing_and_another_model_replaces(folder, trained, other, calls, monkeypatch, corpus):
    pseudo_label(trained, folder)
    once, asked = state(folder), len(calls)
    assert {o.state for o in pseudo_label(trained, folder)} == {"kept"}
    assert state(folder) == once
    assert len(calls) == asked == len(corpus)
    assert other.digest != trained.digest
    shifted = np.stack([np.where(predicted(name, 3), 255, 0).astype(np.uint8) for name in CLASSES])
    monkeypatch.setattr(masks, "predict_volume", lambda *_, **__: shifted.copy())
    assert {o.state for o in pseudo_label(other, folder, classes=["spleen"])} == {"labelled", "kept"}
    after = open_corpus(folder)
    assert np.array_equal(after["one/a"].mask("spleen"), predicted("spleen", 3))
    assert np.array_equal(after["two/a"].mask("spleen"), corpus["two/a"].mask("spleen"))
    assert np.array_equal(after["two/a"].mask("liver"), predicted("liver"))
    assert problems(folder) == []


def test_chosen_cases_and_classes(folder, trained, calls, corpus):
    table = corpus.cases.set_index("case_id")
    before = state(folder)
    outcomes = pseudo_label(trained, folder, datasets=["two"], split="train", classes=["liver"])
    chosen = table.index[(table.dataset == "two") & (table.split == "train")]
    assert 0 < len(chosen) < (table.dataset == "two").sum()
    assert [(o.case_id, o.classes) for o in outcomes] == [(case_id, ("liver",)) for case_id in chosen]
    changed = {p.relative_to(folder).parts[:3] for p, digest in state(folder).items() if before.get(p) != digest}
    cases = {("cases", *case_id.split("/")) for case_id in chosen}
    assert {parts for parts in changed if parts[0] == "cases"} == cases
    # the class that was left out comes later
    assert pseudo_label(trained, folder, datasets="two", split="train")[0].classes == ("liver_tumor",)


def test_a_case_that_fails_is_reported_and_stays(folder, trained, monkeypatch, corpus):
    damaged = corpus["one/b"].ct[...]

    def predict(network, ct, **_):
        if np.array_equal(ct, damaged):
            raise RuntimeError("no memory")
        return np.full((3, *SHAPE), 255, np.uint8)

    shard = next(p for p in (folder / "cases/two/a/ct/c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-40])
    path = folder / "cases/two/b/zarr.json"
    path.write_text(path.read_text().replace('"codes_sha256": "', '"codes_sha256": "0'))
    before = state(folder)
    monkeypatch.setattr(masks, "predict_volume", predict)
    outcomes = {o.case_id: o for o in pseudo_label(trained, folder)}
    assert {c for c, o in outcomes.items() if o.state == "failed"} == {"one/b", "two/a", "two/b"}
    assert outcomes["one/b"].reason == "unexpected RuntimeError: no memory"
    assert "no memory" in outcomes["one/b"].trace
    assert "two/b: the case is damaged" in outcomes["two/b"].reason
    unchanged = [p for p in before if any(c in str(p) for c in ("one/b", "two/a", "two/b"))]
    assert all(state(folder)[p] == before[p] for p in unchanged)
    assert not any(".partial" in str(p) for p in state(folder))
    assert [p for p in problems(folder) if p.startswith(("one/", "two/c", "catalog"))] == []
    log = [json.loads(line) for line in folder.with_name("toy.zarr.log.jsonl").read_text().splitlines()]
    assert [(line["case_id"], line["state"]) for line in log] == [(c, o.state) for c, o in outcomes.items()]


def test_interrupted_it_goes_on(folder, trained, calls, corpus):
    def stop(done, total, outcome):
        assert total == len(corpus)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pseudo_label(trained, folder, progress=stop)
    assert problems(folder) == []  # the catalog too
    assert [o.state for o in pseudo_label(trained, folder)] == ["kept"] * 2 + ["labelled"] * (len(corpus) - 2)


def test_refused(folder, trained, corpus, tmp_path):
    before = state(folder)
    with pytest.raises(CorpusError, match="pseudo labels are written into a folder"):
        pseudo_label(trained, "s3://bucket/toy.zarr")
    with pytest.raises(CorpusError, match="no such folder"):
        pseudo_label(trained, tmp_path / "nothing")
    with pytest.raises(SpecError, match=r"does not know aorta; its classes are: liver, spleen, liver_tumor"):
        pseudo_label(trained, folder, classes=["liver", "aorta"])
    with pytest.raises(CorpusError, match="there is: one, two"):
        pseudo_label(trained, folder, datasets="three")
    with journal(folder), pytest.raises(BuildError, match="at work on it"):
        pseudo_label(trained, folder)
    root = folder / "zarr.json"
    text = root.read_text()
    root.write_text(text.replace('"name": "spleen"', '"name": "milt"'))
    with pytest.raises(CorpusError, match="its taxonomy does not have spleen"):
        pseudo_label(trained, folder)
    root.write_text(text.replace('"spacing": 1.5', '"spacing": 2.0'))
    with pytest.raises(CorpusError, match=r"its grid is 2 mm, that of the model in .* is 1\.5 mm"):
        pseudo_label(trained, folder)
    root.write_text(text)
    assert state(folder) == before


def test_a_stream_uses_or_ignores_them(folder, trained, calls):
    pseudo_label(trained, folder)
    corpus = open_corpus(folder)
    for provenance, every in ((("manual", "revised"), False), (("manual", "revised", "pseudo"), True)):
        options = {"patch_size": 16, "device": "cpu", "classes": CLASSES, "provenance": provenance}
        with atlas.stream(corpus, batch_size=30, **options) as loader:
            batch = next(loader)
        people = np.array([[(c[:3] == "two") == (name == "spleen") for name in CLASSES] for c in batch.case_id])
        assert batch.available.numpy().tolist() == (people | every).tolist()
        assert every == any(
            target is not None and not people[b, CLASSES.index(target)] for b, target in enumerate(batch.target)
        )


def test_with_a_network(folder, trained, corpus):
    """Nothing replaced: a network of random weights says something of every case."""
    outcomes = pseudo_label(trained, folder, overlap=0)
    assert {o.state for o in outcomes} == {"labelled"}
    assert problems(folder) == []
    after = open_corpus(folder)
    assert all(
        np.array_equal(after[c].mask(n), corpus[c].mask(n)) for c in corpus.cases.case_id for n in corpus[c].available
    )


class TestCommand:
    def run(self, *arguments):
        return CliRunner().invoke(app, ["pseudo", *map(str, arguments)])

    def test_labels(self, folder, trained, calls, corpus):
        n = (corpus.cases.dataset == "one").sum()
        done = self.run(trained.folder, "--corpus", folder, "--dataset", "one", "--classes", "spleen, liver")
        assert done.exit_code == 0
        assert f"{n} masks in {n} cases by {model_name(trained)}; 0 unchanged, 0 failed" in done.stdout
        assert f"{n}/{n} cases" in done.stderr
        done = self.run(trained.folder, "--corpus", folder, "--dataset", "one", "--device", "cpu")
        assert "0 masks in 0 cases" in done.stdout
        assert f"{n} unchanged" in done.stdout

    def test_some_fail(self, folder, trained, monkeypatch, corpus):
        full = iter([np.zeros((3, *SHAPE), np.uint8)])
        monkeypatch.setattr(masks, "predict_volume", lambda *_, **__: next(full))
        done = self.run(trained.folder, "--corpus", folder)
        assert done.exit_code == 3
        assert done.stderr.count("failed: ") == len(corpus) - 1
        done = self.run(trained.folder, "--corpus", folder, "--dataset", "two")
        assert done.exit_code == 1
        assert str(done.exception) == "no case could be labelled (see above)"

    def test_wrong(self, folder, tmp_path):
        done = self.run(tmp_path / "nowhere", "--corpus", folder)
        assert done.exit_code == 1
        assert "no training run there" in str(done.exception)
