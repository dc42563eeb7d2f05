"""What is known about files: written in one step, believed only if it makes sense."""

import dataclasses
import hashlib
import json
import os

import pytest

from atlas.errors import FetchError
from atlas.fetch.records import Record, record, state, verify, write_record

SHA = hashlib.sha256(b"abc").hexdigest()
MD5 = hashlib.md5(b"abc").hexdigest()


@pytest.fixture
def known(tmp_path):
    """A file of three bytes with its record."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").write_bytes(b"abc")
    mtime = (tmp_path / "a/b").stat().st_mtime_ns
    one = Record("a/b", "https://host/b", 3, SHA, MD5, mtime, unpacked=True, time="2026-01-02T03:04:05+00:00")
    write_record(tmp_path, one)
    return one


def test_records_come_back(known, tmp_path):
    assert record(tmp_path, "a/b") == known
    assert record(tmp_path, "a/c") is None
    assert [p.name for p in (tmp_path / ".atlas/records/a").iterdir()] == ["b.json"]


def test_long_names(known, tmp_path):
    """A file system allows 255 bytes; .part and .json need five of them."""
    long = dataclasses.replace(known, target="ü" * 125)
    write_record(tmp_path, long)
    assert record(tmp_path, long.target) == long


@pytest.mark.parametrize(
    "change",
    [{"size": "3"}, {"sha256": None}, {"target": "a/c"}, {"unpacked": 1}, {"md5": 5}, {"more": 1}, {"mtime_ns": True}],
)
def test_records_that_make_no_sense_are_none(known, tmp_path, change):
    path = tmp_path / ".atlas/records/a/b.json"
    path.write_text(json.dumps({**dataclasses.asdict(known), **change}))
    assert record(tmp_path, "a/b") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "\udcff"])
def test_damaged_records_are_none(known, tmp_path, text):
    (tmp_path / ".atlas/records/a/b.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert record(tmp_path, "a/b") is None


def test_states(known, make, tmp_path):
    assert state(make("", "a/b"), tmp_path) == "fetched"
    assert state(make("", "a/b", size=3, md5=MD5, sha256=SHA), tmp_path) == "fetched"
    assert state(make("", "a/b", size=4), tmp_path) == "partial"
    assert state(make("", "a/b", md5="0" * 32), tmp_path) == "partial"
    assert state(make("", "a/c"), tmp_path) == "missing"
    (tmp_path / "a/c.part").write_bytes(b"x")
    assert state(make("", "a/c"), tmp_path) == "partial"
    (tmp_path / "a/d").write_bytes(b"put there by hand")
    assert state(make("", "a/d"), tmp_path) == "partial"
    os.utime(tmp_path / "a/b", (1, 1))
    assert state(make("", "a/b"), tmp_path) == "partial"
    (tmp_path / "a/b").unlink()
    assert state(make("", "a/b"), tmp_path) == "missing"


def test_verify(tmp_path):
    path, seen = tmp_path / "file", []
    path.write_bytes(b"abc")
    assert verify(path) == SHA
    assert verify(path, size=3, md5=MD5, sha256=SHA, progress=lambda *said: seen.append(said), name="a/file") == SHA
    assert seen == [("a/file", 3, 3)]
    with pytest.raises(FetchError, match=rf"{path}: expected 4 bytes, found 3"):
        verify(path, size=4)
    with pytest.raises(FetchError, match=rf"{path}: expected md5 0+, found {MD5}"):
        verify(path, md5="0" * 32)
    with pytest.raises(FetchError, match=rf"{path}: expected sha256 0+, found {SHA}"):
        verify(path, sha256="0" * 64)
    with pytest.raises(FetchError, match="cannot be read"):
        verify(tmp_path / "nothing")
