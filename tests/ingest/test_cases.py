"""Finding the cases of a dataset."""

import json

import pytest

from atlas.errors import ScanError
from atlas.ingest.cases import find_cases
from atlas.spec import Manifest


def manifest(**layout):
    content = {
        "id": "toy",
        "name": "A toy",
        "citation": "none",
        "licence": {"id": "CC0-1.0", "commercial": True, "redistribution": True},
        "access": {"kind": "open"},
        "scans": 1,
        "labelled": 1,
        "layout": {"image": "ct/{case}.nii.gz", "labels": {"seg": "seg/{case}.nii.gz"}, **layout},
    }
    return Manifest.model_validate(content)


def touch(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")


def test_pairs_by_name(tmp_path):
    touch(tmp_path, "ct/b.nii.gz", "seg/b.nii.gz", "ct/a.nii.gz", "seg/a.nii.gz", "readme.txt")
    found = find_cases(manifest(), tmp_path)
    assert [(c.source_case, c.image, c.labels, c.problem) for c in found] == [
        ("a", "ct/a.nii.gz", {"seg": "seg/a.nii.gz"}, None),
        ("b", "ct/b.nii.gz", {"seg": "seg/b.nii.gz"}, None),
    ]


def test_a_suffix_of_the_image_is_not_part_of_the_case(tmp_path):
    touch(tmp_path, "images/Case_00001_0000.nii.gz", "labels/Case_00001.nii.gz")
    layout = {
        "case": r"Case_\d{5}",
        "image": "images/{case}_0000.nii.gz",
        "labels": {"seg": "labels/{case}.nii.gz"},
    }
    (case,) = find_cases(manifest(**layout), tmp_path)
    assert case.source_case == "Case_00001"
    assert case.problem is None


def test_masks_at_any_depth_and_no_junk(tmp_path):
    touch(
        tmp_path,
        "part1/deep/B1/ct.nii.gz",
        "part1/deep/B1/masks/liver.nii.gz",
        "part1/deep/B1/masks/._liver.nii.gz",
        "part1/deep/B1/masks/.DS_Store",
        "__MACOSX/B1/ct.nii.gz",
        "B2/ct.nii.gz",
        "B2/masks/spleen.nii.gz",
    )
    layout = {
        "case": r"B\d",
        "image": "**/{case}/ct.nii.gz",
        "labels": {},
        "masks": "**/{case}/masks/{structure}.nii.gz",
    }
    one, two = find_cases(manifest(**layout), tmp_path)
    assert one.masks == {"liver": "part1/deep/B1/masks/liver.nii.gz"}
    assert two.masks == {"spleen": "B2/masks/spleen.nii.gz"}
    assert one.problem is two.problem is None


def test_what_is_missing_is_said(tmp_path):
    touch(tmp_path, "ct/a.nii.gz", "seg/b.nii.gz")
    a, b = find_cases(manifest(), tmp_path)
    assert a.problem == "no label file 'seg': expected seg/{case}.nii.gz"
    assert b.problem == "no CT: expected ct/{case}.nii.gz"


def test_cases_without_labels_may_be_left_out_by_name(tmp_path):
    touch(tmp_path, "ct/a.nii.gz", "seg/a.nii.gz", "ct/t.nii.gz")
    toy = manifest().model_copy(update={"unlabelled": ("t",)})
    assert [c.source_case for c in find_cases(toy, tmp_path)] == ["a"]


def test_nothing_there(tmp_path):
    with pytest.raises(ScanError, match="no folder"):
        find_cases(manifest(), tmp_path / "none")
    with pytest.raises(ScanError, match=r"matches ct/\{case\}"):
        find_cases(manifest(), tmp_path)


@pytest.mark.parametrize("name", ["..", ".", ".hidden", " a", "a\\b", "a\tb"])
def test_a_case_id_cannot_leave_its_folder(tmp_path, name):
    touch(tmp_path, f"ct/v-{name}.nii.gz", "seg/x.nii.gz")
    with pytest.raises(ScanError, match="cannot be a case id"):
        find_cases(manifest(image="ct/v-{case}.nii.gz"), tmp_path)
    (tmp_path / "ct" / f"v-{name}.nii.gz").unlink()
    index = {"training": [{"image": f"./ct/v-{name}.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ScanError, match="cannot be a case id"):
        find_cases(manifest(image="ct/v-{case}.nii.gz", index="dataset.json"), tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"training": 3}', '{"training": [1]}', "\xff", '{"training": [{}]}'])
def test_a_strange_index(tmp_path, content):
    touch(tmp_path, "ct/a.nii.gz", "seg/a.nii.gz")
    (tmp_path / "dataset.json").write_text(content, encoding="latin-1")
    with pytest.raises(ScanError, match=r"not a dataset\.json"):
        find_cases(manifest(index="dataset.json"), tmp_path)
