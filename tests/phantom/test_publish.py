"""What the publisher makes of phantoms: unpacked by plain tools, it is the published tree again."""

import hashlib
import io
import json
import tarfile
import zipfile

import py7zr
import pyarrow.parquet as pq
import pydicom
import pytest
import pyzipper

from atlas.errors import SpecError
from atlas.phantom import publish, write_dataset
from atlas.phantom.pack import pack
from atlas.spec import load_manifest

SERVER = "http://127.0.0.1:8000"


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def unzipped(path, into=""):
    with zipfile.ZipFile(path) as archive:
        return {into + name: archive.read(name) for name in archive.namelist()}


def without_junk(members):
    return {k: v for k, v in members.items() if "._" not in k and not k.endswith("readme.txt")}


@pytest.fixture
def published(layouts, tmp_path):
    """Write and publish phantoms of a dataset; the folder of the phantoms, of the site, and what was published."""

    def make(dataset, **options):
        sources, site = tmp_path / "sources", tmp_path / "site"
        write_dataset(dataset, sources, **options)
        made = publish(dataset, sources, site, SERVER)
        (layouts / "manifests" / f"{dataset}.yaml").write_text(made.text)
        assert load_manifest(dataset) == made.manifest, "what is written is what is read"
        return tree(sources / dataset), site, made

    return make


def test_collection_and_archive(published):
    there, site, made = published("series")
    index = pq.read_table(site / "idc_index.parquet").to_pylist()
    assert [row["instanceCount"] for row in index] == [108, 108]
    found = {}
    for row in index:
        assert row["collection_id"] == "made_up_series"
        assert row["analysis_result_id"] is None
        folder = site / "s3" / row["series_aws_url"].removeprefix("s3://").removesuffix("*")
        for path in folder.iterdir():
            one = pydicom.dcmread(path)
            assert one.SeriesInstanceUID == row["SeriesInstanceUID"]
            place = "/".join(row[key] for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
            found[place, one.InstanceNumber] = path.read_bytes()
    images = {name: content for name, content in there.items() if name.endswith(".dcm")}
    assert sorted(found.values()) == sorted(images.values())
    assert {place for place, _ in found} == {name.rpartition("/")[0] for name in images}
    path = site / "series/https/labels.example.org/files/labels.tar.gz"
    with tarfile.open(path) as archive:
        members = {f"labels/{m.name}": archive.extractfile(m).read() for m in archive.getmembers()}
    assert without_junk(members) == {k: v for k, v in there.items() if k not in images}
    assert len(members) == len(without_junk(members)) + 1
    ours = made.manifest.access.files
    assert ours[0].url == "idc://made_up_series?Modality=CT"
    assert ours[1].url == f"{SERVER}/series/https/labels.example.org/files/labels.tar.gz"
    assert ours[1].md5 == hashlib.md5(path.read_bytes()).hexdigest()
    assert ours[1].sha256 is None, "what the publisher does not tell is not told"


def test_labels_alone_leave_the_ct_to_the_lender(published):
    there, site, _ = published("labels_alone")
    members = unzipped(site / "labels_alone/https/labels.example.org/more/labels.zip")
    assert without_junk(members) == {k: v for k, v in there.items() if k.startswith("labels/")}
    assert (site / "labels_alone/https/labels.example.org/more/slices.csv").read_bytes() == there["slices.csv"]


def test_only_part_of_an_archive_is_wanted(published):
    there, site, _ = published("pngs")
    members = unzipped(site / "pngs/https/example.org/Train.zip")
    assert without_junk(members) == there
    assert "readme.txt" in members
    assert any(name.startswith("__MACOSX/") for name in members)


def test_archives_in_an_archive(published):
    there, site, made = published("folders", cases=["1", "2"])
    path = site / "folders/https/example.org/s/x/download"
    members = without_junk(unzipped(path))
    assert sorted(members) == [f"all/n.{n}/{kind}.zip" for n in (1, 2) for kind in ("CT", "MASKS")]
    inner = {}
    for name, content in members.items():
        inner |= unzipped(io.BytesIO(content), name.rpartition("/")[0] + "/")
    assert inner == there
    assert made.manifest.access.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_by_hand(published):
    there, _, made = published("partly", cases=2)
    assert list(made.by_hand) == ["images.7z", "labels.zip"]
    with py7zr.SevenZipFile(made.by_hand["images.7z"]) as archive:
        factory = py7zr.io.BytesIOFactory(10**8)
        archive.extractall(factory=factory)
        members = {f"images/{name}": product.read() for name, product in factory.products.items()}
    with pyzipper.AESZipFile(made.by_hand["labels.zip"]) as archive:
        assert all(entry.flag_bits & 1 for entry in archive.infolist())
        archive.setpassword(b"phantom")
        members |= {name: archive.read(name) for name in archive.namelist()}
    assert without_junk(members) == there
    assert made.manifest.access.files == load_manifest("partly").access.files


def test_files_for_each_case_and_listings(published):
    there, site, made = published("listed", cases=["c3", "c7"], without=[(), {"old"}])
    for case in ("c3", "c7"):
        assert (site / f"hf/datasets/owner/name/ct/{case}.nii.gz").read_bytes() == there[f"ct/{case}.nii.gz"]
    assert tree(site / "s3/bucket") == {k: v for k, v in there.items() if k.startswith("labels/")}
    files = made.manifest.access.files
    assert files[0].each == ("c3", "c7")
    assert [file.url for file in files] == [
        "hf://datasets/owner/name@v1/ct/{case}.nii.gz",
        "s3://bucket/labels/",
    ]


def test_cases_are_dealt_out_to_archives(published):
    there, site, _ = published("parts", cases=["c1", "c2", "c3"])
    members = {}
    for path, cases in ((1, {"c1", "c3"}), (2, {"c2"})):
        with tarfile.open(site / f"hf/datasets/owner/name/part{path}.tar.gz") as archive:
            own = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
        assert {name.partition("/")[0] for name in without_junk(own)} == cases
        members |= without_junk(own)
    assert members == there


def test_nothing_holds_a_file(published, layouts):
    path = layouts / "manifests" / "pngs.yaml"
    path.write_text(path.read_text().replace("Train/CT/**/*", "Train/CT/*/DICOM/*"))
    with pytest.raises(SpecError, match=r"pngs: Train/CT/\d+/Ground/liver_000.png is in none of the files"):
        published("pngs", cases=1)


def test_same_bytes(layouts, tmp_path):
    for dataset in ("series", "folders", "pngs"):
        write_dataset(dataset, tmp_path / "sources", cases=1)
        for attempt in ("a", "b"):
            publish(dataset, tmp_path / "sources", tmp_path / attempt, SERVER)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz", "7z"])
def test_archives_repeat(kind):
    members = {"b/ä.txt": b"x" * 1000, "a": b""}
    assert pack(f"x.{kind}", members) == pack(f"x.{kind}", members)


def test_no_such_archive():
    with pytest.raises(SpecError, match=r"x\.rar: phantoms are packed as"):
        pack("x.rar", {})
    with pytest.raises(SpecError, match=r"with a password as \.zip only"):
        pack("x.tar", {}, "secret")


def test_text_is_json(published):
    _, _, made = published("parts", cases=1)
    assert json.loads(made.text)["layout"]["case"] == r"c\d"
