"""Which cases are selected, against pandas and the masks that were written."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.corpus import open_corpus
from atlas.errors import CorpusError, SpecError
from atlas.harmonize.measure import body_box
from atlas.stream.select import select


def present(masks):
    return {name for name, mask in masks.items() if mask.any()}


def test_the_arrays_say_what_was_written(corpus, truth):
    index = select(corpus)
    assert index.case_ids.tolist() == sorted(truth)
    assert index.datasets == ("one", "three", "two")
    for i, case_id in enumerate(index.case_ids):
        ct, masks, _ = truth[case_id]
        assert index.datasets[index.dataset[i]] == case_id.split("/")[0]
        assert tuple(index.shape[i]) == ct.shape
        assert tuple(index.body[i]) == (body_box(ct) or (0, 0, 0, *ct.shape))
        bits = index.bits[index.starts[i] : index.starts[i + 1]]
        assert bits.tolist() == sorted(corpus.taxonomy.bit(name) for name in present(masks))
        words = sum(int(word) << 32 * w for w, word in enumerate(index.available[i]))
        assert set(corpus.taxonomy.members(words)) == set(masks)
    kinds = (index.dataset, index.shape, index.body, index.available, index.starts, index.bits)
    assert [a.dtype.name for a in kinds] == ["int32", "int32", "int32", "uint32", "int64", "int16"]
    assert index.available.shape == (8, 5)


def test_available_and_present_of_every_class(corpus, truth):
    index = select(corpus)
    for bit, name in enumerate(corpus.taxonomy.names):
        assert index.annotated(bit).tolist() == [name in truth[c][1] for c in index.case_ids]
        assert index.holding(bit).tolist() == [name in present(truth[c][1]) for c in index.case_ids]


FILTERS = [
    ({}, lambda t: t.case_id != ""),
    ({"split": "train"}, lambda t: t.split == "train"),
    ({"split": ["val", "test"]}, lambda t: t.split != "train"),
    ({"datasets": "two"}, lambda t: t.dataset == "two"),
    ({"datasets": ("one", "three")}, lambda t: t.dataset != "two"),
    ({"licence": "CC0-1.0"}, lambda t: t.licence == "CC0-1.0"),
    ({"licence": ["CC0-1.0", "CC-BY-4.0"]}, lambda t: t.licence.isin(["CC0-1.0", "CC-BY-4.0"])),
    ({"available": "liver_tumor"}, lambda t: t.available.map(lambda a: "liver_tumor" in a)),
    ({"available": ["liver", "spleen"]}, lambda t: t.available.map(lambda a: {"liver", "spleen"} <= set(a))),
    ({"present": ["face"]}, lambda t: t.present.map(lambda a: "face" in a)),
    ({"present": ["spleen", "aorta"]}, lambda t: t.present.map(lambda a: {"spleen", "aorta"} <= set(a))),
    (
        {"available": "liver_tumor", "present": "liver", "split": "train", "datasets": "one"},
        lambda t: t.case_id.isin(["one/a", "one/b"]),
    ),
    ({"where": "list_contains(present, 'kidney_left')"}, lambda t: t.present.map(lambda a: "kidney_left" in a)),
    (
        {"where": "shape[1] > 32 and hu_max > 1000 or licence = 'CC0-1.0'"},
        lambda t: (t["shape"].map(lambda s: s[0] > 32) & (t.hu_max > 1000)) | (t.licence == "CC0-1.0"),
    ),
    ({"where": "body_bbox is null"}, lambda t: t.case_id == "two/c"),
    ({"where": "body_bbox[1] > 5"}, lambda t: t.case_id.isin(["one/b", "two/a", "three/a"])),  # null is not true
    (
        {"where": "case_id in (select case_id from annotations where class = 'liver' and voxels > 1000)"},
        lambda t: t.case_id.isin(["one/a", "one/b", "two/b"]),
    ),
    ({"where": "dataset = 'one' -- and nothing else", "split": "test"}, lambda t: t.case_id == "one/c"),
    ({"where": "true or dataset = 'one'", "split": "val"}, lambda t: t.case_id == "two/c"),
]


@pytest.mark.parametrize(("asked", "expected"), FILTERS, ids=[str(asked) for asked, _ in FILTERS])
def test_filters(corpus, truth, asked, expected):
    index = select(corpus, **asked)
    chosen = corpus.cases[expected(corpus.cases)].case_id.tolist()
    assert index.case_ids.tolist() == chosen
    assert index.datasets == tuple(sorted({c.split("/")[0] for c in chosen}))
    for i, case_id in enumerate(chosen):  # the arrays follow the cases
        assert index.datasets[index.dataset[i]] == case_id.split("/")[0]
        assert tuple(index.shape[i]) == truth[case_id][0].shape
        bits = index.bits[index.starts[i] : index.starts[i + 1]]
        assert {corpus.taxonomy.names[b] for b in bits} == present(truth[case_id][1])


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "true) or (true",
        "false) union select case_id from cases where (true",
        "false union all select case_id from cases",
        "true; select 'one/a' as case_id",
        "true; drop table cases",
        "true limit 1",
        "true order by 1",
        "true group by all",
        "true qualify row_number() over () = 1",
        "true using sample 1",
        "true, true",
        "true /* open",
        "true $$ open",
        "hu_max > $1",
        "hu_max > ?",
        "no_such_column > 1",
        "case_id",
        "exists (select * from read_text('{folder}/zarr.json'))",
        "exists (select * from read_csv('/etc/passwd'))",
        "exists (select * from '{folder}/catalog/../zarr.json')",
    ],
)
def test_a_condition_is_a_condition_and_nothing_else(corpus, corpus_folder, condition):
    with pytest.raises(CorpusError, match=r"""^where ['"]"""):
        select(corpus, where=condition.format(folder=corpus_folder))


def test_unknown_names_list_the_valid_ones(corpus):
    with pytest.raises(CorpusError, match=r"dataset 'four'; there is: one, three, two$"):
        select(corpus, datasets=["one", "four"])
    with pytest.raises(CorpusError, match=r"split 'training'; there is: test, train, val$"):
        select(corpus, split="training")
    with pytest.raises(CorpusError, match=r"licence 'MIT'; there is: CC-BY-4.0, CC-BY-NC-4.0, CC-BY-SA-4.0, CC0-1.0$"):
        select(corpus, licence="MIT")
    with pytest.raises(SpecError, match="did you mean liver"):
        select(corpus, available=["livr"])
    with pytest.raises(SpecError, match="did you mean kidney_left"):
        select(corpus, present="kidney_lef")


def test_nothing_left_says_which_filter_did_it(corpus):
    with pytest.raises(CorpusError, match="no case is left") as error:
        select(corpus, split="train", datasets="two", available="liver", present="face", where="hu_max > 0")
    assert str(error.value).endswith(
        "cases: 8 in the corpus, 6 after split train, 2 after dataset two, 1 after liver available, "
        "0 after face present, 0 after where 'hu_max > 0'"
    )


def test_it_travels_to_another_process(corpus):
    index = select(corpus, split="train")
    copy = pickle.loads(pickle.dumps(index))
    for name, value in vars(index).items():
        np.testing.assert_array_equal(getattr(copy, name), value)


def test_many_cases_in_any_order(own_folder):
    """Rows of the catalog in another order than the ids, over several row groups."""
    path = own_folder / "catalog/cases.parquet"
    table = pq.read_table(path)
    order = np.random.default_rng(0).permutation(3000)
    many = table.take(pa.array(order % 8))
    ids = pa.array([f"case/{n:05d}" for n in order])
    pq.write_table(many.set_column(0, "case_id", ids), path, row_group_size=200)
    index = select(open_corpus(own_folder))
    few = {row["case_id"]: row for row in table.to_pylist()}
    names = open_corpus(own_folder).taxonomy.names
    assert index.case_ids.tolist() == [f"case/{n:05d}" for n in range(3000)]
    for i, row in enumerate(list(few.values()) * 375):
        assert index.datasets[index.dataset[i]] == row["dataset"]
        assert index.shape[i].tolist() == row["shape"]
        assert index.available[i].tolist() == row["available_bits"]
        bits = index.bits[index.starts[i] : index.starts[i + 1]]
        assert [names[b] for b in bits] == row["present"]


def damaged_by(column, value):
    """Change a column of the row of three/a."""

    def damage(rows):
        row = next(r for r in rows if r["case_id"] == "three/a")
        row[column] = value
        return rows

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        damaged_by("shape", None),
        damaged_by("shape", [0, 100, 100]),
        damaged_by("dataset", None),
        damaged_by("body_bbox", [9, 9, 9, 97, 88, 88]),
        damaged_by("body_bbox", [-1, 9, 9, 84, 88, 88]),
        damaged_by("body_bbox", [9, 9, 9, 9, 88, 88]),
        damaged_by("available_bits", [98305]),
    ],
)
def test_a_damaged_catalog_is_found(own_folder, damage):
    path = own_folder / "catalog/cases.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(damage(table.to_pylist()), schema=table.schema), path)
    with pytest.raises(CorpusError, match=r"the catalog is damaged; .* --rebuild-catalog"):
        select(open_corpus(own_folder))
