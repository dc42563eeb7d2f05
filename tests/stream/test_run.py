"""Runs: what patch i is, and what changes it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import atlas
from atlas.errors import AtlasError, CorpusError, SpecError
from atlas.stream.run import Run
from atlas.stream.sampling import Sampling
from atlas.stream.select import select

GOLDEN = [
    ("one/a", None, 0.826693),
    ("two/c", None, 0.637984),
    ("two/c", None, 0.075288),
    ("one/c", "kidney_left", 0.054648),
    ("one/c", "kidney_tumor", 0.050622),
    ("one/a", "kidney_right", 0.784587),
]


@pytest.fixture(scope="module")
def index(corpus):
    return select(corpus)


@pytest.fixture(scope="module")
def run(corpus, index):
    return Run(corpus, index, patch_size=(8, 6, 10), seed=5)


def buffers(run):
    return np.full(run.patch, 77, np.int16), np.full(run.patch, 77, np.uint8)


@settings(max_examples=30)
@given(first=st.integers(0, 2**40), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_patch_i_is_the_same_in_any_block(run, first, cuts):
    whole = run.aims(first, sum(cuts))
    parts = []
    for count in cuts:
        parts += run.aims(first + len(parts), count)
    assert parts == whole
    assert [aim.number for aim in whole] == list(range(first, first + sum(cuts)))


def test_what_a_seed_means_does_not_change(run):
    """These patches were drawn when this was written; whoever changes them breaks everybody's resumed runs."""
    found = [(str(run.index.case_ids[aim.case]), aim.target, round(aim.voxel, 6)) for aim in run.aims(1000, 6)]
    assert found == GOLDEN


def test_seeds_differ(corpus, index):
    aims = [Run(corpus, index, patch_size=8, seed=seed).aims(0, 50) for seed in (0, 1, 2**64 - 1)]
    assert len({tuple(a) for a in aims}) == 3


def test_a_patch_holds_its_target_and_lies_in_the_volume(run, truth):
    """Small patches: the smallest error in the origin loses structures of one voxel."""
    seen = set()
    for aim in run.aims(0, 400):
        ct, codes = buffers(run)
        patch = run.read(aim, ct, codes)
        case_id = patch.case.case_id
        volume, masks, _ = truth[case_id]
        assert case_id == run.index.case_ids[aim.case]
        assert all(
            0 <= o <= n - p for o, n, p in zip(patch.origin, volume.shape, run.patch, strict=True)
        )  # all volumes are larger
        where = tuple(slice(o, o + p) for o, p in zip(patch.origin, run.patch, strict=True))
        np.testing.assert_array_equal(ct, volume[where])
        if aim.target is not None:
            assert masks[aim.target][where].any()
        seen.add((case_id, aim.target))
    assert ("one/c", "kidney_tumor") in seen  # one voxel
    assert ("three/b", "pancreas_tumor") in seen  # three


def test_background_is_drawn_in_the_body(corpus):
    """The middle of the patch, where the volume's faces do not move it."""
    chosen = select(corpus, where="case_id = 'two/a'")
    run = Run(corpus, chosen, patch_size=2, sampling=Sampling(foreground=(1, 0)))
    case = run.source.open_case("two/a")
    middles = np.array([run.locate(aim, case) for aim in run.aims(0, 500)]) + 1
    body = run.index.body[0].reshape(2, 3)
    assert (body[0] > 4).all()  # so that it is not the volume
    for axis, (low, high) in enumerate(body.T.tolist()):
        assert middles[:, axis].min() in range(low, low + 4)
        assert middles[:, axis].max() in range(high - 4, high)


def test_targets_are_jittered_as_asked(corpus):
    """In a structure of one voxel far from the faces the distance to the middle is the jitter."""
    chosen = select(corpus, where="case_id = 'two/a'")
    for jitter in (0, 0.25, 0.5):
        sampling = Sampling(foreground=(0, 1), jitter=jitter)
        run = Run(corpus, chosen, patch_size=20, sampling=sampling, classes=["spleen"])
        case = run.source.open_case("two/a")
        aims = run.aims(0, 300)
        voxels = np.array([case.target("spleen", aim.voxel) for aim in aims]).astype(int)
        away = np.abs(voxels - 10 - np.array([run.locate(aim, case) for aim in aims]))
        free = (voxels >= 20).all(axis=1) & (voxels < np.array(case.shape) - 20).all(axis=1)
        assert free.sum() > 50
        assert abs(away[free].max() - 20 * jitter) <= 1


def test_sixteen_bit_codes_come_apart(corpus, truth, taxonomy):
    run = Run(corpus, select(corpus, where="case_id = 'two/b'"), patch_size=8)
    (aim,) = run.aims(3, 1)
    ct, codes = buffers(run)
    patch = run.read(aim, ct, codes)
    assert patch.wide.dtype == np.uint16
    where = tuple(slice(o, o + 8) for o in patch.origin)
    for name, mask in truth["two/b"][1].items():
        word, bit = divmod(taxonomy.bit(name), 32)
        held = patch.case.table[:, 0, word] >> np.uint32(bit) & 1
        np.testing.assert_array_equal(held[patch.wide].astype(bool), mask[where])


@pytest.mark.parametrize(
    ("size", "patch"),
    [(96, (96, 96, 96)), ((1, 2, 3), (1, 2, 3)), ([5, 6, 7], (5, 6, 7)), (np.int64(4), (4, 4, 4))],
)
def test_patch_sizes(corpus, index, size, patch):
    run = Run(corpus, index, patch_size=size)
    assert run.patch == patch
    assert {type(n) for n in run.patch} == {int}


@pytest.mark.parametrize("size", [0, -1, 1025, 96.0, "96", None, (96,), (96, 96), (8, 8, 8, 8), (8, 0, 8), (8, 8, 8.5)])
def test_what_is_no_patch_size(corpus, index, size):
    with pytest.raises(SpecError, match=r"a patch is one whole number, or three as \(z, y, x\), from 1 to 1024"):
        Run(corpus, index, patch_size=size)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "a seed is a whole number"),
        ({"seed": 2**64}, "a seed is a whole number"),
        ({"classes": ["liver", "spleen", "liver"]}, "more than once: liver"),
        ({"classes": []}, "no class is asked for"),
        ({"classes": ["livr"]}, "did you mean liver"),
        ({"sampling": Sampling(datasets={"four": 1})}, "four"),
    ],
)
def test_what_cannot_be_asked(corpus, index, wrong, message):
    with pytest.raises(SpecError, match=message):
        Run(corpus, index, **wrong)


def test_classes_are_those_annotated_in_the_selection(corpus, index, truth, taxonomy):
    every = sorted({name for _, masks, _ in truth.values() for name in masks}, key=taxonomy.bit)
    assert Run(corpus, index).classes == tuple(every)
    some = select(corpus, datasets="one", where="len(present) = 2 and list_contains(present, 'spleen')")
    assert some.case_ids.tolist() == ["one/b"]
    assert Run(corpus, some).classes == ("spleen", "liver", "liver_tumor")  # annotated, though not there
    assert Run(corpus, index, classes="liver").classes == ("liver",)
    assert Run(corpus, index, classes=["spleen", "face", "liver"]).classes == ("spleen", "face", "liver")


def test_a_selection_without_any_annotation(corpus, index):
    blank = replace(index, available=np.zeros_like(index.available), starts=index.starts * 0, bits=index.bits[:0])
    with pytest.raises(SpecError, match="no class is annotated"):
        Run(corpus, blank)


def other(array, at):
    changed = array.copy()
    changed.flat[at] += 1
    return changed


CHANGES = {
    "cases": lambda index: {"index": index.take(np.arange(len(index)) > 0)},
    "order of cases": lambda index: {"index": replace(index, case_ids=index.case_ids[::-1])},
    "datasets": lambda index: {"index": replace(index, dataset=index.dataset[::-1].copy())},
    "names of datasets": lambda index: {"index": replace(index, datasets=("a", "b", "c"))},
    "shapes": lambda index: {"index": replace(index, shape=other(index.shape, 4))},
    "bodies": lambda index: {"index": replace(index, body=other(index.body, 3))},
    "available": lambda index: {"index": replace(index, available=index.available | np.uint32(2))},
    "whose classes are present": lambda index: {"index": replace(index, starts=other(index.starts, 1))},
    "present": lambda index: {"index": replace(index, bits=other(index.bits, 0))},
    "patch size": lambda index: {"patch_size": (95, 96, 96)},
    "order of the patch's axes": lambda index: {"patch_size": (96, 96, 95)},
    "classes": lambda index: {"classes": ["liver", "spleen"]},
    "ratio": lambda index: {"sampling": Sampling(foreground=(1, 3))},
    "ratio of lesions": lambda index: {"sampling": Sampling(lesions=(1, 1, 4))},
    "weights": lambda index: {"sampling": Sampling(classes={"liver": 1, "spleen": 2})},
    "temperature": lambda index: {"sampling": Sampling(datasets=2.0)},
    "jitter": lambda index: {"sampling": Sampling(jitter=0.3)},
}


def test_the_fingerprint_is_of_everything_that_changes_patches(corpus, index, corpus_folder):
    same = [Run(atlas.open(corpus_folder), select(corpus)), Run(corpus, index, seed=9), pickled(Run(corpus, index))]
    (plain,) = {run.fingerprint for run in [Run(corpus, index), *same]}
    changed = {}
    for name, change in CHANGES.items():
        given = {"index": index, **change(index)}
        try:
            changed[name] = Run(corpus, **given).fingerprint
        except IndexError:  # a selection that hangs together no more
            changed[name] = None
    assert plain not in changed.values()
    assert len(set(changed.values())) == len(CHANGES)


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


def test_a_run_pickles_small_and_opens_anew(corpus, index):
    run = Run(corpus, index, patch_size=8, seed=3)
    before = len(pickle.dumps(run))
    (aim,) = run.aims(7, 1)
    here = buffers(run)
    run.read(aim, *here)
    assert "source" in vars(run)
    assert len(pickle.dumps(run)) == before
    copy = pickled(run)
    assert "source" not in vars(copy)
    there = buffers(copy)
    copy.read(copy.aims(7, 1)[0], *there)
    np.testing.assert_array_equal(there, here)
    taxonomy = len(pickle.dumps(run.taxonomy))
    assert before < taxonomy + 30_000


def test_a_case_that_is_gone(corpus, own_folder):
    own = atlas.open(own_folder)
    run = Run(own, select(own, where="case_id = 'one/b'"), patch_size=8)
    (own_folder / "cases/one/b/zarr.json").unlink()
    with pytest.raises(CorpusError, match=r"one/b.*rebuild-catalog"):
        run.read(run.aims(0, 1)[0], *buffers(run))


def test_the_package_is_the_function():
    assert atlas.stream.stream.__doc__ == type(atlas.stream).__call__.__doc__
    assert atlas.PatchDataset is atlas.stream.PatchDataset
    with pytest.raises(AttributeError, match="no attribute 'streams'"):
        _ = atlas.streams
    with pytest.raises(TypeError, match="batch_size"):
        atlas.stream(None)


@pytest.mark.parametrize("package", ["torch", "numba"])
def test_a_package_that_is_missing_is_named(monkeypatch, package):
    """In this process the package is loaded already; it is loaded a second time under another name."""
    import importlib.util
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.spec_from_file_location("atlas_stream_again", atlas.stream.__file__)
    with pytest.raises(AtlasError, match=rf"streaming needs {package}: pip install 'atlas-corpus\[train\]'"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
