"""The corpus as a whole: tables, coverage, SQL, and what happens to those who ask for the wrong thing."""

import json

import numpy as np
import pandas as pd
import pytest

import atlas
from atlas.corpus import open_corpus
from atlas.corpus.catalog import split_of
from atlas.errors import CorpusError, SpecError
from atlas.spec.recipe import Splits


def test_cases_table(corpus):
    cases = corpus.cases.set_index("case_id")
    assert list(cases.index) == ["one/a", "one/b", "two/a"]
    row = cases.loc["one/b"]
    assert list(row["shape"]) == [40, 50, 70]
    assert list(row["available"]) == ["liver", "liver_tumor"]
    assert list(row["present"]) == ["liver"]
    assert list(row["available_bits"]) == [0b11]
    assert list(row["warnings"]) == ["a warning"]
    assert row["group_id"] == "one/b"
    assert row["sources"][0]["sha256"] == "0" * 64
    assert row["fingerprint"] == corpus["one/b"].record.ct_sha256


def test_annotations_table_has_a_row_for_every_case_and_class(corpus, truth):
    table = corpus.annotations
    assert len(table) == 3 * 8
    for case_id, (_, masks) in truth.items():
        rows = table[table.case_id == case_id].set_index("class")
        for name in corpus.taxonomy.names:
            row, mask = rows.loc[name], masks.get(name)
            assert row.available == (mask is not None)
            assert row.present == (mask is not None and mask.any())
            assert row.voxels == (0 if mask is None else mask.sum())
            assert (row.provenance == "manual") == (mask is not None)
            assert np.size(row.bbox) == (6 if row.present else 1)


def test_coverage_counts(corpus):
    table = corpus.coverage().set_index(["dataset", "class"])
    assert table.loc[("one", "liver_tumor"), ["cases", "available", "present"]].tolist() == [2, 2, 1]
    assert table.loc[("two", "liver_tumor"), ["cases", "available", "present"]].tolist() == [1, 0, 0]
    assert table.loc[("one", "liver"), "volume_ml_p50"] == pytest.approx(20 * 30 * 33 * 3.375 / 1000)
    assert pd.isna(table.loc[("two", "liver"), "volume_ml_p50"])
    assert "cyst_left" not in corpus.coverage()["class"].unique()
    assert list(corpus.coverage()["class"].iloc[:4]) == ["liver", "liver_tumor", "kidney_left", "aorta"]


@pytest.mark.parametrize("by", ["split", "licence", "group"])
def test_coverage_by_anything_adds_up(corpus, by):
    table = corpus.coverage(by=by, classes=["liver"])
    assert set(table["class"]) == {"liver"}
    assert table["cases"].sum() == 3
    assert table["present"].sum() == 2


def test_coverage_refuses_what_does_not_exist(corpus):
    with pytest.raises(SpecError, match="did you mean liver"):
        corpus.coverage(classes=["livr"])
    with pytest.raises(CorpusError, match="dataset, split, licence, group"):
        corpus.coverage(by="month")


def test_sql_of_the_contract(corpus):
    table = corpus.sql("select class, count(*) as n from annotations where present group by 1")
    assert dict(zip(table["class"], table["n"], strict=True)) == {
        "liver": 2,
        "liver_tumor": 1,
        "kidney_left": 1,
        "aorta": 1,
    }
    assert corpus.quarantine[["case_id", "reason"]].to_numpy().tolist() == [["two/b", "truncated"]]


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('{folder}/zarr.json')",
        "copy (select 1) to '{folder}/out.csv'",
        "copy (select 1) to '{folder}/catalog/out.csv'",
        "install httpfs",
        "set enable_external_access = true",
        "attach '{folder}/x.db'",
        "select * from read_parquet('https://example.org/x.parquet')",
    ],
)
def test_sql_reaches_the_catalog_and_nothing_else(folder, query):
    with pytest.raises(CorpusError):
        open_corpus(folder).sql(query.format(folder=folder))
    assert sorted(p.name for p in (folder / "catalog").iterdir()) == [
        "annotations.parquet",
        "cases.parquet",
        "quarantine.parquet",
    ]


def test_a_wrong_query_is_a_sentence(corpus):
    with pytest.raises(CorpusError, match=r"the query failed: .*nothing_like_this"):
        corpus.sql("select nothing_like_this from cases")


def test_open_by_path_and_by_url(corpus):
    assert len(atlas.open(corpus.location)) == 3
    remote = atlas.open(f"file://{corpus.location}")
    assert len(remote.cases) == 3
    assert (remote["one/a"].ct[...] == corpus["one/a"].ct[...]).all()
    assert remote.coverage().equals(corpus.coverage())


def test_no_corpus(tmp_path, folder):
    with pytest.raises(CorpusError, match="no such folder"):
        atlas.open(tmp_path / "nothing")
    with pytest.raises(CorpusError, match="no atlas corpus there"):
        atlas.open(tmp_path)
    with pytest.raises(CorpusError, match="known protocols"):
        atlas.open("nonsense://x")
    (folder / "catalog/cases.parquet").unlink()
    with pytest.raises(CorpusError, match="rebuild-catalog"):
        len(atlas.open(folder))


def test_another_format_is_refused(folder):
    root = json.loads((folder / "zarr.json").read_text())
    root["attributes"]["atlas"]["format"] = "2.0"
    (folder / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(CorpusError, match=r"format 2\.0; this version of atlas reads 1\.0"):
        atlas.open(folder)


def test_splits_are_shares_that_move_nobody():
    splits = Splits(train=0.7, val=0.1, test=0.2)
    groups = [f"set/{i}" for i in range(20_000)]
    drawn = pd.Series([split_of(g, splits) for g in groups]).value_counts(normalize=True)
    for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        assert abs(drawn[name] - share) < 0.015
    assert split_of("set/1", splits) == split_of("set/1", splits)
