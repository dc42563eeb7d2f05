"""verify finds damage."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from atlas.corpus.verify import rebuild_catalog, verify
from atlas.errors import CorpusError


def problems(folder):
    return [f"{f.where}: {f.problem}" for _, findings in verify(folder) for f in findings]


def edit(folder, change, path="cases/one/a/zarr.json"):
    content = json.loads((folder / path).read_text())
    change(content["attributes"]["atlas"])
    (folder / path).write_text(json.dumps(content))


def test_a_good_corpus_has_no_findings(folder):
    assert [name for name, _ in verify(folder)] == ["one/a", "one/b", "two/a", "catalog"]
    assert problems(folder) == []


def test_a_changed_voxel(folder):
    ct = zarr.open_array(folder / "cases/one/a/ct", mode="r+")
    ct[3, 3, 3] = ct[3, 3, 3] + 1
    assert problems(folder) == ["one/a: the CT is not what was written"]
    codes = zarr.open_array(folder / "cases/two/a/labels/masks/0", mode="r+")
    codes[30, 30, 60] = 2
    found = problems(folder)
    assert "two/a: the masks are not what was written" in found
    assert "two/a: kidney_left has 1501 voxels, the record says 1500" in found


def test_a_missing_shard(folder):
    (folder / "cases/one/a/ct/c/0/0/0").unlink()
    assert problems(folder) == ["one/a: the CT is not what was written"]


def test_a_truncated_shard(folder):
    shard = folder / "cases/one/b/ct/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert any(p.startswith("one/b: ") for p in problems(folder))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: r.update(available="0x3f"), "the record's classes are not those of its availability bitmask"),
        (lambda r: r.update(shape=[1, 2, 3]), "has shape"),
        (lambda r: r["classes"][0].update(voxels=7), "the record says 7"),
        (lambda r: r.update(case_id="one/z"), "the record is of one/z"),
        (lambda r: r.pop("hu_min"), "cannot be read"),
    ],
)
def test_a_record_that_disagrees(folder, change, expected):
    edit(folder, change)
    assert any(expected in p for p in problems(folder) if p.startswith("one/a"))


def test_a_catalog_out_of_step_and_how_to_mend_it(folder):
    edit(folder, lambda r: r.update(warnings=["new"]), "cases/two/a/zarr.json")
    assert problems(folder) == [
        "catalog: catalog/cases.parquet is not what the case records say; make it again with --rebuild-catalog"
    ]
    assert rebuild_catalog(folder) == 3
    assert problems(folder) == []
    before = (folder / "catalog/annotations.parquet").read_bytes()
    (folder / "catalog/annotations.parquet").unlink()
    assert any("missing" in p or "annotations" in p for p in problems(folder))
    rebuild_catalog(folder)
    assert (folder / "catalog/annotations.parquet").read_bytes() == before
    assert pq.read_table(folder / "catalog/annotations.parquet").num_rows == 24


def test_a_foreground_voxel_outside_its_class(folder):
    foreground = zarr.open_array(folder / "cases/two/a/foreground", mode="r+")
    foreground[0] = np.array([39, 0, 0], np.uint16)
    assert any("foreground sample" in p for p in problems(folder))


def test_no_corpus(tmp_path):
    with pytest.raises(CorpusError):
        list(verify(tmp_path))
