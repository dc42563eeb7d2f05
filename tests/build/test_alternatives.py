"""Two releases of one dataset with different tables: each label file is read by its own."""

from atlas.build import build
from atlas.corpus import open_corpus
from atlas.phantom import write_dataset
from atlas.spec import Recipe

DATASET = "abdomenct_12organ"


def test_each_release_is_read_by_its_own_table(tmp_path, equal_masks):
    old, new = write_dataset(DATASET, tmp_path, cases=2, without=[{"flare22"}, {"organ12"}])
    recipe = Recipe.model_validate({"name": "two", "datasets": [DATASET], "grid": {"spacing": 3.0}})
    summary = build(recipe, tmp_path, tmp_path / "corpus.zarr", workers=1)
    assert summary.quarantined == {}
    corpus = open_corpus(tmp_path / "corpus.zarr")
    assert corpus[old.case_id].available - corpus[new.case_id].available == {"celiac_trunk"}
    assert corpus[new.case_id].available - corpus[old.case_id].available == {"duodenum"}
    for phantom in (old, new):
        equal_masks(corpus[phantom.case_id], phantom)
