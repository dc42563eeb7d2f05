"""Finding the cases of a dataset."""

import json

import pytest

from atlas.errors import ScanError
from atlas.ingest.cases import case_of, find_cases, located
from atlas.spec import Manifest
from atlas.spec.files import Layout


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


FOLDERS = {
    "case": r"\d+",
    "image": "CT/{case}/DICOM/",
    "labels": {"seg": "CT/{case}/Ground/"},
    "masks": "CT/{case}/MASKS/{structure}/",
}


def test_folders_of_slices(tmp_path):
    touch(
        tmp_path,
        "CT/1/DICOM/i1",
        "CT/1/DICOM/i2",
        "CT/1/Ground/1.png",
        "CT/1/MASKS/liver/1",
        "CT/1/MASKS/spleen/1",
        "CT/2/DICOM/.DS_Store",  # nothing that counts
        "CT/2/DICOM/i1.part",
        "CT/2/DICOM/deeper/i1",
        "CT/2/Ground/1.png",
        "__MACOSX/CT/3/DICOM/i1",
        ".part/CT/3/DICOM/i1",
        "MR/1/DICOM/i1",
    )
    one, two = find_cases(manifest(**FOLDERS), tmp_path)
    assert (one.source_case, one.image, one.labels, one.problem) == ("1", "CT/1/DICOM/", {"seg": "CT/1/Ground/"}, None)
    assert one.masks == {"liver": "CT/1/MASKS/liver/", "spleen": "CT/1/MASKS/spleen/"}
    assert one.paths() == ["CT/1/DICOM/", "CT/1/Ground/", "CT/1/MASKS/liver/", "CT/1/MASKS/spleen/"]
    assert two.problem == "no CT: expected CT/{case}/DICOM/"


def test_unfinished_downloads_are_not_there(tmp_path):
    touch(tmp_path, "ct/a.nii.gz", "seg/a.nii.gz.part", "ct/b.nii.gz", "seg/b.nii.gz")
    a, _ = find_cases(manifest(), tmp_path)
    assert a.problem == "no label file 'seg': expected seg/{case}.nii.gz"
    loose = manifest(image="ct/{case}.*", labels={"seg": "seg/{case}.*"})
    assert find_cases(loose, tmp_path)[0].problem == "no label file 'seg': expected seg/{case}.*"


STUDY = {"case": r"P\d", "image": (), "labels": {}, "study": "**/{case}/"}


def test_a_study_is_one_place(tmp_path):
    touch(tmp_path, "data/P1/P2/ct/i1", "data/P1/seg/P3.dcm", "data/P4/a/b/c/i1", "data/P5/.hidden", "data/README")
    found = find_cases(manifest(**STUDY), tmp_path)
    assert [(case.source_case, case.study, case.problem) for case in found] == [
        ("P1", "data/P1/", None),
        ("P4", "data/P4/", None),
    ]
    assert found[0].paths() == ["data/P1/"]


def test_two_studies_of_one_case(tmp_path):
    touch(tmp_path, "a/P1/i1", "b/P1/i1")
    (case,) = find_cases(manifest(**STUDY), tmp_path)
    assert case.problem == "two folders for one: a/P1/ and b/P1/; keep one of them"


SHARED = {"case": r"\d+", "image_of": "other", "image": "**/PANCREAS_{case}/**/", "labels": {"seg": "label{case}.nii"}}


def test_the_ct_of_another_dataset(tmp_path):
    touch(tmp_path / "toy", "label01.nii", "label02.nii", "PANCREAS_01/s/i1")
    touch(tmp_path / "other", "x/PANCREAS_01/st/se/i1", "x/PANCREAS_03/st/se/i1", "label03.nii")
    one, two = find_cases(manifest(**SHARED), tmp_path / "toy")
    assert (one.image, one.problem) == ("../other/x/PANCREAS_01/st/se/", None)
    assert two.problem == "no CT: expected **/PANCREAS_{case}/**/ in the folder of other, beside this one"
    assert located(tmp_path / "toy", one.image) == tmp_path / "other/x/PANCREAS_01/st/se"
    assert located(tmp_path / "toy", one.labels["seg"]) == tmp_path / "toy/label01.nii"


def test_the_other_dataset_is_not_there(tmp_path):
    touch(tmp_path / "toy", "label01.nii")
    (case,) = find_cases(manifest(**SHARED), tmp_path / "toy")
    assert "in the folder of other" in case.problem
    (tmp_path / "toy/label01.nii").unlink()
    with pytest.raises(ScanError, match=r"matches label\{case\}\.nii"):
        find_cases(manifest(**SHARED), tmp_path / "toy")


@pytest.mark.parametrize(
    ("layout", "path", "case"),
    [
        (FOLDERS, "CT/7/DICOM/i1.dcm", "7"),
        (FOLDERS, "CT/7/MASKS/liver/i1.dcm", "7"),
        (FOLDERS, "CT/7/readme.txt", None),
        (STUDY, "data/P1/series/P2/i1.dcm", "P1"),
        (SHARED, "label01.nii", "01"),
        ({"image": "{case}/ct.nii", "labels": {"seg": "{case}/seg.nii"}}, "a/seg.nii", "a"),
        ({"image": "{case}/ct.nii", "labels": {"seg": "{case}/seg.nii"}}, "a/b/seg.nii", None),
    ],
)
def test_the_case_of_a_file(layout, path, case):
    assert case_of(Layout.model_validate(layout), path) == case


def test_a_folder_that_was_not_fetched_to_its_end_is_no_scan(tmp_path):
    touch(tmp_path, "s/1/a.dcm", "s/1/.incomplete", "s/2/a.dcm", "seg/1.nii.gz", "seg/2.nii.gz")
    layout = {"case": r"\d", "image": "s/{case}/", "labels": {"seg": "seg/{case}.nii.gz"}}
    cut, whole = find_cases(manifest(**layout), tmp_path)
    assert "interrupted" in cut.problem
    assert whole.problem is None


def test_a_study_with_a_series_that_was_not_fetched_to_its_end(tmp_path):
    touch(tmp_path, "p1/x/ct/a.dcm", "p1/x/seg/a.dcm", "p1/x/seg/.incomplete", "p2/x/ct/a.dcm")
    cut, whole = find_cases(manifest(case=r"p\d", image=(), labels={}, study="{case}/"), tmp_path)
    assert cut.problem.startswith("p1/x/seg/: its download was interrupted")
    assert whole.problem is None
