import re
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import nibabel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas.errors import SpecError
from atlas.fetch.sources.idc import series
from atlas.ingest.cases import case_of, find_cases
from atlas.spec import library
from atlas.spec.files import Layout
from atlas.spec.patterns import matcher

DATASETS = (
    *(
        "abdomenatlas_10_mini",
        "abdomenatlas_11_mini",
        "abdomenct_12organ",
        "abdomenct_1k",
        "amos22",
        "btcv",
        "chaos_ct",
    ),
    *("crlm", "ct_org", "flare22", "flare23", "gibson_multiorgan_btcv", "gibson_multiorgan_tcia", "hcc_tace_seg"),
    *("ircadb01", "kits19", "kits21", "kits23", "lits", "msd03_liver", "msd06_lung", "msd07_pancreas"),
    *("msd08_hepaticvessel", "msd09_spleen", "msd10_colon", "pancreas_ct", "pediatric_ct_seg", "totalseg_v1"),
    *("totalseg_v2", "word"),
)

# What is downloaded, with the checksum that a publisher or a public loader states (md5 has 32 letters, sha256 64).
CHECKSUMS = {
    "abdomenct_12organ": {
        "FLARE22Train.zip": "d57e201dc9002bd4a6fc1f5e0d4525285f46bcc5be1a3c8f12543151e6675154",
    },
    "abdomenct_1k": {
        "AbdomenCT-1K-ImagePart1.zip": "3d0d8edd2a8777f8807c6715f633e2fea104f16a8514572664021ed88f97cd03",
        "AbdomenCT-1K-ImagePart2.zip": "3178bd3021dfed0440c4dc269b7f3125b27b60aec96e81b210d7c4c55d0fe894",
        "AbdomenCT-1K-ImagePart3.zip": "76bf789589a13ca1aef9b9c8b771f05c165e6d2013284bbfdb4c4656d4931c30",
        "Mask.7z": "cefa7cab51fb0781876550b032278ca6a1ed2a8c776c8567410ea2b2a6984e50",
    },
    "amos22": {"amos22.zip": "d2fbf2c31abba9824d183f05741ce187b17905b8cca64d1078eabf1ba96775c2"},
    "chaos_ct": {
        "CHAOS_Train_Sets.zip": "535f7d3417a0e0f0d9133fb3d962423d2a9cf3f103e4f09a3d8a1daf87d5d2fc",
    },
    "gibson_multiorgan_btcv": {
        "label_btcv_multiorgan.tar.gz": "bb080c7de1094cc0ee46a5e1bef5b66e635075f8e9a3080ca681086cd2723998",
        "cropping.csv": "d6503bda3d776c10698523aae14446409bc9d3722fb405b0025b4a5f59094f8f",
    },
    "gibson_multiorgan_tcia": {
        "label_tciapancreasct_multiorgan.tar.gz": "1790e252ba0732cc06ec727f00245c8d9c1d5f0bb9829fd3e9915863c5100c61",
        "cropping.csv": "d6503bda3d776c10698523aae14446409bc9d3722fb405b0025b4a5f59094f8f",
    },
    "msd03_liver": {"Task03_Liver.tar": "4007d9db1acda850d57a6ceb2b3998b7a0d43f8ad5a3f740dc38bc0cb8b7a2c5"},
    "msd06_lung": {"Task06_Lung.tar": "f782cd09da9cf7a3128475d4a53650d371db10f0427aa76e166fccfcb2654161"},
    "msd07_pancreas": {"Task07_Pancreas.tar": "e40181a0229ca85c2588d6ebb90fa6674f84eb1e66f0f968cda088d011769732"},
    "msd08_hepaticvessel": {
        "Task08_HepaticVessel.tar": "ee880799f12e3b6e1ef2f8645f6626c5b39de77a4f1eae6f496c25fbf306ba04",
    },
    "msd09_spleen": {"Task09_Spleen.tar": "dfeba347daae4fb08c38f4d243ab606b28b91b206ffc445ec55c35489fa65e60"},
    "msd10_colon": {"Task10_Colon.tar": "a26bfd23faf2de703f5a51a262cd4e2b9774c47e7fb86f0e0a854f8446ec2325"},
    "pancreas_ct": {
        "TCIA_pancreas_labels-02-05-2017-1.zip": "cf8a553c37c80e3840ce7392987b308f7a98cd5f50019511b2ac0f3a54b0934b",
    },
    "totalseg_v1": {"Totalsegmentator_dataset.zip": "f0fbb3f91d9d99f2169863545f577b30"},
    "totalseg_v2": {
        "Totalsegmentator_dataset_v201.zip": "741dbc911a768e2ac2671c66d55332f7302ad624c915a57d08b142d8bdf0ca26",
    },
    "word": {
        "WORD-V0.1.0.zip": "1ef1e48f8b41d72d733c5cdd91e1238d9b345d88c0de0c902e356310901f3115",
        "WORD_V0.1.0_labelsTs.zip": "0552b1e208a8a5345a1c12003d4f1d010621c6ef65bdd62bff85a32b2976a46d",
    },
}

MD5 = {
    "chaos_ct": "df21053002a1cc86df918a87da3b2c19",
    "msd03_liver": "a90ec6c4aa7f6a3d087205e23d4e6397",
    "msd06_lung": "8afd997733c7fc0432f71255ba4e52dc",
    "msd07_pancreas": "4f7080cfca169fa8066d17ce6eb061e4",
    "msd08_hepaticvessel": "641d79e80ec66453921d997fbf12a29c",
    "msd09_spleen": "410d4a301da4e5b2f6f86ec3ddba524e",
    "msd10_colon": "bad7a188931dc2f6acf72b08eb6202d0",
    "totalseg_v1": "f0fbb3f91d9d99f2169863545f577b30",
    "totalseg_v2": "fe250e5718e0a3b5df4c4ea9d58a62fe",
    "word": "71986377f1fef4ed45d0b46804c88c81",
}

# How a person gets to the data, and from which servers atlas does.
ACCESS = {
    "abdomenatlas_10_mini": ("gated", {"hf"}),
    "abdomenatlas_11_mini": ("gated", {"hf"}),
    "abdomenct_12organ": ("open", {"zenodo.org"}),
    "abdomenct_1k": ("open", {"zenodo.org"}),
    "amos22": ("open", {"zenodo.org"}),
    "btcv": ("login", {"synapse"}),
    "chaos_ct": ("open", {"zenodo.org"}),
    "crlm": ("open", {"idc"}),
    "ct_org": ("open", {"hf"}),
    "flare22": ("gated", set()),
    "flare23": ("gated", set()),
    "gibson_multiorgan_btcv": ("open", {"zenodo.org"}),
    "gibson_multiorgan_tcia": ("open", {"zenodo.org"}),
    "hcc_tace_seg": ("open", {"idc"}),
    "ircadb01": ("open", {"cloud.ircad.fr"}),
    "kits19": ("open", {"hf", "raw.githubusercontent.com"}),
    "kits21": ("open", {"hf", "raw.githubusercontent.com"}),
    "kits23": ("open", {"hf", "raw.githubusercontent.com"}),
    "lits": ("login", set()),
    **{
        f"msd{task}": ("open", {"msd-for-monai.s3-us-west-2.amazonaws.com"})
        for task in ("03_liver", "06_lung", "07_pancreas", "08_hepaticvessel", "09_spleen", "10_colon")
    },
    "pancreas_ct": ("open", {"idc", "www.cancerimagingarchive.net"}),
    "pediatric_ct_seg": ("open", {"idc"}),
    "totalseg_v1": ("open", {"zenodo.org"}),
    "totalseg_v2": ("open", {"zenodo.org"}),
    "word": ("open", {"gdrive", "github.com"}),
}

# Members of the archives as published, which of them are unpacked, and which stay in.
MEMBERS = {
    "amos22": (
        "amos22/imagesTr/amos_0001.nii.gz amos22/labelsVa/amos_0409.nii.gz amos22/dataset.json",
        "amos22/imagesTs/amos_0200.nii.gz amos22/imagesTr/amos_0507.nii.gz amos22/labelsVa/amos_0600.nii.gz",
    ),
    "btcv": (
        "RawData/Training/img/img0001.nii.gz RawData/Training/label/label0040.nii.gz "
        "RawData/Testing/img/img0061.nii.gz",
        "RawData/readme.txt",
    ),
    "chaos_ct": (
        "Train_Sets/CT/1/DICOM_anon/a.dcm Train_Sets/CT/30/Ground/liver_GT_000.png",
        "Train_Sets/MR/1/T2SPIR/DICOM_anon/a.dcm Train_Sets/MR/1/T2SPIR/Ground/a.png",
    ),
    "ircadb01": (
        "3Dircadb1.1/PATIENT_DICOM.zip 3Dircadb1/3Dircadb1.1/MASKS_DICOM.zip 3Dircadb1.20/PATIENT_DICOM/image_0 "
        "3Dircadb1.1/MASKS_DICOM/liver/image_10",
        "3Dircadb1.1/LABELLED_DICOM.zip 3Dircadb1.1/MESHES_VTK.zip",
    ),
    "lits": (
        "media/nas/01_Datasets/CT/LITS/Training_Batch/volume-0.nii media/nas/segmentation-130.nii",
        "media/nas/test-volume-0.nii",
    ),
    "msd09_spleen": (
        "Task09_Spleen/dataset.json Task09_Spleen/imagesTr/spleen_2.nii.gz Task09_Spleen/labelsTr/spleen_2.nii.gz",
        "Task09_Spleen/imagesTs/spleen_1.nii.gz Task09_Spleen/imagesTr/._spleen_2.nii.gz",
    ),
    "totalseg_v2": ("s0000/ct.nii.gz s0000/segmentations/liver.nii.gz", "meta.csv"),
    "word": (
        "WORD-V0.1.0/imagesTs/word_0014.nii.gz WORD-V0.1.0/labelsVal/word_0001.nii.gz labelsTs/word_0014.nii.gz",
        "WORD-V0.1.0/README.md",
    ),
}

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

    def test_first_patterns_are_concrete_but_for_unique_identifiers(self, manifest):
        for patterns in (manifest.layout.image, *manifest.layout.labels.values(), manifest.layout.masks):
            for pattern in patterns[:1]:
                assert "*" not in pattern or pattern == "Pancreas-CT/PANCREAS_{case}/*/*/"

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

    def test_checksums(self, manifest):
        stated = {f.target: f.sha256 or f.md5 for f in manifest.access.files if f.sha256 or f.md5}
        assert stated == CHECKSUMS.get(manifest.id, {})
        assert {f.md5 for f in manifest.access.files} - {None} == {MD5.get(manifest.id)} - {None}

    def test_servers(self, manifest):
        parts = [urlsplit(f.url) for f in manifest.access.files if f.url]
        servers = {p.netloc if p.scheme == "https" else p.scheme for p in parts}
        assert (manifest.access.kind, servers) == ACCESS[manifest.id]

    def test_who_has_to_do_something_is_told_so(self, manifest):
        by_hand = any(f.url is None for f in manifest.access.files)
        if manifest.access.kind != "open" or by_hand or any(f.encrypted for f in manifest.access.files):
            assert manifest.access.steps
        variables = {"hf": "HF_TOKEN", "synapse": "SYNAPSE_AUTH_TOKEN"}
        for f in manifest.access.files:
            variable = variables.get(urlsplit(f.url or "").scheme)
            if variable and manifest.access.kind != "open":
                assert any(variable in step for step in manifest.access.steps)

    def test_every_file_is_an_address_of_data_not_a_page(self, manifest):
        assert manifest.access.files
        for f in manifest.access.files:
            name = PurePosixPath(f.target).name
            assert f.many or re.search(r"\.(zip|tar|tar\.gz|7z|nii\.gz|csv)$", name), f.url

    def test_what_is_not_in_an_archive_comes_to_a_place_of_the_layout(self, manifest):
        layout = manifest.layout
        places = (*layout.image, *(p for ps in layout.labels.values() for p in ps), *layout.masks)
        known = [f"(?:{layout.case})".join(re.escape(part) for part in p.split("{case}")) for p in places]
        for f in manifest.access.files:
            for case in f.cases:
                path = f.target.replace("{case}", case)
                assert any(re.fullmatch(pattern, path) for pattern in known), path
        assert layout.regions is None or layout.regions.file in {f.target for f in manifest.access.files}

    @pytest.mark.parametrize("dataset", MEMBERS)
    def test_what_comes_out_of_an_archive(self, dataset):
        files = shipped(dataset).access.files
        wanted = matcher(pattern for f in files for pattern in (*f.holds, *f.nested))
        out, stays = (text.split() for text in MEMBERS[dataset])
        assert [m for m in out if not wanted(m)] == []
        assert [m for m in stays if wanted(m)] == []

    def test_one_file_a_case_is_there_for_every_labelled_case(self, manifest):
        for f in manifest.access.files:
            if f.each:
                assert len(set(f.cases)) == len(f.cases) == manifest.labelled

    def test_images_of_another_dataset(self):
        tcia, btcv = shipped("gibson_multiorgan_tcia"), shipped("gibson_multiorgan_btcv")
        assert (tcia.layout.image_of, btcv.layout.image_of) == ("pancreas_ct", "btcv")
        assert tcia.layout.image == shipped("pancreas_ct").layout.image
        assert btcv.layout.image[0] == shipped("btcv").layout.image[0]
        for manifest, rows in ((tcia, (0, 43)), (btcv, (43, 90))):
            regions = manifest.layout.regions
            assert (regions.file, regions.rows, regions.case, regions.slices) == ("cropping.csv", rows, 2, (7, 8))
            assert any("cropping.csv" in q.text and not q.verified for q in manifest.quirks)
        shared = [*range(2, 15), *range(16, 23), 24, *range(26, 36), *range(38, 49)]  # and 0025, which was withdrawn
        assert len(shared) + 1 == tcia.labelled
        assert {o.dataset: list(o.cases) for o in tcia.overlaps} == {"pancreas_ct": [f"{n:04d}" for n in shared]}
        training = [*range(1, 11), *range(21, 41)]
        assert {o.dataset: list(o.cases) for o in btcv.overlaps} == {"btcv": [f"{n:04d}" for n in training]}

    def test_pinned_revisions(self):
        urls = {dataset: [f.url for f in shipped(dataset).access.files] for dataset in ("kits19", "kits21", "kits23")}
        assert all("@65f1f295873a326230153c7e1de0c7dba10f0b29/" in images for images, _ in urls.values())
        assert "/c1088353084c17b8882a11db71429e7c022b7785/" in urls["kits23"][1]

    @pytest.mark.parametrize(
        ("dataset", "scans", "labelled"),
        [
            ("abdomenatlas_10_mini", 5195, 5195),
            ("abdomenct_12organ", 50, 50),
            ("chaos_ct", 20, 20),
            ("crlm", 197, 197),
            ("flare22", 50, 50),
            ("flare23", 2200, 2200),
            ("gibson_multiorgan_btcv", 47, 47),
            ("gibson_multiorgan_tcia", 43, 43),
            ("hcc_tace_seg", 105, 105),
            ("ircadb01", 20, 20),
            ("pancreas_ct", 80, 80),
            ("pediatric_ct_seg", 359, 359),
            ("totalseg_v1", 1204, 1204),
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
            ("abdomenct_12organ", None, None),
            ("abdomenct_1k", None, None),
            ("amos22", None, True),
            ("btcv", None, None),
            ("ct_org", True, True),
            ("kits23", False, True),
            ("lits", None, None),
            ("msd09_spleen", True, True),
            ("totalseg_v2", True, True),
            ("word", False, None),
            ("chaos_ct", None, True),
            ("crlm", True, True),
            ("flare22", None, None),
            ("flare23", False, False),
            ("gibson_multiorgan_btcv", None, None),
            ("ircadb01", None, None),
            ("pancreas_ct", True, True),
            ("pediatric_ct_seg", True, True),
            ("totalseg_v1", True, True),
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
            ("pancreas_ct", ["0001", "0082"], ["1", "PANCREAS_0001"]),
            ("abdomenct_12organ", ["0001"], ["FLARE22_Tr_0001", "1"]),
            ("flare22", ["FLARE22_Tr_0001"], ["FLARE22_Tr_0001_0000", "Case_00001"]),
            ("flare23", ["FLARE23_0001", "FLARE23_2200"], ["FLARE23_0001_0000", "FLARE23_1"]),
            ("chaos_ct", ["1", "30"], ["DICOM_anon", ""]),
            ("ircadb01", ["1", "20"], ["3Dircadb1.1", ""]),
            ("hcc_tace_seg", ["HCC_001", "HCC_105"], ["HCC_1", "HCC-TACE-Seg"]),
            ("crlm", ["CRLM-CT-1001"], ["CRLM-CT-1", "CRLM"]),
            (
                "pediatric_ct_seg",
                ["Pediatric-CT-SEG-00DCF4D6", "Pediatric-CT-SEG-354"],
                ["Pediatric-CT-SEG", "Pediatric-CT-SEG-00dcf4d6", "Pediatric-CT-SEG-35"],
            ),
            ("totalseg_v1", ["s0864"], ["s864", "meta"]),
        ],
    )
    def test_case_names(self, dataset, cases, others):
        pattern = library.load_manifest(dataset).layout.case
        assert all(re.fullmatch(pattern, case) for case in cases)
        assert not any(re.fullmatch(pattern, case) for case in others)

    @pytest.mark.parametrize("dataset", ["crlm", "hcc_tace_seg", "pancreas_ct", "pediatric_ct_seg"])
    def test_no_patient_of_the_collection_is_missed(self, dataset):
        """What is fetched lies where the layout looks, for every patient in the index of the publisher's archive."""
        pytest.importorskip("idc_index_data")
        manifest = library.load_manifest(dataset)
        file = manifest.access.files[0]
        folders = {one.folder(file.to, file.url) for one in series(file.url)}
        assert len(folders) >= manifest.scans
        cases = {case_of(manifest.layout, f"{folder}/x.dcm") for folder in folders}
        assert None not in cases
        assert len(cases) == manifest.scans
        assert not cases & {case for bad in manifest.known_bad for case in bad.cases}

    def test_masks_with_and_without_a_folder_in_the_archive(self, tmp_path):
        """A public loader unpacks Mask.7z into a folder of that name, so the archive has none; it may have."""
        manifest = library.load_manifest("abdomenct_1k")
        (masks,) = (f for f in manifest.access.files if f.target.endswith(".7z"))
        for inside in ("Case_00001.nii.gz", "Mask/Case_00001.nii.gz"):
            place = f"{masks.into}/{inside}"
            assert case_of(manifest.layout, place) == "Case_00001"
            assert matcher(masks.holds)(place)

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
            ({"study": "s/{case}/"}, "say where the CT lies .image., or which folder holds the whole case"),
            ({"image": ()}, "say where the CT lies"),
            ({"image": (), "study": "s/{case}/"}, "a study holds its labels"),
            ({"image": (), "labels": {}, "study": "s/{case}"}, "must be a folder"),
            ({"image": (), "labels": {}, "study": "s/"}, r"must say where the \{case\} stands"),
            ({"regions": {"file": "../t.csv", "case": 0, "slices": [1, 2]}}, "must stay below"),
            ({"regions": {"file": "t.csv", "case": -1, "slices": [1, 2]}}, "greater than or equal to 0"),
            ({"regions": {"file": "t.csv", "case": 0, "slices": [1]}}, "Field required"),
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


class TestAlternatives:
    @pytest.fixture
    def problems(self, tmp_path):
        """Make empty files, and say what is wrong with each case."""

        def find(*paths):
            for path in paths:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).touch()
            found = find_cases(shipped("abdomenct_12organ"), tmp_path)
            return {case.source_case: (set(case.labels), case.problem) for case in found}

        return find

    def test_either_release(self, problems):
        new = ("FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz", "FLARE22Train/labels/FLARE22_Tr_0001.nii.gz")
        old = ("images/Organ12_0002_0000.nii.gz", "labels/Organ12_0002.nii.gz")
        assert problems(*new, *old) == {"0001": ({"flare22"}, None), "0002": ({"organ12"}, None)}

    def test_both_of_one_number_or_none(self, problems):
        found = problems(
            "FLARE22Train/images/FLARE22_Tr_0001_0000.nii.gz",
            "FLARE22Train/labels/FLARE22_Tr_0001.nii.gz",
            "labels/Organ12_0001.nii.gz",
            "FLARE22Train/images/FLARE22_Tr_0002_0000.nii.gz",
        )
        assert found["0001"][1].startswith("labels of several releases: FLARE22Train/")
        assert found["0002"][1].startswith("no label file")


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
            (
                "kind: open",
                "kind: open, files: [{url: 'ftp://x.org/a.zip'}]",
                r"access\.files\.0: ftp://x.org/a.zip: starts with none of https://",
            ),
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
