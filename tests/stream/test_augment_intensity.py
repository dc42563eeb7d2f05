"""Intensity of patches, compared with the same formulas in numpy and scipy, in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from atlas.errors import SpecError
from atlas.stream.augment import Augmentation, Chance, Parameters, apply_intensity
from atlas.stream.augment.filters import blur, lower_resolution
from atlas.stream.augment.noise import gaussian, uniform

CERTAIN = 1e-4

ANY = Augmentation(
    noise=Chance(0.5, 0, 0.1),
    blur=Chance(0.5, 0.3, 1.5),
    brightness=Chance(0.5, 0.75, 1.25),
    contrast=Chance(0.5, 0.75, 1.25),
    shift=Chance(0.5, -0.1, 0.1),
    low_resolution=Chance(0.5, 0.4, 1),
    inverted_gamma=Chance(0.5, 0.7, 1.5),
    gamma=Chance(0.5, 0.7, 1.5),
)
EACH = {
    "noise": 0.05,
    "blur": (0.7, 1.2, 0.4),
    "brightness": 1.2,
    "contrast": 0.8,
    "shift": -0.07,
    "low_resolution": 0.55,
    "inverted_gamma": 1.4,
    "gamma": 0.7,
}

shapes = st.tuples(*[st.integers(1, 14)] * 3)


def picture(shape, seed=0):
    """A smooth image in [0, 1] with some of it clipped at both ends, as the window leaves it."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5, mode="wrap")
    return np.clip(0.5 + 0.6 * smooth / max(float(smooth.std()), 1e-3), 0, 1).astype(np.float32)


def one(**rows):
    """Parameters of a single patch."""
    neutral = Parameters.neutral([0])
    return replace(neutral, **{k: np.array([v], getattr(neutral, k).dtype) for k, v in rows.items()})


def changed(image, parameters):
    """Apply to a single patch, numpy in and out."""
    return apply_intensity(torch.from_numpy(image)[None, None], parameters)[0, 0].numpy()


def back_to_statistics(bent, image):
    return (bent - bent.mean()) / max(bent.std(), 1e-7) * image.std() + image.mean()


def coarser(image, left):
    """Nearest of fewer voxels, then linear back, in scipy's coordinates."""
    full = image.shape
    small = [max(1, round(n * left)) for n in full]
    for axis, (n, m) in enumerate(zip(full, small, strict=True)):
        image = image.take(((np.arange(m) + 0.5) * n / m).astype(int), axis)
    back = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(full, small, strict=True)]
    return ndimage.map_coordinates(image, np.meshgrid(*back, indexing="ij"), order=1, mode="nearest")


@pytest.mark.parametrize("name", ["brightness", "contrast", "shift", "inverted_gamma", "gamma", "blur"])
@pytest.mark.parametrize("shape", [(9, 14, 11), (3, 5, 2)])
def test_each_transform_is_its_formula(name, shape):
    image, value = picture(shape, 1), EACH[name]
    exact = image.astype(float)
    want = {
        "brightness": lambda: exact * value,
        "contrast": lambda: (exact - exact.mean()) * value + exact.mean(),
        "shift": lambda: exact + value,
        "inverted_gamma": lambda: 1 - np.clip(back_to_statistics((1 - exact) ** value, 1 - exact), 0, 1),
        "gamma": lambda: back_to_statistics(exact**value, exact),
        "blur": lambda: ndimage.gaussian_filter(exact, value, mode="nearest", truncate=4),
    }[name]()
    got = changed(image, one(**{name: value}))
    np.testing.assert_allclose(got, np.clip(want, 0, 1), atol=2e-6)
    assert np.abs(got - image).max() > 1e-3
    assert got.dtype == np.float32


@given(shape=shapes, sigma=st.tuples(*[st.floats(0.05, 8)] * 3), seed=st.integers(0, 99))
def test_blur_is_that_of_scipy(shape, sigma, seed):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    want = ndimage.gaussian_filter(image.astype(float), sigma, mode="nearest", truncate=4)
    np.testing.assert_allclose(blur(torch.from_numpy(image), sigma).numpy(), want, atol=3e-6)


def test_blur_of_an_axis_leaves_the_others_alone():
    image = torch.from_numpy(picture((6, 7, 8)))
    assert blur(image, (0, 0, 0)) is image
    assert torch.equal(blur(image, (0, 2.0, 0))[:, :, 3], blur(image[:, :, 3:4].clone(), (0, 2.0, 0))[:, :, 0])


@given(shape=shapes, left=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_low_resolution_picks_nearest_and_interpolates_back(shape, left, seed):
    image = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    small = [max(1, round(n * left)) for n in shape]
    positions = [(np.arange(m) + 0.5) * n / m for n, m in zip(shape, small, strict=True)]
    if any((abs(p - np.rint(p)) < 1e-5).any() for p in positions):
        return  # on the border of two voxels, where float32 and float64 may pick either
    got = lower_resolution(torch.from_numpy(image), left).numpy()
    np.testing.assert_allclose(got, coarser(image.astype(float), left), atol=1e-5)
    assert got.shape == image.shape


def test_low_resolution_by_half_of_a_ramp():
    ramp = torch.arange(8.0).expand(4, 4, 8)
    assert lower_resolution(ramp, 0.5)[0, 0].tolist() == [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]


def test_transforms_run_in_the_documented_order():
    image = picture((12, 10, 11), 3)
    got = changed(image, one(**EACH, noise_key=(5, 6)))
    step = image.astype(float) + EACH["noise"] * gaussian(image.size, (5, 6)).numpy().reshape(image.shape)
    step = ndimage.gaussian_filter(step, EACH["blur"], mode="nearest", truncate=4)
    step = step * EACH["brightness"]
    step = (step - step.mean()) * EACH["contrast"] + step.mean() + EACH["shift"]
    step = np.clip(coarser(step, EACH["low_resolution"]), 0, 1)
    step = 1 - np.clip(back_to_statistics((1 - step) ** EACH["inverted_gamma"], 1 - step), 0, 1)
    step = np.clip(back_to_statistics(step ** EACH["gamma"], step), 0, 1)
    np.testing.assert_allclose(got, step, atol=2e-5)


@pytest.mark.parametrize("name", EACH)
def test_a_flat_image_stays_finite_and_within_the_window(name):
    for level in (0.0, 0.4, 1.0):
        got = changed(np.full((4, 5, 6), level, np.float32), one(**{name: EACH[name]}))
        assert np.isfinite(got).all()
        assert got.min() >= 0
        assert got.max() <= 1
        if name in {"contrast", "gamma", "inverted_gamma", "blur", "low_resolution"}:
            np.testing.assert_allclose(got, level, atol=1e-5)


@given(index=st.lists(st.integers(0, 500), min_size=1, max_size=4), shape=shapes)
@settings(max_examples=40)
def test_any_drawn_patch_is_in_the_window_alone_or_in_a_batch_and_again(index, shape):
    parameters = ANY.draw(3, index, shape)
    image = torch.from_numpy(np.stack([picture(shape, i) for i in index]))[:, None]
    before = image.clone()
    together = apply_intensity(image, parameters)
    again = apply_intensity(image, Parameters.from_dict(ANY.draw(3, index, shape).as_dict()))
    assert torch.equal(image, before), "the input is left alone"
    assert together.isfinite().all()
    assert together.min() >= 0
    assert together.max() <= 1
    assert torch.equal(together, again)
    for b in range(len(index)):
        assert torch.equal(apply_intensity(image[b : b + 1], parameters[b])[0], together[b])


def test_patches_that_nothing_happens_to_are_the_same_bits():
    image = torch.tensor([float("nan"), -0.0, 1.5, -3.0, 1e-30, 0.5] * 4).reshape(1, 1, 2, 3, 4).repeat(3, 1, 1, 1, 1)
    assert apply_intensity(image, Parameters.neutral([1, 2, 3])) is image
    spatial = replace(Parameters.neutral([1, 2, 3]), mirror=np.ones(3, bool), scale=np.full((3, 3), 1.2))
    assert apply_intensity(image, spatial) is image
    middle = replace(Parameters.neutral([1, 2, 3]), shift=np.array([0, 0.1, 0]))
    got = apply_intensity(image, middle)
    for b in (0, 2):
        assert got[b].numpy().tobytes() == image[b].numpy().tobytes()
    assert got[1].numpy().tobytes() != image[1].numpy().tobytes()


def reference_uniform(count, key, which):
    """The hash in Python's whole numbers."""

    def mix(x):
        x ^= x >> 16
        x = x * 0x21F0AAAD % 2**32
        x ^= x >> 15
        x = x * 0x735A2D97 % 2**32
        return x ^ x >> 15

    return [(mix((mix((2 * i + which) ^ key[0]) + key[1]) % 2**32) >> 8) / 2**24 for i in range(count)]


@given(key=st.tuples(*[st.integers(0, 2**32 - 1)] * 2), which=st.integers(0, 1))
def test_the_hash_is_that_of_whole_numbers(key, which):
    assert uniform(50, key, "cpu", which).tolist() == reference_uniform(50, key, which)
    assert uniform(50, np.array(key, np.uint32), "cpu", which).tolist() == reference_uniform(50, key, which)


def test_noise_is_box_muller_of_the_hash():
    first, second = (np.array(reference_uniform(500, (8, 9), which)) for which in (0, 1))
    radius = np.sqrt(-2 * np.log(first + 2.0**-24))
    want = np.concatenate([radius * np.cos(2 * np.pi * second), radius * np.sin(2 * np.pi * second)])
    np.testing.assert_allclose(gaussian(1000, (8, 9)).numpy(), want, atol=3e-6)
    np.testing.assert_array_equal(gaussian(999, (8, 9)).numpy(), gaussian(1000, (8, 9)).numpy()[:999])
    assert gaussian(1, (8, 9)).shape == (1,)


@pytest.mark.parametrize("key", [(0, 0), (1, 0), (0, 1), (0xFFFFFFFF, 0xFFFFFFFF), (123456789, 987654321)])
def test_noise_is_standard_normal(key):
    drawn = gaussian(64**3, key).numpy().astype(float)
    n = drawn.size
    assert abs(drawn.mean()) < 4 / np.sqrt(n)
    assert abs(drawn.var() - 1) < 4 * np.sqrt(2 / n)
    assert stats.kstest(drawn, "norm").pvalue > CERTAIN
    assert stats.skewtest(drawn).pvalue > CERTAIN
    assert stats.kurtosistest(drawn).pvalue > CERTAIN


def test_no_hash_makes_infinite_noise():
    assert gaussian(2**21, (3, 4)).abs().max() < 5.8
    lowest = torch.tensor(0.0) + 2.0**-24
    assert torch.sqrt(-2 * torch.log(lowest)) < 5.8


def test_noise_of_neighbours_of_patches_and_of_squares_is_independent():
    n = 64
    drawn = gaussian(n**3, (17, 42)).numpy().astype(float).reshape(n, n, n)
    others = [gaussian(n**3, key).numpy().reshape(n, n, n) for key in ((18, 42), (17, 43), (42, 17), (17 ^ 1, 42 ^ 1))]
    limit = stats.norm.ppf(1 - CERTAIN / 40) / np.sqrt(n**3)
    for field in (drawn, drawn**2 - 1, np.sign(drawn)):
        scaled = field / field.std()
        for axis in range(3):
            for step in (1, 2, n // 2):
                assert abs((scaled * np.roll(scaled, step, axis)).mean()) < limit, (axis, step)
    for other in others:
        assert abs((drawn * other).mean()) < limit
        assert abs(((drawn**2 - 1) * (other.astype(float) ** 2 - 1) / 2).mean()) < limit


def test_noise_of_many_patches_at_one_voxel_is_standard_normal():
    keys = Augmentation().draw(0, range(4000), (96, 96, 96)).noise_key
    drawn = np.array([gaussian(4, key).numpy() for key in keys])
    for voxel in drawn.T:
        assert stats.kstest(voxel, "norm").pvalue > CERTAIN
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08


def test_noise_has_the_deviation_asked_for():
    got = changed(np.full((40, 40, 40), 0.5, np.float32), one(noise=0.03, noise_key=(1, 2)))
    assert abs(got.std() - 0.03) < 3e-4
    assert abs(got.mean() - 0.5) < 5e-4


def test_changing_touches_no_global_generator():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    changed(picture((8, 8, 8)), one(**EACH))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 2, 4, 4, 4), (1, 4, 4, 4)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(SpecError, match="not of one batch"):
        apply_intensity(torch.zeros(shape), Parameters.neutral([0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives():
    parameters = ANY.draw(2, range(12), (24, 20, 28))
    image = torch.from_numpy(np.stack([picture((24, 20, 28), i) for i in range(12)]))[:, None]
    torch.testing.assert_close(
        apply_intensity(image.cuda(), parameters).cpu(), apply_intensity(image, parameters), atol=1e-5, rtol=0
    )
    assert torch.equal(uniform(5000, (1, 2), "cuda", 1).cpu(), uniform(5000, (1, 2), "cpu", 1))
