"""Look-ups and masks, against bit tests on whole numbers voxel by voxel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas.stream import unpack

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DTYPES = {"uint8": 256, "uint16": 65536, "int32": 65536}


def words_of(number, words):
    return [number >> 32 * w & 0xFFFFFFFF for w in range(words)]


def slow(codes, tables, bits):
    """bool (B, C, *P): one class of one sample at a time, from Python's numbers."""
    masks = np.zeros((len(codes), bits.shape[1], *codes.shape[1:]), bool)
    for b, table in enumerate(tables):
        for c, bit in enumerate(bits[b].tolist()):
            holds = np.array([bit >= 0 and bool(number >> bit & 1) for number in table])
            masks[b, c] = holds[codes[b]]
    return masks


def words(tables, count):
    return np.array([[words_of(number, count) for number in table] for table in tables], np.uint32)


@st.composite
def cases(draw):
    """Codes, tables of as many codes as a batch has at most, and bits with mirrored and unused ones among them."""
    batch, count, size = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 300))
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = min(size, DTYPES[dtype])
    tables = [[int.from_bytes(rng.bytes(4 * count), "little") for _ in range(size)] for _ in range(batch)]
    some = st.one_of(st.integers(-1, 32 * count + 40), st.sampled_from([31, 32, 63, 64, 147]))
    classes = draw(st.integers(1, 20))
    bits = np.array(draw(st.lists(some, min_size=batch * classes, max_size=batch * classes))).reshape(batch, classes)
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    codes = rng.integers(0, size, (batch, *shape)).astype(dtype)
    return codes, tables, bits, count


@given(case=cases())
def test_every_voxel_has_the_classes_of_its_code(case):
    codes, tables, bits, count = case
    table = unpack.lookup(words(tables, count), bits)
    assert table.shape == (*bits.shape, len(tables[0]))
    masks = unpack.expand(torch.from_numpy(codes), table)
    assert masks.dtype == torch.bool
    assert masks.is_contiguous()
    np.testing.assert_array_equal(masks.numpy(), slow(codes, tables, bits))
    assert np.isin(masks.numpy().view(np.uint8), [0, 1]).all()


@given(case=cases())
def test_the_gpu_s_way_gives_the_same(case):
    codes, tables, bits, count = case
    table = np.pad(unpack.lookup(words(tables, count), bits), ((0, 0), (0, 0), (0, 1)))
    masks = unpack._expand_device(torch.from_numpy(codes), table)
    np.testing.assert_array_equal(masks.numpy(), slow(codes, tables, bits))


def test_the_highest_bit_of_a_word_is_no_sign():
    table = unpack.lookup(
        words([[1 << 31, 1 << 32, 1 << 63 | 1 << 147]], 5), np.array([[31, 32, 63, 64, 147, -1, 160]])
    )
    assert table[0].tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [False, False, False],
        [False, False, True],
        [False, False, False],
        [False, False, False],
    ]


@pytest.mark.parametrize(
    "expand", [unpack.expand, lambda c, t: unpack._expand_device(c, np.pad(t, ((0, 0), (0, 0), (0, 1))))]
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_a_code_past_the_look_up_holds_nothing(expand, dtype):
    codes = torch.tensor([3, 4, 5, 6, 7, 255]).to(dtype).reshape(1, 1, 2, 3)  # 4 to 7: those of the next eight classes
    assert not expand(codes, np.ones((1, 9, 3), bool)).any()
    assert expand(torch.zeros_like(codes), np.ones((1, 9, 3), bool)).all()


@pytest.mark.parametrize("voxels", [1, 2**13 - 1, 2**13, 2**13 + 1, 3 * 2**13 + 5])
def test_patches_of_any_number_of_voxels(voxels):
    rng = np.random.default_rng(voxels)
    codes = rng.integers(0, 200, (2, 1, 1, voxels), dtype=np.uint8)
    table = rng.random((2, 17, 200)) < 0.3
    expected = np.stack([table[b][:, codes[b]] for b in range(2)])
    np.testing.assert_array_equal(unpack.expand(torch.from_numpy(codes), table).numpy(), expected)


def test_codes_that_are_not_contiguous():
    codes = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 3, 4)
    table = np.random.default_rng(0).random((1, 5, 24)) < 0.5
    turned = unpack.expand(codes.permute(0, 3, 2, 1), table)
    assert torch.equal(turned, unpack.expand(codes, table).permute(0, 1, 4, 3, 2))


HU = torch.arange(-1024, 3072, dtype=torch.int16)


@pytest.mark.parametrize("ct", [HU, HU.float(), HU.float() + 0.37])
@pytest.mark.parametrize(("low", "high"), [(-175.0, 250.0), (-1024.0, 3071.0), (0.1, 0.3), (-160, 240)])
def test_a_window_is_clipped_and_straight(ct, low, high):
    before = ct.clone()
    image = unpack.window(ct, low, high)
    expected = np.clip((ct.numpy().astype(np.float64) - low) / (high - low), 0, 1)
    # HU of float32 hold one part in 2**24, which the width of the window magnifies
    np.testing.assert_allclose(image.numpy(), expected, rtol=0, atol=2**-22 * max(1, 1 / (high - low)))
    assert image.dtype == torch.float32
    assert torch.equal(ct, before)
    assert ((image == 0).numpy() == (expected == 0)).all()
    assert ((image == 1).numpy() == (expected == 1)).all()


@cuda
def test_a_gpu_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    for dtype, count in ((np.uint8, 256), (np.uint16, 3000)):
        codes = torch.from_numpy(rng.integers(0, count, (2, 33, 34, 35)).astype(dtype))
        table = rng.random((2, 37, count - 3)) < 0.3  # some codes lie past it
        assert torch.equal(unpack.expand(codes.cuda(), table).cpu(), unpack.expand(codes, table))
    assert torch.equal(unpack.window(HU.cuda(), -175.0, 250.0).cpu(), unpack.window(HU, -175.0, 250.0))
