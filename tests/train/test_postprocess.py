"""Post-processing of predicted masks: what it removes, what it moves, and above all what it leaves alone."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from atlas.harmonize.midplane import Midplane
from atlas.spec import load_taxonomy
from atlas.spec.training import PostprocessSpec
from atlas.train import postprocess as module
from atlas.train.postprocess import postprocess

SHAPE = (12, 20, 30)
SPACING = 2.0
CT = np.zeros(SHAPE, np.int16)
MIDDLE = Midplane((9.5, 14.5), (0.0, 1.0), "spine")


def empty(classes):
    return {name: np.zeros(SHAPE, bool) for name in classes}


def run(masks, taxonomy, **spec):
    stacked = np.stack(list(masks.values()))
    before = stacked.copy()
    out = postprocess(stacked, list(masks), taxonomy, PostprocessSpec(**spec), SPACING, CT)
    np.testing.assert_array_equal(stacked, before)  # the input stays as it is
    assert out.dtype == bool
    return dict(zip(masks, out, strict=True))


@pytest.fixture
def middle(monkeypatch):
    """The midplane is in the middle of the grid."""
    monkeypatch.setattr(module, "find_midplane", lambda ct, spacing: MIDDLE)


def test_nothing_declared_nothing_done(taxonomy):
    rng = np.random.default_rng(0)
    masks = {name: rng.random(SHAPE) < 0.3 for name in taxonomy.names}
    for name, mask in run(masks, taxonomy).items():
        np.testing.assert_array_equal(mask, masks[name])


@given(mask=hnp.arrays(bool, (5, 6, 7)))
def test_largest_is_the_largest_by_scipy(mask):
    kept = mask.copy()
    module.keep_largest(kept)
    labels, n = ndimage.label(mask, np.ones((3, 3, 3)))
    if n == 0:
        assert not kept.any()
        return
    sizes = np.bincount(labels.ravel())[1:]
    assert kept.sum() == sizes.max()
    assert len(np.unique(labels[kept])) == 1
    assert not (kept & ~mask).any()


def test_largest_touches_only_the_classes_named(taxonomy):
    masks = empty(["liver", "aorta"])
    for mask in masks.values():
        mask[2:6, 2:6, 2:6] = True
        mask[9, 9, 9] = True
    masks["liver"][6, 6, 6] = True  # by a corner: one piece with the cube
    out = run(masks, taxonomy, largest=("liver", "spleen"))
    assert out["liver"].sum() == 4**3 + 1
    assert out["liver"][6, 6, 6]
    np.testing.assert_array_equal(out["aorta"], masks["aorta"])


@pytest.mark.parametrize("margin_mm", [0.0, 3.0, 4.0, 7.0])
def test_lesion_within_its_organ_grown_by_millimetres(taxonomy, margin_mm):
    masks = empty(["liver", "liver_tumor", "kidney_left"])
    masks["liver"][4:8, 5:15, 5:12] = True
    masks["liver_tumor"][2:10, 8:12, 3:28] = True
    masks["kidney_left"][:, :, 20:] = True  # no organ of this lesion
    out = run(masks, taxonomy, organ_margin=margin_mm)["liver_tumor"]
    organ = np.argwhere(masks["liver"])
    expected = np.zeros(SHAPE, bool)
    for voxel in np.argwhere(masks["liver_tumor"]):
        distance = np.sqrt(((organ - voxel) ** 2).sum(axis=1)).min() * SPACING
        expected[tuple(voxel)] = distance <= margin_mm
    np.testing.assert_array_equal(out, expected)
    assert 0 < expected.sum() < masks["liver_tumor"].sum()


def test_lesion_beside_its_organ_is_measured_from_the_organ(taxonomy):
    """The organ may lie wholly outside of the box around the lesion."""
    masks = empty(["liver", "liver_tumor"])
    masks["liver"][4:8, 4:8, 4:8] = True
    masks["liver_tumor"][5:7, 5:7, [8, 9, 10]] = True
    out = run(masks, taxonomy, organ_margin=4.0)["liver_tumor"]
    assert np.flatnonzero(out[5, 5]).tolist() == [8, 9]


def test_rounding_of_the_margin_costs_no_shell():
    lesion, organ = np.ones((1, 1, 9), bool), np.zeros((1, 1, 9), bool)
    organ[0, 0, 0] = True
    assert 0.6 / 0.2 < 3
    module.keep_within(lesion, [organ], 0.6 / 0.2)
    assert lesion.sum() == 4


def test_lesion_of_either_side_may_be_in_either_organ(taxonomy):
    masks = empty(["kidney_left", "kidney_right", "kidney_tumor", "cyst_left"])
    masks["kidney_left"][:, :, 2:8] = True
    masks["kidney_right"][:, :, 20:26] = True
    for lesion in ("kidney_tumor", "cyst_left"):
        masks[lesion][5, 5, [4, 14, 22]] = True
    out = run(masks, taxonomy, organ_margin=2.0)
    assert np.flatnonzero(out["kidney_tumor"][5, 5]).tolist() == [4, 22]
    assert np.flatnonzero(out["cyst_left"][5, 5]).tolist() == [4]


def test_lesion_stays_where_its_organ_was_not_found_or_is_no_channel(taxonomy):
    masks = empty(["liver", "liver_tumor"])
    masks["liver_tumor"][5, 5, 5] = True
    assert run(masks, taxonomy, organ_margin=2.0)["liver_tumor"].any()
    del masks["liver"]
    assert run(masks, taxonomy, organ_margin=2.0)["liver_tumor"].any()


def test_lesion_far_from_a_found_organ_goes(taxonomy):
    masks = empty(["liver", "liver_tumor"])
    masks["liver"][0, 0, 0] = True
    masks["liver_tumor"][11, 19, 29] = True
    assert not run(masks, taxonomy, organ_margin=2.0)["liver_tumor"].any()


def test_organ_is_trimmed_before_its_lesion(taxonomy):
    masks = empty(["liver", "liver_tumor"])
    masks["liver"][4:8, 4:8, 4:8] = True
    masks["liver"][10, 18, 28] = masks["liver_tumor"][10, 18, 28] = True  # both imagined in the same place
    out = run(masks, taxonomy, organ_margin=2.0, largest=("liver",))
    assert not out["liver_tumor"].any()


def test_pieces_on_the_wrong_side_change_their_name(taxonomy, middle):
    masks = empty(["kidney_right", "liver", "kidney_left"])
    masks["kidney_left"][2:6, 5:10, 3:8] = True
    masks["kidney_left"][2:6, 5:10, 20:23] = True  # half of the right kidney
    masks["kidney_right"][2:6, 5:10, 23:27] = True
    masks["kidney_right"][8, 8, 5] = True
    masks["liver"][:] = True
    out = run(masks, taxonomy, sides=True, largest=("kidney_left", "kidney_right"))
    left, right = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    left[2:6, 5:10, 3:8] = True
    right[2:6, 5:10, 20:27] = True
    np.testing.assert_array_equal(out["kidney_left"], left)
    np.testing.assert_array_equal(out["kidney_right"], right)
    assert out["liver"].all()
    untrimmed = run(masks, taxonomy, sides=True)
    assert untrimmed["kidney_left"][8, 8, 5]
    assert not untrimmed["kidney_right"][8, 8, 5]


def test_pieces_that_cross_the_midplane_stay(taxonomy, middle):
    masks = empty(["kidney_left", "kidney_right"])
    masks["kidney_left"][4, 4, 12:25] = True  # 3 of 13 voxels at home
    masks["kidney_right"][6, 6, 5:20] = True
    for name, mask in run(masks, taxonomy, sides=True).items():
        np.testing.assert_array_equal(mask, masks[name])


def test_sides_follow_the_patient_not_the_image(taxonomy, monkeypatch):
    """A patient on the side: the midplane is horizontal in the image."""
    monkeypatch.setattr(module, "find_midplane", lambda ct, spacing: Midplane((9.5, 14.5), (-1.0, 0.0), "spine"))
    masks = empty(["kidney_left", "kidney_right"])
    masks["kidney_right"][5, 2, 3:26] = True  # low y is this patient's right
    masks["kidney_right"][5, 15, 3:26] = True
    out = run(masks, taxonomy, sides=True)
    assert np.argwhere(out["kidney_right"].any(axis=(0, 2))).ravel().tolist() == [2]
    assert np.argwhere(out["kidney_left"].any(axis=(0, 2))).ravel().tolist() == [15]


def test_no_midplane_leaves_sides_as_predicted(taxonomy):
    masks = empty(["kidney_left", "kidney_right"])
    masks["kidney_left"][5, 5, 25] = True
    assert run(masks, taxonomy, sides=True)["kidney_left"][5, 5, 25]  # CT is all water: no spine, no body


def test_one_of_a_pair_alone_is_not_moved(taxonomy, middle):
    masks = empty(["kidney_left"])
    masks["kidney_left"][5, 5, 25] = True
    assert run(masks, taxonomy, sides=True)["kidney_left"][5, 5, 25]


def test_chambers_of_the_heart_are_no_sides_of_the_body():
    taxonomy = load_taxonomy()
    pairs = set(module.lateral_pairs(taxonomy, taxonomy.names))
    assert ("kidney_left", "kidney_right") in pairs
    assert ("femur_left", "femur_right") in pairs
    assert ("kidney_cyst_left", "kidney_cyst_right") in pairs
    assert ("lung_upper_lobe_left", "lung_upper_lobe_right") in pairs
    assert not [left for left, _ in pairs if left.startswith("heart")]
    assert len(pairs) == len(taxonomy.pairs) - 2


def test_organs_of_the_lesions_of_the_taxonomy():
    taxonomy = load_taxonomy()
    within = module.lesions_within(taxonomy, taxonomy.names)
    assert set(within["kidney_cyst"]) == {"kidney_left", "kidney_right"}
    assert within["kidney_cyst_left"] == ("kidney_left",)
    assert within["liver_tumor"] == ("liver",)
    assert all(taxonomy.by_name[name].kind == "lesion" for name in within)


def test_a_memory_map_is_changed_in_place(taxonomy, tmp_path):
    mapped = np.memmap(tmp_path / "masks", bool, "w+", shape=(2, *SHAPE))
    mapped[0, 4:8, 4:8, 4:8] = mapped[0, 0, 0, 0] = True
    module.postprocess_in_place(mapped, ["liver", "aorta"], taxonomy, PostprocessSpec(largest=("liver",)), SPACING, CT)
    assert np.fromfile(tmp_path / "masks", bool).sum() == 4**3


@given(
    masks=hnp.arrays(bool, (4, 4, 5, 8)),
    margin=st.none() | st.floats(0, 10),
    sides=st.booleans(),
    largest=st.lists(st.sampled_from(["kidney_left", "kidney_right", "kidney_tumor", "liver"]), unique=True),
)
def test_whatever_is_predicted_it_neither_fails_nor_invents(taxonomy, masks, margin, sides, largest):
    classes = ["kidney_left", "liver", "kidney_tumor", "kidney_right"]
    spec = PostprocessSpec(largest=tuple(largest), organ_margin=margin, sides=sides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "find_midplane", lambda ct, spacing: Midplane((2.0, 3.5), (0.0, 1.0), "body"))
        out = postprocess(masks, classes, taxonomy, spec, SPACING, np.zeros(masks.shape[1:], np.int16))
    kidneys = masks[0] | masks[3]
    assert not ((out[0] | out[3]) & ~kidneys).any()
    assert not (out[1:3] & ~masks[1:3]).any()
    if not largest:
        np.testing.assert_array_equal(out[0] | out[3], kidneys)


def test_needs_no_imaging_library():
    code = (
        "import sys, atlas.train.postprocess; assert not {'SimpleITK', 'nibabel', 'torch', 'dask'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
