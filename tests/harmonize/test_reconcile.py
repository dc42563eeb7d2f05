"""Labels of a case to masks, availability and unknown regions, on grids where nothing is resampled."""

import numpy as np
import pytest

from atlas.errors import LabelError
from atlas.harmonize.grid import canonical_grid
from atlas.harmonize.reconcile import SourceLabels, reconcile
from atlas.harmonize.rules import compile_rules

SHAPE = (40, 30, 20)  # i, j, k: right, anterior, superior
AFFINE = np.diag([1.5, 1.5, 1.5, 1.0])


def body():
    """CT of an elliptic body with a spine, (z, y, x)."""
    z, y, x = np.ogrid[:20, :30, :40]
    inside = ((x - 19.5) / 18) ** 2 + ((y - 14.5) / 13) ** 2 < 1 + 0 * z
    spine = (abs(x - 19.5) < 3) & (abs(y - 5) < 3) & (z >= 0)
    return np.where(spine, 500, np.where(inside, 40, -1000)).astype(np.int16)


def labels(**boxes):
    """Label volume (i, j, k) with a box of each value: v3=(slice, slice, slice)."""
    data = np.zeros(SHAPE, np.uint8)
    for name, box in boxes.items():
        data[box] = int(name[1:])
    return data


def run(rules, *layers, case="case", ct=None):
    grid = canonical_grid(SHAPE, AFFINE, 1.5)
    return reconcile(layers, rules, case, ct=body() if ct is None else ct, grid=grid)


def mask(done, rules, name):
    return done.masks.lookup(rules.taxonomy.bit(name))[done.masks.codes]


def unknown(done, rules, name):
    bit = rules.taxonomy.bit(name)
    return np.array([bool(e.unknown >> bit & 1) for e in done.masks.table])[done.masks.codes]


def box(i, j, k):
    return slice(*i), slice(*j), slice(*k)


LEFT, RIGHT = box((4, 10), (8, 14), (5, 15)), box((30, 36), (8, 14), (5, 15))


def test_sides_parts_and_availability(taxonomy, label_map):
    values = {1: "kidney_left/right", 2: "kidney_tumor", 3: "cyst_left/right", 4: "liver"}
    rules = compile_rules(label_map(values={"seg": values}), taxonomy)
    tumour, cyst = box((4, 7), (8, 14), (5, 10)), box((33, 36), (8, 14), (5, 8))
    data = labels(v1=LEFT) + labels(v1=RIGHT)
    data[tumour], data[cyst] = 2, 3
    done = run(rules, SourceLabels("seg", "values", data, AFFINE))

    volume = data.T  # (z, y, x)
    halves = np.arange(40) < 20
    expected = {
        "kidney_left": (volume > 0) & halves,
        "kidney_right": (volume > 0) & ~halves,
        "kidney_tumor": volume == 2,
        "cyst_left": np.zeros_like(volume, bool),
        "cyst_right": volume == 3,
        "liver": np.zeros_like(volume, bool),
    }
    for name, truth in expected.items():
        np.testing.assert_array_equal(mask(done, rules, name), truth, err_msg=name)
    assert set(taxonomy.members(done.available)) == set(expected)


def test_no_honest_side_makes_the_pair_unavailable_and_says_so(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "kidney_left/right", 2: "liver"}}), taxonomy)
    data = labels(v1=LEFT, v2=box((30, 36), (8, 14), (5, 15)))
    empty = np.full((20, 30, 40), -1000, np.int16)
    done = run(rules, SourceLabels("seg", "values", data, AFFINE), ct=empty)
    assert taxonomy.members(done.available) == ("liver",)
    assert not mask(done, rules, "kidney_left").any()
    assert not mask(done, rules, "kidney_right").any()
    assert any(w.startswith("kidney_left/right: ") for w in done.warnings)


def test_masks_from_several_files_may_overlap(taxonomy, label_map):
    rules = compile_rules(label_map(structures={"liver": "liver", "vessel": "aorta"}), taxonomy)
    one, two = labels(v1=box((5, 15), (5, 15), (5, 15))), labels(v1=box((10, 20), (5, 15), (5, 15)))
    done = run(rules, SourceLabels("liver", "mask", one, AFFINE), SourceLabels("vessel", "mask", two, AFFINE))
    np.testing.assert_array_equal(mask(done, rules, "liver"), one.T > 0)
    np.testing.assert_array_equal(mask(done, rules, "aorta"), two.T > 0)


def test_merged_values_are_one_class(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "liver", 2: "liver", 5: None}}), taxonomy)
    data = labels(v1=LEFT, v2=RIGHT, v5=box((15, 18), (8, 14), (5, 15)))
    done = run(rules, SourceLabels("seg", "values", data, AFFINE))
    np.testing.assert_array_equal(mask(done, rules, "liver"), np.isin(data.T, [1, 2]))


def test_unexplained_values_and_structures_are_named(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "liver"}}), taxonomy)
    with pytest.raises(LabelError, match=r"'seg'.*: 3, 7; .*It has: 1"):
        run(rules, SourceLabels("seg", "values", labels(v3=LEFT, v7=RIGHT), AFFINE))
    rules = compile_rules(label_map(structures={"liver": "liver"}), taxonomy)
    with pytest.raises(LabelError, match=r"'livr'.*It has: liver"):
        run(rules, SourceLabels("livr", "mask", labels(v1=LEFT), AFFINE))


def test_an_ignore_value_makes_everything_unknown_there(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "liver", 2: "aorta", 255: "unknown"}}), taxonomy)
    data = labels(v1=LEFT)
    data[RIGHT] = 255
    done = run(rules, SourceLabels("seg", "values", data, AFFINE))
    for name in ("liver", "aorta"):
        np.testing.assert_array_equal(unknown(done, rules, name), data.T == 255)
        assert not mask(done, rules, name)[data.T == 255].any()
    assert not unknown(done, rules, "kidney_left").any()


def test_beyond_the_labelled_slices_a_class_is_unknown_and_the_others_are_not(taxonomy, label_map):
    rules = compile_rules(
        label_map(values={"seg": {1: "aorta", 2: "liver"}}, unknown={"beyond_labelled_slices": ["aorta"]}), taxonomy
    )
    data = labels(v1=box((18, 21), (8, 14), (6, 12)), v2=LEFT)
    done = run(rules, SourceLabels("seg", "values", data, AFFINE))
    outside = np.ones((20, 30, 40), bool)
    outside[6:12] = False
    np.testing.assert_array_equal(unknown(done, rules, "aorta"), outside)
    assert not unknown(done, rules, "liver").any()
    absent = run(rules, SourceLabels("seg", "values", labels(v2=LEFT), AFFINE))
    assert not unknown(absent, rules, "aorta").any()


def test_near_a_class_drawn_in_part_nobody_can_tell(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "aorta"}}, unknown={"near_partial": {"aorta": 3.0}}), taxonomy)
    data = labels(v1=box((18, 21), (14, 16), (9, 11)))
    done = run(rules, SourceLabels("seg", "values", data, AFFINE))
    drawn = np.argwhere(data.T)
    z, y, x = np.indices((20, 30, 40))
    distance = np.min([(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 for a, b, c in drawn], axis=0) ** 0.5 * 1.5
    np.testing.assert_array_equal(unknown(done, rules, "aorta"), (distance <= 3.0) & (distance > 0))


def test_outside_the_publishers_box_nothing_is_known(taxonomy, label_map):
    exception = {"case": {"reason": "cropping table", "box": [[2, 30], [0, 30], [5, 20]]}}
    rules = compile_rules(label_map(values={"seg": {1: "liver"}}, cases=exception), taxonomy)
    layer = SourceLabels("seg", "values", labels(v1=LEFT), AFFINE)
    done = run(rules, layer)
    inside = np.zeros((20, 30, 40), bool)
    inside[5:20, 0:30, 2:30] = True
    np.testing.assert_array_equal(unknown(done, rules, "liver"), ~inside)
    assert not unknown(run(rules, layer, case="another"), rules, "liver").any()


def test_a_label_volume_smaller_than_the_ct_knows_nothing_beyond(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "liver"}}), taxonomy)
    affine = AFFINE.copy()
    affine[:3, 3] = [15.0, 0.0, 7.5]
    data = np.zeros((20, 30, 10), np.uint8)
    data[5:10, 5:10, 2:8] = 1
    done = run(rules, SourceLabels("seg", "values", data, affine, whole=False))
    inside = np.zeros((20, 30, 40), bool)
    inside[5:15, :, 10:30] = True
    np.testing.assert_array_equal(unknown(done, rules, "liver"), ~inside)
    expected = np.zeros((20, 30, 40), bool)
    expected[7:13, 5:10, 15:20] = True
    np.testing.assert_array_equal(mask(done, rules, "liver"), expected)


def test_structures_like_a_pattern_become_one_class(taxonomy, label_map):
    rules = compile_rules(label_map(structures={"liver": "liver", "tumor_*": "liver_tumor", "*": None}), taxonomy)
    layers = {
        "liver": labels(v1=box((5, 25), (5, 15), (5, 15))),
        "tumor_1": labels(v1=box((6, 8), (6, 9), (6, 9))),
        "tumor_2": labels(v1=box((24, 27), (6, 9), (6, 9))),
        "table": labels(v1=box((0, 40), (0, 2), (0, 20))),
    }
    done = run(rules, *(SourceLabels(name, "mask", data, AFFINE) for name, data in layers.items()))
    tumour = (layers["tumor_1"] | layers["tumor_2"]).T > 0
    np.testing.assert_array_equal(mask(done, rules, "liver_tumor"), tumour)
    np.testing.assert_array_equal(mask(done, rules, "liver"), tumour | (layers["liver"].T > 0))
    assert set(taxonomy.members(done.available)) == {"liver", "liver_tumor"}


def test_a_structure_like_no_pattern_is_named(taxonomy, label_map):
    rules = compile_rules(label_map(structures={"tumor_*": "liver_tumor"}), taxonomy)
    with pytest.raises(LabelError, match=r"'mass'.*It has: tumor_\*"):
        run(rules, SourceLabels("mass", "mask", labels(v1=LEFT), AFFINE))


@pytest.mark.parametrize("smaller", [False, True])
def test_a_pattern_knows_its_classes_where_the_volume_is_smaller(taxonomy, label_map, smaller):
    rules = compile_rules(label_map(structures={"tumor_*": "liver_tumor", "liver": "liver"}), taxonomy)
    data = labels(v1=LEFT)[:, :, :10]
    done = run(rules, SourceLabels("tumor_9", "mask", data, AFFINE, whole=not smaller))
    outside = np.zeros((20, 30, 40), bool)
    outside[10:] = smaller
    np.testing.assert_array_equal(unknown(done, rules, "liver_tumor"), outside)
    assert not unknown(done, rules, "liver").any()


def test_where_only_the_drawn_is_available_absent_classes_are_not(taxonomy, label_map):
    values = {1: "liver", 2: "cyst_left/right", 3: "aorta", 4: "kidney_left/right", 9: "unknown"}
    rules = compile_rules(label_map(values={"seg": values}, available="drawn"), taxonomy)
    data = labels(v1=box((15, 25), (8, 14), (5, 15)), v4=LEFT)
    data[RIGHT], data[5:8, 9:12, 6:9] = 4, 2
    data[30:33, 8:14, 5:8] = 9
    done = run(rules, SourceLabels("seg", "values", data, AFFINE))
    assert taxonomy.members(done.available) == ("liver", "kidney_left", "kidney_right", "cyst_left")
    np.testing.assert_array_equal(mask(done, rules, "cyst_left"), data.T == 2)
    for name in ("liver", "cyst_left"):
        np.testing.assert_array_equal(unknown(done, rules, name), data.T == 9)
    assert not unknown(done, rules, "aorta").any()


def test_a_label_with_nothing_drawn_makes_nothing_available(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: "liver"}}, available="drawn"), taxonomy)
    done = run(rules, SourceLabels("seg", "values", labels(), AFFINE))
    assert done.available == 0


class TestAnnotatedSlices:
    def done(self, rules, slices, *layers, case="case"):
        grid = canonical_grid(SHAPE, AFFINE, 1.5)
        return reconcile(layers, rules, case, ct=body(), grid=grid, slices=slices)

    def test_outside_them_every_class_is_unknown(self, taxonomy, label_map):
        rules = compile_rules(label_map(values={"seg": {1: "liver", 2: "aorta"}}), taxonomy)
        layer = SourceLabels("seg", "values", labels(v1=LEFT), AFFINE)
        outside = np.ones((20, 30, 40), bool)
        outside[4:16] = False
        done = self.done(rules, (4, 16), layer)
        for name in ("liver", "aorta"):
            np.testing.assert_array_equal(unknown(done, rules, name), outside)
        assert not unknown(self.done(rules, None, layer), rules, "liver").any()

    def test_they_count_upwards_whichever_way_the_third_stored_axis_runs(self, taxonomy, label_map):
        rules = compile_rules(label_map(values={"seg": {1: "liver"}}), taxonomy)
        down = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 19], [0, 0, 0, 1]])
        layer = SourceLabels("seg", "values", labels(v1=LEFT)[:, :, ::-1], down)
        outside = np.ones((20, 30, 40), bool)
        outside[6:16] = False
        np.testing.assert_array_equal(unknown(self.done(rules, (6, 16), layer), rules, "liver"), outside)

    def test_labels_in_other_than_axial_slices_are_refused(self, taxonomy, label_map):
        rules = compile_rules(label_map(values={"seg": {1: "liver"}}), taxonomy)
        layer = SourceLabels("seg", "values", labels(v1=LEFT).transpose(0, 2, 1), AFFINE[:, [0, 2, 1, 3]])
        with pytest.raises(LabelError, match="'seg' is not stored in axial slices"):
            self.done(rules, (4, 16), layer)

    def test_a_box_of_the_label_map_holds_as_well(self, taxonomy, label_map):
        exception = {"case": {"reason": "cropping table", "box": [[2, 30], [0, 30], [0, 20]]}}
        rules = compile_rules(label_map(values={"seg": {1: "liver"}}, cases=exception), taxonomy)
        inside = np.zeros((20, 30, 40), bool)
        inside[4:16, :, 2:30] = True
        done = self.done(rules, (4, 16), SourceLabels("seg", "values", labels(v1=LEFT), AFFINE))
        np.testing.assert_array_equal(unknown(done, rules, "liver"), ~inside)

    @pytest.mark.parametrize("slices", [(4, 21), (5, 5), (16, 4), (-1, 4)])
    def test_a_table_of_another_volume_is_refused(self, taxonomy, label_map, slices):
        rules = compile_rules(label_map(values={"seg": {1: "liver"}}), taxonomy)
        with pytest.raises(LabelError, match=r"'seg' has 20 slices; .*One of the two is another version"):
            self.done(rules, slices, SourceLabels("seg", "values", labels(v1=LEFT), AFFINE))
