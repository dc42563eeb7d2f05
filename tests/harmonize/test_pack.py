"""Packed masks against plain boolean arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from atlas.harmonize.pack import BACKGROUND, Entry, MaskPacker, bounding_box

SHAPE = (5, 6, 7)


def add(bit):
    return lambda entry, _: Entry(entry.classes | 1 << bit, entry.unknown)


@given(st.lists(hnp.arrays(bool, SHAPE), min_size=1, max_size=9))
@settings(deadline=None, max_examples=50)
def test_any_overlapping_masks_come_back(masks):
    packer = MaskPacker(SHAPE)
    for bit, mask in enumerate(masks):
        packer.update((0, 0, 0), mask, add(bit))
    packed = packer.packed(keep=2 ** len(masks) - 1)
    for bit, mask in enumerate(masks):
        np.testing.assert_array_equal(packed.lookup(bit)[packed.codes], mask)


def test_order_of_masks_does_not_change_a_byte():
    rng = np.random.default_rng(0)
    masks = rng.random((4, *SHAPE)) > 0.6
    results = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        packer = MaskPacker(SHAPE)
        for bit in order:
            packer.update((0, 0, 0), masks[bit], add(bit))
        results.append(packer.packed(keep=15))
    assert results[0].table == results[1].table
    assert results[0].codes.tobytes() == results[1].codes.tobytes()


def test_a_selector_changes_only_its_box_and_where_it_is_not_zero():
    packer = MaskPacker(SHAPE)
    selector = np.array([[[0, 3], [5, 0]]], dtype=np.uint8)
    packer.update((1, 2, 3), selector, lambda entry, value: Entry(entry.classes | 1 << value, entry.unknown))
    packed = packer.packed(keep=0xFF)
    expected = np.zeros(SHAPE, int)
    expected[1, 2, 4], expected[1, 3, 3] = 1 << 3, 1 << 5
    np.testing.assert_array_equal(np.array([e.classes for e in packed.table])[packed.codes], expected)


def test_dropped_bits_leave_no_code_behind():
    packer = MaskPacker(SHAPE)
    packer.update((0, 0, 0), np.ones(SHAPE, bool), add(3))
    packed = packer.packed(keep=0)
    assert packed.table == (BACKGROUND,)
    assert not packed.codes.any()


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_codes_are_bytes_up_to_255(count, dtype):
    packer = MaskPacker((1, 1, 300))
    selector = np.zeros((1, 1, 300), np.uint16)
    selector[0, 0, :count] = np.arange(1, count + 1)
    packer.update((0, 0, 0), selector, lambda _, value: Entry(value, 0))
    packed = packer.packed(keep=0xFFFF)
    assert packed.codes.dtype == dtype
    assert len(packed.table) == count + 1


def test_unknown_is_a_bitmask_of_its_own():
    packer = MaskPacker(SHAPE)
    mask = np.zeros(SHAPE, bool)
    mask[0] = True
    packer.update((0, 0, 0), mask, lambda e, _: Entry(e.classes, e.unknown | 2))
    packed = packer.packed(keep=3)
    assert packed.table == (Entry(0, 0), Entry(0, 2))


def test_bounding_box():
    mask = np.zeros((4, 5, 6), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[2, 2, 5] = True
    assert bounding_box(mask) == (slice(1, 3), slice(2, 3), slice(3, 6))
