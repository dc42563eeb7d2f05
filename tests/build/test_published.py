"""Every shipped dataset from its publisher's server to the corpus: phantoms are published, fetched, unpacked, built."""

import shutil

import loopback
import numpy as np
import pytest

from atlas.build import build
from atlas.build.delivery import Delivery
from atlas.corpus import open_corpus
from atlas.fetch.transport.client import _client, client
from atlas.phantom import publish
from atlas.phantom.publish import PASSWORD
from atlas.spec import Recipe, names

SPACING = 3.0
DATASETS = names("manifests")


def fetch_and_build(recipe, sources, corpus):
    """The one way in which the tests fetch: as `atlas build` does."""
    return build(recipe, sources, corpus, workers=2, delivery=Delivery.planned(recipe.datasets, sources))


@pytest.fixture(scope="module")
def publisher(phantoms, tmp_path_factory):
    """Publish all phantoms and serve them; gives the folder of sources, which holds what people put there."""
    written, _ = phantoms
    site, specs, sources = (tmp_path_factory.mktemp(name) for name in ("site", "specs", "sources"))
    (specs / "manifests").mkdir()
    with loopback.serving(site) as web, pytest.MonkeyPatch.context() as patch:
        for dataset in DATASETS:
            published = publish(dataset, written, site, web)
            (specs / "manifests" / f"{dataset}.yaml").write_text(published.text, encoding="utf-8")
            for target, path in published.by_hand.items():
                place = sources / dataset / target
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
        with loopback.buckets(site) as s3:
            for name, value in loopback.environment(site, web, s3, DATASETS, PASSWORD).items():
                patch.setenv(name, value)
            patch.setenv("ATLAS_PATH", str(specs))
            yield sources
    client().close()
    _client.cache_clear()


@pytest.fixture(scope="module")
def summary_and_corpus(publisher, tmp_path_factory):
    recipe = Recipe.model_validate({"name": "all", "datasets": list(DATASETS), "grid": {"spacing": SPACING}})
    corpus = tmp_path_factory.mktemp("published") / "corpus.zarr"
    return fetch_and_build(recipe, publisher, corpus), corpus


@pytest.fixture(scope="module")
def built(summary_and_corpus):
    return open_corpus(summary_and_corpus[1])


def test_nothing_is_missing(summary_and_corpus, phantoms):
    summary, _ = summary_and_corpus
    assert summary.missing == {}
    assert summary.quarantined == {}
    assert summary.built == sum(len(cases) for cases in phantoms[1].values())


def test_fetched_once(summary_and_corpus, publisher):
    """What was fetched and unpacked is there for the next time."""
    for plan in Delivery.planned(DATASETS, publisher).plans.values():
        assert plan.todo == (), plan.dataset
        assert plan.by_hand == (), plan.dataset


@pytest.mark.parametrize("dataset", DATASETS)
def test_masks_and_sides_equal_the_anatomy(built, phantoms, dataset, equal_masks):
    for phantom in phantoms[1][dataset]:
        equal_masks(built[phantom.case_id], phantom)


@pytest.mark.parametrize("dataset", DATASETS)
def test_availability(built, phantoms, dataset):
    for phantom in phantoms[1][dataset]:
        case = built[phantom.case_id]
        assert case.available == phantom.available, phantom.case_id
        assert case.present <= case.available


@pytest.mark.parametrize("dataset", DATASETS)
def test_unknown_where_nobody_looked(built, phantoms, dataset):
    """Outside the annotated slices every available class that is not drawn is unknown."""
    for phantom in phantoms[1][dataset]:
        case = built[phantom.case_id]
        outside = ~phantom.annotated(case.record.shape, case.affine)
        if phantom.region is None:
            continue
        # the border voxels of the region belong to both
        outside[1:] &= outside[:-1]
        outside[:-1] &= outside[1:]
        codes = np.unique(np.asarray(case.codes[...])[outside])
        available = sum(1 << case.taxonomy.bit(name) for name in case.available)
        assert outside.any()
        for code in codes:
            assert (case.table[code] | case.unknown_table[code]) & available == available, phantom.case_id


@pytest.mark.parametrize("dataset", DATASETS)
def test_parts_lie_in_their_wholes(built, phantoms, dataset):
    for phantom in phantoms[1][dataset]:
        case = built[phantom.case_id]
        for name in case.available:
            for whole in case.taxonomy.wholes(name):
                bits = case.taxonomy.target_bits(whole)
                if not {case.taxonomy.names[bit] for bit in bits} <= case.available:
                    continue
                for bitmask in case.table:
                    if bitmask >> case.taxonomy.bit(name) & 1:
                        assert any(bitmask >> bit & 1 for bit in bits), (case.case_id, name, whole)


def test_coverage_is_of_all(built, phantoms):
    table = built.coverage()
    assert set(table["dataset"]) == set(DATASETS)
    for dataset, cases in phantoms[1].items():
        expected = {name: sum(name in case.available for case in cases) for case in cases for name in case.available}
        rows = table[(table["dataset"] == dataset) & (table["available"] > 0)]
        assert dict(zip(rows["class"], rows["available"], strict=True)) == expected, dataset
