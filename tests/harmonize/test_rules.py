"""What a label map makes of its labels."""

import pytest

from atlas.harmonize.rules import compile_rules


def names(rules, bitmask):
    pairs = {bit: pair for pair, bit in rules.pair_bits.items()}
    return set(rules.taxonomy.members(bitmask)) | {p for b, p in pairs.items() if bitmask >> b & 1}


def test_a_part_belongs_to_its_whole_where_the_map_names_both(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: ["liver"], 2: ["liver_tumor"]}}), taxonomy)
    assert names(rules, rules.values["seg"][2]) == {"liver", "liver_tumor"}


def test_a_tumour_alone_makes_no_organ(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: ["liver_tumor"]}}), taxonomy)
    assert names(rules, rules.values["seg"][1]) == {"liver_tumor"}
    assert rules.available(["seg"], "any") == 1 << taxonomy.bit("liver_tumor")


def test_the_side_of_a_part_is_found_with_its_whole(taxonomy, label_map):
    values = {1: ["kidney_left/right"], 2: ["kidney_tumor"], 3: ["cyst_left/right"]}
    rules = compile_rules(label_map(values={"seg": values}), taxonomy)
    assert names(rules, rules.values["seg"][2]) == {"kidney_tumor", "kidney_left/right"}
    assert names(rules, rules.values["seg"][3]) == {"cyst_left/right", "kidney_left/right"}
    order = list(rules.pair_bits)
    assert order.index("kidney_left/right") < order.index("cyst_left/right")


def test_an_unsided_tumour_beside_sided_kidneys_still_belongs_to_one(taxonomy, label_map):
    values = {1: ["kidney_left"], 2: ["kidney_right"], 3: ["kidney_tumor"]}
    rules = compile_rules(label_map(values={"seg": values}), taxonomy)
    assert names(rules, rules.values["seg"][3]) == {"kidney_tumor", "kidney_left/right"}


def test_a_sided_cyst_leads_an_unsided_kidney(taxonomy, label_map):
    rules = compile_rules(label_map(values={"seg": {1: ["kidney_left/right"], 2: ["cyst_left"]}}), taxonomy)
    assert names(rules, rules.values["seg"][2]) == {"cyst_left", "kidney_left"}


def test_a_class_is_available_only_with_all_that_is_drawn_for_it(taxonomy, label_map):
    structures = {"a": ["liver"], "b": ["liver", "aorta"], "c": ["kidney_left/right"]}
    rules = compile_rules(label_map(structures=structures), taxonomy)
    assert names(rules, rules.available(["a", "c"], "x")) == {"kidney_left", "kidney_right"}
    assert names(rules, rules.available(["a", "b"], "x")) == {"liver", "aorta"}


def test_exceptions_of_a_case(taxonomy, label_map):
    exceptions = {"bad": {"reason": "swapped", "unavailable": ["kidney_left/right"]}}
    rules = compile_rules(
        label_map(values={"seg": {1: ["kidney_left/right"], 2: ["liver"]}}, cases=exceptions), taxonomy
    )
    assert names(rules, rules.available(["seg"], "bad")) == {"liver"}
    assert names(rules, rules.available(["seg"], "good")) == {"liver", "kidney_left", "kidney_right"}


@pytest.mark.parametrize("value", [None, "unknown"])
def test_values_without_a_class(taxonomy, label_map, value):
    rules = compile_rules(label_map(values={"seg": {1: ["liver"], 9: value}}), taxonomy)
    expected = 1 << rules.unknown_bit if value else 0
    assert rules.values["seg"][9] == expected
    assert names(rules, rules.available(["seg"], "x")) == {"liver"}


class TestNamesOfStructures:
    @pytest.fixture
    def rules(self, taxonomy, label_map):
        structures = {"tumor*": "liver_tumor", "tumor_k*": "kidney_tumor", "tumor_x": None, "*": None, "liver": "liver"}
        return compile_rules(label_map(structures=structures), taxonomy)

    @pytest.mark.parametrize(
        ("layer", "entry"),
        [
            ("tumor", "tumor*"),
            ("tumor_12", "tumor*"),
            ("tumor_kidney", "tumor_k*"),
            ("tumor_x", "tumor_x"),
            ("tumor_x2", "tumor*"),
            ("Tumor", "*"),
            ("liver", "liver"),
            ("liver\nx", "*"),
        ],
    )
    def test_the_exact_name_wins_then_the_longest_pattern(self, rules, layer, entry):
        assert rules.entry(layer) == entry

    def test_only_the_star_is_special(self, taxonomy, label_map):
        rules = compile_rules(label_map(structures={"a.c": "liver", "[xy]*": "aorta"}), taxonomy)
        assert [rules.entry(name) for name in ("abc", "xz", "[xy]z")] == [None, None, "[xy]*"]

    def test_a_pattern_is_there_if_one_file_is_like_it(self, rules):
        assert names(rules, rules.available(["tumor_1", "tumor_2", "tumor_x"], "c")) == {"liver_tumor"}
        assert names(rules, rules.available(["tumor_k", "liver"], "c")) == {"kidney_tumor", "liver"}
        assert names(rules, rules.available(["something"], "c")) == set()


class TestOptional:
    def test_a_class_does_not_need_what_is_optional(self, taxonomy, label_map):
        structures = {"mass": "liver_tumor", "necrosis": "liver_tumor", "liver": "liver"}
        rules = compile_rules(label_map(structures=structures, optional=["necrosis"]), taxonomy)
        assert names(rules, rules.available(["mass"], "c")) == {"liver_tumor"}
        assert names(rules, rules.available(["necrosis", "liver"], "c")) == {"liver"}

    def test_of_several_spellings_any_will_do(self, taxonomy, label_map):
        structures = {"Lt": "cyst_left", "Left": "cyst_left", "liver": "liver"}
        rules = compile_rules(label_map(structures=structures, optional=["Lt", "Left"]), taxonomy)
        for present in (["Lt"], ["Left"], ["Lt", "Left"]):
            assert names(rules, rules.available(present, "c")) == {"cyst_left"}
        assert names(rules, rules.available(["liver"], "c")) == {"liver"}

    def test_label_files_that_are_alternatives(self, taxonomy, label_map):
        values = {
            "new": {1: "liver", 2: "kidney_left", 3: "kidney_right"},
            "old": {1: "liver", 2: "kidney_left/right", 3: "aorta"},
        }
        rules = compile_rules(label_map(values=values, optional=["new", "old"]), taxonomy)
        assert names(rules, rules.available(["new"], "c")) == {"liver", "kidney_left", "kidney_right"}
        assert names(rules, rules.available(["old"], "c")) == {"liver", "kidney_left", "kidney_right", "aorta"}
        assert names(rules, rules.available([], "c")) == set()

    def test_without_it_a_class_of_two_files_needs_both(self, taxonomy, label_map):
        rules = compile_rules(label_map(values={"a": {1: "liver"}, "b": {1: "liver"}}), taxonomy)
        assert names(rules, rules.available(["a"], "c")) == set()
        assert names(rules, rules.available(["a", "b"], "c")) == {"liver"}
