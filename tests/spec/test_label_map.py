"""Label maps against the published tables (value or structure -> class), written out by hand."""

import re
from functools import cache

import pytest
from pydantic import ValidationError

from atlas.errors import SpecError
from atlas.spec import library
from atlas.spec.label_map import LabelMap

KITS = {1: "kidney_left/right", 2: "kidney_tumor", 3: "kidney_cyst kidney_cyst_left/right"}

VALUES = {
    "msd03_liver": {1: "liver", 2: "liver_tumor"},
    "msd06_lung": {1: "lung_tumor"},
    "msd07_pancreas": {1: "pancreas", 2: "pancreas_tumor"},
    "msd08_hepaticvessel": {1: "hepatic_vessel", 2: "hepatic_vessel_tumor"},
    "msd09_spleen": {1: "spleen"},
    "msd10_colon": {1: "colon_tumor"},
    "lits": {1: "liver", 2: "liver_tumor"},
    "kits19": {1: "kidney_left/right", 2: "kidney_tumor"},
    "kits21": KITS,
    "kits23": KITS,
    "abdomenct_1k": {1: "liver", 2: "kidney_left/right", 3: "spleen", 4: "pancreas"},
    "ct_org": {
        1: "liver",
        2: "urinary_bladder",
        3: "lung_left/right",
        4: "kidney_left/right",
        5: "bone",
        6: "brain",
    },
    "btcv": {
        1: "spleen",
        2: "kidney_right",
        3: "kidney_left",
        4: "gallbladder",
        5: "esophagus",
        6: "liver",
        7: "stomach",
        8: "aorta",
        9: "inferior_vena_cava",
        10: "portal_vein_and_splenic_vein",
        11: "pancreas",
        12: "adrenal_gland_right",
        13: "adrenal_gland_left",
    },
    "amos22": {
        1: "spleen",
        2: "kidney_right",
        3: "kidney_left",
        4: "gallbladder",
        5: "esophagus",
        6: "liver",
        7: "stomach",
        8: "aorta",
        9: "inferior_vena_cava",
        10: "pancreas",
        11: "adrenal_gland_right",
        12: "adrenal_gland_left",
        13: "duodenum",
        14: "urinary_bladder",
        15: "prostate_or_uterus",
    },
    "word": {
        1: "liver",
        2: "spleen",
        3: "kidney_left",
        4: "kidney_right",
        5: "stomach",
        6: "gallbladder",
        7: "esophagus",
        8: "pancreas",
        9: "duodenum",
        10: "colon",
        11: "small_bowel",
        12: "adrenal_gland_left/right",
        13: "rectum",
        14: "urinary_bladder",
        15: "femur_head_left",
        16: "femur_head_right",
    },
}

ABDOMENATLAS = {
    "aorta": "aorta",
    "gall_bladder": "gallbladder",
    "kidney_left": "kidney_left",
    "kidney_right": "kidney_right",
    "liver": "liver",
    "pancreas": "pancreas",
    "postcava": "inferior_vena_cava",
    "spleen": "spleen",
    "stomach": "stomach",
    "adrenal_gland_left": "adrenal_gland_left",
    "adrenal_gland_right": "adrenal_gland_right",
    "bladder": "urinary_bladder",
    "celiac_trunk": "celiac_trunk",
    "colon": "colon",
    "duodenum": "duodenum",
    "esophagus": "esophagus",
    "femur_left": "femur_head_left",
    "femur_right": "femur_head_right",
    "hepatic_vessel": "hepatic_vessel",
    "intestine": "small_bowel",
    "lung_left": "lung_left",
    "lung_right": "lung_right",
    "portal_vein_and_splenic_vein": "portal_vein_and_splenic_vein",
    "prostate": "prostate_or_uterus",
    "rectum": "rectum",
}

# What the Universal Model supervises in each dataset: numbers of its 32 classes, from 1 (its TEMPLATE).
TEMPLATE = {
    "btcv": range(1, 15),
    "lits": (6, 27),
    "kits19": (2, 3, 26, 32),
    "kits21": (2, 3, 26, 32),
    "kits23": (2, 3, 26, 32),
    "word": (6, 1, 3, 2, 7, 4, 5, 11, 14, 18, 19, 12, 13, 20, 21, 23, 24),
    "abdomenct_1k": (6, 2, 3, 1, 11),
    "amos22": (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 21, 22),
    "ct_org": (6, 21, 16, 17, 2, 3),
    "msd03_liver": (6, 27),
    "msd06_lung": (30,),
    "msd07_pancreas": (11, 28),
    "msd08_hepaticvessel": (15, 29),
    "msd09_spleen": (1,),
    "msd10_colon": (31,),
    "totalseg_v2": range(1, 18),
    "abdomenatlas_11_mini": range(1, 26),
}

# Where atlas differs: the classes that it has not, those that it has beyond the row, and why.
DIFFERENCES = {
    # The Universal Model uses the labels of Gibson et al. on these scans, which add the duodenum.
    "btcv": ({"duodenum"}, set()),
    # Its row is for the labels of 2021; in 2019 cysts were labelled as kidney.
    "kits19": ({"kidney_cyst"}, set()),
    # It has no classes for cysts with a side; the side follows from the kidney.
    "kits21": (set(), {"kidney_cyst_left", "kidney_cyst_right"}),
    "kits23": (set(), {"kidney_cyst_left", "kidney_cyst_right"}),
    # Value 15 is prostate or uterus; it calls both prostate.
    "amos22": ({"prostate"}, {"prostate_or_uterus"}),
    # It drops values 5 and 6 for want of a class.
    "ct_org": (set(), {"bone", "brain"}),
    # The dataset has no vessels of the liver (its row 1-17 says so, its output table does not). The rest is beyond
    # its 32 classes, or not in its row, which is for evaluation only.
    "totalseg_v2": (
        {"hepatic_vessel"},
        {"colon", "small_bowel", "urinary_bladder", "prostate", "kidney_cyst", "FURTHER"},
    ),
    # The labels behind the mask prostate do not tell prostate from uterus.
    "abdomenatlas_11_mini": ({"prostate"}, {"prostate_or_uterus"}),
}


shipped = cache(library.load_label_map)


def annotated(label_map, taxonomy):
    """Names of the classes that a map can make available, both sides of pairs included."""
    return {taxonomy.classes[bit].name for target in label_map.targets() for bit in taxonomy.target_bits(target)}


def test_every_manifest_has_a_label_map_and_the_other_way_round():
    assert library.names("label_maps") == library.names("manifests")


def test_every_shipped_label_map_is_valid():
    for dataset in library.names("label_maps"):
        assert shipped(dataset).dataset == dataset


def test_the_tables_here_cover_every_dataset():
    assert {*VALUES, "totalseg_v2", "abdomenatlas_11_mini"} == set(TEMPLATE) == set(library.names("label_maps"))


@pytest.mark.parametrize("dataset", VALUES)
def test_values_mean_what_the_publisher_says(dataset):
    expected = {value: tuple(targets.split()) for value, targets in VALUES[dataset].items()}
    assert shipped(dataset).values == {"segmentation": expected}


def test_all_structures_of_totalsegmentator_are_mapped_to_themselves(totalsegmentator):
    structures = shipped("totalseg_v2").structures
    assert list(structures) == totalsegmentator
    merged = {name: targets for name, targets in structures.items() if targets != (name,)}
    assert merged == {
        "lung_upper_lobe_left": ("lung_upper_lobe_left", "lung_left"),
        "lung_lower_lobe_left": ("lung_lower_lobe_left", "lung_left"),
        "lung_upper_lobe_right": ("lung_upper_lobe_right", "lung_right"),
        "lung_middle_lobe_right": ("lung_middle_lobe_right", "lung_right"),
        "lung_lower_lobe_right": ("lung_lower_lobe_right", "lung_right"),
        "kidney_cyst_left": ("kidney_cyst_left", "kidney_cyst"),
        "kidney_cyst_right": ("kidney_cyst_right", "kidney_cyst"),
    }


def test_the_25_masks_of_abdomenatlas_are_mapped_and_its_predicted_lesions_are_not():
    structures = shipped("abdomenatlas_11_mini").structures
    assert {name: targets[0] for name, targets in structures.items() if targets} == ABDOMENATLAS
    assert {name for name, targets in structures.items() if not targets} == {
        *("colon_tumor", "hepatic_vessel_tumor", "kidney_cyst", "kidney_tumor", "liver_tumor", "lung_tumor"),
        "pancreas_tumor",
    }


@pytest.mark.parametrize("dataset", TEMPLATE)
def test_annotated_classes_are_those_of_the_universal_model_but_for_the_listed_differences(
    dataset, taxonomy, universal
):
    row = {universal[number - 1] for number in TEMPLATE[dataset]}
    fewer, more = DIFFERENCES.get(dataset, (set(), set()))
    if "FURTHER" in more:
        more = (more - {"FURTHER"}) | {c.name for c in taxonomy.classes if 32 <= c.bit < 131}
    ours = annotated(shipped(dataset), taxonomy)
    assert row - ours == fewer
    assert ours - row == more


@pytest.mark.parametrize(
    ("dataset", "target", "kind"),
    [
        ("msd03_liver", "liver", "manual"),
        ("word", "liver", "manual"),
        ("ct_org", "liver", "manual"),
        ("ct_org", "kidney_left/right", "manual"),
        ("ct_org", "lung_left/right", "pseudo"),
        ("ct_org", "bone", "pseudo"),
        ("totalseg_v2", "liver", "revised"),
        ("abdomenatlas_11_mini", "liver", "pseudo"),
    ],
)
def test_provenance(dataset, target, kind):
    label_map = shipped(dataset)
    assert target in label_map.targets()
    assert label_map.provenance_of.get(target, label_map.provenance).kind == kind


@pytest.mark.parametrize("dataset", TEMPLATE)
def test_what_is_said_of_classes_is_said_of_annotated_ones(dataset, taxonomy):
    label_map = shipped(dataset)
    ours = annotated(label_map, taxonomy)
    assert set(label_map.provenance_of) <= label_map.targets()
    assert {*label_map.unknown.near_partial, *label_map.unknown.beyond_labelled_slices} <= ours
    for exception in label_map.cases.values():
        assert set(exception.unavailable) <= ours


@pytest.mark.parametrize("dataset", TEMPLATE)
def test_cases_with_exceptions_match_the_layout_and_say_where_it_was_reported(dataset):
    pattern = library.load_manifest(dataset).layout.case
    for case, exception in shipped(dataset).cases.items():
        assert re.fullmatch(pattern, case)
        assert exception.reason
        assert exception.link
        assert exception.unavailable or exception.box


def test_label_errors_of_totalsegmentator(totalsegmentator):
    cases = shipped("totalseg_v2").cases
    spine = {"sacrum", *(name for name in totalsegmentator if name.startswith("vertebrae_"))}
    assert {case: set(e.unavailable) for case, e in cases.items()} == {
        "s0092": {"lung_upper_lobe_right", "lung_right"},
        "s0143": {"heart"},
        "s0201": {"heart"},
        "s1196": {"heart"},
        "s0605": {"lung_lower_lobe_left", "lung_left"},
        "s0513": {"humerus_right", *spine},
        **dict.fromkeys(("s0016", "s0071", "s0128", "s0350", "s0603", "s0676", "s0941"), spine),
    }


def test_sparse_vessels_are_unknown_nearby():
    partial = {
        dataset: shipped(dataset).unknown.near_partial for dataset in TEMPLATE if shipped(dataset).unknown.near_partial
    }
    assert partial == {"msd08_hepaticvessel": {"hepatic_vessel": 20.0}}


class TestModel:
    def test_null_one_and_many_targets(self):
        values = {"a": {1: None, 2: "liver", 3: ["liver", "spleen"], 255: "unknown"}}
        label_map = LabelMap.model_validate({"dataset": "d", "values": values})
        assert label_map.values["a"] == {1: (), 2: ("liver",), 3: ("liver", "spleen"), 255: ("unknown",)}
        assert label_map.targets() == {"liver", "spleen"}

    @pytest.mark.parametrize("value", [0, -1, 65536, "1", 1.5])
    def test_values_are_whole_numbers_that_a_label_can_hold(self, value):
        with pytest.raises(ValidationError):
            LabelMap.model_validate({"dataset": "d", "values": {"a": {value: "liver"}}})

    def test_background_cannot_be_given_a_meaning(self):
        with pytest.raises(ValidationError, match="greater than or equal to 1"):
            LabelMap.model_validate({"dataset": "d", "values": {"a": {0: "liver"}}})

    def test_everything_mentioned_is_checked(self):
        label_map = LabelMap.model_validate(
            {
                "dataset": "d",
                "structures": {"x": ["a"]},
                "provenance_of": {"b": {"kind": "pseudo"}},
                "unknown": {"near_partial": {"c": 3.0}, "beyond_labelled_slices": ["d"]},
                "cases": {"1": {"reason": "r", "unavailable": ["e"]}},
            }
        )
        assert label_map.mentioned() == set("abcde")


class TestCrossChecks:
    MANIFEST = """\
id: mine
name: Mine
citation: none
licence: {id: CC0, commercial: true, redistribution: true}
access: {kind: open}
scans: 2
labelled: 1
layout:
  image: "images/{case}.nii.gz"
  labels: {organs: "labels/{case}.nii.gz"}
"""

    def refused(self, own, text, says):
        own("manifests", "mine", self.MANIFEST)
        path = own("label_maps", "mine", text)
        with pytest.raises(SpecError, match=says) as error:
            library.load_label_map("mine")
        assert str(path) in str(error.value)

    def test_good(self, own):
        own("manifests", "mine", self.MANIFEST)
        own("label_maps", "mine", "dataset: mine\nvalues: {organs: {1: liver, 2: kidney_left/right, 3: null}}\n")
        assert library.load_label_map("mine").targets() == {"liver", "kidney_left/right"}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("values: {organs: {1: lever}}", r"'lever' is not a class of the taxonomy; did you mean .*liver"),
            ("values: {organs: {1: postcava}}", r"did you mean inferior_vena_cava\?"),
            ("values: {organs: {1: kidney}}", r"'kidney' is not a class"),
            ("values: {organs: {1: liver/right}}", r"'liver/right' is not a class"),
            ("values: {organs: {1: atrial_appendage_left/right}}", r"is not a class"),
            (
                "values: {organ: {1: liver}}",
                r"values are given for the label files \['organ'\], the manifest has \['organs'\]",
            ),
            ("values: {}", r"the manifest has \['organs'\]"),
            ("values: {organs: {1: liver}}\nstructures: {liver: liver}", r"structures .* and masks .* come together"),
            ("values: {organs: {1: [unknown, liver]}}", r"means 'unknown' or classes, not both"),
            ("values: {organs: {1: liver}}\nprovenance_of: {lever: {kind: pseudo}}", r"'lever' is not a class"),
            ("values: {organs: {1: liver}}\nunknown: {near_partial: {lever: 3.0}}", r"'lever' is not a class"),
            ("values: {organs: {1: liver}}\ncases: {c: {reason: r, unavailable: [lever]}}", r"'lever' is not a class"),
            ("values: {organs: {0: liver}}", r"line 2, values\.organs\.0"),
            ("values: {organs: {one: liver}}", r"line 2, values\.organs\.one"),
            ("values: {organs: {1: liver, 1: spleen}}", r"line 2: the key 1 was given before"),
            ("values: {organs: {1: liver}}\nlabels: {}", r"line 3, labels: unknown key"),
            ("values: {organs: {1: liver}}\nprovenance: {kind: guess}", r"'manual', 'revised' or 'pseudo'"),
        ],
    )
    def test_refused_with_file_and_valid_choices(self, own, text, says):
        self.refused(own, f"dataset: mine\n{text}\n", says)

    def test_a_map_of_another_dataset(self, own):
        self.refused(own, "dataset: yours\nvalues: {organs: {1: liver}}\n", r"dataset is 'yours'; it must be .*'mine'")

    def test_a_map_without_a_manifest(self, own):
        own("label_maps", "mine", "dataset: mine\nvalues: {organs: {1: liver}}\n")
        with pytest.raises(SpecError, match="no dataset is called 'mine'"):
            library.load_label_map("mine")
