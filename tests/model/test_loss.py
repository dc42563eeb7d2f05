"""The loss for partial labels, against float64 numpy one pair and one voxel at a time, and against MONAI."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from atlas.errors import SpecError
from atlas.model import pair_terms as module
from atlas.model.consistency import rules
from atlas.model.loss import PartialLabelLoss
from atlas.model.loss_spec import LossSpec
from atlas.model.pair_terms import level_target
from atlas.spec import load_taxonomy

NAMES = ("a", "b", "c", "d", "e")


def slow_pair(x, t, known, spec):
    """(dice, bce, counted) of one pair, in float64."""
    x, t = x[known].astype(np.float64), t[known].astype(np.float64)
    if not x.size:
        return 0.0, 0.0, False
    p = expit(x)
    dice = 1 - (2 * (p * t).sum() + spec.smooth) / (p.sum() + t.sum() + spec.smooth)
    bce = np.logaddexp(0, x) - x * t
    right = np.where(t > 0, p, 1 - p)
    if spec.empty == "skip" and not t.any():
        dice = 0.0
    weight = np.ones(x.size)
    if 0 < t.sum() < x.size / 2:
        weight[t > 0] = ((1 - t).sum() / t.sum()) ** spec.balance
    return dice, (weight * (1 - right) ** spec.focal * bce).mean(), True


def slow_level(mask, unknown, shape, how):
    """Truth and known at a smaller size, by loops over voxels."""
    if shape == mask.shape:
        return mask & ~unknown, ~unknown
    truth, known = np.zeros(shape, bool), np.zeros(shape, bool)
    for cell in np.ndindex(*shape):
        if how == "nearest":
            at = tuple(int((i + 0.5) * full / size) for i, full, size in zip(cell, mask.shape, shape, strict=True))
            truth[cell], known[cell] = mask[at] and not unknown[at], not unknown[at]
        else:
            box = tuple(
                slice(i * full // size, -(-(i + 1) * full // size))
                for i, full, size in zip(cell, mask.shape, shape, strict=True)
            )
            truth[cell] = (mask[box] & ~unknown[box]).any()
            known[cell] = truth[cell] or not unknown[box].any()
    return truth, known


def slow(levels, mask, available, unknown, spec):
    """Loss of full logits (B, C, d, h, w) a level, and (dice, bce, counted) by level and pair."""
    weights = spec.class_weights or (1.0,) * mask.shape[1]
    total, table = 0.0, {}
    for number, (x, level) in enumerate(zip(levels, spec.levels, strict=True)):
        losses = []
        for b, c in np.argwhere(available):
            truth, known = slow_level(mask[b, c], unknown[b, c], x.shape[2:], spec.downsample)
            dice, bce, counted = table[number, b, c] = slow_pair(x[b, c], truth, known, spec)
            if counted:
                losses.append(weights[c] * (spec.dice * dice + spec.bce * bce))
        total += level / sum(spec.levels) * (np.mean(losses) if losses else 0)
    return total, table


@st.composite
def batches(draw, level_count=1):
    b, c = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = [tuple(draw(st.integers(1, n)) for n in shape) if i else shape for i in range(level_count)]
    levels = [
        (rng.normal(size=(b, c, *size)) * draw(st.sampled_from([0.1, 3, 40]))).astype(np.float32) for size in sizes
    ]
    share = rng.choice([0, 0.1, 0.5, 1], (b, c, 1, 1, 1))
    mask = rng.random((b, c, *shape)) < share
    unknown = rng.random((b, c, *shape)) < rng.choice([0, 0.3, 1], (b, c, 1, 1, 1))
    available = rng.random((b, c)) < draw(st.sampled_from([0, 0.5, 1]))
    return levels, mask, available, unknown


specs = st.builds(
    LossSpec,
    dice=st.sampled_from([0.0, 1.0, 0.5]),
    bce=st.sampled_from([1.0, 2.0]),
    smooth=st.sampled_from([1e-5, 1.0, 3.0]),
    empty=st.sampled_from(["smooth", "skip"]),
    focal=st.sampled_from([0.0, 1.0, 2.0, 2.5]),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
)


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]


def run(spec, levels, mask, available, unknown=None, *, pairs=None, classes=None, **kwargs):
    """Loss and gradients of numpy arrays or tensors."""
    levels = [torch.as_tensor(x).detach().clone().requires_grad_() for x in levels]
    loss = PartialLabelLoss(classes or NAMES[: mask.shape[1]], spec, **kwargs)
    rest = [None if a is None else torch.as_tensor(a) for a in (mask, available, unknown)]
    result = loss(
        levels if len(levels) > 1 else levels[0], *rest, pairs=None if pairs is None else torch.as_tensor(pairs)
    )
    result.total.backward()
    return result, [x.grad for x in levels]


def same(one, other):
    for name in ("total", "dice", "bce", "counted"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    np.testing.assert_array_equal(one.pairs, other.pairs)


@given(batch=batches(), spec=specs)
def test_as_computed_one_pair_at_a_time(batch, spec):
    levels, mask, available, unknown = batch
    result, (grad,) = run(spec, levels, mask, available, unknown)
    total, table = slow(levels, mask, available, unknown, spec)
    assert result.total.dtype == torch.float32
    np.testing.assert_allclose(result.total.item(), total, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.pairs, np.argwhere(available))
    for i, (b, c) in enumerate(result.pairs.tolist()):
        dice, bce, counted = table[0, b, c]
        np.testing.assert_allclose(result.dice[0, i].item(), dice, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.bce[0, i].item(), bce, rtol=1e-5, atol=1e-6)
        assert result.counted[0, i].item() == counted
    hidden = unknown | ~available[:, :, None, None, None]
    assert (grad.numpy()[hidden] == 0).all()
    assert result.finite.all()


@given(batch=batches(level_count=3), how=st.sampled_from(["max", "nearest"]), spec=specs)
def test_levels_of_deep_supervision(batch, how, spec):
    levels, mask, available, unknown = batch
    spec = LossSpec(dice=spec.dice, bce=spec.bce, empty=spec.empty, levels=(1.0, 0.5, 0.3), downsample=how)
    result, grads = run(spec, levels, mask, available, unknown)
    np.testing.assert_allclose(
        result.total.item(), slow(levels, mask, available, unknown, spec)[0], rtol=1e-5, atol=1e-6
    )
    for x, grad in zip(levels, grads, strict=True):
        for b, c in np.ndindex(*available.shape):
            _, known = slow_level(mask[b, c], unknown[b, c], x.shape[2:], how)
            assert (grad[b, c].numpy()[~known | ~available[b, c]] == 0).all()


@given(batch=batches(level_count=2), how=st.sampled_from(["max", "nearest"]))
def test_truth_of_a_level(batch, how):
    (_, x), mask, _, unknown = batch
    truth, known = level_target(*tensors(mask[:, 0], unknown[:, 0]), x.shape[2:], how)
    without, all_known = level_target(torch.from_numpy(mask[:, 0]), None, x.shape[2:], how)
    for b in range(len(mask)):
        expected = slow_level(mask[b, 0], unknown[b, 0], x.shape[2:], how)
        np.testing.assert_array_equal(truth[b], expected[0])
        np.testing.assert_array_equal(known[b], expected[1])
        np.testing.assert_array_equal(without[b], slow_level(mask[b, 0], unknown[b, 0] & False, x.shape[2:], how)[0])
    assert all_known is None


@given(batch=batches(), seed=st.integers(0, 99))
def test_rows_of_pairs_are_full_logits_chosen(batch, seed):
    (x,), mask, available, unknown = batch
    full, (whole,) = run(None, [x], mask, available, unknown)
    pairs = np.argwhere(available)
    some, (grad,) = run(None, [x[available]], mask, available, unknown, pairs=pairs)
    same(full, some)
    assert torch.equal(whole[torch.from_numpy(available)], grad)
    # others may be among them, and in any order
    order = np.random.default_rng(seed).permutation(available.size)
    every = np.argwhere(np.ones_like(available))[order]
    more, (grad,) = run(None, [x.reshape(-1, *x.shape[2:])[order]], mask, available, unknown, pairs=every)
    torch.testing.assert_close(more.total, full.total)
    assert (grad[torch.from_numpy(~available.reshape(-1)[order])] == 0).all()


@given(
    batch=batches(), seed=st.integers(0, 2**32), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
)
def test_what_is_not_known_changes_no_bit(batch, seed, dtype):
    (x,), mask, available, unknown = batch
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(x).to(dtype)
    first, (grad,) = run(None, [x], mask, available, unknown)
    hidden = unknown | ~available[:, :, None, None, None]
    wild = torch.from_numpy(rng.choice([np.nan, np.inf, -np.inf, 7.0], x.shape)).to(dtype)
    moved = torch.where(torch.from_numpy(hidden), wild, x)
    for noise in (~mask, mask | True, mask & False):
        spoilt = np.where(hidden, noise, mask)
        second, (again,) = run(None, [moved], spoilt, available, unknown)
        same(first, second)
        assert torch.equal(grad, again)
        assert grad.dtype == dtype
        assert (again[torch.from_numpy(hidden)] == 0).all()
        assert second.total.isfinite()
        assert second.finite.all()
    rows, (grad,) = run(
        None, [moved[torch.from_numpy(available)]], spoilt, available, unknown, pairs=np.argwhere(available)
    )
    same(first, rows)


@given(batch=batches(), seed=st.integers(0, 2**32))
def test_unavailable_classes_can_be_added(batch, seed):
    (x,), mask, available, unknown = batch
    rng = np.random.default_rng(seed)
    more = (len(x), 2, *x.shape[2:])
    added = (
        np.full(more, np.nan, np.float32),
        rng.random(more) < 0.5,
        np.zeros(more[:2], bool),
        rng.random(more) < 0.5,
    )
    wider = [np.concatenate(both, 1) for both in zip((x, mask, available, unknown), added, strict=True)]
    first, (grad,) = run(None, [x], mask, available, unknown)
    second, (again,) = run(None, wider[:1], *wider[1:], classes=[*NAMES[: mask.shape[1]], "y", "z"])
    same(first, second)
    assert torch.equal(grad, again[:, :-2])
    assert (again[:, -2:] == 0).all()


@given(batch=batches())
def test_no_unknown_voxel_is_the_same_as_none(batch):
    (x,), mask, available, unknown = batch
    same(run(None, [x], mask, available, None)[0], run(None, [x], mask, available, unknown & False)[0])


@given(batch=batches(), seed=st.integers(0, 99))
def test_order_in_the_batch_does_not_matter(batch, seed):
    (x,), mask, available, unknown = batch
    order = np.random.default_rng(seed).permutation(len(x))
    first, (grad,) = run(None, [x], mask, available, unknown)
    second, (again,) = run(None, [x[order]], mask[order], available[order], unknown[order])
    torch.testing.assert_close(first.total, second.total, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad[torch.from_numpy(order)], again, rtol=1e-5, atol=1e-8)
    terms = {
        (b, c): v
        for (b, c), *v in zip(first.pairs.tolist(), first.dice[0].tolist(), first.bce[0].tolist(), strict=True)
    }
    for (b, c), *v in zip(second.pairs.tolist(), second.dice[0].tolist(), second.bce[0].tolist(), strict=True):
        np.testing.assert_allclose(v, terms[order[b].item(), c], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("focal", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("empty", "balance"), [("smooth", 0.0), ("skip", 0.5)])
def test_gradient(focal, empty, balance, taxonomy):
    rng = np.random.default_rng(0)
    classes, shape = ("liver", "liver_tumor", "kidney_left", "kidney_right"), (2, 4, 2, 1, 3)
    mask, available, unknown = tensors(rng.random(shape) < 0.4, rng.random(shape[:2]) < 0.6, rng.random(shape) < 0.2)
    mask[0, 0], available[0, 0] = False, True
    weights = (1.0, 2.0, 0.5, 0.5)
    spec = LossSpec(
        focal=focal,
        empty=empty,
        balance=balance,
        class_weights=weights,
        levels=(1.0, 0.5),
        containment=0.3,
        exclusion=2.0,
    )
    loss = PartialLabelLoss(classes, spec, taxonomy=taxonomy)
    x = [torch.from_numpy(rng.normal(size=(2, 4, *s))).requires_grad_() for s in ((2, 1, 3), (1, 1, 2))]
    assert torch.autograd.gradcheck(lambda *x: loss(x, mask, available, unknown).total, x)


def test_pieces_of_pairs_make_no_difference(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 5, 4, 5, 6)).astype(np.float32)
    mask, available = rng.random(x.shape) < 0.3, rng.random((3, 5)) < 0.8
    whole, (grad,) = run(None, [x], mask, available)
    for voxels in (1, 120, 250):
        monkeypatch.setattr(module, "VOXELS_AT_ONCE", voxels)
        result, (again,) = run(None, [x], mask, available)
        torch.testing.assert_close(result.total, whole.total, rtol=1e-6, atol=0)
        torch.testing.assert_close(again, grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("gamma", "smooth"), [(0.0, 1.0), (2.0, 1e-5)])
def test_as_monai_where_all_is_available(gamma, smooth):
    from monai.losses import DiceLoss, FocalLoss

    rng = np.random.default_rng(2)
    x, mask = tensors(rng.normal(size=(2, 3, 6, 5, 4)).astype(np.float32) * 3, rng.random((2, 3, 6, 5, 4)) < 0.3)
    mask[1, 2] = False
    result, (grad,) = run(
        LossSpec(focal=gamma, smooth=smooth, empty="smooth", balance=0), [x], mask, np.ones((2, 3), bool)
    )
    x.requires_grad_()
    dice = DiceLoss(sigmoid=True, smooth_nr=smooth, smooth_dr=smooth, reduction="mean")(x, mask.float())
    bce = torch.nn.functional.binary_cross_entropy_with_logits(x, mask.float())
    if gamma:
        bce = FocalLoss(gamma=gamma, reduction="mean")(x, mask.float())
    (dice + bce).backward()
    torch.testing.assert_close(result.total, (dice + bce).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, x.grad, rtol=1e-4, atol=1e-7)


def test_dice_is_of_the_volume_and_not_of_its_slices():
    mask = np.zeros((1, 1, 10, 4, 4), bool)
    mask[0, 0, 4] = True
    x = np.where(mask, 30, -30).astype(np.float32)
    result, _ = run(None, [x], mask, np.ones((1, 1), bool))
    assert (
        result.dice.item() < 1e-6
    )  # over slices, of which nine are empty, it would be 0.9 with the published smoothing
    assert result.bce.item() < 1e-6


@pytest.mark.parametrize("empty", ["smooth", "skip"])
def test_class_that_is_absent(empty):
    """Not predicted, it costs nothing; predicted, its Dice is S / (S + 1), or left out."""
    none, ones = np.zeros((1, 1, 4, 4, 4), bool), np.ones((1, 1), bool)
    spec = LossSpec(empty=empty)
    result, _ = run(spec, [np.full(none.shape, -200, np.float32)], none, ones)
    assert result.total.item() == 0
    result, (grad,) = run(spec, [np.full(none.shape, 0, np.float32)], none, ones)
    np.testing.assert_allclose(result.dice.item(), 32 / 33 if empty == "smooth" else 0, rtol=1e-6)
    np.testing.assert_allclose(result.bce.item(), np.log(2), rtol=1e-6)
    assert (grad > 0).all()


@pytest.mark.parametrize(("balance", "others"), [(0.0, 23), (0.5, 23**0.5), (1.0, 1)])
def test_balance_is_how_much_a_small_class_weighs_against_the_rest(balance, others):
    """Of 48 known voxels, 2 are of the class: by how much the pull of the others on logits of 0 is the stronger."""
    x = np.zeros((1, 1, 4, 4, 4), np.float32)
    mask, unknown = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    mask[0, 0, 0, 0, :2] = True
    unknown[0, 0, 3] = True
    _, (grad,) = run(LossSpec(dice=0, balance=balance), [x], mask, np.ones((1, 1), bool), unknown)
    np.testing.assert_allclose(-(grad[grad > 0].sum() / grad[mask].sum()).item(), others, rtol=1e-5)
    assert (grad[unknown] == 0).all()


def test_nothing_available_is_zero_and_can_be_differentiated():
    x = np.full((2, 3, 4, 4, 4), np.nan, np.float32)
    mask, available = np.ones(x.shape, bool), np.zeros((2, 3), bool)
    for unknown in (None, mask):
        result, (grad,) = run(LossSpec(empty="skip"), [x], mask, available, unknown)
        assert result.total.item() == 0
        assert (grad == 0).all()
    result, (grad,) = run(None, [x[:0, 0]], mask, available, pairs=np.zeros((0, 2), np.int64))
    assert result.total.item() == 0
    result, (grad,) = run(None, [x], mask, ~available, mask)  # available, but no voxel is known
    assert result.total.item() == 0
    assert (grad == 0).all()
    assert not result.counted.any()
    assert result.not_finite() == ()


def test_pair_of_which_nothing_is_known_does_not_count():
    rng = np.random.default_rng(3)
    x, mask = rng.normal(size=(2, 1, 4, 4, 4)).astype(np.float32), rng.random((2, 1, 4, 4, 4)) < 0.5
    unknown = np.zeros(mask.shape, bool)
    unknown[1] = True
    both, _ = run(None, [x], mask, np.ones((2, 1), bool), unknown)
    alone, _ = run(None, [x[:1]], mask[:1], np.ones((1, 1), bool))
    torch.testing.assert_close(both.total, alone.total, rtol=1e-6, atol=0)
    assert both.counted.tolist() == [[True, False]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_whole_patch_in_half_precision_loses_nothing_in_its_sums(dtype):
    rng = np.random.default_rng(4)
    x = torch.from_numpy((rng.normal(size=(1, 2, 96, 96, 96)) * 4 - 3).astype(np.float32)).to(dtype)
    mask = rng.random(x.shape) < np.array([0.2, 1e-5]).reshape(1, 2, 1, 1, 1)
    available = np.ones((1, 2), bool)
    expected = slow([x.float().numpy()], mask, available, mask & False, LossSpec())[0]
    with torch.autocast("cpu", dtype):
        result, (grad,) = run(None, [x], mask, available)
    np.testing.assert_allclose(result.total.item(), expected, rtol=1e-6)
    assert grad.dtype == dtype
    exact = run(None, [x.double()], mask, available)[1][0]
    if dtype == torch.bfloat16:
        torch.testing.assert_close(grad.double(), exact, rtol=2**-8, atol=1e-12)


@pytest.mark.parametrize("value", [1e4, 88.0, np.inf])
@pytest.mark.parametrize("focal", [0.0, 1.0, 2.0])
def test_extreme_logits_that_are_right(value, focal):
    mask = np.random.default_rng(5).random((1, 1, 4, 4, 4)) < 0.5
    x = np.where(mask, value, -value).astype(np.float32)
    result, (grad,) = run(LossSpec(focal=focal), [x], mask, np.ones((1, 1), bool))
    assert result.total.item() < 1e-6
    assert grad.isfinite().all()
    if np.isfinite(value):
        result, (grad,) = run(LossSpec(focal=focal), [-x], mask, np.ones((1, 1), bool))
        np.testing.assert_allclose(result.bce.item(), value, rtol=1e-6)
        assert grad.isfinite().all()


def test_samples_whose_loss_is_not_finite_are_named():
    rng = np.random.default_rng(6)
    x, mask = rng.normal(size=(4, 2, 3, 3, 3)).astype(np.float32), rng.random((4, 2, 3, 3, 3)) < 0.5
    available = np.array([[1, 1], [1, 0], [1, 1], [0, 1]], bool)
    x[1, 1] = np.nan  # not available: of no account
    x[2, 0, 0, 0, 0] = np.nan
    x[3, 1, 0, 0, 0], mask[3, 1, 0, 0, 0] = np.inf, False
    result, _ = run(None, [x], mask, available)
    assert not result.total.isfinite()
    assert result.not_finite() == (2, 3)
    small = rng.normal(size=(4, 2, 2, 2, 2)).astype(np.float32)
    small[0, 0] = np.nan
    result, _ = run(LossSpec(levels=(1.0, 1.0)), [np.nan_to_num(x, posinf=0), small], mask, available)
    assert result.not_finite() == (0,)


def test_weights_of_classes_and_terms():
    rng = np.random.default_rng(7)
    x, mask = rng.normal(size=(2, 2, 3, 3, 3)).astype(np.float32), rng.random((2, 2, 3, 3, 3)) < 0.5
    available = np.array([[True, False], [True, True]])
    spec = LossSpec(dice=0.5, bce=2.0, class_weights=(1.0, 10.0))
    result, _ = run(spec, [x], mask, available)
    np.testing.assert_allclose(result.total.item(), slow([x], mask, available, mask & False, spec)[0], rtol=1e-6)
    each = 0.5 * result.dice[0] + 2 * result.bce[0]
    torch.testing.assert_close(result.total, (each[0] + each[1] + 10 * each[2]) / 3)


def test_rules_of_the_taxonomy(taxonomy):
    found = rules(taxonomy, taxonomy.names)
    assert set(found.inside) == {(1, (0,)), (4, (2, 3)), (5, (2,)), (6, (3,))}
    assert set(found.apart) == {(2, 3), (5, 6)}
    # by channel, not by bit; and the tumour of either kidney needs both
    found = rules(taxonomy, ["kidney_tumor", "kidney_right", "cyst_right", "liver_tumor"])
    assert found.inside == ((2, (1,)),)
    assert found.apart == ()


def test_only_lesions_are_held_by_what_they_are_part_of():
    taxonomy = load_taxonomy()
    found = rules(taxonomy, taxonomy.names)
    assert {taxonomy.classes[part].kind for part, _ in found.inside} == {"lesion"}
    assert (taxonomy.bit("hepatic_vessel_tumor"), (taxonomy.bit("liver"),)) in found.inside


def test_penalties_of_the_taxonomy(taxonomy):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2, 8, 4, 3, 5)).astype(np.float32)
    mask, available = rng.random(x.shape) < 0.5, rng.random((2, 8)) < 0.3
    spec = LossSpec(containment=0.7, exclusion=1.3)
    result, (grad,) = run(spec, [x], mask, available, classes=taxonomy.names, taxonomy=taxonomy)
    p = expit(x.astype(np.float64))
    either = np.maximum(p[:, 2], p[:, 3])
    inside = [np.maximum(0, p[b, c] - w[b]).mean() for b in range(2)
              for c, w in ((1, p[:, 0]), (4, either), (5, p[:, 2]), (6, p[:, 3]))]  # fmt: skip
    apart = [(p[b, left] * p[b, right]).mean() for b in range(2) for left, right in ((2, 3), (5, 6))]
    plain = slow([x], mask, available, mask & False, LossSpec())[0]
    np.testing.assert_allclose(result.containment.item(), np.mean(inside), rtol=1e-5)
    np.testing.assert_allclose(result.exclusion.item(), np.mean(apart), rtol=1e-5)
    np.testing.assert_allclose(result.total.item(), plain + 0.7 * np.mean(inside) + 1.3 * np.mean(apart), rtol=1e-5)
    alone = run(None, [x], mask, available, classes=taxonomy.names)[1][0]
    assert torch.equal(grad[:, 7], alone[:, 7])  # nothing is said of the aorta


def test_penalties_judge_what_is_predicted(taxonomy):
    """Of pairs, only rules whose classes were all predicted in that sample; available or not."""
    pairs = np.array([[1, 3], [0, 0], [0, 1], [1, 2], [1, 1]])
    x = np.zeros((5, 2, 2, 2), np.float32)
    x[2] = 5  # the tumour's
    mask, none = np.zeros((2, 8, 2, 2, 2), bool), np.zeros((2, 8), bool)
    spec = LossSpec(containment=1, exclusion=1)
    result, (grad,) = run(spec, [x], mask, none, classes=taxonomy.names, taxonomy=taxonomy, pairs=pairs)
    np.testing.assert_allclose(result.containment.item(), expit(5) - 0.5, rtol=1e-6)
    np.testing.assert_allclose(result.exclusion.item(), 0.25, rtol=1e-6)
    sign = np.sign(grad.sum((1, 2, 3)).numpy())
    assert sign.tolist() == [1, -1, 1, 1, 0]  # sides down, the liver up, its tumour down, a tumour without a liver left
    x[2] = -5
    result, _ = run(spec, [x], mask, none, classes=taxonomy.names, taxonomy=taxonomy, pairs=pairs)
    assert result.containment.item() == 0
    x[3] = np.nan
    result, _ = run(spec, [x], mask, none, classes=taxonomy.names, taxonomy=taxonomy, pairs=pairs)
    assert result.not_finite() == (1,)
    x[3], x[1] = 0, np.nan
    result, _ = run(spec, [x], mask, none, classes=taxonomy.names, taxonomy=taxonomy, pairs=pairs)
    assert result.not_finite() == (0,)


BAD = [
    {"dice": -1}, {"bce": float("nan")}, {"dice": 0, "bce": 0}, {"smooth": 0}, {"focal": 0.5}, {"focal": -1},
    {"levels": ()}, {"levels": (1.0, 0)}, {"class_weights": (0.0,)}, {"empty": "one"}, {"downsample": "mean"},
    {"containment": float("inf")}, {"exclusion": "1"}, {"smooth": True},
]  # fmt: skip


@pytest.mark.parametrize("settings", BAD, ids=str)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(SpecError):
        LossSpec(**settings)


def test_settings_that_do_not_fit_the_classes(taxonomy):
    with pytest.raises(SpecError, match="2 class_weights for 1 classes"):
        PartialLabelLoss(["a"], LossSpec(class_weights=(1.0, 1.0)))
    with pytest.raises(SpecError, match="come from the taxonomy"):
        PartialLabelLoss(["liver"], LossSpec(containment=1))
    with pytest.raises(SpecError, match="not a class of the taxonomy"):
        PartialLabelLoss(["a"], LossSpec(exclusion=1), taxonomy=taxonomy)


def inputs(**other):
    x = torch.zeros(2, 3, 4, 4, 4)
    return {"logits": x, "mask": x > 0, "available": torch.ones(2, 3, dtype=torch.bool)} | other


EVERY = torch.tensor([[b, c] for b in range(2) for c in range(3)])
WRONG = {
    "1 weights": {"logits": [torch.zeros(2, 3, 4, 4, 4)] * 2},
    "one channel a class": {"mask": torch.zeros(2, 2, 4, 4, 4, dtype=torch.bool)},
    "are bool": {"mask": torch.zeros(2, 3, 4, 4, 4)},
    "not of the shape of the mask": {"unknown": torch.zeros(2, 3, 4, 4, dtype=torch.bool)},
    r"logits \(2, 3, 5, 4, 4\)": {"logits": torch.zeros(2, 3, 5, 4, 4)},
    "or a smaller one": {"logits": torch.zeros(6, 4, 4, 4)},
    "floating-point": {"logits": torch.zeros(2, 3, 4, 4, 4, dtype=torch.int64)},
    r"logits \(5, 4, 4, 4\): \(6,\)": {"logits": torch.zeros(5, 4, 4, 4), "pairs": EVERY},
    r"1 available pairs have no logits.* \(0, 1\)": {
        "logits": torch.zeros(5, 4, 4, 4),
        "pairs": EVERY[[0, 2, 3, 4, 5]],
    },
    r"pair \(1, 2\) is given more": {"logits": torch.zeros(7, 4, 4, 4), "pairs": EVERY[[0, 1, 2, 3, 4, 5, 5]]},
    r"pair \(2, 0\)": {"logits": torch.zeros(1, 4, 4, 4), "pairs": torch.tensor([[2, 0]])},
    r"pair \(-1, 0\)": {"logits": torch.zeros(1, 4, 4, 4), "pairs": torch.tensor([[-1, 0]])},
    r"int64 \(P, 2\)": {"logits": torch.zeros(6, 4, 4, 4), "pairs": EVERY.int()},
}


@pytest.mark.parametrize("message", WRONG)
def test_arrays_that_do_not_fit(message):
    with pytest.raises(SpecError, match=message):
        PartialLabelLoss(NAMES[:3])(**inputs(**WRONG[message]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu():
    rng = np.random.default_rng(9)
    x = torch.from_numpy(rng.normal(size=(2, 3, 32, 32, 32)).astype(np.float32))
    rest = tensors(rng.random(x.shape) < 0.2, rng.random((2, 3)) < 0.7, rng.random(x.shape) < 0.2)
    host, (grad,) = run(None, [x], *rest)
    device, (there,) = run(None, [x.cuda()], *(a.cuda() for a in rest))
    torch.testing.assert_close(device.total.cpu(), host.total)
    torch.testing.assert_close(there.cpu(), grad)
