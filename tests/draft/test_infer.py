"""Trees of files are generated; the patterns found must lead back to exactly the cases that were generated."""

import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.draft.infer import infer, infer_study
from atlas.errors import ScanError
from atlas.ingest.cases import find_cases
from atlas.spec import Manifest

WORDS = ["ct", "seg", "label", "img", "scan", "mask", "volume", "segmentation", "0000", "image", "x"]
ids = st.one_of(
    st.lists(st.integers(0, 999).map(lambda n: f"{n:03d}"), min_size=2, max_size=6, unique=True),
    st.lists(st.integers(1, 120).map(lambda n: f"liver_{n}"), min_size=2, max_size=6, unique=True),
    st.lists(
        st.text(string.ascii_uppercase, min_size=3, max_size=3).map(lambda s: f"P{s}7"),
        min_size=2,
        max_size=6,
        unique=True,
    ),
)
word = st.sampled_from(WORDS)
separators = st.sampled_from(["_", "-", "."])
above = st.lists(st.sampled_from(["data", "train", "batch 1"]), max_size=2).map(
    lambda parts: "".join(f"{p}/" for p in parts)
)
suffix = st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha"])


@st.composite
def pair_trees(draw):
    """case -> (ct, labels), with folders, prefixes and suffixes of all kinds."""
    cases, root, end = draw(ids), draw(above), draw(suffix)
    one, other = draw(st.lists(word, min_size=2, max_size=2, unique=True))
    sep = draw(separators)
    form = draw(st.sampled_from(["folders", "prefix", "suffix", "suffix of the CT", "suffix of the labels", "nnunet"]))
    made = {
        "folders": lambda c: (f"{one}/{c}", f"{other}/{c}"),
        "prefix": lambda c: (f"{one}{sep}{c}", f"{other}{sep}{c}"),
        "suffix": lambda c: (f"{c}{sep}{one}", f"{c}{sep}{other}"),
        "suffix of the CT": lambda c: (f"{c}{sep}{one}", c),
        "suffix of the labels": lambda c: (c, f"{c}{sep}{one}"),
        "nnunet": lambda c: (f"imagesTr/{c}_0000", f"labelsTr/{c}"),
    }[form]
    return {case: tuple(f"{root}{path}{end}" for path in made(case)) for case in cases}


@st.composite
def folder_trees(draw):
    """case -> (ct, labels or masks...), a folder a case."""
    cases, root, end = draw(ids), draw(above), draw(suffix)
    named = draw(st.booleans())
    below = draw(st.sampled_from(["", "seg/", "masks/"]))
    ct, *others = draw(st.lists(word, min_size=2, max_size=2, unique=True))
    if draw(st.booleans()):
        others += ["liver", "kidney_left"]
    return {
        case: tuple(
            f"{root}{case}/{folder}{f'{case}_' if named else ''}{name}{end}"
            for folder, name in [("", ct), *((below, other) for other in others)]
        )
        for case in cases
    }


def found_in(layout, paths, tmp):
    for path in paths:
        (tmp / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp / path).touch()
    manifest = Manifest.model_validate(
        {
            "id": "toy",
            "name": "toy",
            "citation": "none",
            "licence": {"id": "x", "commercial": None, "redistribution": None},
            "access": {"kind": "request"},
            "scans": 1,
            "labelled": 1,
            "layout": layout,
        }
    )
    return find_cases(manifest, tmp)


def check(tree, kind, image_only=()):
    cts = {files[0] for files in tree.values()} | set(image_only)
    paths = [path for files in tree.values() for path in files] + list(image_only)
    layout = infer(paths, kind, cts.__contains__)
    with tempfile.TemporaryDirectory() as folder:
        found = [case for case in found_in(layout, paths, Path(folder)) if case.problem is None]
    assert {case.image: frozenset(case.paths()) for case in found} == {
        files[0]: frozenset(files) for files in tree.values()
    }, layout
    return layout, {case.source_case for case in found}


@given(pair_trees())
def test_pairs(tree):
    layout, cases = check(tree, "pairs")
    assert list(layout.labels) == ["segmentation"]
    assert all(name in case for name, case in zip(sorted(tree), sorted(cases), strict=True)) or cases == set(tree)


@given(folder_trees().filter(lambda tree: len(next(iter(tree.values()))) == 2))
def test_folders(tree):
    assert check(tree, "folders")[1] == set(tree)


@given(folder_trees())
def test_masks(tree):
    layout, cases = check(tree, "masks")
    assert cases == set(tree)
    assert not layout.labels


def test_decathlon_layout_and_unlabelled_scans():
    tree = {f"spleen_{n}": (f"imagesTr/spleen_{n}.nii.gz", f"labelsTr/spleen_{n}.nii.gz") for n in (2, 3, 10, 12)}
    layout, cases = check(tree, "pairs", image_only=["imagesTs/spleen_1.nii.gz", "imagesTs/spleen_7.nii.gz"])
    assert cases == set(tree)
    assert layout.image == ("imagesTr/{case}.nii.gz",)


def test_training_and_test_parts():
    tree = {
        f"{part}{n}": (f"{part}/ct/{part}{n}.nii.gz", f"{part}/seg/{part}{n}.nii.gz")
        for part in ("train", "test")
        for n in range(3)
    }
    layout, _ = check(tree, "pairs")
    assert len(layout.image) == 2


def test_two_label_volumes_a_case():
    tree = {f"p{n}": tuple(f"p{n}_{role}.nii.gz" for role in ("scan", "organs", "lesions")) for n in range(4)}
    layout, _ = check(tree, "pairs")
    assert set(layout.labels) == {"organs", "lesions"}
    layout, _ = check({c: tuple(f"{c}/{f}" for f in files) for c, files in tree.items()}, "folders")
    assert set(layout.labels) == {"organs", "lesions"}


def test_one_case():
    check({"7": ("7_ct.nii.gz", "7_seg.nii.gz")}, "pairs")
    assert check({"7": ("all/7/ct.nii.gz", "all/7/seg/a.nii.gz")}, "folders")[1] == {"7"}
    assert check({"7": ("7/ct.nii.gz", "7/seg/liver.nii.gz", "7/seg/spleen.nii.gz")}, "masks")[1] == {"7"}


def test_words_that_say_mask_are_no_part_of_the_structure():
    tree = {f"p{n}": (f"p{n}/ct.nii.gz", f"p{n}/mask_liver.nii.gz", f"p{n}/mask_spleen.nii.gz") for n in range(3)}
    assert check(tree, "masks")[0].masks == ("{case}/mask_{structure}.nii.gz",)


@pytest.mark.parametrize(
    ("kind", "tree", "cts", "message"),
    [
        ("pairs", ["a.nii.gz"], "", "too few"),
        ("pairs", ["ct/a.nii.gz", "ct/b.nii.gz", "seg/c.nii.gz", "seg/d.nii.gz"], "ct/", "no CTs and labels"),
        ("pairs", [f"{r}/{n}.nii" for n in "123" for r in ("art", "pv", "seg")], ("art", "pv"), "3 CTs|2 CTs"),
        ("pairs", [f"{r}/{n}.nii" for n in "123" for r in ("a", "b")], (), "no CT among"),
        ("pairs", [f"{r}/{n}.nii" for n in "123" for r in ("a", "b")], ("a", "b"), "no labels among"),
        ("folders", ["1.nii", "2.nii", "3.nii"], "1", "one folder a case"),
        (
            "folders",
            [f"{n}/{r}.nii" for n in "123" for r in "abs"],
            tuple(f"{n}/{r}" for n in "123" for r in "ab"),
            "two CTs",
        ),
        ("folders", [f"{n}/{r}.nii" for n in "123" for r in "abcdefg"], tuple(f"{n}/a" for n in "123"), "--like masks"),
        ("masks", [f"{n}/{r}.nii" for n in "123" for r in "ab"], "z", "no CT"),
    ],
)
def test_what_is_refused(kind, tree, cts, message):
    with pytest.raises(ScanError, match=message):
        infer(tree, kind, lambda path: path.startswith(cts))


def test_folders_of_patients_above_the_cases():
    tree = {f"v{n}": (f"site/P{n}/v{n}/ct.nii.gz", f"site/P{n}/v{n}/seg.nii.gz") for n in range(6)}
    assert check(tree, "folders")[0].image == ("site/*/{case}/ct.nii.gz",)


def test_study_folders():
    visits = [(f"all/P{n}/v{n}{v}/{m}/1", m) for n in range(6) for v in "ab" for m in ("CT", "RTSTRUCT")]
    assert infer_study(visits).study == ("all/*/{case}/",)
    assert infer_study(visits[:2]).study == ("all/P0/{case}/",)
    assert infer_study(c for c in visits if "a/" in c[0]).study == ("all/{case}/",)
    contents = [(f"site/{p}/{s}/{n}.dcm", s) for p in ("P1", "P2") for s in ("CT", "SEG") for n in range(3)]
    assert infer_study(contents).study == ("site/{case}/",)
    with pytest.raises(ScanError, match="found CT"):
        infer_study([("a/b.dcm", "CT")])
