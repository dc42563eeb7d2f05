"""Left and right of synthetic organs, whose sides are known, and of real labels that are sided at the source."""

import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.harmonize.midplane import Midplane
from atlas.harmonize.sides import split_sides

REALDATA = Path(__file__).resolve().parents[3] / "shared" / "realdata"
SPACING = 2.0
SHAPE = (110, 100, 180)
MIDDLE = Midplane((49.5, 89.5), (0.0, 1.0), "spine")
LEFT, RIGHT = -72, 72  # lateral place of a kidney in mm


def blob(z, y, x, rz, ry=None, rx=None):
    """Ellipsoid at (z, y, x) mm from the middle of the volume; x grows to the patient's right."""
    radii = (rz, ry or rz, rx or rz)
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    parts = (
        ((axis - (n - 1) / 2) * SPACING - c) / r for axis, n, c, r in zip(axes, SHAPE, (z, y, x), radii, strict=True)
    )
    return sum(part**2 for part in parts) < 1


def kidney(x, z=0, y=0, size=1.0):
    return blob(z, y, x, 52 * size, 24 * size, 28 * size)


def box(z, y, x):
    """Voxels within those ranges of mm from the middle."""
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    mm = [(axis - (n - 1) / 2) * SPACING for axis, n in zip(axes, SHAPE, strict=True)]
    low = [(axis >= r[0]) & (axis < r[1]) for axis, r in zip(mm, (z, y, x), strict=True)]
    return low[0] & low[1] & low[2]


def plane_at(x_mm, turn=0.0):
    a = np.radians(turn)
    return Midplane((49.5, 89.5 + x_mm / SPACING), (float(np.sin(a)), float(np.cos(a))), "spine")


def lungs():
    return (blob(0, 0, s, 100, 85, 55) for s in (-75, 75))


def split(left, right, plane=MIDDLE, **kwargs):
    return split_sides(left | right, SPACING, plane, **kwargs)


def is_right(result, left, right, *, note=None):
    assert result.resolved
    np.testing.assert_array_equal(result.right, right)
    if note is None:
        assert result.note is None
    else:
        assert note in result.note


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("plane", [MIDDLE, None, plane_at(25), plane_at(-25)], ids=["found", "none", "+", "-"])
def test_two_clean_components(plane):
    left, right = kidney(LEFT), kidney(RIGHT)
    is_right(split(left, right, plane), left, right)


def test_nothing_is_nothing_on_both_sides():
    result = split_sides(np.zeros(SHAPE, bool), SPACING, MIDDLE)
    assert result.resolved
    assert result.note is None
    assert not result.right.any()


@pytest.mark.parametrize(("x", "side"), [(LEFT, "left"), (RIGHT, "right"), (-30, "left"), (30, "right")])
def test_one_organ_gets_the_side_it_lies_on(x, side):
    organ = kidney(x)
    result = split_sides(organ, SPACING, MIDDLE)
    assert result.resolved
    assert result.note == f"one organ only, on the {side}"
    np.testing.assert_array_equal(result.right, organ & (side == "right"))


@pytest.mark.parametrize(
    ("organ", "plane"),
    [(kidney(RIGHT), None), (kidney(0), MIDDLE), (kidney(8), MIDDLE), (kidney(LEFT) | kidney(LEFT, z=45), None)],
    ids=["no midplane", "astride", "nearly astride", "two poles, no midplane"],
)
def test_no_honest_answer(organ, plane):
    result = split_sides(organ, SPACING, plane)
    assert not result.resolved
    assert result.note
    assert not result.right.any()


def test_transverse_pelvic_kidney_is_no_horseshoe():
    kidney_across = blob(0, 0, 0, 24, 26, 52) & ~blob(0, 30, 0, 15, 22, 15)  # its hilum makes it bent
    assert not split_sides(kidney_across, SPACING, MIDDLE).resolved


@pytest.mark.parametrize("plane", [MIDDLE, None, plane_at(20)], ids=["found", "none", "off"])
def test_lungs_joined_at_the_carina(plane):
    left, right = lungs()
    airway = box((0, 90), (-9, 9), (-9, 9)) | box((-9, 9), (-9, 9), (-60, 60))
    result = split_sides(left | right | airway, SPACING, plane)
    assert result.resolved
    assert "fused" in result.note
    assert dice(result.right & right, right) > 0.999
    assert not (result.right & left).any()
    assert not (result.right & box((-200, 200), (-200, 200), (-200, -25))).any()


def test_lungs_that_touch_in_front_of_the_heart():
    left, right = (blob(0, 0, s, 100, 85, 80) & box((-200, 200), (-200, 200), r) for s, r in
                   ((-75, (-200, 0)), (75, (0, 200))))  # fmt: skip
    heart = blob(-10, -30, 0, 95, 75, 40)
    left, right = left & ~heart, right & ~heart
    result = split(left, right)
    assert result.resolved
    assert min(dice(result.right, right), dice((left | right) & ~result.right, left)) > 0.995


@pytest.mark.parametrize("dx", [-15, 0, 15])
def test_horseshoe_kidney_is_cut_at_the_isthmus(dx):
    left, right = kidney(LEFT + dx), kidney(RIGHT + dx)
    isthmus = box((-50, -30), (-8, 8), (LEFT + dx, RIGHT + dx))
    result = split_sides(left | right | isthmus, SPACING, MIDDLE)
    assert result.resolved
    assert "narrowest" in result.note
    assert (result.right & right).sum() == right.sum()
    assert not (result.right & left).any()
    on_right = isthmus & ~left & ~right & box((-99, 99), (-99, 99), (dx, 200))
    assert dice(result.right & isthmus & ~right, on_right) > 0.85  # the cut is near the middle


def test_pelvic_kidney_astride_the_midline_beside_a_normal_one():
    left, right = kidney(LEFT, z=50, size=0.9), kidney(10, z=-70, size=0.7)
    is_right(split(left, right), left, right, note="midline")
    is_right(split(kidney(-8, z=-70, size=0.7), kidney(RIGHT, z=50, size=0.9)), None,
             kidney(RIGHT, z=50, size=0.9), note="midline")  # fmt: skip


def test_fragments_join_the_nearer_organ():
    left, right = kidney(LEFT), kidney(RIGHT)
    near_left = box((-4, 4), (-4, 4), (LEFT + 30, LEFT + 40)) | blob(60, 0, LEFT, 4)
    near_right = blob(0, 30, RIGHT, 5) | blob(-62, 0, RIGHT, 5)
    is_right(split(left | near_left, right | near_right), left | near_left, right | near_right)
    is_right(split(left | near_left, right | near_right, None), left | near_left, right | near_right)


def test_fragment_across_the_midline_stays_with_its_organ():
    left, right = kidney(-34), kidney(95)
    fragment = box((-6, 6), (-6, 6), (-2, 10))  # 8 mm from the left kidney, on the right of the midline
    is_right(split(left | fragment, right), left | fragment, right)


def test_fragments_never_outrank_an_organ():
    small, large = kidney(LEFT, size=0.5), kidney(RIGHT, z=20)
    tumour = blob(-62, 0, RIGHT, 24)  # apart from its kidney and larger than the other kidney
    assert tumour.sum() > small.sum()
    is_right(split(small, large | tumour), small, large | tumour)
    is_right(split(small, large | tumour, None), small, large | tumour)


@pytest.mark.parametrize(("x", "side"), [(LEFT, "left"), (RIGHT, "right")])
def test_organ_in_pieces_and_the_other_missing(x, side):
    organ = kidney(x) & ~box((-12, -6), (-99, 99), (-200, 200)) & ~box((14, 22), (-99, 99), (-200, 200))
    result = split_sides(organ, SPACING, MIDDLE)
    assert result.resolved
    assert result.note == f"several pieces, all on the {side}"
    np.testing.assert_array_equal(result.right, organ & (side == "right"))


def test_kidney_with_a_huge_tumour_across_the_midline():
    left = kidney(LEFT - 20)
    right = kidney(RIGHT + 20) | blob(10, 0, 30, 60, 45, 62)  # from 32 mm left of the midline
    is_right(split(left, right), left, right, note="reaches across")


def test_both_organs_on_one_side_of_a_wrong_midline():
    left, right = kidney(LEFT), kidney(RIGHT)
    for plane in (plane_at(-110), plane_at(110)):
        is_right(split(left, right, plane), left, right, note="relative position")
    is_right(split(left, right, plane_at(LEFT)), left, right, note="relative position")


def test_patient_on_the_side():
    upper, lower = (np.moveaxis(kidney(x), 2, 1)[:, 40:140] for x in (LEFT, RIGHT))
    plane = Midplane((49.5, 49.5), (1.0, 0.0), "spine")  # the right side is up
    mask = upper | lower
    result = split_sides(mask, SPACING, plane)
    assert result.resolved
    assert result.note is None
    np.testing.assert_array_equal(result.right, mask & (np.arange(mask.shape[1]) > 49.5)[None, :, None])


def test_many_lesions_go_each_to_its_side():
    right = blob(0, 0, 60, 9) | blob(30, 10, 85, 5) | blob(-30, 0, 95, 9) | blob(40, 0, 25, 3)
    left = blob(-45, 0, -62, 8) | blob(20, 0, -80, 4) | blob(50, -10, -25, 3)
    is_right(split(left, right), left, right)
    is_right(split(np.zeros(SHAPE, bool), right), None, right, note="all on the right")
    speck = blob(0, 0, -70, 2)
    is_right(split(speck, right), speck, right, note="all on the right")


@pytest.mark.parametrize("shape", [(1, 1, 7), (1, 5, 7), (7, 1, 7)])
def test_voxels_apart_in_one_line_or_plane(shape):
    """As many pieces as a crop can hold; cc3d alone fails on these."""
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    split = split_sides(mask, 40.0, Midplane((0.0, 3.0), (0.0, 1.0), "spine"))
    assert split.resolved
    assert set(np.nonzero(split.right)[2].tolist()) == {4, 6}
    assert np.count_nonzero(split.right) == np.count_nonzero(mask) // 2


def test_seeds_rule_over_geometry():
    left, right = kidney(-60), kidney(60)
    crossed = blob(0, 0, 20, 8)  # unsided: it touches neither, and is nearer to the right one
    touching = blob(0, 26, -60, 12)  # a tumour on the left one
    mask = left | right | crossed | touching
    result = split_sides(mask, SPACING, None, left_seed=left, right_seed=right)
    is_right(result, None, right | crossed)
    swapped = split_sides(mask, SPACING, MIDDLE, left_seed=right, right_seed=left)
    assert (swapped.right & (left | touching | right)).sum() == (left | touching).sum()


def test_seeds_divide_what_they_share():
    left, right = kidney(-25), kidney(25)  # they touch: a horseshoe without a waist
    result = split_sides(
        left | right, SPACING, MIDDLE, left_seed=kidney(-25, size=0.5), right_seed=kidney(25, size=0.5)
    )
    assert result.resolved
    assert dice(result.right, (left | right) & box((-200, 200), (-200, 200), (0, 200))) > 0.97
    assert (result.right & kidney(25, size=0.5)).sum() == kidney(25, size=0.5).sum()


def test_one_seed_leaves_the_other_side_to_geometry():
    left, right = kidney(LEFT), kidney(RIGHT)
    is_right(split(left, right, left_seed=left), left, right)
    is_right(split(left, right, right_seed=right), left, right)


def test_a_crop_with_its_origin_gives_the_same():
    left, right = kidney(LEFT - 20), np.zeros(SHAPE, bool)
    crop = np.s_[10:100, 20:80, 5:60]
    result = split_sides((left | right)[crop], SPACING, MIDDLE, origin=(10, 20, 5))
    assert result.note == "one organ only, on the left"
    assert not result.right.any()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-60, 60), st.integers(-40, 40), st.integers(-110, 110), st.integers(3, 30)),
        min_size=1,
        max_size=7,
    ),
    st.sampled_from([MIDDLE, None]),
    st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.integers(-4, 4)),
)
def test_partition_translation_and_determinism(blobs, plane, shift):
    mask = np.zeros(SHAPE, bool)
    for one in blobs:
        mask |= blob(*one)
    before = mask.copy()
    result = split_sides(mask, SPACING, plane)
    np.testing.assert_array_equal(mask, before)
    assert not (result.right & ~mask).any()
    assert result.resolved or (result.note and not result.right.any())
    room = [(5, 5)] * 3
    moved = np.roll(np.pad(mask, room), shift, axis=(0, 1, 2))
    origin = tuple(-5 - s for s in shift)
    again = split_sides(moved, SPACING, plane, origin=origin)
    np.testing.assert_array_equal(
        np.roll(again.right, [-s for s in shift], axis=(0, 1, 2))[5:-5, 5:-5, 5:-5], result.right
    )
    assert (again.resolved, again.note) == (result.resolved, result.note)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-60, 60), st.integers(-40, 40), st.integers(30, 110), st.integers(8, 25)), max_size=3
    ),
    st.lists(
        st.tuples(st.integers(-60, 60), st.integers(-40, 40), st.integers(-110, -30), st.integers(8, 25)), max_size=3
    ),
    st.booleans(),
)
def test_mirroring_swaps_the_sides(rights, lefts, known):
    mask = np.zeros(SHAPE, bool)
    for one in rights + lefts:
        mask |= blob(*one)
    plane = MIDDLE if known else None
    result, mirrored = split_sides(mask, SPACING, plane), split_sides(mask[:, :, ::-1], SPACING, plane)
    assert mirrored.resolved == result.resolved
    if result.resolved:
        np.testing.assert_array_equal(mirrored.right[:, :, ::-1], mask & ~result.right)


def test_is_fast():
    mask = np.zeros((300, 300, 300), bool)
    mask[90:200, 100:200, 60:240] = (kidney(LEFT) | kidney(RIGHT))[:110, :100]
    start = time.process_time()
    split_sides(mask, 1.5, Midplane((150, 150), (0.0, 1.0), "spine"))
    assert time.process_time() - start < 0.5  # about 0.03 s on an idle core


needs_realdata = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"no real labels at {REALDATA}")


def read(path, spacing=1.5):
    """Labels of a NIfTI file on a canonical grid of that spacing, by nearest."""
    image = nib.as_closest_canonical(nib.load(path))
    data = np.asanyarray(image.dataobj).transpose(2, 1, 0)
    steps = [
        max(1, round(n * size / spacing)) for n, size in zip(data.shape, image.header.get_zooms()[::-1], strict=True)
    ]
    nearest = [((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(data.shape, steps, strict=True)]
    return data[np.ix_(*nearest)]


def check_pair(left, right, plane):
    result = split_sides(left | right, 1.5, plane)
    assert result.resolved
    assert dice(result.right, right) >= 0.995
    assert dice((left | right) & ~result.right, left) >= 0.995


def middle_of(mask):
    return Midplane((0.0, float(np.mean(np.nonzero(mask)[2]))), (0.0, 1.0), "spine")


@pytest.mark.realdata
@needs_realdata
@pytest.mark.parametrize("known", [True, False], ids=["midplane", "no midplane"])
def test_totalsegmentator_sides_come_back(known):
    labels = read(REALDATA / "totalsegmentator/example_seg_fast_force_split.nii.gz")
    plane = middle_of((labels >= 26) & (labels <= 50)) if known else None
    for left, right in [([3], [2]), ([9], [8]), ([10, 11], [12, 13, 14]), ([75], [76]), ([77], [78])]:
        check_pair(np.isin(labels, left), np.isin(labels, right), plane)


@pytest.mark.realdata
@needs_realdata
@pytest.mark.parametrize("case", ["0016", "0074"])  # all thirty: make realdata
def test_word_sides_come_back(case, tmp_path):
    with zipfile.ZipFile(REALDATA / "word/WORD_V0.1.0_labelsTs.zip") as archive:
        member = next(name for name in archive.namelist() if name.endswith(f"word_{case}.nii.gz"))
        labels = read(archive.extract(member, tmp_path))
    for plane in (None, middle_of((labels == 15) | (labels == 16))):
        check_pair(labels == 3, labels == 4, plane)
        check_pair(labels == 15, labels == 16, plane)


@pytest.mark.realdata
@needs_realdata
@pytest.mark.parametrize(
    ("case", "left_ml", "right_ml", "note"),
    [
        ("00005", 490, 0, "one organ only, on the left"),
        ("00165", 0, 341, "one organ only, on the right"),
        ("00194", 0, 374, "one organ only, on the right"),
        ("00151", 409, 279, "fused"),
        ("00040", 200, 165, "reaches across the midline"),
        ("00015", 220, 202, None),
    ],
)
def test_single_horseshoe_and_pelvic_kidneys(case, left_ml, right_ml, note):
    mask = read(REALDATA / f"kits19/data/case_{case}/segmentation.nii.gz") > 0
    result = split_sides(mask, 1.5, Midplane((0.0, (mask.shape[2] - 1) / 2), (0.0, 1.0), "body"))
    assert result.resolved
    assert result.right.sum() * 1.5**3 / 1000 == pytest.approx(right_ml, abs=8)
    assert (mask & ~result.right).sum() * 1.5**3 / 1000 == pytest.approx(left_ml, abs=8)
    assert (note in result.note) if note else (result.note is None)
