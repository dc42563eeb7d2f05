"""Streams against the volumes that were written: the same patches whatever reads them, in whatever order."""

import gc
import multiprocessing
import threading
import time
from collections import Counter, deque
from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import atlas
from atlas.errors import CorpusError, SpecError
from atlas.spec.library import load_taxonomy
from atlas.stream import Augmentation, Batch, PackedBatch
from atlas.stream.augment import Chance
from atlas.stream.transfer import Transfer

NAMES = load_taxonomy().names
SIDES = st.sampled_from([1, 2, 7, 16, 31, 32, 33, 48, 70, 101])


def cut(volume, origin, patch, fill):
    """Patch out of a volume, voxel by voxel; `fill` outside."""
    places = [np.arange(o, o + p) for o, p in zip(origin, patch, strict=True)]
    nearest = np.ix_(*(place.clip(0, n - 1) for place, n in zip(places, volume.shape, strict=True)))
    z, y, x = ((place >= 0) & (place < n) for place, n in zip(places, volume.shape, strict=True))
    return np.where(z[:, None, None] & y[:, None] & x, volume[nearest], fill)


def stacked(volumes, names, origin, patch):
    none = np.zeros(patch, bool)
    return np.stack([cut(volumes[n], origin, patch, fill=False) if n in volumes else none for n in names])


def placed(origin, shape, patch):
    """Whether a patch lies in the volume, or, where it is the larger one, the volume in its middle."""
    for o, n, p in zip(origin, shape, patch, strict=True):
        outside = -o, o + p - n
        if not (max(outside) <= 0 if p <= n else min(outside) >= 0 and abs(outside[0] - outside[1]) <= 1):
            return False
    return True


def check_packed(batch, truth, patch):
    """CT and codes bit for bit; the codes by way of the tables, unpacked here with NumPy."""
    for b, case_id in enumerate(batch.case_id):
        ct, masks, unknown = truth[case_id]
        origin = batch.origin[b].tolist()
        assert placed(origin, ct.shape, patch)
        np.testing.assert_array_equal(batch.ct[b], cut(ct, origin, patch, -1024))
        codes = batch.codes[b].numpy()
        tables = np.zeros((*batch.tables.shape[1:3], 5), np.uint32)  # the last words may be left out
        tables[..., : batch.tables.shape[3]] = batch.tables[b]
        for of, written in enumerate((masks, unknown)):
            for bit, name in enumerate(NAMES):
                held = tables[:, of, bit // 32] >> np.uint32(bit % 32) & 1
                if name in written:
                    found = held[codes].astype(bool)
                    np.testing.assert_array_equal(found, cut(written[name], origin, patch, fill=False))
                else:
                    assert not held.any()
        bits = "".join(f"{word:032b}"[::-1] for word in batch.available[b].tolist())
        assert {name for name, bit in zip(NAMES, bits, strict=False) if bit == "1"} == set(masks)


def check_batch(batch, truth, *, patch, classes, window=(-175.0, 250.0), axes="zyx"):
    order = (0, 1, 2, 3) if axes == "zyx" else (0, 3, 2, 1)
    low, high = map(np.float32, window)
    width = np.float32(window[1] - window[0])
    assert batch.classes == tuple(classes)
    for b, case_id in enumerate(batch.case_id):
        ct, masks, unknown = truth[case_id]
        origin = batch.origin[b].tolist()
        assert placed(origin, ct.shape, patch)
        image = np.clip((cut(ct, origin, patch, -1024).astype(np.float32) - low) / width, 0, 1)
        np.testing.assert_array_equal(batch.image[b], image[None].transpose(order))
        np.testing.assert_array_equal(batch.mask[b], stacked(masks, classes, origin, patch).transpose(order))
        not_known = stacked(unknown, classes, origin, patch).transpose(order)
        if batch.unknown is None:
            assert not not_known.any()
        else:
            np.testing.assert_array_equal(batch.unknown[b], not_known)
        assert batch.available[b].tolist() == [name in masks for name in classes]
        if batch.target[b] is not None:
            assert batch.mask[b, classes.index(batch.target[b])].any()
    assert low < high


class Written(dict):
    """Hypothesis shows what a test was given, and takes its time over megabytes."""

    def __repr__(self):
        return "what was written"


@pytest.fixture(scope="module")
def written(truth):
    return Written(truth)


@settings(max_examples=40)
@given(
    patch=st.tuples(SIDES, SIDES, SIDES).filter(lambda sides: np.prod(sides) < 200_000),
    window=st.tuples(st.floats(-1500, 1500), st.floats(0.5, 3000)),
    classes=st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=9),
    axes=st.sampled_from(["zyx", "xyz"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_patches_are_what_was_written(corpus, written, patch, window, classes, axes, seed):
    window = (window[0], window[0] + window[1])
    options = {"batch_size": 3, "patch_size": patch, "classes": classes, "seed": seed, "ahead": 1}
    with atlas.stream(corpus, device="cpu", window=window, axes=axes, **options) as stream:
        for batch in islice(stream, 2):
            check_batch(batch, written, patch=patch, classes=classes, window=window, axes=axes)
    with atlas.stream(corpus, device=None, **options) as stream:
        packed = next(stream)
    assert packed.ct.shape == packed.codes.shape == (3, *patch)
    check_packed(packed, written, patch)


def test_the_usual_patch_is_larger_than_most_volumes(corpus, truth):
    with atlas.stream(corpus, batch_size=2, device="cpu", split="train") as stream:
        batch = next(stream)
        check_batch(batch, truth, patch=(96, 96, 96), classes=stream.classes)
    assert isinstance(batch, Batch)
    assert batch.image.dtype == torch.float32
    assert batch.image.shape == (2, 1, 96, 96, 96)
    assert batch.mask.shape == (2, len(stream.classes), 96, 96, 96)
    assert batch.index.tolist() == [0, 1]


def test_auto_is_a_gpu_where_there_is_one(corpus):
    with atlas.stream(corpus, batch_size=1, patch_size=8) as stream:
        assert next(stream).image.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def facts(batch):
    """All of a packed batch, comparable."""
    codes = batch.codes.numpy()
    return [
        (
            int(number),
            batch.case_id[b],
            batch.target[b],
            tuple(batch.origin[b].tolist()),
            batch.ct[b].numpy().tobytes(),
            codes[b].astype(np.uint16).tobytes(),
            batch.affine[b].tobytes(),
        )
        for b, number in enumerate(batch.index)
    ]


def read(corpus, count=6, batch_size=4, *, state=None, seed=7, **options):
    """Patches of some batches, one after another."""
    options = {"patch_size": (9, 12, 15), "device": None, "seed": seed, **options}
    with atlas.stream(corpus, batch_size=batch_size, **options) as stream:
        if state is not None:
            stream.load_state_dict(state)
        return [patch for batch in islice(stream, count) for patch in facts(batch)]


@pytest.fixture(scope="module")
def patches(corpus):
    """The first 48 patches of a run."""
    return read(corpus, 12)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1, "ahead": 0},
        {"threads": 1, "ahead": 5},
        {"threads": 7, "ahead": 0},
        {"threads": 7, "ahead": 9},
        {"batch_size": 1, "count": 24},
        {"batch_size": 24, "count": 1},
    ],
)
def test_patches_depend_on_the_seed_alone(corpus, patches, options):
    assert read(corpus, **options) == patches[:24]


def test_patches_are_those_of_the_dataset(corpus, patches):
    dataset = atlas.PatchDataset(corpus, (9, 12, 15), seed=7, length=24, packed=True)
    assert [patch for item in dataset for patch in facts(item)] == patches[:24]


def test_seeds_differ(corpus, patches):
    other = read(corpus, seed=8)
    assert [patch[0] for patch in other] == list(range(24))
    assert sum(a[1:] == b[1:] for a, b in zip(other, patches, strict=False)) < 6


def test_augmentation_is_of_the_seed_alone(corpus):
    """And what the dataset does to the same patch."""
    wild = Augmentation(rotation=Chance(0.5, -40, 40), mirror=0.5, noise=Chance(0.5, 0.05, 0.1))
    options = {"patch_size": (12, 16, 20), "augmentation": wild, "seed": 3, "classes": ["liver", "kidney_left"]}
    streams = [
        atlas.stream(corpus, batch_size=batch_size, device="cpu", **options, **more)
        for batch_size, more in ((8, {}), (4, {"rank": 1, "world_size": 2, "threads": 1}))
    ]
    first, second = (next(stream) for stream in streams)
    plain = next(atlas.stream(corpus, batch_size=8, device="cpu", **options | {"augmentation": None}))
    assert not torch.equal(first.image, plain.image)
    for name in ("image", "mask"):
        assert torch.equal(getattr(first, name)[4:], getattr(second, name))
    assert first.target[4:] == second.target
    dataset = atlas.PatchDataset(corpus, **options)
    assert all(torch.equal(dataset[i]["image"], first.image[i]) for i in range(8))
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_patches_out(corpus, patches, world_size):
    count = 12 // world_size
    shares = [read(corpus, count, rank=rank, world_size=world_size) for rank in range(world_size)]
    numbers = [{patch[0] for patch in share} for share in shares]
    assert sum(map(len, numbers)) == len(set.union(*numbers)) == 48
    assert sorted(patch for share in shares for patch in share) == patches
    together = [patch for batch in zip(*(chunks(share, 4) for share in shares), strict=True) for patch in batch]
    assert list(chain(*together)) == patches  # batch k of all ranks is one piece of the run


def chunks(patches, size):
    return [patches[i : i + size] for i in range(0, len(patches), size)]


@pytest.mark.parametrize("stopped", [0, 1, 5])
@pytest.mark.parametrize(("ranks", "later"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_a_run_goes_on_on_any_number_of_ranks(corpus, patches, stopped, ranks, later):
    options = {"batch_size": 2, "patch_size": (9, 12, 15), "device": None, "seed": 7}
    states, before = [], []
    for rank in range(ranks):
        with atlas.stream(corpus, rank=rank, world_size=ranks, **options) as stream:
            before += [patch for batch in islice(stream, stopped) for patch in facts(batch)]
            states.append(stream.state_dict())
    assert len({tuple(state.items()) for state in states}) == 1
    assert {type(value) for value in states[0].values()} == {int}
    after = [
        patch for rank in range(later) for patch in read(corpus, 3, 2, state=states[0], rank=rank, world_size=later)
    ]
    assert sorted(before + after) == patches[: len(before) + len(after)]


def test_a_stream_may_be_turned_back(corpus, patches):
    with atlas.stream(corpus, batch_size=4, patch_size=(9, 12, 15), device=None, seed=7) as stream:
        next(stream)
        state = stream.state_dict()
        ahead = [facts(next(stream)) for _ in range(3)]
        stream.load_state_dict(state)
        assert stream.state_dict() == state
        assert [facts(next(stream)) for _ in range(3)] == ahead
    assert list(chain(*ahead)) == patches[4:16]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"patch_size": (9, 9, 8)},
        {"classes": ["liver", "spleen"]},
        {"split": "train"},
        {"sampling": atlas.stream.Sampling(jitter=0.1)},
    ],
)
def test_the_state_of_another_run_is_refused(corpus, other):
    state = atlas.stream(corpus, batch_size=1, patch_size=9).state_dict()
    stream = atlas.stream(corpus, batch_size=1, **{"patch_size": 9, **other})
    with pytest.raises(
        SpecError, match=r"another run than this.*seed, cases, patch size, sampling and classes must be"
    ):
        stream.load_state_dict(state)
    assert stream.state_dict()["patch"] == 0


@pytest.mark.parametrize("state", [{}, {"patch": 3}, {"patch": -1}])
def test_what_is_no_state_is_refused(corpus, state):
    stream = atlas.stream(corpus, batch_size=1, patch_size=9)
    whole = {**stream.state_dict(), **state} if state.get("patch") == -1 else state
    with pytest.raises(SpecError, match="another run"):
        stream.load_state_dict(whole)


def test_what_augments_and_shows_patches_may_change_on_the_way(corpus):
    state = atlas.stream(corpus, batch_size=1, patch_size=9).state_dict()
    other = {"batch_size": 3, "window": (0, 100), "axes": "xyz", "augmentation": Augmentation()}
    atlas.stream(corpus, patch_size=9, device=None, **other).load_state_dict(state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"ahead": -1}, "ahead -1"),
        ({"threads": 0}, "threads 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2"),
        ({"rank": 0}, "give both"),
        ({"world_size": 2}, "give both"),
        ({"window": (100, 100)}, "lower to a higher HU"),
        ({"axes": "yxz"}, "axes are"),
        ({"augmentation": Augmentation(elastic=Chance(1, 0, 6))}, "could fold a patch"),
        ({"patch_size": 0}, "a patch is one whole number"),
        ({"classes": ["spleen", "spleen"]}, "more than once"),
        ({"classes": ["splen"]}, "did you mean spleen"),
        ({"seed": -1}, "a seed is a whole number"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(corpus, wrong, message):
    with pytest.raises(SpecError, match=message):
        atlas.stream(corpus, **{"batch_size": 1, "patch_size": 16, "device": "cpu", **wrong})


def test_ranks_are_those_that_torchrun_says(corpus, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    stream = atlas.stream(corpus, batch_size=1, patch_size=9)
    assert (stream.rank, stream.world_size) == (3, 4)
    stream = atlas.stream(corpus, batch_size=1, patch_size=9, rank=0, world_size=1)
    assert (stream.rank, stream.world_size) == (0, 1)


def test_a_case_that_is_removed_is_named_and_nothing_is_left_out(own_folder, patches):
    own = atlas.open(own_folder)
    case, elsewhere = own_folder / "cases/two/a", own_folder / "elsewhere"
    first = next(i for i, patch in enumerate(patches) if i >= 8 and patch[1] == "two/a") // 2
    found = []
    with atlas.stream(own, batch_size=2, patch_size=(9, 12, 15), device=None, seed=7, ahead=2) as stream:
        found += facts(next(stream))
        case.rename(elsewhere)
        with pytest.raises(CorpusError, match=r"two/a.*rebuild-catalog"):
            found.extend(patch for batch in stream for patch in facts(batch))
        state = stream.state_dict()
        for _ in range(2):
            with pytest.raises(CorpusError, match="two/a"):
                next(stream)
        assert stream.state_dict() == state
        elsewhere.rename(case)
        while len(found) < 48:
            found += facts(next(stream))
    assert state["patch"] <= 2 * first
    assert found == patches


class NoGpu:
    """Stands for torch.cuda's streams and events where there is no GPU: copies have arrived when they are asked for."""

    def __init__(self, *_):
        self.recorded = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def record(self, _):
        self.recorded = True

    def query(self):
        return self.recorded

    def wait_event(self, event):
        assert event.recorded


@pytest.fixture
def on_no_gpu(monkeypatch):
    """Function that makes a stream take the way of a GPU, with everything on the CPU."""
    for name in ("Stream", "Event", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, NoGpu)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)

    def change(stream):
        stream._transfer = Transfer(stream.device, stream._unpacked)
        return stream

    return change


OPTIONS = {"batch_size": 2, "patch_size": (9, 12, 15), "device": "cpu", "seed": 7}


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_batches_sent_ahead_come_in_order(corpus, on_no_gpu, ahead):
    with on_no_gpu(atlas.stream(corpus, ahead=ahead, **OPTIONS)) as sent, atlas.stream(corpus, **OPTIONS) as plain:
        for count, (batch, expected) in enumerate(islice(zip(sent, plain, strict=False), 30), start=1):
            assert batch.index.tolist() == expected.index.tolist()
            assert torch.equal(batch.image, expected.image)
            assert sent.state_dict()["patch"] == 2 * count
            time.sleep(0.001 * (count % 3))  # so that something is read when it is asked for, and something is not
            if count == 15:
                sent.load_state_dict(sent.state_dict())
    assert len(sent._transfer._taken) == 0


def test_an_error_of_what_is_sent_ahead_comes_when_it_is_due(own_folder, patches, on_no_gpu):
    own = atlas.open(own_folder)
    case, elsewhere = own_folder / "cases/two/a", own_folder / "elsewhere"
    first = next(i for i, patch in enumerate(patches) if patch[1] == "two/a" and i >= 2) // 2
    case.rename(elsewhere)
    options = {**OPTIONS, "batch_size": 1}
    with on_no_gpu(atlas.stream(own, **options)) as stream:
        state = {**stream.state_dict(), "patch": first * 2 - 1}
        good = next(i for i in range(first * 2 - 1, 48) if patches[i][1] == "two/a")
        stream.load_state_dict(state)
        for number in range(first * 2 - 1, good):
            assert next(stream).index.tolist() == [number]
            time.sleep(0.05)
        for _ in range(2):
            with pytest.raises(CorpusError, match="two/a"):
                next(stream)
        elsewhere.rename(case)
        assert next(stream).index.tolist() == [good]


def fork(stream, corpus, sent):
    try:
        next(stream)
    except CorpusError as error:
        stream.close()
        with pytest.raises(CorpusError, match="forked"):  # nor can another be made: its cases are in tables
            read(corpus, 1)
        sent.send(str(error))


# Python says since 3.12 that a fork beside threads may hang; that is what the error is about
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_stream_in_use_does_not_survive_a_fork(corpus, patches):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with atlas.stream(corpus, batch_size=4, patch_size=(9, 12, 15), device=None, seed=7) as stream:
        before = facts(next(stream))
        child = context.Process(target=fork, args=(stream, corpus, sender))
        child.start()
        assert receiver.poll(60)
        message = receiver.recv()
        child.join(60)
        before += facts(next(stream))
    assert child.exitcode == 0
    assert "forked" in message
    assert 'start processes by "forkserver" or "spawn", or before the stream is first read' in message
    assert before == patches[:8]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_stream_that_was_not_read_survives_a_fork(corpus, patches):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    stream = atlas.stream(corpus, batch_size=4, patch_size=(9, 12, 15), device=None, seed=7)
    child = context.Process(target=lambda: sender.send(facts(next(stream))))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == patches[:4]
    child.join(60)


def threads_of(pool):
    return [thread for thread in threading.enumerate() if thread.name.startswith(pool)]


def test_a_closed_stream_goes_on_when_it_is_used_again(corpus, patches):
    with atlas.stream(corpus, batch_size=4, patch_size=(9, 12, 15), device=None, seed=7) as stream:
        assert stream is iter(stream)
        found = facts(next(stream)) + facts(next(stream))
        assert threads_of("atlas-stream")
    assert not threads_of("atlas-stream")
    stream.close()
    found += facts(next(stream))
    assert threads_of("atlas-stream")
    del stream
    gc.collect()
    for _ in range(1000):
        if not threads_of("atlas-stream"):
            break
        time.sleep(0.01)
    assert not threads_of("atlas-stream")  # nobody closed it
    assert found == patches[:12]


@pytest.mark.parametrize("kept", [0, 3])
def test_memory_is_used_again(corpus, kept):
    seen, last = set(), deque(maxlen=kept)
    with atlas.stream(corpus, batch_size=2, patch_size=16, device=None, ahead=2, datasets="one") as stream:
        for batch in islice(stream, 200):
            seen |= {batch.ct.data_ptr(), batch.codes.data_ptr()}
            last.append(batch)
    assert len(seen) <= 2 * (2 + 2 + kept + 4)  # ahead, being made, in use; a thread lets go a little later
    del batch
    last.clear()
    blocks = [block for free in stream._reader._memory._free.values() for block in free]
    assert 4 <= len(blocks) <= 2 * (2 + 2 + kept + 4)  # lent again and not given back: the system reuses addresses too


def test_memory_behind_unpacked_batches_is_used_again(corpus):
    lent = []
    with atlas.stream(corpus, batch_size=2, patch_size=16, device="cpu", ahead=2) as stream:
        lend = stream._reader._memory.lend

        def noted(*about):
            tensor = lend(*about)
            lent.append(tensor.data_ptr())
            return tensor

        stream._reader._memory.lend = noted
        images = [next(stream).image.data_ptr() for _ in range(100)]
    assert len(lent) >= 200
    assert len(set(lent)) <= 2 * (2 + 2 + 4)
    assert len(images) == 100


def test_what_is_kept_of_a_batch_is_never_overwritten(corpus, truth):
    """The batch, a view of a tensor, a NumPy view of one."""
    options = {"batch_size": 2, "patch_size": 16, "ahead": 3, "datasets": ["one", "three"]}
    with atlas.stream(corpus, device=None, **options) as stream:
        whole, batch = next(stream), next(stream)
        view, array = batch.ct[1, 3:], batch.codes[0].numpy()[:, 2]
        copies = facts(whole), view.clone(), array.copy()
        del batch
        with atlas.stream(corpus, device="cpu", **options) as other:
            unpacked = next(other)
            image, mask = unpacked.image.clone(), unpacked.mask.clone()
            for _ in range(60):
                next(stream), next(other)
    assert facts(whole) == copies[0]
    assert torch.equal(view, copies[1])
    np.testing.assert_array_equal(array, copies[2])
    assert torch.equal(unpacked.image, image)
    assert torch.equal(unpacked.mask, mask)


def test_packed_batches_are_of_one_type_each(corpus):
    """uint16 only where a case of the batch has so many codes, and every code is in its table."""
    seen = Counter()
    with atlas.stream(corpus, batch_size=2, patch_size=12, device=None) as stream:
        for batch in islice(stream, 60):
            assert isinstance(batch, PackedBatch)
            assert batch.ct.dtype == torch.int16
            seen[batch.codes.dtype] += 1
            assert (batch.codes.dtype == torch.uint16) == ("two/b" in batch.case_id)
            assert int(batch.codes.to(torch.int32).max()) < batch.tables.shape[1]
            assert not batch.ct.is_pinned() or torch.cuda.is_available()
    assert len(seen) == 2


def chances(truth, taxonomy):
    """By the documented defaults: datasets and their cases alike; 1 : 2, and 1 : 1 : 5 where lesions were annotated."""
    sizes = Counter(case_id.split("/")[0] for case_id in truth)
    expected = Counter()
    for case_id, (_, masks, _) in truth.items():
        lesions = {name for name in masks if taxonomy.by_name[name].kind == "lesion"}
        present = {name for name, mask in masks.items() if mask.any()}
        groups = [({None}, 1), (present - lesions, 1 if lesions else 2), (present & lesions, 5)]
        total = sum(weight for names, weight in groups if names)
        for names, weight in groups:
            for name in names:
                expected[case_id, name] = weight / total / len(names) / sizes[case_id.split("/")[0]] / len(sizes)
    return expected


def test_the_patches_drawn_have_the_shares_asked_for(corpus, truth, taxonomy):
    """End to end: what is counted is what lies in the patches, not what was drawn."""
    seen = Counter()
    with atlas.stream(corpus, batch_size=64, patch_size=8, device="cpu", seed=12) as stream:
        for batch in islice(stream, 80):
            seen.update(zip(batch.case_id, batch.target, strict=True))
            for b, target in enumerate(batch.target):
                assert target is None or batch.mask[b, stream.classes.index(target)].any()
    expected = chances(truth, taxonomy)
    assert sum(expected.values()) == pytest.approx(1)
    assert set(seen) == set(expected)  # every present class of every case, and nothing else
    counts = [seen[key] for key in expected]
    assert min(counts) > 20
    assert stats.chisquare(counts, [5120 * p for p in expected.values()]).pvalue > 0.001
