"""A scan to be predicted is resampled as the corpus was that the model learned from."""

import nibabel as nib
import numpy as np
import pytest
from predicting import affine_of, model

from atlas.harmonize.grid import canonical_grid
from atlas.harmonize.resample import resample_ct
from atlas.predict import CaseScan, FileScan, canonical, predict_scans
from atlas.train.run import CorpusRecord


@pytest.mark.parametrize("antialias", [False, True])
def test_smoothed_if_the_corpus_was(antialias, tmp_path, taxonomy, monkeypatch):
    affine = affine_of((0.5, 0.625, 2.0))  # what float32 headers hold to the bit
    data = np.random.default_rng(0).integers(-200, 300, (40, 36, 20), dtype=np.int16)
    nib.Nifti1Image(data, affine).to_filename(tmp_path / "ct.nii.gz")
    trained = model(taxonomy)
    record = trained.description.corpus.model_copy(update={"antialias": antialias})
    trained.description = trained.description.model_copy(update={"corpus": record})
    seen = []
    monkeypatch.setattr(
        canonical, "predict_volume", lambda _, ct, *, out, **__: seen.append(ct) or np.copyto(out, 0) or out
    )
    (done,) = predict_scans(trained, [FileScan("case", tmp_path / "ct.nii.gz")], tmp_path / "out")
    assert done.reason is None, done.reason
    expected = {on: resample_ct(data, affine, canonical_grid(data.shape, affine), antialias=on) for on in (False, True)}
    assert expected[True].std() < 0.8 * expected[False].std()
    np.testing.assert_array_equal(seen[0], expected[antialias])


def test_a_case_of_a_corpus_is_on_its_grid_already(corpus_folder):
    from atlas.corpus import open_corpus

    corpus = open_corpus(corpus_folder)
    data, frame = CaseScan("one/a", corpus).load()
    record = CorpusRecord(location="", spacing=corpus.recipe.grid.spacing, cases=0, fingerprint=0, antialias=True)
    ct, grid = canonical.canonical_ct(data, frame.affine, record)
    np.testing.assert_array_equal(ct, corpus["one/a"].ct[...])
    assert grid.shape == corpus["one/a"].record.shape


@pytest.mark.parametrize("antialias", [False, True])
def test_a_training_remembers_how_its_corpus_was_resampled(antialias, corpus_folder):
    from atlas.corpus import open_corpus

    corpus = open_corpus(corpus_folder)
    resample = corpus.recipe.resample.model_copy(update={"antialias": antialias})
    corpus.recipe = corpus.recipe.model_copy(update={"resample": resample})
    record = CorpusRecord.of(corpus, cases=3, fingerprint=7)
    assert record.antialias is antialias
    assert (record.location, record.spacing) == (corpus.location, corpus.recipe.grid.spacing)
    assert (record.cases, record.fingerprint) == (3, 7)
    assert CorpusRecord.model_validate_json(record.model_dump_json()) == record
    old = {"location": "x", "spacing": 1.5, "cases": 1, "fingerprint": 0}  # of a run before there was the entry
    assert CorpusRecord.model_validate(old).antialias is False
