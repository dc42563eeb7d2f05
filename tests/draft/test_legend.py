"""What files beside the scans say about label values, and what a name means."""

import pytest

from atlas.draft.legend import from_json, from_table, legend
from atlas.draft.naming import Names
from atlas.spec import load_taxonomy

SNAP = """# ITK-SnAP Label Description File
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "Liver"
    2     0  255    0        1  1  1    "Right kidney"
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,liver\n2,spleen\n", {1: "liver", 2: "spleen"}),
        ("value;name\n1;liver\n2;left kidney\n", {1: "liver", 2: "left kidney"}),
        ("liver: 1\nspleen: 2\n", {1: "liver", 2: "spleen"}),
        ("1 liver\n2 left kidney\n", {1: "liver", 2: "left kidney"}),
        ('"liver","1"\n', {1: "liver"}),
        (SNAP, {0: "Clear Label", 1: "Liver", 2: "Right kidney"}),
        ("1,liver\n1,spleen\n", {}),
        ("1,liver\nread me first\n", {}),
        ("1,2\n", {}),
        ("patient,age,sex\np1,57,m\n", {}),
        ("99999999999999999999,liver\n", {}),
        ("", {}),
    ],
)
def test_tables(text, names):
    assert from_table(text) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('{"labels": {"0": "background", "1": "liver"}}', {0: "background", 1: "liver"}),
        ('{"labels": {"background": 0, "liver": 1, "both": [1, 2]}}', {0: "background", 1: "liver"}),
        ('{"labels": ["liver"]}', {}),
        ("[1]", {}),
    ],
)
def test_dataset_json(text, names):
    assert from_json(text) == names


def test_only_a_file_that_names_every_value_counts(tmp_path):
    (tmp_path / "names.csv").write_text("1,liver\n2,spleen\n")
    (tmp_path / "broken.txt").write_bytes(b"\xff\xfe1,liver")
    (tmp_path / "dataset.json").write_text('{"labels": {')
    assert legend(tmp_path, [1, 2]) == ({1: "liver", 2: "spleen"}, "names.csv")
    assert legend(tmp_path, [1, 3]) == ({}, None)
    assert legend(tmp_path, []) == ({}, None)
    (tmp_path / "more.txt").write_text("1 liver\n2 pancreas\n")
    names, remark = legend(tmp_path, [1, 2])
    assert names == {}
    assert "neither was used" in remark
    assert legend(tmp_path, [1])[0] == {1: "liver"}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("Liver", "liver"),
        ("left kidney", "kidney_left"),
        ("KIDNEY-LEFT", "kidney_left"),
        ("kidney_left/right", "kidney_left/right"),
        ("kidney", None),
        ("livr", None),
        ("", None),
        ("1", None),
    ],
)
def test_only_an_exact_name_is_a_class(name, target):
    assert Names(load_taxonomy()).target(name) == target


def test_nearest():
    assert "liver" in Names(load_taxonomy()).nearest("livr")


def test_a_synonym_of_two_classes_is_neither():
    from atlas.spec import Taxonomy

    one = {"bit": 0, "name": "a", "kind": "organ", "prompt": "a", "colour": [0, 0, 0], "synonyms": ["thing", "b"]}
    taxonomy = Taxonomy.model_validate(
        {"version": 1, "classes": [one, {**one, "bit": 1, "name": "b", "synonyms": ["thing"]}]}
    )
    assert Names(taxonomy).target("thing") is None
    assert Names(taxonomy).target("b") == "b"
