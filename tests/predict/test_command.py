"""atlas predict as its users meet it, with a real (untrained) network."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from predicting import OBLIQUE, affine_of, description

from atlas import cli
from atlas.train.run import network_of, save_description, save_model

CLASSES = ("liver_tumor", "aorta", "liver")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, taxonomy):
    """A run whose network was never trained, but finds something in many voxels."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    torch.manual_seed(0)
    about = description(taxonomy, CLASSES, spacing=6.0, organ_margin=3.0)
    save_description(folder, about, None)
    network = network_of(about, None)
    network.heads[0].controller.bias.data[-1] = 1.0  # untrained, every class is rare: some voxels are wanted
    save_model(folder, network.state_dict())
    return folder


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "in" / "one.nii.gz"
    path.parent.mkdir()
    ct = np.random.default_rng(0).normal(0, 100, (30, 26, 22)).astype(np.int16)
    nib.save(nib.Nifti1Image(ct, affine_of((3.1, 2.8, 4.0), OBLIQUE)), path)
    return path


@pytest.fixture
def atlas(monkeypatch, capsys):
    """Run the command in this process; gives exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["atlas", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return status, told.out, " ".join(told.err.split())

    return run


def test_one_scan(trained, scan, tmp_path, atlas):
    status, out, _ = atlas("predict", trained, "--input", scan, "--out", tmp_path / "out", "--device", "cpu")
    assert status == 0
    assert "of 3 classes found" in out
    folder = tmp_path / "out" / "one"
    told = json.loads((folder / "volumes.json").read_text())
    assert told["model"]["spacing_mm"] == 6.0
    assert sum(c["voxels"] for c in told["classes"]) > 0
    assert np.array_equal(nib.load(folder / "combined.nii.gz").affine, nib.load(scan).affine)


def test_chosen_classes_without_post_processing(trained, scan, tmp_path, atlas):
    options = ("--classes", "liver, aorta", "--no-postprocess", "--overlap", "0.25", "--device", "cpu")
    status, _, _ = atlas("predict", trained, "--input", scan, "--out", tmp_path / "out", *options)
    assert status == 0
    told = json.loads((tmp_path / "out" / "one" / "volumes.json").read_text())
    assert [c["class"] for c in told["classes"]] == ["liver", "aorta"]
    assert told["overlap"] == 0.25
    assert told["postprocess"]["organ_margin"] is None


def test_a_bad_scan_among_good_ones_is_status_3(trained, scan, tmp_path, atlas):
    (scan.parent / "bad.nii.gz").write_bytes(b"rubbish")
    status, _, err = atlas("predict", trained, "--input", scan.parent, "--out", tmp_path / "out", "--device", "cpu")
    assert status == 3
    assert "failed: bad: " in err
    assert (tmp_path / "out" / "one" / "combined.nii.gz").is_file()


def test_no_good_scan_is_status_1(trained, tmp_path, atlas):
    (tmp_path / "bad.nii.gz").write_bytes(b"rubbish")
    status, _, err = atlas("predict", trained, "--input", tmp_path / "bad.nii.gz", "--out", tmp_path / "out")
    assert status == 1
    assert "no scan could be predicted" in err


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--classes", "livr", "--input", "SCAN"], 1, "did you mean liver"),
        (["--input", "nowhere.nii"], 1, "no such file or folder"),
        ([], 2, "give --input, or --corpus"),
        (["--input", "SCAN", "--corpus", "c"], 2, "give --input, or --corpus"),
        (["--input", "SCAN", "--case", "a/b"], 2, "give --input, or --corpus"),
        (["--input", "SCAN", "--overlap", "1"], 2, "from 0 to below 1"),
        (["--input", "SCAN", "--device", "abacus"], 1, "abacus"),
        (["--corpus", "nowhere"], 1, "no such folder"),
    ],
)
def test_wrong_use_is_one_clear_sentence(arguments, status, told, trained, scan, tmp_path, atlas):
    given = [str(scan) if a == "SCAN" else a for a in arguments]
    done, _, err = atlas("predict", trained, "--out", tmp_path / "out", *given)
    assert done == status
    assert told in err.replace("│ ", "").replace(" │", "")
    assert not (tmp_path / "out").exists()


def test_no_run(scan, tmp_path, atlas):
    status, _, err = atlas("predict", tmp_path, "--input", scan, "--out", tmp_path / "out")
    assert status == 1
    assert "run.json" in err


def test_cases_of_a_corpus(trained, corpus_folder, tmp_path, atlas):
    options = ("--corpus", corpus_folder, "--out", tmp_path / "out", "--device", "cpu", "--classes", "liver")
    status, _, err = atlas("predict", trained, *options, "--case", "one/a", "--case", "one/none")
    assert status == 3
    assert "failed: one/none: no case" in err
    image = nib.load(tmp_path / "out" / "one" / "a" / "combined.nii.gz")
    assert image.shape == (70, 50, 40)
    np.testing.assert_allclose(image.affine[:3], [[1.5, 0, 0, -50], [0, 1.5, 0, -40], [0, 0, 1.5, 100]])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["one"]
    status, _, _ = atlas("predict", trained, *options)
    assert status == 0
    found = sorted(str(p.parent.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("volumes.json"))
    assert found == ["one/a", "one/b", "two/a"]
