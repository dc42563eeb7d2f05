"""Puts the modules beside this file, and the writer of DICOM files, where the tests find them."""

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "ingest"))


@pytest.fixture
def by_intensity(monkeypatch):
    """Put a "network" in the place of the real one: probability is a ramp over HU for each row, 0 outside the scan.

    Call it with {row: (HU of probability 0, HU of probability 1)}.
    """
    import numpy as np

    from atlas.harmonize.grid import HU_MIN
    from atlas.predict import canonical

    def install(ramps):
        def predict_volume(network, ct, *, rows, patch, window, overlap, precision, out, progress):
            assert ct.dtype == np.int16
            assert out.dtype == np.uint8
            assert out.shape == (len(rows), *ct.shape)
            for number, row in enumerate(rows):
                low, high = ramps[row]
                p = np.clip((ct.astype(np.float64) - low) / (high - low), 0, 1)
                p[ct == HU_MIN] = 0
                out[number] = np.ceil(p * 255 - 0.5)
            return out

        monkeypatch.setattr(canonical, "predict_volume", predict_volume)

    return install


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory, taxonomy):
    """The small corpus of the tests of the corpus: cases one/a, one/b and two/a."""
    place = Path(__file__).parents[1] / "corpus" / "conftest.py"
    spec = importlib.util.spec_from_file_location("corpus_writing", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_corpus(tmp_path_factory.mktemp("corpus") / "toy.zarr", taxonomy)
