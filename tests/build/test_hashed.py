"""The identity of a case's inputs."""

import hashlib

from atlas.build.context import hashed
from atlas.ingest.cases import CaseFiles


def sha(content):
    return hashlib.sha256(content).hexdigest()


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_files_and_folders(tmp_path):
    write(tmp_path / "toy", seg=b"labels", ct__b=b"two", ct__a__x=b"one", ct__i2=b"", ct__i10=b"three")
    (tmp_path / "toy/ct/.DS_Store").write_bytes(b"junk")
    (tmp_path / "toy/ct/i3.part").write_bytes(b"unfinished")
    folder, file = hashed(CaseFiles("1", image="ct/", labels={"s": "seg"}), tmp_path / "toy")
    lines = f"a/x {sha(b'one')}\nb {sha(b'two')}\ni10 {sha(b'three')}\ni2 {sha(b'')}\n"
    assert (folder.path, folder.bytes, folder.sha256) == ("ct/", 11, sha(lines.encode()))
    assert (file.path, file.bytes, file.sha256) == ("seg", 6, sha(b"labels"))


def test_a_study_and_the_ct_of_another_dataset(tmp_path):
    write(tmp_path / "toy", p1__i1=b"one")
    write(tmp_path / "other", ct=b"ct")
    (study,) = hashed(CaseFiles("p1", study="p1/"), tmp_path / "toy")
    assert (study.path, study.bytes) == ("p1/", 3)
    (shared,) = hashed(CaseFiles("p1", image="../other/ct"), tmp_path / "toy")
    assert (shared.path, shared.sha256) == ("../other/ct", sha(b"ct"))


def test_any_change_shows(tmp_path):
    case = CaseFiles("1", image="ct/")
    seen = set()
    for files in ({"ct__a": b"1"}, {"ct__a": b"2"}, {"ct__b": b"2"}, {"ct__a": b"1", "ct__b": b"2"}):
        folder = tmp_path / str(len(seen))
        write(folder, **files)
        seen.add(hashed(case, folder)[0].sha256)
    assert len(seen) == 4
