"""What is read of a case equals what was written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import CorpusError, SpecError, UnavailableClassError


@pytest.mark.parametrize("case_id", ["one/a", "one/b", "two/a"])
def test_round_trip(corpus, truth, case_id):
    case, (ct, masks) = corpus[case_id], truth[case_id]
    np.testing.assert_array_equal(case.ct[...], ct)
    assert case.ct.dtype == np.int16
    assert case.codes.dtype == np.uint8
    assert case.available == set(masks)
    assert case.present == {name for name, mask in masks.items() if mask.any()}
    for name, mask in masks.items():
        np.testing.assert_array_equal(case.mask(name), mask)


def test_geometry(corpus):
    case = corpus["one/a"]
    assert case.spacing == 1.5
    np.testing.assert_allclose(case.affine @ [0, 0, 0, 1], [-50, -40, 100, 1])
    np.testing.assert_allclose(case.affine @ [2, 0, 0, 1], [-47, -40, 100, 1])
    assert case.record.native.orientation == "RAS"


def test_what_nobody_annotated_has_no_mask(corpus):
    with pytest.raises(UnavailableClassError, match="aorta was not annotated in one/a; available are: liver"):
        corpus["one/a"].mask("aorta")
    with pytest.raises(SpecError, match="did you mean liver"):
        corpus["one/a"].mask("livr")
    with pytest.raises(UnavailableClassError):
        corpus["one/a"].unknown("aorta")


def test_unknown_regions(corpus):
    where = corpus["two/a"].unknown("aorta")
    assert where[35:].all()
    assert not where[:35].any()
    assert not corpus["two/a"].unknown("kidney_left").any()


slices = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda t: slice(min(t), max(t) + 1))


indices = st.one_of(slices, st.integers(0, 39))


@given(st.one_of(st.integers(-8, 7), slices, st.just(Ellipsis)), st.lists(indices, max_size=3))
def test_masks_slice_like_an_array(corpus, truth, first, rest):
    case, (_, masks) = corpus["one/a"], truth["one/a"]
    full = np.zeros((8, 40, 50, 70), bool)
    for name, mask in masks.items():
        full[case.taxonomy.bit(name)] = mask
    key = (first, *rest)
    np.testing.assert_array_equal(case.masks[key], full[key])


def test_masks_as_an_array(corpus, truth):
    case = corpus["two/a"]
    assert case.masks.shape == (8, 40, 50, 70)
    everything = np.asarray(case.masks)
    assert everything.dtype == bool
    np.testing.assert_array_equal(everything[2], truth["two/a"][1]["kidney_left"])
    np.testing.assert_array_equal(case.masks[[7, 2], 3], everything[[7, 2], 3])
    with pytest.raises(IndexError):
        case.masks[0, 0, 0, 0, 0]


def test_foreground_voxels_lie_in_their_class(corpus, truth):
    for case_id, (_, masks) in truth.items():
        foreground = corpus[case_id].foreground
        assert set(foreground) == corpus[case_id].present
        for name, voxels in foreground.items():
            assert len(voxels) == 20
            assert masks[name][tuple(voxels.T)].all()


@pytest.mark.parametrize("case_id", ["one/z", "liver", "../one/a", "one/..", "one/a/b", ""])
def test_no_such_case(corpus, case_id):
    with pytest.raises(CorpusError):
        corpus[case_id]
