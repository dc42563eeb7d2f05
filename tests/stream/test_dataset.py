"""Items of a dataset against what was written; the same in every loader and under every start method."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler

import atlas
from atlas.errors import CorpusError, SpecError
from atlas.stream import Augmentation, PackedBatch
from atlas.stream.augment import Chance, Parameters
from atlas.stream.pack import join

PATCH = (24, 26, 40)
CLASSES = ["liver_tumor", "face", "aorta", "kidney_right", "liver", "spleen", "kidney_tumor", "pancreas_tumor"]
WILD = Augmentation(rotation=Chance(1, -40, 40), mirror=0.5, noise=Chance(0.5, 0.05, 0.1))


@pytest.fixture(scope="module")
def dataset(corpus):
    return atlas.PatchDataset(corpus, PATCH, classes=CLASSES, seed=4, length=60)


def cut(volume, origin, patch, fill):
    """Patch out of a volume that is made larger on all sides, so that no bound needs thought."""
    larger = np.pad(volume, 50, constant_values=fill)
    return larger[tuple(slice(o + 50, o + 50 + p) for o, p in zip(origin, patch, strict=True))]


def stacked(volumes, names, origin, patch):
    none = np.zeros(patch, bool)
    return np.stack([cut(volumes[n], origin, patch, fill=False) if n in volumes else none for n in names])


def check(item, corpus, truth, *, window=(-175, 250), axes="zyx", patch=PATCH, classes=CLASSES):
    ct, masks, unknown = truth[item["case_id"]]
    origin = item["origin"].tolist()
    hu = cut(ct, origin, patch, -1024).astype(np.float64)
    image = np.clip((hu - window[0]) / (window[1] - window[0]), 0, 1)[None]
    order = (0, 1, 2, 3) if axes == "zyx" else (0, 3, 2, 1)
    np.testing.assert_allclose(item["image"], image.transpose(order), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(item["mask"], stacked(masks, classes, origin, patch).transpose(order))
    np.testing.assert_array_equal(item["unknown"], stacked(unknown, classes, origin, patch).transpose(order))
    assert item["available"].tolist() == [name in masks for name in classes]
    if item["target"]:
        assert item["mask"][classes.index(item["target"])].any()
    last = np.array(patch) - 1
    case = corpus[item["case_id"]].affine
    for voxel in (np.zeros(3), last):  # (z, y, x) of the patch
        of_case = case @ [*(voxel + origin)[::-1], 1]
        np.testing.assert_allclose(item["affine"].numpy() @ [*voxel[::-1], 1], of_case)


def test_items_are_what_was_written(dataset, corpus, truth):
    seen = set()
    for i, item in enumerate(dataset):
        check(item, corpus, truth)
        assert item["index"] == i
        seen.add((item["case_id"], item["target"]))
    assert i == 59
    assert {case_id for case_id, _ in seen} == set(truth)
    assert ("two/a", "aorta") in seen
    kinds = {name: (value.dtype, value.shape) for name, value in item.items() if torch.is_tensor(value)}
    assert kinds == {
        "image": (torch.float32, (1, *PATCH)),
        "mask": (torch.bool, (8, *PATCH)),
        "unknown": (torch.bool, (8, *PATCH)),
        "available": (torch.bool, (8,)),
        "origin": (torch.int64, (3,)),
        "affine": (torch.float64, (4, 4)),
    }


def test_window_and_order_of_axes(corpus, truth):
    ours = atlas.PatchDataset(corpus, PATCH, classes=CLASSES, length=12, window=(-900, 1300.5), axes="xyz")
    for item in ours:
        assert item["image"].shape == (1, *PATCH[::-1])
        check(item, corpus, truth, window=(-900, 1300.5), axes="xyz")


def test_defaults(corpus, truth, taxonomy):
    """A patch of 96, larger than most of the volumes; all annotated classes; as many items as cases."""
    ours = atlas.PatchDataset(corpus)
    assert len(ours) == 8
    assert ours.classes == tuple(sorted({n for _, masks, _ in truth.values() for n in masks}, key=taxonomy.bit))
    for item in (ours[2], ours[5]):
        check(item, corpus, truth, patch=(96, 96, 96), classes=list(ours.classes))


def test_filters(corpus):
    train = atlas.PatchDataset(corpus, 8, "train")
    assert set(train.run.index.case_ids) == set(corpus.cases.query("split == 'train'")["case_id"])
    assert len(train) == 6
    some = atlas.PatchDataset(
        corpus, 8, datasets=["one", "three"], available="kidney_left", present="kidney_tumor", licence="CC-BY-4.0"
    )
    assert {item["case_id"] for item in some} == {"one/c"}
    large = atlas.PatchDataset(corpus, 8, where="shape[1] > 100")
    assert large.run.index.case_ids.tolist() == ["two/a"]
    with pytest.raises(CorpusError, match="no case is left"):
        atlas.PatchDataset(corpus, 8, datasets="one", present="aorta")


def test_items_beyond_the_last(dataset):
    assert len(dataset) == 60
    for item in (60, -1, 10**9):
        with pytest.raises(IndexError, match=f"item {item} of 60"):
            dataset[item]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 0}, "at least one item"),
        ({"window": (250, -175)}, "lower to a higher HU"),
        ({"axes": "zxy"}, "axes are"),
        ({"augmentation": Augmentation(elastic=Chance(1, 0, 6))}, "could fold a patch"),
        ({"augmentation": Augmentation(), "packed": True}, "when they are unpacked"),
        ({"classes": ["liver", "liver"]}, "more than once: liver"),
        ({"seed": -3}, "a seed is a whole number"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(corpus, wrong, message):
    with pytest.raises(SpecError, match=message):
        atlas.PatchDataset(corpus, 16, **wrong)


def test_epochs_go_on_in_the_run(corpus):
    def numbers(dataset):
        return [item["index"] for item in dataset]

    ours = atlas.PatchDataset(corpus, 8, length=5, seed=1)
    long = atlas.PatchDataset(corpus, 8, length=15, seed=1)
    assert numbers(ours) == [0, 1, 2, 3, 4]
    ours.set_epoch(2)
    assert numbers(ours) == [10, 11, 12, 13, 14]
    assert torch.equal(ours[3]["image"], long[13]["image"])
    assert numbers(long) == list(range(15))
    ours.set_epoch(0)
    assert numbers(ours) == [0, 1, 2, 3, 4]


def test_the_default_collate_takes_items(dataset):
    loader = DataLoader(dataset, batch_size=4, sampler=SequentialSampler(dataset))
    batch = next(iter(loader))
    items = [dataset[i] for i in range(4)]
    for name in ("image", "mask", "unknown", "available", "origin", "affine"):
        assert torch.equal(batch[name], torch.stack([item[name] for item in items]))
    assert batch["case_id"] == [item["case_id"] for item in items]
    assert batch["target"] == [item["target"] for item in items]
    assert batch["index"].tolist() == [0, 1, 2, 3]


def test_items_are_the_caller_s_to_keep(dataset):
    kept = [dataset[i] for i in range(10)]
    copies = [item["image"].clone() for item in kept]
    for i in range(10, 40):
        dataset[i]
    assert all(torch.equal(item["image"], copy) for item, copy in zip(kept, copies, strict=True))


@pytest.fixture(scope="module")
def packed(corpus):
    return atlas.PatchDataset(corpus, PATCH, classes=CLASSES, seed=4, length=60, packed=True)


def same(batch, items):
    unknown = torch.zeros_like(batch.mask) if batch.unknown is None else batch.unknown
    for b, item in enumerate(items):
        assert torch.equal(batch.image[b], item["image"])
        assert torch.equal(batch.mask[b], item["mask"])
        assert torch.equal(unknown[b], item["unknown"])
        assert torch.equal(batch.available[b], item["available"])
        assert batch.case_id[b] == item["case_id"]
        assert (batch.target[b] or "") == item["target"]
        np.testing.assert_array_equal(batch.origin[b], item["origin"])
        np.testing.assert_array_equal(batch.affine[b], item["affine"])
        assert batch.index[b] == item["index"]


@pytest.mark.parametrize("how", ["joined", "at once", "by a loader"])
def test_packed_items_hold_the_same(dataset, packed, how):
    """Some of the cases have uint16 codes, and tables of all lengths."""
    rows = list(range(30, 46))
    if how == "joined":
        batch = packed.collate([packed[i] for i in rows])
    elif how == "at once":
        batch = packed.collate(packed.__getitems__(rows))
    else:
        loader = DataLoader(packed, batch_size=16, sampler=rows, collate_fn=packed.collate)
        (batch,) = loader
    assert isinstance(batch, PackedBatch)
    assert batch.codes.dtype == torch.uint16
    assert "two/b" in batch.case_id
    assert len(set(batch.case_id)) > 4
    same(batch.to("cpu", classes=packed.classes), [dataset[i] for i in rows])


def test_batches_without_sixteen_bit_codes_stay_at_eight(packed):
    rows = [i for i in range(40) if packed[i].case_id != ("two/b",)][:6]
    eight = packed.collate([packed[i] for i in rows])
    assert eight.codes.dtype == torch.uint8
    sixteen = next(packed[i] for i in range(40) if packed[i].case_id == ("two/b",))
    for order in ([eight, sixteen], [sixteen, eight]):
        both = join(order)
        assert both.codes.dtype == torch.uint16
        assert both.case_id == order[0].case_id + order[1].case_id
        parts = [batch.to("cpu") for batch in order]
        for name in ("image", "mask", "available"):
            whole = getattr(both.to("cpu"), name)
            assert torch.equal(whole, torch.cat([getattr(part, name) for part in parts]))


def test_augmented_items_can_be_replayed(corpus, packed):
    """From the number of an item alone, and from parameters that were kept as JSON."""
    ours = atlas.PatchDataset(corpus, PATCH, classes=CLASSES, seed=4, length=60, augmentation=WILD)
    plain = packed.collate([packed[i] for i in range(8)])
    parameters = WILD.draw(4, plain.index, PATCH)
    kept = Parameters.from_dict(json.loads(json.dumps(parameters.as_dict())))
    batch = plain.to("cpu", classes=CLASSES, augmentation=kept)
    items = [ours[i] for i in range(8)]
    same(batch, items)
    assert parameters.mirror.any()
    assert not parameters.mirror.all()
    assert not torch.equal(batch.image, plain.to("cpu").image)
    alone = packed[6].to("cpu", classes=CLASSES, augmentation=WILD.draw(4, [6], PATCH))
    same(alone, items[6:7])


def test_a_dataset_pickles_small(corpus, dataset):
    taxonomy = len(pickle.dumps(corpus.taxonomy))
    dataset[0]
    content = pickle.dumps(dataset)
    assert len(content) < taxonomy + 30_000
    again = pickle.loads(content)
    assert torch.equal(again[3]["image"], dataset[3]["image"])


def test_a_case_that_is_gone_is_named(own_folder):
    ours = atlas.PatchDataset(atlas.open(own_folder), 8, where="case_id = 'three/a'", length=2)
    ours[0]
    (own_folder / "cases/three/a").rename(own_folder / "elsewhere")
    with pytest.raises(CorpusError, match=r"three/a.*rebuild-catalog"):
        ours[1]


SCRIPT = """
import hashlib, json, sys, warnings

warnings.simplefilter("error")
import atlas
from torch.utils.data import DataLoader


def digest(batch):
    parts = [batch[name].numpy().tobytes() for name in ("image", "mask", "unknown", "available", "index")]
    return [hashlib.sha256(b"".join(parts)).hexdigest(), batch["index"].tolist()]


def digest_packed(packed, classes):
    batch = packed.to("cpu", classes=classes)
    parts = [tensor.numpy().tobytes() for tensor in (batch.image, batch.mask, packed.codes)]
    return [hashlib.sha256(b"".join(parts)).hexdigest(), str(packed.codes.dtype), packed.index.tolist()]


def read(folder, method, workers):
    dataset = atlas.PatchDataset(atlas.open(folder), 16, seed=2, length=6)
    dataset[0]  # read in this process first
    how = {"num_workers": workers, "multiprocessing_context": method, "persistent_workers": bool(workers)}
    loader = DataLoader(dataset, batch_size=3, **how)
    found = []
    for epoch in (0, 1, 5):
        dataset.set_epoch(epoch)
        found.append([digest(batch) for batch in loader])
    return found


def read_packed(folder, method, workers):
    packed = atlas.PatchDataset(atlas.open(folder), 16, seed=4, length=60, packed=True)
    how = {"num_workers": workers, "multiprocessing_context": method, "collate_fn": packed.collate}
    return [digest_packed(batch, packed.classes) for batch in DataLoader(packed, batch_size=16, **how)]


if __name__ == "__main__":
    folder = sys.argv[1]
    found = {method: read(folder, method, 1 + (method == "fork")) for method in ("fork", "forkserver", "spawn")}
    print(json.dumps({**found, "packed": read_packed(folder, "fork", 2)}))
"""


def test_workers_of_every_start_method_read_the_same(corpus_folder, tmp_path):
    """And those that live on from epoch to epoch go on to the patches of the next."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(corpus_folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    here = {"__name__": "here"}
    with warnings.catch_warnings():  # the script makes all of them errors
        exec(SCRIPT, here)
    expected, packed = (here[name](corpus_folder, None, 0) for name in ("read", "read_packed"))
    numbers = [[number for batch in epoch for number in batch[1]] for epoch in expected]
    assert numbers == [list(range(6)), list(range(6, 12)), list(range(30, 36))]
    assert "torch.uint16" in {codes for _, codes, _ in packed}
    methods = dict.fromkeys(("fork", "forkserver", "spawn"), expected)
    assert json.loads(done.stdout) == {**methods, "packed": packed}


def test_nothing_is_opened_before_the_first_item(corpus):
    ours = atlas.PatchDataset(corpus, 8)
    assert "source" not in vars(ours.run)
    ours[0]
    assert "source" in vars(ours.run)
    assert Path(ours.run.source.folder).is_dir()
