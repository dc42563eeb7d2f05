"""A build leaves pseudo labels in cases whose inputs are the same, and starts afresh where these changed."""

import numpy as np

from atlas.build import build
from atlas.corpus import open_corpus
from atlas.corpus.complete import complete
from atlas.corpus.verify import verify
from atlas.corpus.write import write_case
from atlas.spec import load_recipe


def run(toy):
    return build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)


def test_a_build_after_pseudo_labels(toy):
    for n in range(2):
        toy.add(f"c{n}", seed=n)
    run(toy)
    folder = toy.root / "corpus.zarr"
    corpus = open_corpus(folder)
    case = corpus["toy/c0"]
    liver, spleen = case.mask("liver"), np.zeros(case.ct.shape, bool)
    spleen[5:12, 20:30, 10:20] = True
    done = complete(
        case.record,
        ct=case.ct[...],
        codes=case.codes[...],
        table=tuple(zip(case.table, case.unknown_table, strict=True)),
        foreground=case.foreground,
        predictions={"spleen": spleen, "liver": spleen},
        model="m",
        taxonomy=corpus.taxonomy,
        samples=corpus.recipe.storage.foreground,
    )
    ct = case.ct[...]
    write_case(folder, ct=ct, taxonomy=corpus.taxonomy, storage=corpus.recipe.storage, **done._asdict())
    summary = run(toy)
    assert (summary.built, summary.kept) == (0, 2)
    assert [finding for _, findings in verify(folder) for finding in findings] == []
    case = open_corpus(folder)["toy/c0"]
    assert np.array_equal(case.mask("spleen"), spleen)
    assert np.array_equal(case.mask("liver"), liver)
    assert open_corpus(folder).annotations.query("available and provenance == 'pseudo'")["class"].tolist() == ["spleen"]
    toy.add("c0", seed=7)
    summary = run(toy)
    assert (summary.built, summary.kept) == (1, 1)
    assert "spleen" not in open_corpus(folder)["toy/c0"].available
