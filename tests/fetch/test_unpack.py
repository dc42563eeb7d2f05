"""Archives come out whole and nowhere but in their folder, whatever happens on the way."""

import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import FetchError
from atlas.fetch import unpack as module
from atlas.fetch.archives import members
from atlas.fetch.archives.staging import Staging
from atlas.fetch.download import Download, Unpacking
from atlas.fetch.locks import lock
from atlas.fetch.records import record
from atlas.fetch.unpack import is_unpacked, unpack

TREE = {
    "set/case_1/ct.nii.gz": os.urandom(3000),
    "set/case_1/seg.nii.gz": b"\0" * 50_000,
    "set/case_2/ct.nii.gz": os.urandom(10),
    "set/readme.txt": b"",
}
NAMES = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.7z"]
formats = pytest.mark.parametrize("name", NAMES)


def pack(path, tree):
    """Write an archive of the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in tree.items():
                archive.writestr(name, data)
    elif path.suffix == ".7z":
        py7zr = pytest.importorskip("py7zr")
        with py7zr.SevenZipFile(path, "w") as archive:
            for name, data in tree.items():
                archive.writestr(data, name)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, data in tree.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def packed(tree, name="x.zip"):
    """An archive as bytes, to put it into another one."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for member, data in tree.items():
            archive.writestr(member, data)
    return buffer.getvalue()


def download(target, **unpacking):
    return Download("toy", f"https://example.org/{target}", target, archive=Unpacking(**unpacking))


def files(folder):
    """Everything that is visible below a folder: contents by place; no archives."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".atlas" not in path.parts and path.parent / path.name not in folder.glob("a.*")
    }


def hidden(folder):
    """Staging folders."""
    return list((folder / ".atlas").glob("unpack-*"))


# --- all goes well


@formats
def test_unpacked(name, tmp_path):
    pack(tmp_path / name, TREE)
    job = download(name)
    assert not is_unpacked(job, tmp_path)
    assert unpack(job, tmp_path) == len(TREE)
    assert files(tmp_path) == TREE
    assert is_unpacked(job, tmp_path)
    assert not hidden(tmp_path)
    assert record(tmp_path, name).unpacked
    assert unpack(job, tmp_path) == 0


@formats
def test_into_a_folder_beside_what_is_there(name, tmp_path):
    pack(tmp_path / "raw" / name, TREE)
    (tmp_path / "x" / "set").mkdir(parents=True)
    (tmp_path / "x" / "set" / "mine.txt").write_bytes(b"mine")
    (tmp_path / "x" / "set" / "readme.txt").write_bytes(b"older")
    assert unpack(download(f"raw/{name}", into="x"), tmp_path) == len(TREE)
    found = files(tmp_path)
    del found[f"raw/{name}"]
    assert found == {"x/set/mine.txt": b"mine"} | {f"x/{place}": data for place, data in TREE.items()}


@formats
def test_only_what_is_wanted(name, tmp_path):
    pack(tmp_path / name, TREE)
    job = download(name, into="d", holds=("d/**/ct.nii.gz", "d/set/*.txt"))
    assert unpack(job, tmp_path) == 3
    assert set(files(tmp_path)) == {"d/set/case_1/ct.nii.gz", "d/set/case_2/ct.nii.gz", "d/set/readme.txt"}


@formats
def test_junk_stays_out(name, tmp_path):
    pack(tmp_path / name, {"a": b"1", "__MACOSX/._a": b"2", "d/._b": b"3", "d/.DS_Store": b"4"})
    assert unpack(download(name), tmp_path) == 1
    assert files(tmp_path) == {"a": b"1"}


part = st.sampled_from(["a", "b", "C", "é", "x y", "...", "1.nii.gz"])
trees = st.dictionaries(st.lists(part, min_size=1, max_size=4).map("/".join), st.binary(max_size=2000), max_size=8)


def no_file_in_a_file(tree):
    return not any(other.startswith(f"{name}/") for name in tree for other in tree)


@formats
@given(tree=trees.filter(no_file_in_a_file))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_comes_out_as_it_went_in(name, tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    pack(folder / name, tree)
    assert unpack(download(name), folder) == len(tree)
    assert files(folder) == tree


@formats
def test_modes_of_the_archive_do_not_matter(name, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"#!/bin/sh\n")
    source.chmod(0o6777)
    folder = tmp_path / "toy"
    folder.mkdir()
    if name == "a.zip":
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.write(source, "tool")
    elif name == "a.7z":
        with pytest.importorskip("py7zr").SevenZipFile(folder / name, "w") as archive:
            archive.write(source, "tool")
    else:
        with tarfile.open(folder / name, "w:gz" if name != "a.tar" else "w") as archive:
            archive.add(source, "tool")
    before = os.umask(0o022)
    try:
        unpack(download(name), folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "tool").stat().st_mode) == 0o644


def test_the_archive_may_be_deleted_afterwards(tmp_path):
    pack(tmp_path / "a.zip", TREE)
    unpack(download("a.zip"), tmp_path)
    assert (tmp_path / "a.zip").exists()
    (tmp_path / "a.zip").unlink()
    assert is_unpacked(download("a.zip"), tmp_path)
    assert unpack(download("a.zip"), tmp_path) == 0


def test_another_archive_of_the_same_name_is_unpacked_anew(tmp_path):
    pack(tmp_path / "a.zip", {"a": b"1"})
    unpack(download("a.zip"), tmp_path)
    pack(tmp_path / "a.zip", {"a": b"22", "b": b"3"})
    assert not is_unpacked(download("a.zip"), tmp_path)
    assert unpack(download("a.zip"), tmp_path) == 2
    assert files(tmp_path) == {"a": b"22", "b": b"3"}


def test_a_manifest_with_another_checksum_wants_another_archive(tmp_path):
    pack(tmp_path / "a.zip", {"a": b"1"})
    unpack(download("a.zip"), tmp_path)
    (tmp_path / "a.zip").unlink()
    other = Download("toy", "https://example.org/a.zip", "a.zip", sha256="0" * 64, archive=Unpacking())
    assert not is_unpacked(other, tmp_path)
    with pytest.raises(FetchError, match="is not there; fetch it first"):
        unpack(other, tmp_path)


def test_what_a_person_put_there_is_verified_first(tmp_path):
    pack(tmp_path / "a.zip", {"a": b"1"})
    wrong = Download("toy", "https://example.org/a.zip", "a.zip", sha256="0" * 64, archive=Unpacking())
    with pytest.raises(FetchError, match="0000"):
        unpack(wrong, tmp_path)
    assert files(tmp_path) == {}


def test_an_archive_with_a_long_name(tmp_path):
    name = "ü" * 105 + ".zip"
    pack(tmp_path / name, TREE)
    assert Staging(tmp_path, name).root != Staging(tmp_path, f"ü{name}").root
    assert unpack(download(name), tmp_path) == len(TREE)


def test_a_file_that_is_no_archive(tmp_path):
    plain = Download("toy", "https://example.org/a.nii", "a.nii")
    assert unpack(plain, tmp_path) == 0


@formats
def test_progress(name, tmp_path):
    pack(tmp_path / name, TREE)
    calls = []
    unpack(download(name), tmp_path, progress=lambda *call: calls.append(call))
    total = sum(map(len, TREE.values()))
    assert {target for target, _, _ in calls} == {name}
    done = [count for _, count, _ in calls]
    assert done == sorted(done)
    assert done[-1] == total
    assert {most for _, _, most in calls} == ({None} if "t" in name.split(".")[1] else {total})


def test_a_linked_dataset_folder_is_fine(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "toy").symlink_to(tmp_path / "disk")
    pack(tmp_path / "toy" / "a.zip", TREE)
    assert unpack(download("a.zip"), tmp_path / "toy") == len(TREE)
    assert files(tmp_path / "disk") == TREE


# --- what is refused


def tar_of(path, *entries):
    with tarfile.open(path, "w") as archive:
        for name, kind, link, data in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, link, len(data)
            archive.addfile(entry, io.BytesIO(data))


REG, SYM, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "evil",
    [
        [("evil", SYM, "/outside", b""), ("evil/file", REG, "", b"x")],
        [("evil", SYM, "..", b""), ("evil/file", REG, "", b"x")],
        [("evil", HARD, "../outside/secret", b""), ("evil", REG, "", b"x")],
        [("evil", HARD, "good", b""), ("evil", REG, "", b"x")],
        [("/tmp/evil", REG, "", b"x")],
        [("../evil", REG, "", b"x")],
        [("a/../../evil", REG, "", b"x")],
        [("..\\evil", REG, "", b"x")],
        [("evil", tarfile.FIFOTYPE, "", b"")],
        [("evil", tarfile.CHRTYPE, "", b"")],
        [("evil\u202e", REG, "", b"x")],
        [("evil", REG, "", b"x"), ("evil", REG, "", b"y")],
        [("evil", REG, "", b"x"), ("evil", REG, "", b"xx")],
        [("evil", REG, "", b"x"), ("evil/below", REG, "", b"x")],
        [("evil/below", REG, "", b"x"), ("evil", REG, "", b"x")],
        [(".atlas/records/evil.json", REG, "", b"{}")],
        [("a.tar", REG, "", b"evil")],
    ],
)
def test_evil_tar(evil, tmp_path):
    folder, outside = tmp_path / "toy", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    tar_of(folder / "a.tar", ("good", REG, "", b"good"), *evil)
    size = (folder / "a.tar").stat().st_size
    with pytest.raises(FetchError, match=r"a\.tar.*(evil|a\.tar)"):
        unpack(download("a.tar"), folder)
    assert files(folder) == {}
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"secret": b"secret"}
    assert {path.name for path in tmp_path.iterdir()} == {"toy", "outside"}
    assert {path.name for path in folder.iterdir()} <= {"a.tar", ".atlas"}
    assert (folder / "a.tar").stat().st_size == size
    assert not is_unpacked(download("a.tar"), folder)


@pytest.mark.parametrize("name", ["a.zip", "a.7z"])
@pytest.mark.parametrize("evil", ["../evil", "/evil", "..\\evil", ".atlas/evil", "C:evil"])
def test_evil_names_are_refused_before_anything_is_written(name, evil, tmp_path):
    if name == "a.zip":
        pack(tmp_path / name, {"good": b"x" * 100, evil: b"evil"})
    else:
        with pytest.importorskip("py7zr").SevenZipFile(tmp_path / name, "w") as archive:
            archive.writestr(b"x" * 100, "good")
            archive._writestr(b"evil", evil)
            # py7zr takes the root off when it writes
            archive.header.files_info.files[-1]["filename"] = evil
    with pytest.raises(FetchError, match=r"evil.*Nothing was unpacked"):
        unpack(download(name), tmp_path)
    assert files(tmp_path) == {}
    assert [path.name for folder in hidden(tmp_path) for path in folder.iterdir()] == ["of.json"]


def test_evil_zip_of_links(tmp_path):
    link = zipfile.ZipInfo("evil")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", b"good")
        archive.writestr(link, "/etc")
    with pytest.raises(FetchError, match="'evil' is a link"):
        unpack(download("a.zip"), tmp_path)
    assert files(tmp_path) == {}
    # a link that nobody wants does no harm
    assert unpack(download("a.zip", holds=("good",)), tmp_path) == 1


@pytest.mark.parametrize("there", ["folder", "link to a folder", "dangling link"])
def test_links_in_the_dataset_folder_are_not_followed(there, tmp_path):
    folder, outside = tmp_path / "toy", tmp_path / "outside"
    outside.mkdir()
    pack(folder / "a.zip", {"set/x/file": b"x"})
    (folder / "set").mkdir()
    if there == "folder":
        (folder / "set" / "x").mkdir()
        assert unpack(download("a.zip"), folder) == 1
        return
    (folder / "set" / "x").symlink_to(outside if there == "link to a folder" else tmp_path / "nowhere")
    with pytest.raises(FetchError, match=r"set/x: a link lies where a folder"):
        unpack(download("a.zip"), folder)
    assert not list(outside.iterdir())
    assert not (tmp_path / "nowhere").exists()
    (folder / "set" / "x").unlink()  # the way out that the message gives
    assert unpack(download("a.zip"), folder) == 1
    assert files(folder) == {"set/x/file": b"x"}


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "toy"
    pack(folder / "a.zip", {"file": b"x"})
    (folder / "file").symlink_to(tmp_path / "secret")
    unpack(download("a.zip"), folder)
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert not (folder / "file").is_symlink()
    assert (folder / "file").read_bytes() == b"x"


@pytest.mark.parametrize("into", ["set", "set/x/file"])
def test_files_and_folders_in_each_others_place(into, tmp_path):
    pack(tmp_path / "a.zip", {"set/x/file": b"x"})
    if into == "set":
        (tmp_path / "set").write_bytes(b"mine")
    else:
        (tmp_path / "set/x/file").mkdir(parents=True)
    with pytest.raises(FetchError, match="Take it away"):
        unpack(download("a.zip"), tmp_path)


@formats
def test_a_bomb(name, tmp_path, monkeypatch):
    monkeypatch.setattr(members, "HARMLESS", 2**20)
    monkeypatch.setattr(members, "MAX_RATIO", 2 if name == "a.tar" else 300)
    tree = {f"{n}": bytes(2**20) for n in range(8)}
    pack(tmp_path / name, tree)
    if name == "a.tar":  # it cannot hold more than itself
        assert unpack(download(name), tmp_path) == 8
        return
    with pytest.raises(FetchError, match="would bring the contents to"):
        unpack(download(name), tmp_path)
    assert files(tmp_path) == {}


@formats
def test_two_of_one_name_and_one_content(name, tmp_path):
    if name == "a.7z":
        pytest.skip("py7zr gives the second another name; they are refused")
    data = os.urandom(5000)
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a", data)
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("a", data)
    else:
        with tarfile.open(tmp_path / name, "w:gz" if name != "a.tar" else "w") as archive:
            for _ in range(2):
                entry = tarfile.TarInfo("a")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    assert unpack(download(name), tmp_path) == 1
    assert files(tmp_path) == {"a": data}


# --- passwords


def secret_zip(path, tree):
    pyzipper = pytest.importorskip("pyzipper")
    with pyzipper.AESZipFile(path, "w", encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(b"secret")
        for name, data in tree.items():
            archive.writestr(name, data)


def secret_7z(path, tree):
    with pytest.importorskip("py7zr").SevenZipFile(path, "w", password="secret") as archive:
        for name, data in tree.items():
            archive.writestr(data, name)


@pytest.mark.parametrize(("name", "make"), [("a.zip", secret_zip), ("a.7z", secret_7z)])
def test_passwords(name, make, tmp_path, monkeypatch):
    make(tmp_path / name, TREE)
    monkeypatch.delenv("ATLAS_PASSWORD_TOY", raising=False)
    job = download(name, password="ATLAS_PASSWORD_TOY")
    with pytest.raises(FetchError, match="put its password into the environment variable ATLAS_PASSWORD_TOY"):
        unpack(job, tmp_path)
    monkeypatch.setenv("ATLAS_PASSWORD_TOY", "wrong")
    with pytest.raises(FetchError, match="its password is wrong, or it is damaged"):
        unpack(job, tmp_path)
    assert files(tmp_path) == {}
    monkeypatch.setenv("ATLAS_PASSWORD_TOY", "secret")
    assert unpack(job, tmp_path) == len(TREE)
    assert files(tmp_path) == TREE
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / ".atlas").rglob("*") if path.is_file())


# --- archives in archives

NESTED = {
    "set_1/PATIENT.zip": packed({"PATIENT/image_0": b"0" * 500, "PATIENT/image_1": b"1" * 500}),
    "set_1/MASKS.zip": packed({"MASKS/liver/image_0": b"l", "__MACOSX/._x": b"", "MASKS/bone/image_0": b"b"}),
    "set_1/other.zip": packed({"kept/as": b"it is"}),
    "set_1/readme.txt": b"text",
}


@formats
def test_nested(name, tmp_path):
    pack(tmp_path / name, NESTED)
    job = download(name, into="x", nested=("x/*/PATIENT.zip", "**/MASKS.zip"))
    assert unpack(job, tmp_path) == 6
    assert files(tmp_path) == {
        "x/set_1/PATIENT/image_0": b"0" * 500,
        "x/set_1/PATIENT/image_1": b"1" * 500,
        "x/set_1/MASKS/liver/image_0": b"l",
        "x/set_1/MASKS/bone/image_0": b"b",
        "x/set_1/other.zip": NESTED["set_1/other.zip"],
        "x/set_1/readme.txt": b"text",
    }


@formats
def test_nested_and_only_what_is_wanted(name, tmp_path):
    pack(tmp_path / name, NESTED)
    job = download(name, nested=("**/PATIENT.zip", "**/MASKS.zip"), holds=("**/MASKS/liver/*", "**/image_1"))
    assert unpack(job, tmp_path) == 2
    assert set(files(tmp_path)) == {"set_1/MASKS/liver/image_0", "set_1/PATIENT/image_1"}


def test_evil_in_a_nested_archive(tmp_path):
    pack(tmp_path / "a.zip", {"good": b"x", "d/in.zip": packed({"../../../evil": b"x"})})
    with pytest.raises(FetchError, match=r"a\.zip: d/in\.zip: its member '../../../evil' leads out"):
        unpack(download("a.zip", nested=("**/*.zip",)), tmp_path)
    assert files(tmp_path) == {}


def test_a_nested_archive_may_not_change_what_the_outer_one_holds(tmp_path):
    pack(tmp_path / "a.zip", {"d/x": b"1", "d/in.zip": packed({"x": b"2"})})
    with pytest.raises(FetchError, match="comes twice"):
        unpack(download("a.zip", nested=("**/*.zip",)), tmp_path)


def test_archives_too_deep(tmp_path):
    inner = packed({"x": b"x"})
    for depth in range(5):
        inner = packed({f"{depth}.zip": inner})
    pack(tmp_path / "a.zip", {"in.zip": inner})
    with pytest.raises(FetchError, match="archives deep"):
        unpack(download("a.zip", nested=("**/*.zip",)), tmp_path)
    assert files(tmp_path) == {}


def test_contents_of_all_levels_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "HARMLESS", 10_000)
    monkeypatch.setattr(members, "MAX_RATIO", 1)
    tree = {f"{n}.zip": packed({f"{n}/x": bytes(4000)}) for n in range(2)}
    pack(tmp_path / "a.zip", tree)
    with pytest.raises(FetchError, match="would bring"):
        unpack(download("a.zip", nested=("*.zip",)), tmp_path)


# --- interruptions

KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from pathlib import Path
    from atlas.fetch.download import Download, Unpacking
    from atlas.fetch.unpack import unpack
    folder, name, event, count = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    left = count
    def hook(what, args):
        global left
        if what == event and any(str(folder) in str(a) for a in args):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    unpack(Download("toy", "https://example.org/a", name, archive=Unpacking(nested=("**/*.zip",))), folder)
    """
)

BIG = {f"case_{n}/ct": bytes([n]) * 20_000 for n in range(6)} | {
    "p/in.zip": packed({"q/image_0": b"0" * 3000, "q/image_1": b"1" * 3000}),
    "z": b"last",
}
BIG_FILES = {k: v for k, v in BIG.items() if not k.endswith(".zip")} | {
    "p/q/image_0": b"0" * 3000,
    "p/q/image_1": b"1" * 3000,
}


@contextmanager
def watched():
    """Count which staged files are written: every one gets its name by a rename."""
    renamed = []
    original = Path.replace

    def replace(self, target):
        if self.name == "part":
            renamed.append(Path(target))
        return original(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        yield renamed


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.7z"])
@pytest.mark.parametrize(("event", "count"), [("open", 2), ("open", 13), ("open", 17), ("os.rename", 4)])
def test_killed_and_run_again(name, event, count, tmp_path):
    pack(tmp_path / name, BIG)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), name, event, str(count)], capture_output=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert files(tmp_path) == {}
    before = [path for folder in hidden(tmp_path) for path in (folder / "files").rglob("*") if path.is_file()]
    assert bool(before) == (count > 2)
    with watched() as written:
        unpack(download(name, nested=("**/*.zip",)), tmp_path)
    assert files(tmp_path) == BIG_FILES
    assert written
    assert not set(written) & set(before)
    assert not hidden(tmp_path)
    assert is_unpacked(download(name), tmp_path)


def test_killed_at_every_second_rename(tmp_path):
    """Where anything gets its name, and while the finished ones move to their places."""
    for count in range(0, 40, 2):
        folder = tmp_path / f"{count}"
        pack(folder / "a.zip", BIG)
        command = [sys.executable, "-c", KILLED, str(folder), "a.zip", "os.rename", str(count)]
        killed = subprocess.run(command, check=False, capture_output=True).returncode
        complete = any((staging / "complete.json").exists() for staging in hidden(folder))
        assert complete or not killed or files(folder) == {}
        with watched() as written:
            unpack(download("a.zip", nested=("**/*.zip",)), folder)
        assert files(folder) == BIG_FILES
        assert not (complete and written)
        if not killed:
            break
    else:
        pytest.fail("never came to the end")


def test_other_settings_start_anew(tmp_path, monkeypatch):
    pack(tmp_path / "a.zip", TREE)
    monkeypatch.setattr(module.Staging, "release", lambda self: (_ for _ in ()).throw(FetchError("stop")))
    with pytest.raises(FetchError, match="stop"):
        unpack(download("a.zip"), tmp_path)
    monkeypatch.undo()
    assert unpack(download("a.zip", holds=("**/*.txt",)), tmp_path) == 1
    assert set(files(tmp_path)) == {"set/readme.txt"}


def test_a_second_process_is_told_to_wait(tmp_path):
    pack(tmp_path / "a.zip", TREE)
    path = tmp_path / "a.zip"
    with path.open("rb") as file:
        lock(file, path, "unpacking")
        with pytest.raises(FetchError, match="another process is unpacking"):
            unpack(download("a.zip"), tmp_path)
    assert unpack(download("a.zip"), tmp_path) == len(TREE)


# --- the disk


@formats
def test_no_room(name, tmp_path, monkeypatch):
    pack(tmp_path / name, TREE)
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr("atlas.fetch.archives.staging.shutil.disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"which has 10,000\. Make room and run it again"):
        unpack(download(name), tmp_path)
    assert files(tmp_path) == {}
    staged = [path for folder in hidden(tmp_path) for path in folder.rglob("ct*")]
    assert bool(staged) == ("t" in name.split(".")[1])  # a tar has no directory to add up beforehand
    monkeypatch.undo()
    assert unpack(download(name), tmp_path) == len(TREE)


@formats
def test_disk_full_all_the_same(name, tmp_path, monkeypatch):
    pack(tmp_path / name, TREE)
    original = Path.open

    def full(self, mode="r", *args, **more):
        file = original(self, mode, *args, **more)
        if self.name == "part":
            file.close()
            file = original(Path("/dev/full"), mode)
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FetchError, match=r"No space left on device.*run it again"):
        unpack(download(name), tmp_path)
    assert files(tmp_path) == {}
    monkeypatch.undo()
    assert unpack(download(name), tmp_path) == len(TREE)
    assert files(tmp_path) == TREE


@formats
def test_a_damaged_archive_leaves_nothing_visible(name, tmp_path):
    pack(tmp_path / name, TREE)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FetchError, match="Delete it and fetch it again"):
        unpack(download(name), tmp_path)
    assert files(tmp_path) == {}
    assert not [path for folder in hidden(tmp_path) for path in folder.rglob("part")]
    (tmp_path / name).write_bytes(whole)
    assert unpack(download(name), tmp_path) == len(TREE)
