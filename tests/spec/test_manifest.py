import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import nibabel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas.errors import SpecError
from atlas.spec import library
from atlas.spec.files import Layout

DATASETS = (
    *("abdomenatlas_11_mini", "abdomenct_1k", "amos22", "btcv", "ct_org", "kits19", "kits21", "kits23", "lits"),
    *("msd03_liver", "msd06_lung", "msd07_pancreas", "msd08_hepaticvessel", "msd09_spleen", "msd10_colon"),
    *("totalseg_v2", "word"),
)

MINIMAL = """\
id: mine
name: Mine
citation: none
licence: {id: CC0, commercial: true, redistribution: true}
access: {kind: open}
scans: 2
labelled: 1
layout:
  image: images/{case}.nii.gz
  labels: {organs: labels/{case}.nii.gz}
""".replace("{organs: labels/{case}.nii.gz}", "{organs: 'labels/{case}.nii.gz'}")


shipped = cache(library.load_manifest)


@pytest.fixture(params=DATASETS)
def manifest(request):
    return shipped(request.param)


def named_cases(manifest):
    """Every case of the dataset itself that the manifest names anywhere."""
    bad = [case for entry in manifest.known_bad for case in entry.cases]
    overlapping = [case for overlap in manifest.overlaps for case in overlap.cases]
    return [*bad, *manifest.unlabelled, *overlapping]


class TestShipped:
    def test_all_datasets_are_there(self):
        assert set(library.names("manifests")) == set(DATASETS)

    def test_named_cases_match_the_layout(self, manifest):
        for case in named_cases(manifest):
            assert re.fullmatch(manifest.layout.case, case), case

    def test_no_case_is_named_twice(self, manifest):
        bad = [case for entry in manifest.known_bad for case in entry.cases]
        assert len(set(bad)) == len(bad)
        assert len(set(manifest.unlabelled)) == len(manifest.unlabelled)
        assert not set(bad) & set(manifest.unlabelled)

    def test_counts_fit(self, manifest):
        assert manifest.labelled <= manifest.scans
        if manifest.unlabelled:
            assert manifest.labelled + len(manifest.unlabelled) == manifest.scans

    def test_first_patterns_are_concrete(self, manifest):
        for patterns in (manifest.layout.image, *manifest.layout.labels.values(), manifest.layout.masks):
            assert not any("*" in pattern for pattern in patterns[:1])

    def test_no_place_is_named_twice(self, manifest):
        layout = manifest.layout
        patterns = [*layout.image, *layout.masks, *(p for ps in layout.labels.values() for p in ps)]
        assert len(set(patterns)) == len(patterns)

    def test_known_bad_cases_say_where_it_was_reported(self, manifest):
        assert all(entry.link and entry.link.startswith("https://") for entry in manifest.known_bad)

    def test_contradictory_licences_say_so(self, manifest):
        licence = manifest.licence
        if None in {licence.commercial, licence.redistribution} or not licence.verified:
            assert licence.note

    def test_overlaps_are_mutual_where_both_datasets_are_shipped(self, manifest):
        for overlap in manifest.overlaps:
            if overlap.dataset in DATASETS:
                back = {o.dataset for o in shipped(overlap.dataset).overlaps}
                assert manifest.id in back, (manifest.id, overlap.dataset)

    def test_storage_has_a_letter_of_each_axis(self, manifest):
        letters = set(manifest.layout.storage.orientation)
        assert all(len(letters & set(axis)) == 1 for axis in ("LR", "AP", "IS"))

    def test_text_is_not_broken_by_folding(self, manifest):
        texts = [q.text for q in manifest.quirks] + [o.text for o in manifest.overlaps] + [manifest.citation]
        assert all("  " not in text and "\n" not in text.strip() for text in texts)

    @pytest.mark.parametrize(
        ("dataset", "scans", "labelled"),
        [
            ("abdomenatlas_11_mini", 5195, 5195),
            ("abdomenct_1k", 1062, 1000),
            ("amos22", 500, 300),
            ("btcv", 50, 30),
            ("ct_org", 140, 140),
            ("kits19", 300, 210),
            ("kits21", 300, 300),
            ("kits23", 489, 489),
            ("lits", 201, 131),
            ("msd03_liver", 201, 131),
            ("msd06_lung", 95, 63),
            ("msd07_pancreas", 420, 281),
            ("msd08_hepaticvessel", 443, 303),
            ("msd09_spleen", 61, 41),
            ("msd10_colon", 190, 126),
            ("totalseg_v2", 1228, 1228),
            ("word", 150, 150),
        ],
    )
    def test_counts(self, dataset, scans, labelled):
        manifest = library.load_manifest(dataset)
        assert (manifest.scans, manifest.labelled) == (scans, labelled)

    @pytest.mark.parametrize(
        ("dataset", "commercial", "redistribution"),
        [
            ("abdomenatlas_11_mini", False, None),
            ("abdomenct_1k", None, None),
            ("amos22", None, True),
            ("btcv", None, None),
            ("ct_org", True, True),
            ("kits23", False, True),
            ("lits", None, None),
            ("msd09_spleen", True, True),
            ("totalseg_v2", True, True),
            ("word", False, None),
        ],
    )
    def test_licences(self, dataset, commercial, redistribution):
        licence = library.load_manifest(dataset).licence
        assert (licence.commercial, licence.redistribution) == (commercial, redistribution)

    @pytest.mark.parametrize(
        ("dataset", "cases", "others"),
        [
            ("msd09_spleen", ["spleen_2", "spleen_10"], ["spleen_", "spleen_2.nii", "._spleen_2", "Spleen_2"]),
            ("kits23", ["case_00000", "case_00588"], ["case_0", "case_000000", "._case_00000"]),
            ("totalseg_v2", ["s0000", "s1428"], ["s00", "meta", "s00000"]),
            ("abdomenatlas_11_mini", ["BDMAP_00000006"], ["BDMAP_6", "._BDMAP_00000006"]),
            ("amos22", ["amos_0001", "amos_0410"], ["amos_0500", "amos_0507", "amos_0600", "amos_5000"]),
            ("btcv", ["0001", "0040"], ["1", "00001"]),
            ("ct_org", ["0", "139"], ["", "a"]),
            ("word", ["word_0014"], ["word_14"]),
            ("abdomenct_1k", ["Case_00001"], ["Case_00001_0000", "Case_1"]),
            ("lits", ["0", "130"], ["test-0", ""]),
        ],
    )
    def test_case_names(self, dataset, cases, others):
        pattern = library.load_manifest(dataset).layout.case
        assert all(re.fullmatch(pattern, case) for case in cases)
        assert not any(re.fullmatch(pattern, case) for case in others)

    def test_lits_with_the_false_affine(self):
        lits = library.load_manifest("lits")
        assert {c for entry in lits.known_bad for c in entry.cases} == {str(i) for i in range(28, 48)}
        assert lits.layout.label_geometry == "image"
        there = {k: v for o in lits.overlaps if o.dataset == "ircadb01" for k, v in o.cases.items()}
        assert len(there) == len(set(there.values())) == 20
        assert (there["28"], there["44"], there["46"], there["48"]) == ("1", "17", "18", "20")
        assert "45" not in there
        assert [o.verified for o in lits.overlaps if o.dataset == "ircadb01"] == [True, False]

    def test_abdomenct_1k_with_the_false_spacing(self):
        manifest = library.load_manifest("abdomenct_1k")
        numbers = [78, 273, *range(275, 279), *range(280, 287), 462, *range(574, 579)]
        assert [c for entry in manifest.known_bad for c in entry.cases] == [f"Case_{n:05d}" for n in numbers]
        assert len(numbers) == 19
        assert "Case_00274" in manifest.unlabelled
        assert len(manifest.unlabelled) == 62

    def test_kits19_test_cases_are_unlabelled(self):
        assert library.load_manifest("kits19").unlabelled == tuple(f"case_{i:05d}" for i in range(210, 300))


GOOD = {"image": "i/{case}.nii.gz", "labels": {"a": "l/{case}.nii.gz"}}


class TestLayout:
    def test_one_pattern_or_many(self):
        one = Layout.model_validate(GOOD)
        many = Layout.model_validate(GOOD | {"image": ["i/{case}.nii.gz"]})
        assert one.image == many.image == ("i/{case}.nii.gz",)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"image": "/i/{case}.nii.gz"}, "must stay below the dataset's folder"),
            ({"image": "../{case}.nii.gz"}, "must stay below"),
            ({"image": "a/../../{case}.nii.gz"}, "must stay below"),
            ({"image": "a\\{case}.nii.gz"}, "must stay below"),
            ({"image": "i/ct.nii.gz"}, r"must say where the \{case\} stands"),
            ({"image": "i/{case}_{phase}.nii.gz"}, r"may name only \{case\} and \{structure\}, not \['phase'\]"),
            ({"labels": {}}, "name the label files"),
            ({"labels": {"a b": "l/{case}.nii.gz"}}, "String should match pattern"),
            ({"masks": "m/{case}.nii.gz"}, r"must say where the \{structure\} stands"),
            ({"case": "("}, "is no regular expression"),
            ({"label_geometry": "both"}, "Input should be"),
            ({"storage": {"orientation": "XYZ"}}, "String should match pattern"),
            ({"storage": {"label_dtype": "bool"}}, "Input should be"),
            ({"reader": "kits"}, "Extra inputs are not permitted"),
        ],
    )
    def test_refused(self, change, says):
        with pytest.raises(ValidationError, match=says):
            Layout.model_validate(GOOD | change)

    @given(st.text(max_size=30))
    def test_accepted_patterns_stay_below_the_folder(self, text):
        try:
            (pattern,) = Layout.model_validate(GOOD | {"image": text}).image
        except ValidationError:
            return
        parts = pattern.replace("{case}", "x").split("/")
        assert ".." not in parts
        assert not pattern.startswith("/")


class TestManifest:
    def test_minimal(self, own):
        own("manifests", "mine", MINIMAL)
        manifest = library.load_manifest("mine")
        assert manifest.layout.labels == {"organs": ("labels/{case}.nii.gz",)}
        assert manifest.known_bad == ()

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("name: Mine", "name: Mine\nhost: x", r"line 3, host: unknown key"),
            ("scans: 2", "scans: 0", r"line 6, scans: .*greater than 0.*got 0"),
            ("scans: 2", "scans: '2'", r"line 6, scans: .*valid integer"),
            ("kind: open", "kind: free", r"access\.kind: .*'open', 'login', 'request' or 'gated'"),
            ("commercial: true", "commercial: 'yes'", r"licence\.commercial: .*boolean"),
            ("commercial: true, ", "", r"line 4, licence\.commercial: Field required"),
            ("citation: none\n", "", r"line 1, citation: Field required"),
            ("id: mine", "id: my-data", r"line 1, id: .*match pattern"),
            ("{case}.nii.gz\n", "ct.nii.gz\n", r"line 9, layout\.image\.0: .*\{case\} stands"),
            ("scans: 2", "scans: 2\npatient: '('", r"line 7, patient: .*regular expression"),
            ("scans: 2", "scans: 2\nknown_bad: [{cases: [0014, 12], reason: x}]", r"known_bad\.0\.cases\.1: .*got 12"),
            ("kind: open", "kind: open, files: [{url: x, md5: abc}]", r"access\.files\.0\.md5: .*match pattern"),
            ("kind: open", "kind: open, files: [{url: x, size: 0}]", r"access\.files\.0\.size: "),
        ],
    )
    def test_refused_with_file_line_and_path(self, own, old, new, says):
        assert old in MINIMAL
        path = own("manifests", "mine", MINIMAL.replace(old, new, 1))
        with pytest.raises(SpecError, match=says) as error:
            library.load_manifest("mine")
        assert str(path) in str(error.value)

    def test_leading_zeros_survive(self, own):
        own("manifests", "mine", MINIMAL + "unlabelled: [0014, '28', case_1]\n")
        assert library.load_manifest("mine").unlabelled == ("0014", "28", "case_1")


def test_the_table_of_datasets_is_sorted():
    assert all(a < b for a, b in pairwise(library.names("manifests")))


REALDATA = Path(__file__).resolve().parents[3] / "shared" / "realdata"


@pytest.mark.realdata
@pytest.mark.skipif(not REALDATA.is_dir(), reason="the real scans are not beside the checkout")
@pytest.mark.parametrize(
    ("dataset", "member"),
    [
        ("kits19", "kits19/data/case_00005/segmentation.nii.gz"),
        ("kits23", "kits23/dataset/case_00402/segmentation.nii.gz"),
        ("amos22", "amos/labelsTr/amos_0001.nii.gz"),
        ("totalseg_v2", "totalsegmentator/example_ct.nii.gz"),
    ],
)
def test_storage_is_that_of_published_files(dataset, member):
    image = nibabel.load(REALDATA / member)
    storage = library.load_manifest(dataset).layout.storage
    assert "".join(nibabel.aff2axcodes(image.affine)) == storage.orientation
    codes = (int(image.header["sform_code"]) > 0, int(image.header["qform_code"]) > 0)
    assert dataset == "totalseg_v2" or codes == {"sform": (True, False), "qform": (False, True)}[storage.affine]
    assert (not image.affine[:3, 3].any()) == storage.zero_origin
