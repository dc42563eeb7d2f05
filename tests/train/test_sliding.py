"""Whole volumes from windows: against MONAI's sliding-window inference, and against the sum written out."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from torch import nn

from atlas.errors import CheckpointError, SpecError
from atlas.model.backbones import build_backbone
from atlas.model.class_vectors import LearnedVectors
from atlas.model.head import Logits
from atlas.model.network import UniversalNetwork
from atlas.spec.training import UNetSpec
from atlas.stream.windows import window_origins
from atlas.train.sliding import (
    HALF,
    Windows,
    _place,
    finished_slices,
    gaussian,
    predict_volume,
    slab_shape,
)

CLASSES = ("a", "b", "c", "d")


class Pointwise(nn.Module):
    """Logits that depend on the voxel, the window and the class; counts what it computed."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.classes = classes
        self.scale = nn.Parameter(torch.arange(1.0, len(classes) + 1))
        self.computed, self.modes, self.images = [], [], []

    def forward(self, image, available=None, *, levels=False):
        pairs = available.nonzero()
        self.computed.append(len(pairs))
        self.modes.append(self.training)
        self.images.append(image.clone())
        ramp = torch.linspace(-1, 1, image.shape[-1], dtype=image.dtype)
        field = 4 * image[:, 0] - 2 + ramp + image.mean((1, 2, 3, 4))[:, None, None, None]
        return Logits(field[pairs[:, 0]] * self.scale[pairs[:, 1]][:, None, None, None] / 2 - 0.3, pairs)


def real_network(classes=CLASSES):
    torch.manual_seed(0)
    backbone = build_backbone(UNetSpec(kind="unet", features=(8, 8, 16)))
    network = UniversalNetwork(backbone, LearnedVectors(classes), (len(classes) - 1, 1)).eval()
    for head in network.heads:  # probabilities far from 0.5 and from each other
        nn.init.normal_(head.controller.weight, 0, 0.05)
        nn.init.normal_(head.controller.bias, 0, 0.3)
    return network


def volume(shape, seed=0):
    return np.random.default_rng(seed).integers(-1024, 600, shape, dtype=np.int16)


def floats(network, ct, windows, rows=None, **further):
    """Probabilities before rounding."""
    rows = range(len(network.classes)) if rows is None else rows
    with torch.inference_mode():
        parts = [(z, p.clone()) for z, p in finished_slices(network, ct, rows, windows, **further)]
    assert [z for z, _ in parts] == np.cumsum([0, *(p.shape[1] for _, p in parts[:-1])]).tolist()
    return torch.cat([p for _, p in parts], 1).numpy()


def by_monai(network, ct, patch, overlap):
    image = torch.from_numpy(np.clip((ct.astype(np.float32) + 175) / 425, 0, 1))[None, None]
    every = torch.ones(1, len(network.classes), dtype=torch.bool)

    def predictor(x):
        return network(x, every).logits.sigmoid()[None]

    with torch.no_grad():
        return sliding_window_inference(image, patch, 1, predictor, overlap=overlap, mode="gaussian")[0].numpy()


@pytest.mark.parametrize("patch", [(16, 16, 16), (9, 24, 5), (96, 96, 96)])
def test_importance_is_monais(patch):
    ours, theirs = gaussian(patch), compute_importance_map(patch, mode="gaussian", sigma_scale=0.125)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("shape", "patch", "overlap"),
    [
        ((40, 37, 29), (16, 16, 16), 0.5),
        ((33, 20, 28), (16, 12, 8), 0.25),
        ((45, 16, 21), (8, 16, 12), 0.75),
        ((20, 18, 18), (8, 8, 8), 0.0),
        ((10, 40, 12), (16, 16, 16), 0.5),  # lower than a window
        ((40, 10, 12), (16, 16, 16), 0.6),  # narrower
        ((6, 8, 10), (16, 16, 16), 0.5),  # smaller all around
    ],
)
def test_same_as_monai(shape, patch, overlap):
    network, ct = Pointwise(), volume(shape)
    found = floats(network, ct, Windows(patch, overlap, 3))
    np.testing.assert_allclose(found, by_monai(network, ct, patch, overlap), atol=1e-5)


def test_same_as_monai_with_the_real_network():
    network, ct = real_network(), volume((40, 24, 28))
    expected = by_monai(network, ct, (16, 16, 16), 0.5)
    assert np.ptp(expected) > 0.3
    np.testing.assert_allclose(floats(network, ct, Windows((16, 16, 16), 0.5, 2)), expected, atol=1e-5)


@given(st.data())
def test_weighted_mean_over_all_windows(data):
    """Against the definition: one accumulator over the whole volume, for any shape, window and overlap."""
    shape = data.draw(st.tuples(*[st.integers(1, 14)] * 3))
    patch = data.draw(st.tuples(*[st.integers(2, 9)] * 3))
    overlap, batch = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.8])), data.draw(st.integers(1, 5))
    network, ct = Pointwise(), volume(shape)
    low = np.maximum(np.array(patch) - shape, 0)
    padded = np.full(np.array(shape) + 2 * low, -1024, np.int16)
    inside = tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))
    padded[inside] = ct
    total, weight = np.zeros((2, len(CLASSES), *padded.shape))
    importance = gaussian(patch).numpy()
    for origin in window_origins(shape, patch, overlap):
        at = tuple(slice(o, o + p) for o, p in zip(origin + low, patch, strict=True))
        image = torch.from_numpy(np.clip((padded[at].astype(np.float32) + 175) / 425, 0, 1))[None, None]
        with torch.no_grad():
            part = network(image, torch.ones(1, len(CLASSES), dtype=torch.bool)).logits.sigmoid().numpy()
        total[(slice(None), *at)] += part * importance
        weight[(slice(None), *at)] += importance
    expected = (total / np.where(weight, weight, 1))[(slice(None), *inside)]
    np.testing.assert_allclose(floats(network, ct, Windows(patch, overlap, batch)), expected, atol=1e-6)


def test_coded_probabilities():
    network, ct = Pointwise(), volume((20, 18, 17))
    windows = Windows((8, 8, 8), 0.5, 2)
    exact = floats(network, ct, windows)
    coded = predict_volume(network, ct, patch=windows.patch, overlap=0.5, batch=2)
    assert coded.dtype == np.uint8
    assert coded.shape == (len(CLASSES), 20, 18, 17)
    assert np.abs(coded - exact * 255.0).max() <= 0.5 + 1e-4
    np.testing.assert_array_equal(coded >= HALF, exact > 0.5)
    assert 0.2 < (coded >= HALF).mean() < 0.8


def test_exactly_one_half_is_not_above():
    network = Pointwise()
    network.forward = lambda image, available, **_: Logits(torch.zeros(4 * len(image), *image.shape[2:]), None)
    coded = predict_volume(network, volume((9, 11, 10)), patch=(5, 4, 6), overlap=0.7)
    assert (coded == HALF - 1).all()


def test_nan_is_an_error():
    network, ct = Pointwise(), volume((20, 9, 9))
    network.scale.data[2] = torch.nan
    with pytest.raises(CheckpointError, match="NaN about slices 0 to 3"):
        predict_volume(network, ct, patch=(8, 8, 8))
    predict_volume(network, ct, rows=[0, 1, 3], patch=(8, 8, 8))


def test_only_the_wanted_rows_are_computed_and_in_the_wanted_order():
    network, ct = Pointwise(), volume((12, 9, 9))
    every = predict_volume(network, ct, patch=(8, 8, 8), batch=2)
    network.computed.clear()
    some = predict_volume(network, ct, rows=[3, 1], patch=(8, 8, 8), batch=2)
    np.testing.assert_array_equal(some, every[[3, 1]])
    assert sum(network.computed) == 2 * len(window_origins(ct.shape, (8, 8, 8), 0.5))


def test_window_of_the_run_and_air_around():
    network, ct = Pointwise(), np.full((4, 6, 6), 75, np.int16)
    predict_volume(network, ct, patch=(8, 8, 8), window=(50, 100))
    (image,) = network.images
    expected = torch.zeros(8, 8, 8)
    expected[2:6, 1:7, 1:7] = 0.5
    torch.testing.assert_close(image[0, 0], expected)


def test_evaluation_mode_and_back():
    network, ct = Pointwise(), volume((4, 4, 4))
    predict_volume(network.train(), ct, patch=(4, 4, 4))
    assert network.modes == [False]
    assert network.training
    predict_volume(network.eval(), ct, patch=(4, 4, 4))
    assert not network.training


def test_result_into_a_memory_map_from_a_memory_map(tmp_path):
    network, ct = Pointwise(), volume((20, 10, 9))
    np.save(tmp_path / "ct.npy", ct)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.uint8, (4, 20, 10, 9))
    mapped = np.load(tmp_path / "ct.npy", mmap_mode="r")
    assert predict_volume(network, mapped, patch=(8, 8, 8), out=out) is out
    np.testing.assert_array_equal(out, predict_volume(network, ct, patch=(8, 8, 8)))


def test_progress_counts_windows():
    seen = []
    predict_volume(Pointwise(), volume((20, 12, 9)), patch=(8, 8, 8), batch=3, progress=lambda *a: seen.append(a))
    total = len(window_origins((20, 12, 9), (8, 8, 8), 0.5))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_lower_precision_is_close():
    network, ct = real_network(), volume((16, 16, 16))
    full, half = (floats(network, ct, Windows((16, 16, 16)), precision=p) for p in ("fp32", "bf16"))
    assert 0 < np.abs(full - half).max() < 0.1


def test_sums_are_kept_for_one_layer_of_windows_only():
    assert slab_shape(32, (1000, 341, 341), (96, 96, 96)) == (33, 96, 341, 341)
    assert slab_shape(2, (10, 20, 40), (32, 32, 32)) == (3, 32, 32, 40)


MEASURE = """
import sys
from pathlib import Path
import numpy as np, torch
from atlas.model.head import Logits
from atlas.train.sliding import predict_volume

class Network(torch.nn.Linear):
    classes = tuple("abcdefgh")

    def forward(self, image, available):
        return Logits(image[:, 0].repeat(8, 1, 1, 1), available)

def peak():
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

height = int(sys.argv[1])
ct = np.lib.format.open_memmap("ct.npy", "w+", np.int16, (height, 64, 64))
out = np.lib.format.open_memmap("out.npy", "w+", np.uint8, (8, height, 64, 64))
network = Network(1, 1)
predict_volume(network, ct[:16], patch=(16, 16, 16))
before = peak()
predict_volume(network, ct, patch=(16, 16, 16), out=out)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_height(tmp_path):
    height, command = 1600, [sys.executable, "-c", MEASURE]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(height)], cwd=tmp_path, env=environment, capture_output=True, check=True)
    voxels = height * 64 * 64
    files = voxels * 8 + voxels * 2  # pages of the mapped files count as resident
    assert int(done.stdout) < files + voxels * 8  # sums over all slices would be 36 bytes a voxel


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_wherever_the_sums_are(monkeypatch):
    network, ct = real_network(), volume((40, 24, 28))
    expected = predict_volume(network, ct, patch=(16, 16, 16))
    network.cuda()
    assert _place(torch.device("cuda"), 1 << 20).type == "cuda"
    assert _place(torch.device("cuda"), 1 << 50).type == "cpu"
    for share in (0.5, 0.0):
        monkeypatch.setattr("atlas.train.sliding.DEVICE_SHARE", share)
        found = predict_volume(network, ct, patch=(16, 16, 16))
        assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": [0, 0]}, "different numbers from 0 to 3"),
        ({"rows": [4]}, "different numbers from 0 to 3"),
        ({"rows": []}, "at least one"),
        ({"overlap": 1.0}, "overlap 1.0"),
        ({"batch": 0}, "batch 0"),
        ({"patch": (8, 8)}, "three sides"),
        ({"out": np.empty((4, 9, 9, 8), np.uint8)}, r"uint8 \(4, 9, 9, 9\)"),
        ({"out": np.empty((4, 9, 9, 9), np.int8)}, "int8"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    with pytest.raises(SpecError, match=message):
        predict_volume(Pointwise(), volume((9, 9, 9)), **{"patch": (8, 8, 8), **changed})
