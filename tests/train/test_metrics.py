"""Dice and surface Dice: against MONAI, and against distances between all voxels, one by one."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_surface_dice
from scipy.ndimage import gaussian_filter

from atlas.errors import SpecError
from atlas.train.evaluation.metrics import bounding_box, dice, surface_dice

SPACINGS = [(1.5, 1.5, 1.5), (5.0, 0.7, 0.8)]


def blob(shape, seed, level=0.52):
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return (noise - noise.min()) / np.ptp(noise) > level


def neighbours(voxel):
    for axis, step in itertools.product(range(3), (-1, 1)):
        yield tuple(v + step * (a == axis) for a, v in enumerate(voxel))


def surface_by_hand(mask, known):
    """Voxels with a face on known background or on the end of the volume, mm not yet."""
    found = []
    for voxel in map(tuple, np.argwhere(mask & known).tolist()):
        for other in neighbours(voxel):
            outside = any(v < 0 or v >= n for v, n in zip(other, mask.shape, strict=True))
            if outside or (known[other] and not mask[other]):
                found.append(voxel)
                break
    return np.array(found, float).reshape(-1, 3)


def surface_dice_by_hand(truth, predicted, spacing, tolerance, known):
    a, b = (surface_by_hand(mask, known) * spacing for mask in (truth, predicted))
    if not len(a) or not len(b):
        return 0.0 if len(a) + len(b) else math.nan
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    near = (distance.min(0) <= tolerance + 1e-9).sum() + (distance.min(1) <= tolerance + 1e-9).sum()
    return near / (len(a) + len(b))


def same(found, expected):
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)


@given(st.integers(0, 2**20), st.integers(0, 2**20), st.sampled_from([0.3, 0.5, 0.7, 0.95, 2.0]))
def test_dice_is_monais(first, second, level):
    truth, predicted = blob((9, 10, 11), first), blob((9, 10, 11), second, level)
    expected = compute_dice(torch.from_numpy(predicted)[None, None], torch.from_numpy(truth)[None, None])
    same(dice(truth, predicted), float(expected))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI, of itself
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 2.0, 4.0])
def test_surface_dice_is_monais(spacing, tolerance):
    for seed in range(5):
        truth, predicted = blob((14, 18, 17), seed), blob((14, 18, 17), seed + 1, 0.6)
        tensors = (torch.from_numpy(m)[None, None] for m in (predicted, truth))
        expected = compute_surface_dice(*tensors, [tolerance], include_background=True, spacing=spacing)
        same(surface_dice(truth, predicted, spacing, tolerance), float(expected))


@given(st.data())
def test_surface_dice_by_hand(data):
    shape = data.draw(st.tuples(*[st.integers(2, 7)] * 3))
    seeds = [data.draw(st.integers(0, 2**20)) for _ in range(3)]
    truth, predicted = (blob(shape, seed, data.draw(st.sampled_from([0.3, 0.6, 0.9]))) for seed in seeds[:2])
    known = data.draw(st.sampled_from([np.ones(shape, bool), blob(shape, seeds[2], 0.4)]))
    spacing, tolerance = data.draw(st.sampled_from(SPACINGS)), data.draw(st.sampled_from([0.0, 0.8, 1.5, 2.1, 5.0]))
    expected = surface_dice_by_hand(truth, predicted, spacing, tolerance, known)
    same(surface_dice(truth, predicted, spacing, tolerance, known), expected)
    if known.all():
        same(surface_dice(truth, predicted, spacing, tolerance), expected)


def test_the_tolerance_itself_is_within():
    truth = np.zeros((1, 1, 12), bool)
    predicted = truth.copy()
    truth[..., 1], predicted[..., 4] = True, True
    spacing = (1.0, 1.0, 0.1)  # 3 x 0.1 is a little more than 0.3
    assert surface_dice(truth, predicted, spacing, 0.3) == 1
    assert surface_dice(truth, predicted, spacing, 0.299) == 0


def test_axes_of_the_spacing():
    truth = np.zeros((9, 9, 9), bool)
    truth[2, 4, 4] = True
    for axis, spacing in enumerate(np.eye(3) * 4 + 1):
        moved = np.roll(truth, 1, axis)
        assert surface_dice(truth, moved, spacing, 4.9) == 0
        assert surface_dice(truth, np.roll(truth, 1, (axis + 1) % 3), spacing, 1) == 1


@pytest.mark.parametrize("known", [None, np.ones((4, 5, 6), bool)])
def test_empty_masks(known):
    nothing, something = np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6), bool)
    something[1:3, 2:4, 2:5] = True
    for measure in (dice, lambda a, b, k: surface_dice(a, b, (1, 1, 1), 2.0, k)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert math.isnan(measure(nothing, nothing, known))
            assert measure(nothing, something, known) == 0
            assert measure(something, nothing, known) == 0
            assert measure(something, something, known) == 1


@given(st.integers(0, 2**20))
def test_what_is_not_known_changes_nothing(seed):
    shape, rng = (8, 9, 7), np.random.default_rng(seed)
    truth, predicted, known = blob(shape, seed), blob(shape, seed + 1), blob(shape, seed + 2, 0.4)
    wild = rng.random(shape) < 0.5
    for measure in (dice, lambda a, b, k: surface_dice(a, b, (1.5, 1.5, 1.5), 2.0, k)):
        expected = measure(truth, predicted, known)
        same(measure(np.where(known, truth, wild), np.where(known, predicted, ~wild), known), expected)
    same(dice(truth, predicted, known), dice(truth & known, predicted & known))


def test_masks_where_nothing_is_known_are_empty():
    nothing, something = np.zeros((2, 4, 5, 6), bool)
    something[2:, 1:4, 1:4] = True
    known = np.ones(nothing.shape, bool)
    known[2:] = False
    for truth in (nothing, something):
        assert math.isnan(dice(truth, something, known))
        assert math.isnan(surface_dice(truth, something, (1, 1, 1), 2.0, known))


def test_the_border_of_what_is_known_is_no_surface():
    """A vessel drawn up to slice 5: that the prediction goes on beyond is neither right nor wrong."""
    truth, predicted = np.zeros((2, 10, 8, 8), bool)
    truth[:6, 2:5, 2:5], predicted[:, 2:5, 2:5] = True, True
    known = np.ones(truth.shape, bool)
    known[6:] = False
    assert surface_dice(truth, predicted, (3.0, 1, 1), 0, known) == 1
    assert surface_dice(truth, predicted, (3.0, 1, 1), 0) < 1
    narrow = np.zeros_like(truth)  # stops with the truth, where it need not
    narrow[:6, 2:4, 2:5] = True
    expected = surface_dice_by_hand(truth, narrow, (3.0, 1, 1), 0, known)
    assert surface_dice(truth, narrow, (3.0, 1, 1), 0, known) == pytest.approx(expected)
    stops_short = predicted.copy()
    stops_short[5:] = False
    assert surface_dice(truth, stops_short, (3.0, 1, 1), 0, known) < 1


@given(st.integers(0, 2**20), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=3))
def test_air_around_changes_nothing(seed, pad):
    """Scores are computed in a box around both masks."""
    shape = (6, 7, 8)
    truth, predicted, known = blob(shape, seed), blob(shape, seed + 1, 0.7), blob(shape, seed + 2, 0.3)
    wide = [
        np.pad(mask, pad, constant_values=fill) for mask, fill in ((truth, False), (predicted, False), (known, True))
    ]
    for measure in (dice, lambda a, b, k: surface_dice(a, b, (2.0, 1.0, 1.5), 1.5, k)):
        same(measure(*wide[:2], None), measure(truth, predicted, None))
        same(measure(*wide), measure(truth, predicted, known))


@given(st.integers(0, 2**20), st.integers(0, 3))
def test_bounding_box(seed, margin):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, 7, 8, 9)) < 0.01
    box, voxels = bounding_box(list(masks), margin), np.argwhere(masks.any(0))
    if not len(voxels):
        assert box is None
        return
    for where, along, size in zip(box, voxels.T, (7, 8, 9), strict=True):
        assert (where.start, where.stop) == (max(along.min() - margin, 0), min(along.max() + 1 + margin, size))


def test_only_bool_of_one_shape():
    mask = np.zeros((3, 3, 3), bool)
    with pytest.raises(SpecError, match="`predicted` is bool"):
        dice(mask, mask.astype(np.uint8))
    with pytest.raises(SpecError, match="`known` is bool"):
        dice(mask, mask, mask[:2])
    with pytest.raises(SpecError, match="`truth` is bool"):
        surface_dice(mask.astype(float), mask, (1, 1, 1), 1)
