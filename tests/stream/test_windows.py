"""Sliding windows, against MONAI's and against the volumes that were written."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from atlas.errors import CorpusError, SpecError
from atlas.stream.opened import DOCUMENTS, inside, parse_case
from atlas.stream.windows import sliding_windows, window_origins

SIDES = st.tuples(*[st.integers(1, 60)] * 3)


class Memory:
    """Source that reads zarr-python arrays, and keeps what was read."""

    def __init__(self, corpus, folder):
        self.corpus, self.folder, self.reads = corpus, folder, []

    def open_case(self, case_id):
        folder = self.folder / "cases" / case_id
        if not folder.is_dir():
            raise CorpusError(f"{case_id}: not there")
        return parse_case(case_id, {name: (folder / name).read_bytes() for name in DOCUMENTS})

    def read(self, case, origin, ct, codes):
        self.reads.append(origin)
        assert codes.dtype == case.codes_dtype
        assert ct.flags.c_contiguous
        assert codes.flags.c_contiguous
        volume, within = inside(case.shape, origin, ct.shape)
        ct[within] = self.corpus[case.case_id].ct[volume]
        codes[within] = self.corpus[case.case_id].codes[volume]


@pytest.fixture
def source(corpus, corpus_folder):
    return Memory(corpus, corpus_folder)


@given(shape=SIDES, patch=SIDES, overlap=st.floats(0, 0.99))
def test_windows_are_those_of_monai(shape, patch, overlap):
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    before = [(p - n) // 2 for n, p in zip(shape, padded, strict=True)]
    before = [
        b + ((p - n) % 2) for b, n, p in zip(before, shape, padded, strict=True)
    ]  # the odd voxel comes first here
    interval = _get_scan_interval(padded, patch, 3, [overlap] * 3)
    expected = [
        [s.start - b for s, b in zip(slices, before, strict=True)]
        for slices in dense_patch_slices(padded, patch, interval)
    ]
    assert window_origins(shape, patch, overlap).tolist() == expected


@given(shape=SIDES, patch=SIDES, overlap=st.floats(0, 0.99))
def test_windows_cover_each_axis_without_waste(shape, patch, overlap):
    origins = window_origins(shape, patch, overlap)
    for axis, (n, size) in enumerate(zip(shape, patch, strict=True)):
        starts = np.unique(origins[:, axis])
        covered = np.zeros(n, int)
        for start in starts.tolist():
            covered[max(start, 0) : start + size] += 1
        assert covered.all()
        if n >= size:
            assert starts[0] == 0
            assert starts[-1] == n - size
        else:
            assert len(starts) == 1
            outside = -starts[0], starts[0] + size - n
            assert abs(outside[0] - outside[1]) <= 1
        assert (np.diff(starts) <= max(1, size * (1 - overlap))).all()
    assert len(np.unique(origins, axis=0)) == len(origins)


@pytest.mark.parametrize("case_id", ["one/a", "one/b", "one/c", "two/b"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_windows_make_up_the_case(corpus, source, truth, case_id, batch_size):
    patch = (32, 24, 40)
    ct, masks, _ = truth[case_id]
    classes = list(masks)
    again = np.full(ct.shape, -9999)
    held = np.zeros((len(classes), *ct.shape), bool)
    total = 0
    for packed in sliding_windows(
        corpus, case_id, patch_size=patch, overlap=0.25, batch_size=batch_size, source=source
    ):
        assert len(packed) <= batch_size
        assert packed.index.tolist() == list(range(total, total + len(packed)))
        total += len(packed)
        batch = packed.to("cpu", classes=classes)
        for b, origin in enumerate(packed.origin.tolist()):
            volume, within = inside(ct.shape, origin, patch)
            again[volume] = packed.ct[b][within]
            held[(slice(None), *volume)] = batch.mask[b][(slice(None), *within)]
            outside = np.ones(patch, bool)
            outside[within] = False
            assert (packed.ct[b].numpy()[outside] == -1024).all()
            assert not batch.mask[b].numpy()[:, outside].any()
    np.testing.assert_array_equal(again, ct)
    np.testing.assert_array_equal(held, np.stack([masks[name] for name in classes]))
    assert total == len(source.reads) == len(window_origins(ct.shape, patch, 0.25))


def test_only_what_is_asked_for_is_read(corpus, source):
    windows = sliding_windows(corpus, "two/a", patch_size=32, batch_size=2, source=source)
    assert source.reads == []
    next(windows)
    assert source.reads == [(0, 0, 0), (0, 0, 16)]


def test_batches_are_the_caller_s_to_keep(corpus, source):
    batches = list(sliding_windows(corpus, "one/a", patch_size=32, batch_size=2, source=source))
    (first,) = sliding_windows(corpus, "one/a", patch_size=32, batch_size=100, source=source)
    assert torch.equal(torch.cat([b.ct for b in batches]), first.ct)
    assert {t for b in batches for t in b.target} == {None}
    assert math.prod(first.ct.shape[1:]) == 32**3


def test_the_corpus_may_be_a_folder(corpus_folder, truth):
    """And is read with what fits it."""
    (batch,) = sliding_windows(corpus_folder, "one/c", patch_size=(20, 33, 65))
    np.testing.assert_array_equal(batch.ct[0], truth["one/c"][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch_size": 0}, "a patch is"),
        ({"patch_size": (32, 32)}, "a patch is"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"batch_size": 0}, "at least one window"),
    ],
)
def test_what_cannot_be_asked_for(corpus, source, wrong, message):
    with pytest.raises(SpecError, match=message):
        sliding_windows(corpus, "one/a", source=source, **wrong)


@pytest.mark.parametrize("case_id", ["one/nobody", "../one/a", "one"])
def test_a_case_that_is_not_there(corpus_folder, case_id):
    with pytest.raises(CorpusError, match=case_id):
        sliding_windows(corpus_folder, case_id)
