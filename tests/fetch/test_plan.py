"""What a dataset still needs, given what lies in its folder."""

import hashlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import FetchError
from atlas.fetch.http import transfer
from atlas.fetch.plan import Plan, plan
from atlas.fetch.space import check_space, free_at, needed
from atlas.fetch.unpack import unpack
from atlas.spec import Manifest

SECRET = "s3cr3t-t0ken"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "SYNAPSE_AUTH_TOKEN", "ATLAS_SYNAPSE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "toy"


def manifest(*files, kind="open", steps=(), layout=None):
    return Manifest.model_validate(
        {
            "id": "toy",
            "name": "Toy",
            "citation": "none",
            "licence": {"id": "CC0-1.0", "commercial": True, "redistribution": True},
            "access": {"kind": kind, "steps": list(steps), "files": list(files)},
            "scans": 1,
            "labelled": 1,
            "layout": layout or {"image": "ct/{case}.nii", "labels": {"all": "seg/{case}.nii"}},
        }
    )


def names(found):
    """State -> targets."""
    return {
        state: [file.target for file in getattr(found, state)]
        for state in ("todo", "done", "placed", "by_hand")
        if getattr(found, state)
    }


def put(folder, path, content=b"x"):
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".nii", content)
    return file.getvalue()


def obtain(made, folder, mirror):
    """Do what the plan says, from a folder of copies."""
    for download in plan(made, folder).todo:
        transfer(download, folder, mirror=str(mirror))
        if download.archive:
            unpack(download, folder)


# --- files


def test_nothing_there(folder):
    made = manifest({"url": "https://a.org/a.nii", "size": 7}, {"url": "https://a.org/b.zip", "size": 5})
    found = plan(made, folder)
    assert names(found) == {"todo": ["a.nii", "b.zip"]}
    assert (found.dataset, found.licence.id) == ("toy", "CC0-1.0")
    assert (found.bytes_to_fetch, found.bytes_to_unpack, found.unknown_sizes) == (12, 5, 0)
    assert not folder.exists()


def test_fetched_files_are_done(folder, tmp_path):
    put(tmp_path / "copies/toy", "a.nii", b"content")
    made = manifest({"url": "https://a.org/a.nii"})
    obtain(made, folder, tmp_path / "copies")
    assert names(plan(made, folder)) == {"done": ["a.nii"]}


def test_what_is_there_unverified_is_to_be_verified(folder):
    put(folder, "a.nii")
    found = plan(manifest({"url": "https://a.org/a.nii", "size": 1000}), folder)
    assert names(found) == {"todo": ["a.nii"]}
    assert found.bytes_to_fetch == 0


def test_other_checksum_than_recorded(folder, tmp_path):
    """The publisher replaced the file, and the manifest says so now."""
    put(tmp_path / "copies/toy", "a.nii", b"content")
    obtain(manifest({"url": "https://a.org/a.nii"}), folder, tmp_path / "copies")
    assert names(plan(manifest({"url": "https://a.org/a.nii", "sha256": "0" * 64}), folder)) == {"todo": ["a.nii"]}


def test_part_of_a_file(folder):
    put(folder, "a.nii.part", b"x" * 30)
    found = plan(manifest({"url": "https://a.org/a.nii", "size": 100}, {"url": "https://a.org/b.nii"}), folder)
    assert (found.bytes_to_fetch, found.unknown_sizes) == (70, 1)


# --- archives


@pytest.mark.parametrize("keep", [True, False])
def test_unpacked_archive_may_go(folder, tmp_path, keep):
    put(tmp_path / "copies/toy", "a.zip", zipped(ct__c1=b"1", seg__c1=b"2"))
    made = manifest({"url": "https://a.org/a.zip"})
    obtain(made, folder, tmp_path / "copies")
    if not keep:
        (folder / "a.zip").unlink()
    assert names(plan(made, folder)) == {"done": ["a.zip"]}


def test_fetched_and_not_unpacked(folder, tmp_path):
    content = zipped(ct__c1=b"1")
    put(tmp_path / "copies/toy", "a.zip", content)
    made = manifest({"url": "https://a.org/a.zip"})
    [download] = plan(made, folder).todo
    transfer(download, folder, mirror=str(tmp_path / "copies"))
    found = plan(made, folder)
    assert names(found) == {"todo": ["a.zip"]}
    assert (found.bytes_to_fetch, found.bytes_to_unpack) == (0, len(content))


def test_contents_that_a_person_put_there(folder):
    file = {"url": "https://a.org/a.zip", "size": 10, "holds": ["ct/**/*.nii", "seg/*.nii"]}
    other = {"url": "https://a.org/b.zip", "size": 10, "holds": ["extra/*.nii"]}
    put(folder, "ct/deep/c1.nii")
    found = plan(manifest(file, other), folder)
    assert names(found) == {"placed": ["a.zip"], "todo": ["b.zip"]}
    assert found.bytes_to_fetch == 10


def test_without_holds_the_layout_tells(folder):
    """Only where all that the layout reads comes out of one archive."""
    put(folder, "ct/c1.nii")
    one = {"url": "https://a.org/a.zip"}
    assert names(plan(manifest(one), folder)) == {"placed": ["a.zip"]}
    assert names(plan(manifest(one, {"url": "https://a.org/b.zip"}), folder)) == {"todo": ["a.zip", "b.zip"]}


@pytest.mark.parametrize("path", ["notes.txt", ".cache/ct/c1.nii", "ct/c1.nii.part", "ct/sub/c1.nii", "ct/.c1.nii"])
def test_what_is_no_content(folder, path):
    put(folder, path)
    made = manifest({"url": "https://a.org/a.zip", "holds": ["ct/*.nii", "ct/*.part"]})
    assert names(plan(made, folder)) == {"todo": ["a.zip"]}


def test_folders_of_slices_that_a_person_put_there(folder):
    put(folder, "dicom/c1/study/1.dcm")
    made = manifest({"url": "https://a.org/a.zip"}, layout={"study": "dicom/{case}/"})
    assert names(plan(made, folder)) == {"placed": ["a.zip"]}


def test_one_archive_unpacked_is_not_the_other_put_there(folder, tmp_path):
    """Archives in parts hold the same kind of files: what came out of the first says nothing about the second."""
    put(tmp_path / "copies/toy", "a1.zip", zipped(ct__c1=b"1"))
    holds = {"holds": ["ct/*.nii"]}
    both = manifest({"url": "https://a.org/a1.zip", **holds}, {"url": "https://a.org/a2.zip", **holds})
    obtain(manifest({"url": "https://a.org/a1.zip", **holds}), folder, tmp_path / "copies")
    assert names(plan(both, folder)) == {"done": ["a1.zip"], "todo": ["a2.zip"]}
    (folder / "a1.zip").unlink()
    assert names(plan(both, folder)) == {"done": ["a1.zip"], "todo": ["a2.zip"]}


def test_interrupted_archive_is_not_put_there(folder, tmp_path):
    """Some of it unpacked, then killed: the record says that it is ours."""
    put(tmp_path / "copies/toy", "a.zip", zipped(ct__c1=b"1"))
    made = manifest({"url": "https://a.org/a.zip", "holds": ["ct/*.nii"]})
    [download] = plan(made, folder).todo
    transfer(download, folder, mirror=str(tmp_path / "copies"))
    put(folder, "ct/c1.nii")
    assert names(plan(made, folder)) == {"todo": ["a.zip"]}
    (folder / "a.zip").unlink()
    assert names(plan(made, folder)) == {"todo": ["a.zip"]}


def test_files_of_their_own_are_not_contents(folder):
    """Volumes that are downloads themselves do not make an archive superfluous."""
    put(folder, "ct/c1.nii")
    files = (
        {"url": "https://a.org/{case}.nii", "to": "ct/{case}.nii", "each": ["c1..c2"]},
        {"url": "https://a.org/a.zip", "holds": ["**/*.nii"]},
    )
    assert names(plan(manifest(*files), folder)) == {"todo": ["ct/c1.nii", "ct/c2.nii", "a.zip"]}


def test_archives_of_single_cases(folder):
    put(folder, "ct/c1/x.nii")
    file = {"url": "https://a.org/{case}.zip", "holds": ["ct/{case}/*.nii"], "each": ["c1..c2"]}
    assert names(plan(manifest(file), folder)) == {"placed": ["c1.zip"], "todo": ["c2.zip"]}


def test_two_entries_in_one_place(folder):
    with pytest.raises(FetchError, match=r"both .* would be x\.zip"):
        plan(manifest({"url": "https://a.org/x.zip"}, {"url": "https://b.org/x.zip"}), folder)


# --- what a person has to do


def test_files_that_nobody_serves(folder, tmp_path):
    steps = ("Register.", "Download.")
    content = zipped(ct__c1=b"1")
    made = manifest(
        {"to": "a.zip", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        {"to": "b/{case}.nii", "each": ["c1..c2"]},
        kind="gated",
        steps=steps,
    )
    found = plan(made, folder)
    assert names(found) == {"by_hand": ["a.zip", "b/{case}.nii"]}
    assert (found.steps, found.bytes_to_fetch) == (steps, 0)
    put(folder, "a.zip", content)
    put(folder, "b/c1.nii")
    found = plan(made, folder)
    assert names(found) == {"todo": ["a.zip", "b/c1.nii"], "by_hand": ["b/{case}.nii"]}
    assert {d.url for d in found.todo} == {""}
    for download in found.todo:
        transfer(download, folder)
    unpack(found.todo[0], folder)
    assert names(plan(made, folder)) == {"done": ["a.zip", "b/c1.nii"], "by_hand": ["b/{case}.nii"]}


def test_unpacked_by_a_person(folder):
    put(folder, "ct/c1.nii")
    made = manifest({"to": "a.zip", "holds": ["ct/*"]}, {"to": "b.zip", "holds": ["seg/*"]}, kind="gated")
    assert names(plan(made, folder)) == {"placed": ["a.zip"], "by_hand": ["b.zip"]}


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("synapse://syn1/a.zip", "SYNAPSE_AUTH_TOKEN"),
        ("hf://datasets/o/n/a.zip", "HF_TOKEN"),
        ("hf://datasets/o/n/dir/*.zip", "HF_TOKEN"),
    ],
)
def test_token_that_is_not_set(folder, url, token):
    """Nothing fails; the person can make a token, or put the file there."""
    made = manifest({"url": url}, {"url": "https://a.org/x.nii"}, kind="login", steps=["Register."])
    found = plan(made, folder)
    assert [file.url for file in found.by_hand] == [url]
    assert [d.target for d in found.todo] == ["x.nii"]
    assert found.steps[0] == "Register."
    assert token in found.steps[1]


def test_put_there_instead_of_a_token(folder):
    made = manifest({"url": "synapse://syn1/a.zip"}, kind="login")
    put(folder, "a.zip")
    assert names(plan(made, folder)) == {"todo": ["a.zip"]}


def test_unpacked_instead_of_a_token(folder):
    made = manifest({"url": "hf://datasets/o/n/*.zip", "holds": ["ct/*"]}, kind="gated")
    assert names(plan(made, folder)) == {"by_hand": [""]}
    put(folder, "ct/c1.nii")
    found = plan(made, folder)
    assert [d.url for d in found.placed] == ["hf://datasets/o/n/*.zip"]
    assert not found.by_hand


def test_terms_not_accepted(folder, httpserver, monkeypatch):
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("ATLAS_SYNAPSE_ENDPOINT", httpserver.url_for("/"))
    httpserver.expect_request("/repo/v1/entity/syn1/filehandles").respond_with_json({"reason": "unmet"}, status=403)
    made = manifest({"url": "synapse://syn1", "to": "a.zip"}, kind="login", steps=["Register."])
    found = plan(made, folder)
    assert names(found) == {"by_hand": ["a.zip"]}
    assert "unmet" in found.steps[1]
    assert SECRET not in repr(found)


def test_no_token_in_a_plan(folder, monkeypatch):
    """Plans go to workers and into logs."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    found = plan(manifest({"url": "hf://datasets/o/n/a.zip"}, kind="gated"), folder)
    assert names(found) == {"todo": ["a.zip"]}
    assert SECRET not in repr(found)


# --- space


def planned(fetch, contents):
    licence = manifest({"to": "x"}).licence
    return Plan("toy", licence, bytes_to_fetch=fetch, bytes_to_unpack=contents)


@given(st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 10**13)), max_size=4), st.integers(0, 10**14))
def test_space_of_archives_and_contents(tmp_path_factory, sizes, free):
    plans = [planned(*pair) for pair in sizes]
    want = sum(map(sum, sizes))
    assert needed(plans) == want
    if want <= free:
        check_space(plans, tmp_path_factory.getbasetemp(), free)
    else:
        with pytest.raises(FetchError):
            check_space(plans, tmp_path_factory.getbasetemp(), free)


def test_both_numbers_are_named(tmp_path):
    with pytest.raises(FetchError, match=r"need 30\.0 GB, and 20\.5 GB are free"):
        check_space([planned(10**10, 10**10), planned(10**10, 0)], tmp_path, 20_500_000_000)


def test_space_of_a_folder_that_is_to_be_made(tmp_path):
    assert free_at(tmp_path / "not" / "yet") > 0
    check_space([planned(1, 0)], tmp_path / "not" / "yet")
    with pytest.raises(FetchError, match="not/yet"):
        check_space([planned(10**18, 0)], tmp_path / "not" / "yet")
