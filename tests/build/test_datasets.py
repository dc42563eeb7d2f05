"""Every shipped dataset, from phantoms in its published layout to the corpus, against the phantoms' own formulas."""

import numpy as np
import pytest

from atlas.build import build
from atlas.corpus import open_corpus
from atlas.spec import Recipe, load_label_map, load_taxonomy, names

SPACING = 3.0


@pytest.fixture(scope="module")
def built(phantoms, shipped, tmp_path_factory):
    """Corpus of all phantoms."""
    sources, _ = phantoms
    folder = tmp_path_factory.mktemp("built") / "corpus.zarr"
    recipe = Recipe.model_validate({"name": "all", "datasets": shipped, "grid": {"spacing": SPACING}})
    summary = build(recipe, sources, folder, workers=2)
    assert summary.quarantined == {}
    return open_corpus(folder)


def cases(built, phantoms, dataset):
    return [(phantom, built[phantom.case_id]) for phantom in phantoms[1][dataset]]


@pytest.mark.parametrize("dataset", names("manifests"))
def test_masks_equal_the_anatomy(built, phantoms, dataset):
    """Dice against the formula on the canonical grid; what is lost is what 5 mm voxels cannot show."""
    for phantom, case in cases(built, phantoms, dataset):
        truth = phantom.truth(case.record.shape, case.affine)
        codes = np.asarray(case.codes[...])
        scores = {}
        for name in sorted(case.available):
            lookup = np.array([b >> case.taxonomy.bit(name) & 1 for b in case.table], dtype=bool)
            mask, true = lookup[codes], truth[name]
            if true.sum() * SPACING**3 > 3000:
                scores[name] = 2 * (mask & true).sum() / (mask.sum() + true.sum())
            elif not true.any():
                # a shape that only grazes the volume may show in a voxel or two
                assert mask.sum() * SPACING**3 < 1000, name
        assert scores, phantom.case_id
        low = {name: round(float(score), 3) for name, score in scores.items() if score < 0.75}
        assert not low, phantom.case_id
        assert np.mean(list(scores.values())) > 0.85, phantom.case_id


@pytest.mark.parametrize("dataset", names("manifests"))
def test_availability_is_what_the_dataset_annotates(built, phantoms, dataset):
    taxonomy = load_taxonomy()
    named = load_label_map(dataset).targets()
    expected = {taxonomy.names[bit] for target in named for bit in taxonomy.target_bits(target)}
    for phantom, case in cases(built, phantoms, dataset):
        assert case.available == expected == phantom.available
        assert case.present <= case.available


@pytest.mark.parametrize("dataset", names("manifests"))
def test_left_is_left(built, phantoms, dataset):
    """Centroids in millimetres, class by class, on the side that the anatomy says."""
    for phantom, case in cases(built, phantoms, dataset):
        truth = phantom.truth(case.record.shape, case.affine)
        for record in case.record.classes:
            side = case.taxonomy.by_name[record.name].side
            if side is None or not record.voxels or not truth[record.name].any():
                continue
            x = np.argwhere(truth[record.name])[:, 2].mean()
            true_mm = case.affine[0, 0] * x + case.affine[0, 3]
            assert abs(record.centroid_mm[0] - true_mm) < 6, (phantom.case_id, record.name)


@pytest.mark.parametrize("dataset", names("manifests"))
def test_parts_lie_in_their_wholes(built, phantoms, dataset):
    for _, case in cases(built, phantoms, dataset):
        for name in case.available:
            for whole in case.taxonomy.wholes(name):
                bits = case.taxonomy.target_bits(whole)
                if any(case.taxonomy.names[bit] not in case.available for bit in bits):
                    continue
                for bitmask in case.table:
                    if bitmask >> case.taxonomy.bit(name) & 1:
                        assert any(bitmask >> bit & 1 for bit in bits), (case.case_id, name, whole)


def test_coverage_is_of_all(built, shipped):
    table = built.coverage()
    assert set(table["dataset"]) == set(shipped)
    assert (table[table["available"] > 0]["available"] == 2).all()
