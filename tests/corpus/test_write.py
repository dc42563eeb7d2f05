"""Commits are one step, and bytes are reproducible."""

import hashlib

import numpy as np
import pytest

from atlas.corpus import open_corpus
from atlas.corpus import write as writing
from atlas.corpus.verify import case_ids


def digests(folder):
    """sha256 of every file below a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_equal_cases_give_equal_bytes(tmp_path, make, taxonomy):
    one, two = (digests(make(tmp_path / name, taxonomy)) for name in ("one", "two"))
    assert one == two
    assert "cases/one/a/ct/c/0/0/0" in one


def test_an_interrupted_write_leaves_the_old_case_as_it_was(folder, taxonomy, write_one, monkeypatch):
    before = digests(folder)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_write_foreground", fail)
    with pytest.raises(OSError, match="No space"):
        write_one(folder, "one/a", taxonomy)
    assert digests(folder) == before
    writing.clean(folder)
    assert not (folder / writing.PARTIAL).exists()


def test_writing_again_replaces_the_case(folder, taxonomy, write_one):
    before = digests(folder)
    (folder / "cases/one/a/stray").write_text("left over")
    write_one(folder, "one/a", taxonomy)
    writing.clean(folder)
    assert digests(folder) == before


def test_removing(folder):
    writing.remove_case(folder, "one/a")
    writing.remove_case(folder, "one/a")
    assert case_ids(folder) == ["one/b", "two/a"]


def test_a_case_without_any_voxel_can_be_written_and_read(corpus):
    """one/b lacks the tumour; its foreground list and colours are simply shorter."""
    assert "liver_tumor" not in corpus["one/b"].foreground
    assert not corpus["one/b"].mask("liver_tumor").any()


def test_air_is_not_stored(tmp_path, taxonomy):
    from atlas.corpus.layout import volume
    from atlas.harmonize.grid import HU_MIN
    from atlas.spec.recipe import Storage

    air = np.full((40, 40, 40), HU_MIN, np.int16)
    writing._write_array(tmp_path / "ct", volume(air.shape, "int16", HU_MIN, Storage()), air)
    assert [p.name for p in (tmp_path / "ct").rglob("*") if p.is_file()] == ["zarr.json"]
    assert (open_zarr(tmp_path / "ct")[...] == HU_MIN).all()


def open_zarr(path):
    import zarr

    return zarr.open_array(str(path), mode="r")


def test_open_does_not_write(folder):
    before = digests(folder)
    corpus = open_corpus(folder)
    corpus.coverage()
    corpus["one/a"].mask("liver")
    assert digests(folder) == before
