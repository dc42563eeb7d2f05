"""Label maps against the published tables (value or structure -> class), written out by hand."""

import re
from functools import cache

import pytest
from pydantic import ValidationError

from atlas.errors import SpecError
from atlas.harmonize.rules import compile_rules
from atlas.spec import library
from atlas.spec.label_map import LabelMap

KITS = {1: "kidney_left/right", 2: "kidney_tumor", 3: "kidney_cyst kidney_cyst_left/right"}

FLARE = {
    1: "liver",
    2: "kidney_right",
    3: "spleen",
    4: "pancreas",
    5: "aorta",
    6: "inferior_vena_cava",
    7: "adrenal_gland_right",
    8: "adrenal_gland_left",
    9: "gallbladder",
    10: "esophagus",
    11: "stomach",
    12: "duodenum",
    13: "kidney_left",
}

VALUES = {
    "pancreas_ct": {1: "pancreas"},
    "chaos_ct": {1: "liver", 255: "liver"},
    "flare22": FLARE,
    "flare23": FLARE | {14: "unknown"},
    "gibson_multiorgan_tcia": {
        1: "spleen",
        3: "kidney_left",
        4: "gallbladder",
        5: "esophagus",
        6: "liver",
        7: "stomach",
        11: "pancreas",
        14: "duodenum",
    },
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

PEDIATRIC = {
    "Adrenal Left": "adrenal_gland_left",
    "Lt Adrenal": "adrenal_gland_left",
    "Adrenal Right": "adrenal_gland_right",
    "Rt Adrenal": "adrenal_gland_right",
    "Bladder": "urinary_bladder",
    "Bones": "bone",
    "Duodenum": "duodenum",
    "Esophagus": "esophagus",
    "Femoral Head Lef": "femur_head_left",
    "Femoral Head Rig": "femur_head_right",
    "Gall Bladder": "gallbladder",
    "Heart": "heart",
    "Kidney Left": "kidney_left",
    "Kidney Right": "kidney_right",
    "Large Intestine": "colon",
    "Liver": "liver",
    "Lung_L": "lung_left",
    "Lung_R": "lung_right",
    "Pancreas": "pancreas",
    "Prostate": "prostate",
    "Rectum": "rectum",
    "Small Intestine": "small_bowel",
    "Spleen": "spleen",
    "Stomach": "stomach",
    "UteroCervix": "uterus",
}

# Structure by structure as a public script lists the folders of 3D-IRCADb-01; null where it means no class of ours.
IRCADB = {
    "artery": "artery",
    "biliarysystem": "biliary_system",
    "bladder": "urinary_bladder",
    "bone": "bone",
    "colon": "colon",
    "duodenum": "duodenum",
    "gallbladder": "gallbladder",
    "heart": "heart",
    "Hyperplasie": None,
    "kidneys": "kidney_left/right",
    "leftkidney": "kidney_left",
    "rightkidney": "kidney_right",
    "liver": "liver",
    "livercyst": None,
    "liverkyste": None,
    "liverkyst": None,
    "leftlung": "lung_left",
    "lungs": "lung_left/right",
    "rightlung": "lung_right",
    "lymphNodes": None,
    "metal": "metal",
    "metastasectomie": None,
    "pancreas": "pancreas",
    "portalvein": "portal_vein",
    "portalvein1": "portal_vein",
    "sigmoid": None,
    "skin": "skin",
    "smallintestin": "small_bowel",
    "spleen": "spleen",
    "stomach": "stomach",
    "stomachoesophage": None,
    "Stones": "stones",
    "surrenalgland": "adrenal_gland_left/right",
    "leftsurrenalgland": "adrenal_gland_left",
    "rightsurrenalgland": "adrenal_gland_right",
    "rightsurrenalGland": "adrenal_gland_right",
    "uterus": "uterus",
    "venacava": "venous_system",
    "venoussystem": "venous_system",
    "tumor": None,
    "livertumor": "liver_tumor",
    "livertumors": "liver_tumor",
    **{f"livertumor0{i}": "liver_tumor" for i in range(1, 8)},
    "livertumor1": "liver_tumor",
    "livertumor2": "liver_tumor",
    "leftsurretumor": None,
    "rightsurretumor": None,
}

DATASETS = library.names("manifests")


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
    masks = {"totalseg_v1", "totalseg_v2", "abdomenatlas_10_mini", "abdomenatlas_11_mini", "ircadb01"}
    objects = {"hcc_tace_seg", "crlm", "pediatric_ct_seg"}
    others = {"abdomenct_12organ", "gibson_multiorgan_btcv"}
    assert {*VALUES, *masks, *objects, *others} == set(DATASETS)


@pytest.mark.parametrize("dataset", VALUES)
def test_values_mean_what_the_publisher_says(dataset):
    expected = {value: tuple(targets.split()) for value, targets in VALUES[dataset].items()}
    assert shipped(dataset).values == {"segmentation": expected}


def test_the_labels_of_gibson_on_btcv_are_those_of_btcv_and_the_duodenum():
    expected = {**shipped("btcv").values["segmentation"], 14: ("duodenum",)}
    assert shipped("gibson_multiorgan_btcv").values == {"segmentation": expected}


def test_two_releases_of_12organ_keep_their_own_tables():
    label_map = shipped("abdomenct_12organ")
    assert label_map.values["flare22"] == {value: (name,) for value, name in FLARE.items()}
    assert label_map.values["organ12"] == {
        1: ("liver",),
        2: ("kidney_left/right",),
        3: ("spleen",),
        4: ("pancreas",),
        5: ("aorta",),
        6: ("inferior_vena_cava",),
        7: ("stomach",),
        8: ("gallbladder",),
        9: ("esophagus",),
        10: ("adrenal_gland_right",),
        11: ("adrenal_gland_left",),
        12: ("celiac_trunk",),
    }
    assert set(label_map.optional) == set(label_map.values)
    assert library.load_manifest("abdomenct_12organ").layout.alternatives


def test_segments_and_contours_by_name():
    assert shipped("hcc_tace_seg").structures == {
        "Liver": ("liver",),
        "Mass": ("liver_tumor",),
        "Necrosis": ("liver_tumor",),
        "Portal vein": ("portal_vein",),
        "Abdominal aorta": ("aorta",),
    }
    assert {k: v for k, v in shipped("crlm").structures.items() if v} == {
        "Liver": ("liver",),
        "Portal": ("portal_vein",),
        "Tumor_*": ("liver_tumor",),
    }
    assert {"Liver Remnant", "Hepatic"} <= set(shipped("crlm").structures)
    pediatric = shipped("pediatric_ct_seg").structures
    assert {k: v[0] for k, v in pediatric.items() if v} == PEDIATRIC
    nothing = {"Breast Left", "Breast Right", "Gonads", "Skin", "Spinal Canal", "Thymus"}
    assert {k for k, v in pediatric.items() if not v} == {*nothing, "*"}
    assert len({*PEDIATRIC, *nothing} - {"Lt Adrenal", "Rt Adrenal"}) == 29


def test_every_folder_of_ircadb_is_explained(taxonomy):
    label_map = shipped("ircadb01")
    rules = compile_rules(label_map, taxonomy)
    assert {f: (label_map.structures[rules.entry(f)] or (None,))[0] for f in IRCADB} == IRCADB
    assert rules.entry("livertumour2") == "livertumour*"
    assert rules.entry("hepatictumor") is None


def test_all_structures_of_the_first_totalsegmentator_are_mapped_to_themselves(totalsegmentator_v1):
    structures = shipped("totalseg_v1").structures
    assert list(structures) == totalsegmentator_v1
    assert len(structures) == 104
    merged = {name: targets for name, targets in structures.items() if targets != (name,)}
    assert merged == {
        "lung_upper_lobe_left": ("lung_upper_lobe_left", "lung_left"),
        "lung_lower_lobe_left": ("lung_lower_lobe_left", "lung_left"),
        "lung_upper_lobe_right": ("lung_upper_lobe_right", "lung_right"),
        "lung_middle_lobe_right": ("lung_middle_lobe_right", "lung_right"),
        "lung_lower_lobe_right": ("lung_lower_lobe_right", "lung_right"),
    }


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


def test_the_9_masks_of_abdomenatlas_are_mapped_as_in_the_later_release():
    structures = shipped("abdomenatlas_10_mini").structures
    nine = (
        "aorta",
        "gall_bladder",
        "kidney_left",
        "kidney_right",
        "liver",
        "pancreas",
        "postcava",
        "spleen",
        "stomach",
    )
    assert {name: targets[0] for name, targets in structures.items()} == {name: ABDOMENATLAS[name] for name in nine}


def test_the_25_masks_of_abdomenatlas_are_mapped_and_its_predicted_lesions_are_not():
    structures = shipped("abdomenatlas_11_mini").structures
    assert {name: targets[0] for name, targets in structures.items() if targets} == ABDOMENATLAS
    assert {name for name, targets in structures.items() if not targets} == {
        *("colon_tumor", "hepatic_vessel_tumor", "kidney_cyst", "kidney_tumor", "liver_tumor", "lung_tumor"),
        "pancreas_tumor",
    }


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
        ("abdomenatlas_10_mini", "liver", "pseudo"),
        ("totalseg_v1", "liver", "revised"),
        ("ircadb01", "liver", "manual"),
    ],
)
def test_provenance(dataset, target, kind):
    label_map = shipped(dataset)
    assert target in label_map.targets()
    assert label_map.provenance_of.get(target, label_map.provenance).kind == kind


@pytest.mark.parametrize("dataset", DATASETS)
def test_what_is_said_of_classes_is_said_of_annotated_ones(dataset, taxonomy):
    label_map = shipped(dataset)
    ours = annotated(label_map, taxonomy)
    assert set(label_map.provenance_of) <= label_map.targets()
    assert {*label_map.unknown.near_partial, *label_map.unknown.beyond_labelled_slices} <= ours
    for exception in label_map.cases.values():
        assert set(exception.unavailable) <= ours


@pytest.mark.parametrize("dataset", DATASETS)
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


def test_what_is_unknown_where():
    said = {dataset: shipped(dataset).unknown for dataset in DATASETS}
    assert {dataset: u.near_partial for dataset, u in said.items() if u.near_partial} == {
        "msd08_hepaticvessel": {"hepatic_vessel": 20.0},
        "crlm": {"portal_vein": 20.0},
        "hcc_tace_seg": {"portal_vein": 20.0},
    }
    flare = ("aorta", "inferior_vena_cava", "esophagus")
    assert {dataset: u.beyond_labelled_slices for dataset, u in said.items() if u.beyond_labelled_slices} == {
        **dict.fromkeys(("abdomenct_12organ", "flare22", "flare23"), flare),
        "hcc_tace_seg": ("aorta",),
    }


def test_where_only_what_is_drawn_is_available():
    assert {dataset for dataset in DATASETS if shipped(dataset).available == "drawn"} == {"flare23", "ircadb01"}


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
            (
                "values: {organs: {1: liver}}\nstructures: {liver: liver}",
                r"structures .* and masks or study .* come together",
            ),
            ("values: {organs: {1: liver}}\noptional: [organ]", r"optional names .* neither .*: organ"),
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
