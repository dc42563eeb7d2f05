"""What is drawn, against probabilities worked out case by case."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from atlas.errors import SpecError
from atlas.stream.counter import SAMPLING, uniforms
from atlas.stream.sampling import Sampler, Sampling
from atlas.stream.select import CaseIndex, select

N = 100_000
LIKELY = 1e-3
"""Below this p-value a test fails; the seeds are fixed, so it fails always or never."""


@pytest.fixture(scope="module")
def index(corpus):
    return select(corpus)


def draws(index, taxonomy, sampling=None, classes=None, seed=0, n=N):
    return Sampler(index, taxonomy, sampling, classes).draw(uniforms(seed, SAMPLING, 0, n, Sampler.WIDTH))


def named(index, taxonomy, drawn):
    """(case id, class or None) of every patch."""
    return Counter(
        (index.case_ids[case], taxonomy.names[bit] if bit >= 0 else None)
        for case, bit in zip(drawn.case, drawn.bit.tolist(), strict=True)
    )


def by_dataset(truth, weights):
    """Probability of every case, datasets having these weights."""
    sizes = Counter(case_id.split("/")[0] for case_id in truth)
    total = sum(weights(name, size) for name, size in sizes.items())
    return {c: weights(d, sizes[d]) / total / sizes[d] for c in truth for d in [c.split("/")[0]]}


def expected(truth, taxonomy, cases, *, foreground=(1, 2), lesions=(1, 1, 5), weight=lambda name: 1, asked=None):
    """Probability of every (case, class or None), spelled out from the masks."""
    asked = [name for name in (taxonomy.names if asked is None else asked) if weight(name)]
    result = {}
    for case_id, (_, masks, _) in truth.items():
        lesion = {n for n in asked if taxonomy.by_name[n].kind == "lesion"}
        found = {n for n in asked if n in masks and masks[n].any()}
        groups = [(None,), tuple(found - lesion), tuple(found & lesion)]
        ratio = lesions if lesion & set(masks) else (*foreground, 0)
        reachable = [r if group else 0 for r, group in zip(ratio, groups, strict=True)]
        for part, group in zip(reachable, groups, strict=True):
            total = sum(1 if name is None else weight(name) for name in group)
            for name in group:
                share = part / sum(reachable) * (1 if name is None else weight(name)) / total
                result[case_id, name] = cases[case_id] * share
    assert sum(result.values()) == pytest.approx(1)
    return {key: p for key, p in result.items() if p}


def check(counts, probabilities):
    """Nothing is drawn that must not be, and the rest as often as it must (chi-square)."""
    assert set(counts) <= set(probabilities)
    keys = sorted(probabilities, key=str)
    seen, wanted = (
        np.array([counts[k] for k in keys]),
        np.array([probabilities[k] for k in keys]) * sum(counts.values()),
    )
    assert wanted.min() > 5
    assert stats.chisquare(seen, wanted).pvalue > LIKELY


UNIFORM = lambda name, size: 1  # noqa: E731


@pytest.mark.parametrize(
    ("datasets", "weights"),
    [
        ("uniform", UNIFORM),
        ("proportional", lambda name, size: size),
        (1.0, lambda name, size: size),
        (2, lambda name, size: math.sqrt(size)),
        (0.5, lambda name, size: size**2),
        (1e9, UNIFORM),
        ({"one": 3, "three": 0.5}, lambda name, size: {"one": 3, "three": 0.5}.get(name, 0)),
        ({"two": 1, "one": 0}, lambda name, size: float(name == "two")),
    ],
)
def test_datasets(index, taxonomy, truth, datasets, weights):
    counts = named(index, taxonomy, draws(index, taxonomy, Sampling(datasets=datasets)))
    cases = by_dataset(truth, weights)
    check(Counter(counts), expected(truth, taxonomy, cases))
    datasets_seen, cases_seen = Counter(), Counter()
    for (case_id, _), n in counts.items():
        datasets_seen[case_id.split("/")[0]] += n
        cases_seen[case_id] += n
    check(cases_seen, {c: p for c, p in cases.items() if p})
    if len(datasets_seen) > 1:
        of_dataset = Counter()
        for case_id, p in cases.items():
            of_dataset[case_id.split("/")[0]] += p
        check(datasets_seen, {d: p for d, p in of_dataset.items() if p})


@pytest.mark.parametrize(
    ("foreground", "lesions"),
    [((1, 2), (1, 1, 5)), ((1, 0), (1, 0, 0)), ((1, 1), (0, 1, 5)), ((3, 1), (2, 0, 1)), ((0.1, 0.2), (0.5, 2.5, 1))],
)
def test_categories(index, taxonomy, truth, foreground, lesions):
    # (0, 1, 5) leaves nothing to draw in a case where lesions were annotated and nothing is present
    if not lesions[0]:
        index, truth = index.take(index.case_ids != "two/c"), {c: t for c, t in truth.items() if c != "two/c"}
    counts = named(index, taxonomy, draws(index, taxonomy, Sampling(foreground=foreground, lesions=lesions), seed=1))
    cases = by_dataset(truth, UNIFORM)
    check(counts, expected(truth, taxonomy, cases, foreground=foreground, lesions=lesions))


def ratio(index, taxonomy, truth, case_id, classes=None):
    """Share of background, organ and lesion among the patches of a case."""
    counts = named(index, taxonomy, draws(index.take(index.case_ids == case_id), taxonomy, None, classes, n=20_000))
    return pytest.approx(
        [
            sum(n for (_, name), n in counts.items() if kind(name)) / 20_000
            for kind in (
                lambda name: name is None,
                lambda name: name and taxonomy.by_name[name].kind != "lesion",
                lambda name: name and taxonomy.by_name[name].kind == "lesion",
            )
        ],
        abs=0.015,
    )


@pytest.mark.parametrize(
    ("case_id", "classes", "shares"),
    [
        ("one/a", None, [1 / 7, 1 / 7, 5 / 7]),
        ("one/c", None, [1 / 7, 1 / 7, 5 / 7]),
        ("one/b", None, [1 / 2, 1 / 2, 0]),  # a lesion was annotated, none is there
        ("two/a", None, [1 / 3, 2 / 3, 0]),  # no lesion was annotated
        ("two/c", None, [1, 0, 0]),  # nothing is there
        ("one/c", ["kidney_tumor"], [1 / 6, 0, 5 / 6]),
        ("one/c", ["kidney_left"], [1 / 3, 2 / 3, 0]),  # nobody asked for lesions
        ("one/c", ["spleen"], [1, 0, 0]),
        ("one/c", [], [1, 0, 0]),
        ("three/b", ["pancreas", "pancreas_tumor"], [1 / 7, 1 / 7, 5 / 7]),
    ],
)
def test_what_a_case_does_not_hold_is_left_out_and_the_rest_keeps_its_ratio(
    corpus, index, taxonomy, truth, case_id, classes, shares
):
    assert shares == ratio(index, taxonomy, truth, case_id, classes)


def test_classes_by_inverse_frequency(index, taxonomy, truth):
    frequency = Counter(name for _, masks, _ in truth.values() for name, mask in masks.items() if mask.any())
    counts = named(index, taxonomy, draws(index, taxonomy, Sampling(classes="inverse_frequency"), seed=2))
    cases = by_dataset(truth, UNIFORM)
    check(counts, expected(truth, taxonomy, cases, weight=lambda name: 1 / max(frequency[name], 1)))


def test_inverse_frequency_counts_the_selected_cases(corpus, taxonomy, truth):
    chosen = select(corpus, datasets="two", present="spleen")  # two/a and two/b
    counts = named(chosen, taxonomy, draws(chosen, taxonomy, Sampling(classes="inverse_frequency")))
    assert counts["two/a", "aorta"] / counts["two/a", "spleen"] == pytest.approx(1, abs=0.05)  # both in both
    counts = named(index := select(corpus), taxonomy, draws(index, taxonomy, Sampling(classes="inverse_frequency")))
    assert counts["two/a", "aorta"] / counts["two/a", "spleen"] == pytest.approx(2, abs=0.1)  # in 2 and in 4


@pytest.mark.parametrize("scale", [1, 1e12])
def test_classes_by_weight(index, taxonomy, truth, scale):
    weights = {"liver": 1.0, "kidney_right": 4.0, "liver_tumor": 2.0, "face": scale, "aorta": 3 * scale, "spleen": 0}
    counts = named(index, taxonomy, draws(index, taxonomy, Sampling(classes=weights), seed=3))
    chances = expected(truth, taxonomy, by_dataset(truth, UNIFORM), weight=lambda name: weights.get(name, 0))
    check(counts, {key: p for key, p in chances.items() if p > 1e-9})


def test_only_classes_asked_for_are_aimed_at(index, taxonomy, truth):
    asked = ["face", "liver_tumor", "spleen", "kidney_cyst"]
    counts = named(index, taxonomy, draws(index, taxonomy, None, asked, seed=4))
    check(counts, expected(truth, taxonomy, by_dataset(truth, UNIFORM), asked=asked))


def test_every_present_class_of_every_case_is_drawn(index, taxonomy, truth):
    seen = set(named(index, taxonomy, draws(index, taxonomy)))
    assert {(c, n) for c, (_, masks, _) in truth.items() for n, m in masks.items() if m.any()} <= seen


@pytest.mark.parametrize("end", [0, -1])
def test_the_first_and_the_last_bit_are_not_lost(index, taxonomy, end):
    name = taxonomy.names[end]
    for classes in (None, [name], taxonomy.names[::-1]):
        counts = named(index, taxonomy, draws(index, taxonomy, None, classes, n=5000))
        assert counts["three/a", name] > 100


def test_voxel_and_offset_are_uniform_whatever_is_drawn(index, taxonomy):
    drawn = draws(index, taxonomy)
    assert drawn.case.dtype == np.int32
    assert drawn.bit.dtype == np.int16
    assert drawn.offset.shape == (N, 3)
    for rows in (drawn.bit == -1, drawn.bit == 0, drawn.case == 2):
        numbers = [drawn.voxel[rows], *drawn.offset[rows].T]
        assert min(stats.kstest(column, "uniform").pvalue for column in numbers) > LIKELY
        assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.05


@settings(max_examples=30)
@given(first=st.integers(0, 2**45), cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_a_block_is_its_patches_one_by_one(index, taxonomy, first, cuts, seed):
    sampler = Sampler(index, taxonomy, Sampling(datasets=1.5, classes="inverse_frequency"))
    n = sum(cuts)
    whole = sampler.draw(uniforms(seed, SAMPLING, first, n, Sampler.WIDTH))
    starts = np.cumsum([0, *cuts[:-1]])
    for blocks in (zip(starts, cuts, strict=True), ((i, 1) for i in range(n))):
        parts = [sampler.draw(uniforms(seed, SAMPLING, first + int(s), c, Sampler.WIDTH)) for s, c in blocks]
        for field, column in zip(whole._fields, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(column), getattr(whole, field))


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_interval(index, taxonomy, truth, u):
    drawn = Sampler(index, taxonomy, Sampling(lesions=(1, 1, 0))).draw(np.full((1, Sampler.WIDTH), u))
    assert index.case_ids[drawn.case[0]] == ("one/a" if u == 0 else "two/c")
    assert drawn.bit[0] == -1
    one = index.take(index.case_ids == "one/a")
    sampler = Sampler(one, taxonomy, Sampling(lesions=(0, 1, 0)))
    name = taxonomy.names[sampler.draw(np.full((1, Sampler.WIDTH), u)).bit[0]]
    assert name == ("kidney_right" if u == 0 else "liver")  # first and last of its organs


def simulated(taxonomy, cases=20_000):
    """An index without a corpus: 12 datasets of very different sizes, half of the classes rare."""
    rng = np.random.default_rng(0)
    dataset = np.sort(rng.choice(12, cases, p=np.arange(1, 13) / 78))
    annotated = rng.random((cases, len(taxonomy))) < np.where(np.arange(len(taxonomy)) % 2, 0.9, 0.02)
    annotated[::3, [c.kind == "lesion" for c in taxonomy.classes]] = False
    held = annotated & (rng.random(annotated.shape) < 0.7)
    words = np.zeros((cases, 5), np.uint32)
    for bit in range(len(taxonomy)):
        words[:, bit // 32] |= annotated[:, bit].astype(np.uint32) << np.uint32(bit % 32)
    index = CaseIndex(
        case_ids=np.array([f"case/{i:05d}" for i in range(cases)]),
        datasets=tuple(f"dataset_{d:02d}" for d in range(12)),
        dataset=dataset.astype(np.int32),
        shape=np.full((cases, 3), 250, np.int32),
        body=np.tile(np.array([0, 0, 0, 250, 250, 250], np.int32), (cases, 1)),
        available=words,
        starts=np.concatenate([[0], np.cumsum(held.sum(axis=1))]).astype(np.int64),
        bits=np.nonzero(held)[1].astype(np.int16),
    )
    return index, annotated, held


def test_twenty_thousand_cases(taxonomy):
    index, annotated, held = simulated(taxonomy)
    sampler = Sampler(index, taxonomy, Sampling(classes="inverse_frequency"))
    assert sum(v.nbytes for v in vars(index).values() if isinstance(v, np.ndarray)) < 10e6
    assert len(pickle.dumps(sampler)) < 20e6
    drawn = sampler.draw(uniforms(0, SAMPLING, 0, N, Sampler.WIDTH))
    aimed = drawn.bit >= 0
    assert held[drawn.case[aimed], drawn.bit[aimed]].all()
    check(Counter(index.dataset[drawn.case].tolist()), dict.fromkeys(range(12), 1 / 12))
    lesion = np.array([c.kind == "lesion" for c in taxonomy.classes])
    category = np.where(aimed, 1 + lesion[drawn.bit], 0)
    full = (held[:, lesion].any(axis=1) & held[:, ~lesion].any(axis=1))[drawn.case]
    check(Counter(category[full].tolist()), {0: 1 / 7, 1: 1 / 7, 2: 5 / 7})
    plain = ~annotated[:, lesion].any(axis=1)[drawn.case]
    check(Counter(category[plain].tolist()), {0: 1 / 3, 1: 2 / 3})
    # rare organs: in the cases where it is, an organ is drawn in inverse proportion to the number of such cases
    frequency = held.sum(axis=0)
    weights = np.where(lesion, 0, 1 / np.maximum(frequency, 1)) * held[drawn.case[category == 1]]
    chances = (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
    seen = np.bincount(drawn.bit[category == 1], minlength=len(taxonomy))
    assert stats.chisquare(seen[~lesion], chances[~lesion] * seen.sum() / chances.sum()).pvalue > LIKELY
    copy = pickle.loads(pickle.dumps(sampler))
    np.testing.assert_array_equal(copy.draw(uniforms(0, SAMPLING, 0, N, 8)).bit, drawn.bit)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"datasets": "even"}, "datasets 'even': it is uniform or proportional, or a temperature above 0, or weights"),
        ({"datasets": 0}, "a temperature above 0"),
        ({"datasets": -1.0}, "a temperature above 0"),
        ({"datasets": math.inf}, "a temperature above 0"),
        ({"datasets": True}, "a temperature above 0"),
        ({"datasets": {}}, "weights by name"),
        ({"datasets": {"one": -1}}, "weights by name"),
        ({"datasets": {"one": 0}}, "not all 0"),
        ({"datasets": {"one": math.nan}}, "weights by name"),
        ({"classes": "rare"}, "classes 'rare': it is uniform or inverse_frequency, or weights by name"),
        ({"classes": 2.0}, "weights by name"),
        ({"classes": {"liver": "1"}}, "weights by name"),
        ({"classes": {"liver": 1e308, "spleen": 1e308}}, "weights by name"),
        ({"foreground": (1, 2, 3)}, r"foreground \(1, 2, 3\): it is background : foreground"),
        ({"foreground": 2}, "background : foreground"),
        ({"foreground": (0, 0)}, "not all 0"),
        ({"lesions": (1, 2)}, "background : organ : lesion"),
        ({"lesions": (1, -1, 5)}, "background : organ : lesion"),
        ({"jitter": 0.6}, "a fraction of the patch, from 0 to 0.5"),
        ({"jitter": -0.1}, "a fraction of the patch"),
        ({"jitter": math.nan}, "a fraction of the patch"),
    ],
)
def test_what_cannot_be_asked(values, message):
    with pytest.raises(SpecError, match=message):
        Sampling(**values)


@pytest.mark.parametrize(
    ("values", "classes", "message"),
    [
        ({"datasets": {"one": 1, "four": 1}}, None, "four.*: one, three, two"),
        ({"classes": {"livr": 1}}, None, "did you mean liver"),
        ({"classes": {"liver": 1}}, ["spleen"], "liver.*not among those asked for"),
        ({}, ["livr"], "did you mean liver"),
        ({"lesions": (0, 1, 5)}, None, r"1 cases .* two/c .*background .*len\(present\) > 0"),
        ({"foreground": (0, 1)}, ["face"], "7 cases .* one/a the first"),
    ],
)
def test_what_this_corpus_cannot_answer(index, taxonomy, values, classes, message):
    with pytest.raises(SpecError, match=message):
        Sampler(index, taxonomy, Sampling(**values), classes)


def test_a_dataset_that_is_not_drawn_from_may_hold_nothing(index, taxonomy):
    drawn = draws(index, taxonomy, Sampling(datasets={"one": 1, "three": 1}, lesions=(0, 1, 5)), n=1000)
    assert "two" not in {index.datasets[d] for d in index.dataset[drawn.case]}


def test_no_case(index, taxonomy):
    with pytest.raises(SpecError, match="no case"):
        Sampler(index.take(np.zeros(8, bool)), taxonomy)
