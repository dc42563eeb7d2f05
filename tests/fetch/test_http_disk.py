"""What fetching does with the disk: files that are there, locks, room, mirrors, and being killed."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pytest

from atlas.errors import FetchError
from atlas.fetch.http import transfer
from atlas.fetch.places import part_path
from atlas.fetch.records import record
from atlas.fetch.transport.part import locked
from atlas.fetch.transport.retry import policy

PATH = "/data.bin"


def test_a_file_that_a_person_put_there_is_verified(site, content, make, tmp_path):
    (tmp_path / "data").write_bytes(content)
    done = transfer(make("", "data", of=content), tmp_path)
    assert (done.transferred, done.sha256) == (0, hashlib.sha256(content).hexdigest())
    assert record(tmp_path, "data").sha256 == done.sha256
    assert (record(tmp_path, "data").url, record(tmp_path, "data").unpacked) == ("", False)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"size": 7}, "expected 7 bytes, found 20,000"),
        ({"sha256": "0" * 64}, "expected sha256 0+, found [0-9a-f]{64}"),
        ({"md5": "0" * 32}, "expected md5 0+, found [0-9a-f]{32}"),
    ],
)
def test_a_wrong_file_that_a_person_put_there_is_left_and_named(site, content, make, tmp_path, known, said):
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(FetchError, match=rf"{tmp_path}/data: {said}. Remove this file and run it again"):
        transfer(make(site.serve(PATH, content), "data", **known), tmp_path)
    assert (tmp_path / "data").read_bytes() == content
    assert (record(tmp_path, "data"), site.asked) == (None, [])


def test_a_page_that_a_browser_stored_as_the_file(make, tmp_path):
    (tmp_path / "data.zip").write_bytes(b"<html><head><title>Sign in</title>")
    with pytest.raises(FetchError, match=r"the page 'Sign in'.*Remove this file"):
        transfer(make("", "data.zip"), tmp_path)


def test_a_file_that_changed_since_is_told_by_the_recorded_checksum(site, content, make, tmp_path):
    download = make(site.serve(PATH, content), "data")
    transfer(download, tmp_path)
    (tmp_path / "data").write_bytes(content[::-1])
    with pytest.raises(FetchError, match="expected sha256"):
        transfer(download, tmp_path)


def test_a_file_that_was_only_touched_keeps_its_record(site, content, make, tmp_path):
    import dataclasses

    from atlas.fetch.records import write_record

    download = make(site.serve(PATH, content), "data")
    transfer(download, tmp_path)
    write_record(tmp_path, dataclasses.replace(record(tmp_path, "data"), unpacked=True))
    os.utime(tmp_path / "data", (1, 1))
    transfer(download, tmp_path)
    known = record(tmp_path, "data")
    assert (known.unpacked, known.mtime_ns, known.url) == (True, 1_000_000_000, site.root + PATH)


def test_a_manifest_that_changed_is_held_against_the_file(site, content, make, tmp_path):
    url = site.serve(PATH, content)
    transfer(make(url, "data"), tmp_path)
    assert transfer(make(url, "data", of=content, md5=hashlib.md5(content).hexdigest()), tmp_path).transferred == 0
    with pytest.raises(FetchError, match="expected md5"):
        transfer(make(url, "data", md5="0" * 32), tmp_path)


def test_something_else_in_the_way(make, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(FetchError, match="something else where the file belongs"):
        transfer(make("https://nowhere.invalid/data", "data"), tmp_path)


def test_nobody_serves_it(make, tmp_path):
    with pytest.raises(FetchError, match=r"data: not there.*`atlas datasets show toy`"):
        transfer(make("", "data"), tmp_path)


@pytest.mark.parametrize(
    "target", ["../x", "/x", "a/../../x", "a//x", "./x", "", "a/", ".atlas/records/x", "a\\x", "a\0"]
)
def test_nothing_is_written_elsewhere(site, content, make, tmp_path, target):
    folder = tmp_path / "toy"
    with pytest.raises(FetchError):
        transfer(make(site.serve(PATH, content), target), folder)
    assert list(tmp_path.rglob("*")) == []


def test_a_folder_that_cannot_be_made(site, content, make, tmp_path):
    (tmp_path / "a").write_bytes(b"a file")
    with pytest.raises(FetchError, match=r"a/data: cannot be read or written \(Not a directory|File exists"):
        transfer(make(site.serve(PATH, content), "a/data"), tmp_path)


def test_too_little_room(site, faults, content, make, tmp_path, monkeypatch):
    usage, room = namedtuple("usage", "total used free"), [0]  # noqa: PYI024 - as shutil has it
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, room[0]))
    monkeypatch.setattr(policy, "spare", 100)
    room[0] = len(content) + 99
    url = site.serve(PATH, content)
    with pytest.raises(FetchError, match=r"20,000 more bytes are needed and 100 are to stay free, but only 20,099"):
        transfer(make(url, "data"), tmp_path)
    assert not part_path(tmp_path / "data").exists()
    room[0] += 1
    transfer(make(url, "data"), tmp_path)


def test_what_is_there_needs_no_room(site, faults, content, make, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - as shutil has it
    url = site.serve(PATH, content, faults.cut(15_000), faults.status(404))
    with pytest.raises(FetchError, match="moved"):
        transfer(make(url, "data"), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 5_000))
    assert transfer(make(url, "data"), tmp_path).transferred == 5_000


def test_a_disk_that_fills_up_meanwhile_keeps_the_part(site, content, make, tmp_path, monkeypatch):
    import resource

    download = make(site.serve(PATH, content), "data")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_345, hard))
    try:
        with pytest.raises(FetchError, match=r"cannot be written \(File too large\).*12,345 bytes so far are kept"):
            transfer(download, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert transfer(download, tmp_path).transferred == len(content) - 12_345
    assert (tmp_path / "data").read_bytes() == content


def test_one_process_at_a_time(site, content, make, tmp_path):
    download = make(site.serve(PATH, content), "data")
    with locked(download, tmp_path), pytest.raises(FetchError, match="another process is fetching it"):
        transfer(download, tmp_path)
    transfer(download, tmp_path)


def test_a_lock_on_a_file_that_got_its_name_meanwhile_is_none(content, make, tmp_path, monkeypatch):
    """Between opening and locking the other process may have finished: its file must not be written to."""
    download, real, once = make("", "data"), fcntl.flock, [True]

    def flock(file, how):
        if once:
            once.clear()
            part_path(tmp_path / "data").write_bytes(content)
            part_path(tmp_path / "data").replace(tmp_path / "data")
        return real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(download, tmp_path) as part:
        part.write(b"mine")
    assert (tmp_path / "data").read_bytes() == content
    assert part_path(tmp_path / "data").read_bytes() == b"mine"


def test_another_process_was_quicker(site, content, make, tmp_path, monkeypatch):
    """It finishes after this one looked, and before this one has the lock."""
    from atlas.fetch import http

    download = make(site.serve(PATH, content), "data")

    def late(*arguments):
        monkeypatch.setattr(http, "locked", locked)
        transfer(*arguments)
        return locked(*arguments)

    monkeypatch.setattr(http, "locked", late)
    assert transfer(download, tmp_path).transferred == 0
    assert len(site.asked) == 1


def test_many_at_once_end_with_one_right_file(site, content, make, tmp_path):
    download = make(site.serve(PATH, content), "data")

    def attempt(_):
        with contextlib.suppress(FetchError):
            return transfer(download, tmp_path).transferred
        return None

    with ThreadPoolExecutor(8) as pool:
        came = list(pool.map(attempt, range(40)))
    assert [n for n in came if n] == [len(content)]
    assert (tmp_path / "data").read_bytes() == content


def test_a_mirror_is_asked_first(site, other, content, make, tmp_path):
    other.serve("/copies/toy/a b/data", content)
    mirror = f"{other.root}/copies/"
    transfer(make(site.serve(PATH, content), "a b/data", of=content), tmp_path, mirror=mirror)
    assert site.asked == []
    assert record(tmp_path, "a b/data").url == f"{other.root}/copies/toy/a%20b/data"


def test_what_a_mirror_does_not_have_comes_from_the_publisher(site, other, content, make, tmp_path):
    transfer(make(site.serve(PATH, content), "data"), tmp_path, mirror=other.root)
    transfer(make(site.serve(PATH, content), "more"), tmp_path, mirror=str(tmp_path / "nowhere"))
    assert (tmp_path / "data").read_bytes() == (tmp_path / "more").read_bytes() == content


def test_what_was_begun_at_a_mirror_is_gone_on_with_at_the_publisher(site, other, faults, content, make, tmp_path):
    """The checksum tells whether both have the same file."""
    other.serve("/toy/data", content, faults.cut(5000), faults.status(404))
    done = transfer(make(site.serve(PATH, content), "data", of=content), tmp_path, mirror=other.root)
    assert (done.transferred, site.ranges()) == (len(content), ["bytes=5000-"])
    assert "if-range" not in site.asked[0].headers


def test_without_checksum_nothing_of_a_mirror_is_mixed_with_the_publishers(
    site, other, faults, content, make, tmp_path
):
    other.serve("/toy/data", content[::-1], faults.cut(5000), faults.status(404))
    transfer(make(site.serve(PATH, content), "data"), tmp_path, mirror=other.root)
    assert site.ranges() == [None]
    assert (tmp_path / "data").read_bytes() == content


def test_a_folder_as_mirror(content, make, tmp_path):
    (tmp_path / "copies/toy/a").mkdir(parents=True)
    (tmp_path / "copies/toy/a/data").write_bytes(content)
    folder = tmp_path / "toy"
    part_path(folder / "a/data").parent.mkdir(parents=True)
    part_path(folder / "a/data").write_bytes(content[:5000])
    done = transfer(make("", "a/data", of=content), folder, mirror=str(tmp_path / "copies"))
    assert done.transferred == len(content) - 5000
    assert (folder / "a/data").read_bytes() == content


def test_a_page_in_a_folder_of_copies(make, tmp_path):
    (tmp_path / "copies/toy").mkdir(parents=True)
    (tmp_path / "copies/toy/data").write_bytes(b"<!doctype html><title>Quota exceeded</title>")
    with pytest.raises(FetchError, match="the page 'Quota exceeded'"):
        transfer(make("", "data"), tmp_path / "toy", mirror=str(tmp_path / "copies"))
    assert not list((tmp_path / "toy").glob("data*"))


@pytest.mark.parametrize("newer", ["same", "changed", "shorter"])
def test_a_copy_from_a_folder_goes_on_if_it_is_the_same_file(content, make, tmp_path, monkeypatch, newer):
    from atlas.fetch.transport.part import Part

    copy, download = tmp_path / "copies/toy/data", make("", "data")
    copy.parent.mkdir(parents=True)
    copy.write_bytes(content)

    def interrupted(self, chunk, real=Part.write):
        real(self, chunk[:5000])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Part, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transfer(download, tmp_path / "toy", mirror=str(tmp_path / "copies"))
    expected = {"same": content, "changed": content[::-1], "shorter": content[:4000]}[newer]
    if newer != "same":
        copy.write_bytes(expected)
        os.utime(copy, (1, 1))
    done = transfer(download, tmp_path / "toy", mirror=str(tmp_path / "copies"))
    assert done.transferred == len(expected) - (5000 if newer == "same" else 0)
    assert (tmp_path / "toy/data").read_bytes() == expected


@pytest.mark.parametrize("kind", ["folder", "web"])
def test_a_mirror_must_have_the_right_file(site, other, content, make, tmp_path, kind):
    wrong = content[:-1] + b"?"
    (tmp_path / "copies/toy").mkdir(parents=True)
    (tmp_path / "copies/toy/data").write_bytes(wrong)
    other.serve("/toy/data", wrong)
    mirror = {"folder": str(tmp_path / "copies"), "web": other.root}[kind]
    folder = tmp_path / "toy"
    with pytest.raises(FetchError, match="expected sha256"):
        transfer(make(site.serve(PATH, content), "data", of=content), folder, mirror=mirror)
    assert not (folder / "data").exists()


def test_a_mirror_that_can_be_tampered_with(make, tmp_path):
    with pytest.raises(FetchError, match="tampered with on the way"):
        transfer(make("https://nowhere.invalid/data", "data"), tmp_path, mirror="http://mirror.invalid/copies")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from atlas.fetch.download import Download
from atlas.fetch.http import transfer
transfer(Download("toy", sys.argv[1], "data"), Path(sys.argv[2]))
"""


def test_killed_in_the_middle_it_goes_on(site, faults, content, make, tmp_path):
    """Twice: in the first half, and in what was gone on with."""
    hold = threading.Event()
    url = site.serve(PATH, content, faults.silence(hold), faults.silence(hold))
    part = part_path(tmp_path / "data")
    for there in (10_000, 15_000):
        with subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)], env=os.environ) as process:
            limit = time.monotonic() + 60
            while time.monotonic() < limit and not (part.exists() and part.stat().st_size == there):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert part.stat().st_size == there
        assert not (tmp_path / "data").exists()
    hold.set()
    done = transfer(make(url, "data"), tmp_path)
    assert (done.transferred, site.ranges()) == (5_000, [None, "bytes=10000-", "bytes=15000-"])
    assert site.asked[2].headers["if-range"] == '"one"'
    assert (tmp_path / "data").read_bytes() == content


@pytest.mark.parametrize("step", ["clear", "sidecar", "write", "rename", "record"])
def test_stopped_at_any_step_it_goes_on(site, faults, content, make, tmp_path, monkeypatch, step):
    """As if killed just before: nothing after the step happens, no cleaning up either."""
    from atlas.fetch import http
    from atlas.fetch.transport import part

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    def at_write(self, chunk, real=part.Part.write):
        real(self, chunk[:700])
        raise Killed

    places = {
        "clear": (part.Part, "clear", kill),
        "sidecar": (part, "write_json", kill),
        "write": (part.Part, "write", at_write),
        "rename": (part.Part, "keep", kill),
        "record": (http, "write_record", kill),
    }
    part_path(tmp_path / "data").write_bytes(b"old" * 1000)  # of an earlier run, nobody knows of what
    download = make(site.serve(PATH, content), "data")
    with monkeypatch.context() as patch:
        patch.setattr(*places[step])
        patch.setattr(part.Part, "remove", lambda _: None)
        with pytest.raises(Killed):
            transfer(download, tmp_path)
    done = transfer(download, tmp_path)
    assert done.sha256 == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "data").read_bytes() == content
    assert not part_path(tmp_path / "data").exists()
