"""Labels that do not count: as if nobody had labelled the class, in what is aimed at and in what comes out."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import atlas
from atlas.corpus import open_corpus
from atlas.corpus.verify import rebuild_catalog, verify
from atlas.errors import CorpusError, SpecError
from atlas.stream import PatchDataset, sliding_windows
from atlas.stream.run import Run
from atlas.stream.select import select

LABELS = {  # class of a case -> where its label comes from; the others are manual
    ("one/a", "kidney_left"): "pseudo",
    ("one/a", "liver_tumor"): "pseudo",
    ("one/b", "liver"): "revised",
    ("one/b", "liver_tumor"): "pseudo",
    ("two/a", "aorta"): "pseudo",
    ("two/b", "rectum"): "pseudo",
    ("two/c", "liver"): "pseudo",
    ("two/c", "liver_tumor"): "pseudo",
    ("three/a", "face"): "pseudo",
    ("three/b", "pancreas_tumor"): "revised",
}
PEOPLE = ("manual", "revised")


@pytest.fixture
def relabelled(own_folder):
    """The corpus, with labels of several provenances."""
    for case_id in {case_id for case_id, _ in LABELS}:
        path = own_folder / "cases" / case_id / "zarr.json"
        content = json.loads(path.read_text())
        for each in content["attributes"]["atlas"]["classes"]:
            each["provenance"] = LABELS.get((case_id, each["name"]), "manual")
        path.write_text(json.dumps(content))
    rebuild_catalog(own_folder)
    assert not [finding for _, findings in verify(own_folder) for finding in findings]
    return open_corpus(own_folder)


def counting(case_id, masks, provenance):
    """Classes of a case whose label counts."""
    return {name for name in masks if LABELS.get((case_id, name), "manual") in provenance}


def members(words, taxonomy):
    return set(taxonomy.members(sum(int(word) << 32 * w for w, word in enumerate(words))))


def test_any_provenances(relabelled, truth):
    for provenance in (("manual",), ("revised", "pseudo"), ("pseudo",), PEOPLE, "manual"):
        index = select(relabelled, provenance=provenance)
        assert index.case_ids.tolist() == sorted(truth)
        for i, case_id in enumerate(index.case_ids):
            masks = truth[case_id][1]
            names = counting(case_id, masks, provenance if isinstance(provenance, tuple) else (provenance,))
            assert members(index.available[i], relabelled.taxonomy) == names
            bits = index.bits[index.starts[i] : index.starts[i + 1]]
            assert bits.tolist() == sorted(relabelled.taxonomy.bit(name) for name in names if masks[name].any())
        whole = select(relabelled)
        assert (index.starts.dtype, index.bits.dtype, index.available.dtype) == (
            whole.starts.dtype,
            whole.bits.dtype,
            whole.available.dtype,
        )


def test_all_of_them_is_what_there_was(relabelled, corpus, monkeypatch):
    asked = []
    sql = type(relabelled).sql
    monkeypatch.setattr(type(relabelled), "sql", lambda *a: asked.append(a[1]) or sql(*a))
    for provenance in ({}, {"provenance": ("pseudo", "revised", "manual")}):
        run = Run(relabelled, select(relabelled, **provenance), patch_size=8)
        assert run.fingerprint == Run(corpus, select(corpus), patch_size=8).fingerprint
    assert not any("provenance" in query for query in asked)
    select(relabelled, provenance=PEOPLE)
    assert sum("provenance" in query for query in asked) == 1
    assert not any("provenance" in query for query in asked[:-1])


def test_filters_see_the_labels_that_count(relabelled):
    def left(**asked):
        return select(relabelled, provenance=PEOPLE, **asked).case_ids.tolist()

    assert left(available="liver") == ["one/a", "one/b", "two/b"]
    assert left(present=["pancreas_tumor"]) == ["three/b"]
    assert left(where="list_contains(available, 'aorta')") == ["two/a", "two/b"]  # the catalog as it is
    with pytest.raises(CorpusError, match="0 after liver_tumor available"):
        left(available="liver_tumor")
    index = select(relabelled, provenance=PEOPLE, split="train", datasets=["one", "two"])
    for i, case_id in enumerate(index.case_ids):
        assert "aorta" not in members(index.available[i], relabelled.taxonomy) or case_id != "two/a"


def test_another_run(relabelled):
    def run(**asked):
        return Run(relabelled, select(relabelled, **asked), patch_size=8, classes=["liver", "aorta"])

    assert run().fingerprint != run(provenance=PEOPLE).fingerprint
    assert run(provenance=PEOPLE).fingerprint == run(provenance=PEOPLE[::-1]).fingerprint
    with atlas.stream(relabelled, batch_size=1, patch_size=8) as loader:
        state = loader.state_dict()
    with (
        atlas.stream(relabelled, batch_size=1, patch_size=8, provenance=PEOPLE) as loader,
        pytest.raises(SpecError, match="another run"),
    ):
        loader.load_state_dict(state)


def test_a_class_that_only_a_model_labelled_is_no_channel(relabelled):
    with atlas.stream(relabelled, batch_size=1, patch_size=8) as loader:
        assert {"face", "rectum", "kidney_left"} <= set(loader.classes)
    with atlas.stream(relabelled, batch_size=1, patch_size=8, provenance=PEOPLE) as loader:
        assert {"face", "rectum"}.isdisjoint(loader.classes)
        assert "kidney_left" in loader.classes  # people labelled it in one/c
    with pytest.raises(SpecError, match="no class is annotated"):
        atlas.stream(relabelled, batch_size=1, patch_size=8, provenance=())


def test_strange_provenance(relabelled):
    for asked in ("pseudo ", ("manual", "guess")):
        with pytest.raises(SpecError, match="a label is manual, revised, pseudo"):
            select(relabelled, provenance=asked)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**63))
def test_no_patch_is_aimed_at_what_does_not_count(corpus, truth, seed):
    """Thousands of patches, without the store: pseudo labels are every other class of every case."""
    index = select(corpus)
    from atlas.stream.provenance import without

    case, bit = index.owner[seed % 2 :: 2], index.bits[seed % 2 :: 2].astype(np.int64)
    ignored = {(int(c), int(b)) for c, b in zip(case, bit, strict=True)}
    smaller = without(index, case, bit)
    assert len(smaller.bits) == len(index.bits) - len(case)
    run = Run(corpus, smaller, patch_size=8, seed=seed)
    aimed = {(a.case, corpus.taxonomy.bit(a.target)) for a in run.aims(0, 2000) if a.target is not None}
    assert not aimed & ignored
    everything = {(int(c), int(b)) for c, b in zip(index.owner, index.bits, strict=True)}
    assert aimed <= everything - ignored
    assert len(aimed) > len(everything - ignored) // 2


def check(item, case_id, truth, names):
    """One patch: classes, mask, available and unknown (C, ...) against what was written."""
    _, masks, unknown = truth[case_id]
    count = counting(case_id, masks, PEOPLE)
    volume = tuple(slice(max(o, 0), o + 32) for o in item["origin"])
    inside = tuple(slice(max(-o, 0), max(-o, 0) + masks_shape) for o, masks_shape in _inside(item["origin"], masks))
    for c, name in enumerate(names):
        assert bool(item["available"][c]) == (name in count)
        assert (item["mask"][c].any() or item["unknown"][c].any()) <= (name in count)
        if name in count:
            assert np.array_equal(item["mask"][c][inside], masks[name][volume])
            assert np.array_equal(item["unknown"][c][inside], unknown[name][volume])


def _inside(origin, masks):
    shape = next(iter(masks.values())).shape
    return [(o, min(o + 32, n) - max(o, 0)) for o, n in zip(origin, shape, strict=True)]


@pytest.mark.parametrize("packed", [False, True])
def test_what_comes_out(relabelled, truth, packed):
    """Every class of every case, those that do not count among the channels."""
    names = relabelled.taxonomy.names
    options = {"patch_size": 32, "classes": names, "provenance": PEOPLE, "seed": 3}
    seen = set()
    with atlas.stream(relabelled, batch_size=5, device=None if packed else "cpu", **options) as loader:
        for _ in range(12):
            batch = next(loader)
            batch = batch.to("cpu", classes=names) if packed else batch
            unknown = batch.mask & False if batch.unknown is None else batch.unknown
            for b, case_id in enumerate(batch.case_id):
                seen.add(case_id)
                assert batch.target[b] is None or batch.target[b] in counting(case_id, truth[case_id][1], PEOPLE)
                item = {
                    "origin": batch.origin[b].tolist(),
                    "mask": batch.mask[b].numpy(),
                    "available": batch.available[b],
                    "unknown": unknown[b].numpy(),
                }
                check(item, case_id, truth, names)
    assert seen == set(truth)


def test_dataset(relabelled, truth):
    names = relabelled.taxonomy.names
    options = {"patch_size": 32, "classes": names, "length": 20, "provenance": PEOPLE}
    for item in (PatchDataset(relabelled, **options)[i] for i in range(20)):
        plain = {key: item[key].numpy() for key in ("mask", "available", "unknown")}
        check({**plain, "origin": item["origin"].tolist()}, item["case_id"], truth, names)
    packed = PatchDataset(relabelled, packed=True, **options)
    batch = packed.collate([packed[i] for i in range(8)]).to("cpu", classes=names)
    for b, case_id in enumerate(batch.case_id):
        count = counting(case_id, truth[case_id][1], PEOPLE)
        assert {name for name, there in zip(names, batch.available[b], strict=True) if there} == count


def test_windows_show_what_the_store_has(relabelled):
    batch = next(sliding_windows(relabelled, "two/a", patch_size=32)).to("cpu", classes=["aorta"])
    assert batch.available.all()
