import itertools
import math
import re

import pytest

from atlas.errors import SpecError
from atlas.spec.strict_yaml import validated
from atlas.spec.taxonomy import Taxonomy

LEFT, RIGHT = "7771000", "24028007"


@pytest.fixture
def read(tmp_path):
    """A taxonomy from the entries of its classes, bits and the rest filled in."""

    def build(*entries):
        lines = [f"  - {{bit: {i}, kind: organ, prompt: p, colour: [{i}, 0, 0], {e}}}" for i, e in enumerate(entries)]
        path = tmp_path / "taxonomy.yaml"
        path.write_text("version: 1\nclasses:\n" + "\n".join(lines) + "\n")
        return validated(Taxonomy, path)

    return build


PAIR = ("name: ear_left, side: left, mirror: ear_right", "name: ear_right, side: right, mirror: ear_left")


class TestShipped:
    def test_first_32_bits_are_the_universal_model_in_published_order(self, taxonomy, universal):
        assert list(taxonomy.names[:32]) == universal
        assert [taxonomy.bit(name) for name in universal] == list(range(32))

    def test_then_come_the_further_structures_of_totalsegmentator_in_the_order_of_their_values(
        self, taxonomy, universal, totalsegmentator
    ):
        assert len(totalsegmentator) == len(set(totalsegmentator)) == 117
        further = [name for name in totalsegmentator if name not in universal]
        assert len(further) == 99
        assert list(taxonomy.names[32 : 32 + 99]) == further

    def test_then_come_amos_ct_org_and_ircadb(self, taxonomy):
        assert taxonomy.names[131:141] == (
            *("prostate_or_uterus", "bone", "skin", "portal_vein", "venous_system", "artery", "biliary_system"),
            *("metal", "stones", "uterus"),
        )

    def test_then_come_the_structures_that_only_the_first_totalsegmentator_has(self, taxonomy, totalsegmentator_v1):
        further = tuple(name for name in totalsegmentator_v1 if name not in taxonomy.names[:141])
        assert taxonomy.names[141:] == further
        assert len(further) == 7

    def test_mirrors_are_symmetric(self, taxonomy):
        sides = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}

        def swap(text):
            return text and re.sub("|".join(sides), lambda found: sides[found[0]], text)

        for c in taxonomy.classes:
            if c.mirror:
                other = taxonomy.by_name[c.mirror]
                assert (other.name, other.side, other.kind) == (swap(c.name), swap(c.side), c.kind)
                assert other.mirror == c.name
                assert other.prompt == swap(c.prompt)
                assert {swap(parent) for parent in other.parents} >= {p for p in c.parents if "/" not in p}
                if not c.name.startswith("lung"):  # two lobes and three
                    assert other.definition == swap(c.definition)

    def test_every_sided_name_has_a_side(self, taxonomy):
        without_mirror = {"lung_middle_lobe_right", "atrial_appendage_left"}  # the other side has no such class
        for c in taxonomy.classes:
            if c.name in without_mirror:
                assert c.side is None
            else:
                assert {"left", "right"} & set(c.name.split("_")) == ({c.side} if c.side else set())

    def test_snomed_laterality_is_the_side(self, taxonomy):
        for c in taxonomy.classes:
            if c.snomed is None:
                continue
            found = {c.snomed.modifier, c.snomed.region_modifier} - {None}
            if c.name == "atrial_appendage_left":  # of the left, but without a mirror class
                assert found == {LEFT}
            else:
                assert found == ({LEFT} if c.side == "left" else {RIGHT} if c.side == "right" else set())

    def test_snomed_codes_tell_classes_apart(self, taxonomy):
        keys = {}
        for c in taxonomy.classes:
            if c.snomed:
                s = c.snomed
                keys.setdefault((s.category, s.type, s.modifier, s.region, s.region_modifier), []).append(c.name)
        assert [names for names in keys.values() if len(names) > 1] == [["liver_tumor", "hepatic_vessel_tumor"]]

    def test_lesions_name_their_organ(self, taxonomy):
        for c in taxonomy.classes:
            if c.snomed and c.kind == "lesion":
                assert c.snomed.category == "49755003"
                assert c.snomed.region
            elif c.snomed:
                assert c.snomed.category == "123037004"

    def test_classes_without_snomed_are_those_without_a_published_code(self, taxonomy):
        assert {c.name for c in taxonomy.classes if c.snomed is None} == {
            *("femur_head_left", "femur_head_right", "celiac_trunk", "prostate_or_uterus", "bone", "skin"),
            *("portal_vein", "venous_system", "artery", "biliary_system", "metal", "stones", "uterus"),
            *("heart_myocardium", "heart_atrium_left", "heart_atrium_right", "heart_ventricle_left"),
            *("heart_ventricle_right", "pulmonary_artery", "face"),
        }

    def test_snomed_by_analogy_is_unverified(self, taxonomy):
        assert {c.name for c in taxonomy.classes if c.snomed and not c.snomed.verified} == {
            *("small_bowel", "kidney_tumor", "pancreas_tumor", "hepatic_vessel_tumor", "lung_tumor", "colon_tumor")
        }

    def test_colours_differ_visibly(self, taxonomy):
        for a, b in itertools.combinations(taxonomy.classes, 2):
            assert math.dist(a.colour, b.colour) > 15, (a.name, b.name)
        for a, b in itertools.combinations(taxonomy.classes[:32], 2):
            assert math.dist(a.colour, b.colour) > 25, (a.name, b.name)

    def test_prompts_are_distinct_words(self, taxonomy):
        prompts = [c.prompt for c in taxonomy.classes]
        assert len(set(prompts)) == len(prompts)
        assert not [p for p in prompts if "_" in p]
        for c in taxonomy.classes:
            assert c.side is None or c.side in c.prompt

    def test_synonyms_mean_one_class_and_are_no_class_names(self, taxonomy):
        plain = [s.lower().replace(" ", "_") for c in taxonomy.classes for s in {*map(str.lower, c.synonyms)}]
        twice = {s for s in plain if plain.count(s) > 1}
        assert twice <= {"celiac_truck"}  # two spellings of one class
        assert not set(plain) & set(taxonomy.names)

    @pytest.mark.parametrize(
        ("spelling", "name"),
        [
            ("postcava", "inferior_vena_cava"),
            ("gall_bladder", "gallbladder"),
            ("Celiac Truck", "celiac_trunk"),
            ("intestine", "small_bowel"),
            ("Left Head of Femur", "femur_head_left"),
            ("bladder", "urinary_bladder"),
            ("iliac_vein_left", "iliac_vena_left"),
            ("venoussystem", "venous_system"),
        ],
    )
    def test_other_spellings_lead_to_the_class(self, taxonomy, spelling, name):
        with pytest.raises(SpecError, match=rf"did you mean {name}\?"):
            taxonomy.bit(spelling)

    @pytest.mark.parametrize(
        "name",
        [
            *("femur_head_left", "femur_head_right", "femur_left", "femur_right", "hip_left", "hip_right", "colon"),
            *("rectum", "small_bowel", "duodenum", "portal_vein", "portal_vein_and_splenic_vein", "hepatic_vessel"),
            *("venous_system", "inferior_vena_cava", "lung_left", "lung_right", "lung_upper_lobe_left", "prostate"),
            *("lung_middle_lobe_right", "prostate_or_uterus", "uterus", "kidney_cyst", "kidney_cyst_left", "heart"),
            *("kidney_cyst_right", "atrial_appendage_left", "bone", "aorta", "artery", "sacrum", "vertebrae_S1"),
            *("liver_tumor", "hepatic_vessel_tumor", "skin"),
        ],
    )
    def test_similar_names_say_what_is_in_and_out(self, taxonomy, name):
        assert taxonomy.by_name[name].definition

    @pytest.mark.parametrize(
        ("part", "wholes"),
        [
            ("liver_tumor", {"liver"}),
            ("hepatic_vessel_tumor", {"liver"}),
            ("kidney_tumor", {"kidney_left/right"}),
            ("kidney_cyst", {"kidney_left/right"}),
            ("kidney_cyst_left", {"kidney_left", "kidney_cyst"}),
            ("kidney_cyst_left/right", {"kidney_left/right", "kidney_cyst"}),
            ("pancreas_tumor", {"pancreas"}),
            ("lung_tumor", {"lung_left/right"}),
            ("colon_tumor", {"colon"}),
            ("lung_middle_lobe_right", {"lung_right"}),
            ("lung_upper_lobe_left", {"lung_left"}),
            ("femur_head_left", {"femur_left", "bone"}),
            ("vertebrae_S1", {"sacrum", "bone"}),
            ("rib_left_1", {"bone"}),
            ("prostate", {"prostate_or_uterus"}),
            ("uterus", {"prostate_or_uterus"}),
            ("atrial_appendage_left", {"heart"}),
            ("heart_myocardium", {"heart"}),
            ("heart_ventricle_right", {"heart"}),
            # of similar names, but no part of each other
            ("rectum", set()),
            ("duodenum", set()),
            ("hepatic_vessel", set()),
            ("portal_vein", set()),
            ("portal_vein_and_splenic_vein", set()),
            ("inferior_vena_cava", set()),
            ("celiac_trunk", set()),
            ("costal_cartilages", set()),
            ("pulmonary_artery", set()),
            ("face", set()),
        ],
    )
    def test_what_is_part_of_what(self, taxonomy, part, wholes):
        assert taxonomy.wholes(part) == wholes

    def test_all_bones_are_part_of_bone(self, taxonomy):
        for c in taxonomy.classes:
            assert (c.kind == "bone") == (c.name == "bone" or "bone" in taxonomy.wholes(c.name))

    def test_pairs(self, taxonomy):
        left, right = taxonomy.pairs["kidney_left/right"]
        assert (left.name, right.name) == ("kidney_left", "kidney_right")
        assert "rib_left/right_12" in taxonomy.pairs
        assert "lung_upper_lobe_left/right" in taxonomy.pairs
        assert len(taxonomy.pairs) == sum(c.side == "left" for c in taxonomy.classes)
        assert taxonomy.target_bits("femur_head_left/right") == (22, 23)

    def test_members_of_a_bitmask(self, taxonomy):
        assert taxonomy.members(1 << 31 | 1 << 5 | 1) == ("spleen", "liver", "kidney_cyst")
        assert taxonomy.members(0) == ()
        assert taxonomy.members((1 << len(taxonomy)) - 1) == taxonomy.names


class TestRefused:
    @pytest.mark.parametrize("bits", [(0, 2), (1, 2), (1, 0), (0, 0)])
    def test_bits_with_gaps_or_out_of_order(self, tmp_path, bits):
        path = tmp_path / "taxonomy.yaml"
        entries = [f"{{bit: {b}, name: n{i}, kind: organ, prompt: p, colour: [0, 0, 0]}}" for i, b in enumerate(bits)]
        path.write_text(f"version: 1\nclasses: [{', '.join(entries)}]\n")
        with pytest.raises(SpecError, match="bits must count up from 0 without a gap"):
            validated(Taxonomy, path)

    def test_a_name_twice(self, read):
        with pytest.raises(SpecError, match=r"named twice: \['ear'\]"):
            read("name: ear", "name: ear")

    @pytest.mark.parametrize(
        "entries",
        [
            ("name: ear_left, side: left",),
            ("name: ear_left, mirror: ear_right", "name: ear_right"),
            ("name: ear_left, side: left, mirror: ear_right",),
            ("name: ear_left, side: left, mirror: ear_left",),
            (PAIR[0], "name: ear_right, side: left, mirror: ear_left"),
            (PAIR[0], "name: eye_right, side: right, mirror: ear_left"),
            ("name: ear_left, side: left, mirror: eye_right", "name: eye_right, side: right, mirror: ear_left"),
        ],
    )
    def test_lopsided_mirrors(self, read, entries):
        with pytest.raises(SpecError, match="mirror"):
            read(*entries)

    def test_unknown_parent(self, read):
        with pytest.raises(SpecError, match=r"'liber' is not a class of the taxonomy; did you mean liver\?"):
            read("name: liver", "name: lesion, parents: [liber]")

    @pytest.mark.parametrize(
        "entries",
        [
            ("name: a, parents: [a]",),
            ("name: a, parents: [b]", "name: b, parents: [a]"),
            ("name: a, parents: [b]", "name: b, parents: [c]", "name: c, parents: [a]"),
            (PAIR[0] + ", parents: [ear_left/right]", PAIR[1]),
        ],
    )
    def test_part_of_itself(self, read, entries):
        with pytest.raises(SpecError, match="is part of itself"):
            read(*entries)

    @pytest.mark.parametrize(
        "entry",
        [
            "name: 1st",
            "name: with space",
            "name: a/b",
            "name: ear, side: middle",
            "name: ear, kind: gland",
            "name: ear, snomed: {category: 123037004, type: '64033007', meaning: x}",  # a number, not a code
            "name: ear, snomed: {category: 'T-123', type: '64033007', meaning: x}",
            "name: ear, shade: dark",
            f"name: {'x' * 65}",
        ],
    )
    def test_wrong_entries(self, tmp_path, entry):
        path = tmp_path / "taxonomy.yaml"
        kind = "" if "kind:" in entry else "kind: organ, "
        path.write_text(f"version: 1\nclasses:\n  - {{bit: 0, {kind}prompt: p, colour: [0, 0, 0], {entry}}}\n")
        with pytest.raises(SpecError, match=r"line 3, classes\.0\."):
            validated(Taxonomy, path)

    @pytest.mark.parametrize("colour", ["[0, 0]", "[0, 0, 256]", "[-1, 0, 0]", "[0, 0, 0, 0]", "red", "[0.5, 0, 0]"])
    def test_wrong_colours(self, tmp_path, colour):
        path = tmp_path / "taxonomy.yaml"
        path.write_text(f"version: 1\nclasses:\n  - {{bit: 0, name: a, kind: organ, prompt: p, colour: {colour}}}\n")
        with pytest.raises(SpecError, match=r"colour"):
            validated(Taxonomy, path)

    def test_a_pair_is_not_one_class(self, taxonomy):
        with pytest.raises(SpecError, match="not a class"):
            taxonomy.bit("kidney_left/right")

    def test_a_pair_needs_both_sides(self, taxonomy):
        with pytest.raises(SpecError, match="not a class"):
            taxonomy.target_bits("atrial_appendage_left/right")

    def test_something_far_off_lists_the_classes(self, taxonomy):
        with pytest.raises(SpecError, match=r"valid are: spleen, kidney_right, .*uterus, .*face"):
            taxonomy.bit("qqqq")
