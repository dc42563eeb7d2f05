"""The folder of results: labels, volumes, one step, never in the place of anything else."""

import hashlib
import json
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
from predicting import affine_of, mask, model, predicted

import atlas
from atlas.errors import AtlasError, SpecError
from atlas.harmonize.grid import canonical_grid
from atlas.predict import FileScan, canonical, predict_scans, results
from atlas.predict.results import write_results
from atlas.predict.scans import Frame, corpus_scans
from atlas.predict.select import select
from atlas.spec import Taxonomy
from atlas.spec.training import PostprocessSpec

CLASSES = ("liver_tumor", "aorta", "liver")
RAMPS = {0: (300, 500), 1: (-100, -300), 2: (0, 200)}
SHAPE = (30, 26, 22)


@pytest.fixture
def ct(tmp_path):
    """A liver (200 HU) with a tumour (500 HU), an aorta (-300 HU) and a second piece of liver."""
    data = np.zeros(SHAPE, np.int16)
    data[4:18, 4:18, 4:18] = 200
    data[8:13, 8:13, 8:13] = 500
    data[22:26, 20:24, 3:19] = -300
    data[25:28, 2:5, 2:5] = 200
    path = tmp_path / "in" / "ct.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(data, affine_of((2.0, 2.0, 2.5))), path)
    return path


def volumes(folder):
    return json.loads((folder / "volumes.json").read_text())


def test_combined_masks_and_volumes_agree(ct, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    folder = predicted(model(taxonomy, CLASSES), ct, tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == ["combined.nii.gz", "segmentations", "volumes.json"]
    assert sorted(p.name for p in (folder / "segmentations").iterdir()) == [f"{c}.nii.gz" for c in sorted(CLASSES)]
    told = volumes(folder)
    assert [(c["class"], c["label"]) for c in told["classes"]] == [("liver_tumor", 1), ("aorta", 2), ("liver", 3)]
    combined = nib.load(folder / "combined.nii.gz")
    labels = np.asarray(combined.dataobj)
    masks = {name: mask(folder, name) == 1 for name in CLASSES}
    assert labels.dtype == np.uint8
    assert masks["liver"][10, 10, 10]
    assert masks["liver_tumor"][10, 10, 10]
    assert labels[10, 10, 10] == 1  # the part over its whole, though it is listed first
    expected = np.zeros(SHAPE, np.uint8)
    for value, name in ((2, "aorta"), (3, "liver"), (1, "liver_tumor")):
        expected[masks[name]] = value
    np.testing.assert_array_equal(labels, expected)
    for c in told["classes"]:
        count = int(masks[c["class"]].sum())
        assert c["voxels"] == count > 0
        assert c["ml"] == pytest.approx(count * 10 / 1000, abs=1e-4)
    assert (told["atlas"], told["threshold"], told["model"]["sha256"]) == (atlas.__version__, 0.5, "d" * 64)
    assert told["input"] == str(ct.resolve())
    assert told["sha256"] == hashlib.sha256(ct.read_bytes()).hexdigest()
    assert told["spacing_mm"] == [2.0, 2.0, 2.5]


def test_chosen_classes_are_written_and_no_others(ct, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    trained = model(taxonomy, CLASSES, largest=["liver"], organ_margin=0.0)
    folder = predicted(trained, ct, tmp_path / "out", classes=["liver_tumor"])
    assert [p.name for p in (folder / "segmentations").iterdir()] == ["liver_tumor.nii.gz"]
    assert [c["class"] for c in volumes(folder)["classes"]] == ["liver_tumor"]
    assert set(np.unique(nib.load(folder / "combined.nii.gz").dataobj)) == {0, 1}


def test_post_processing_as_declared_or_not_at_all(ct, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    trained = model(taxonomy, CLASSES, largest=["liver"])
    cleaned = mask(predicted(trained, ct, tmp_path / "a"), "liver")
    left_alone = mask(predicted(trained, ct, tmp_path / "b", tidied=False), "liver")
    assert left_alone[26, 3, 3] == 1
    assert cleaned[26, 3, 3] == 0
    assert cleaned[10, 10, 10] == left_alone[10, 10, 10] == 1
    assert volumes(tmp_path / "a" / "case")["postprocess"]["largest"] == ["liver"]
    assert volumes(tmp_path / "b" / "case")["postprocess"]["largest"] == []


def test_lesion_rule_sees_the_organ_that_is_not_written(ct, tmp_path, taxonomy, by_intensity):
    by_intensity({**RAMPS, 0: (-100, -300)})  # "tumour" where the aorta is, far from the liver
    trained = model(taxonomy, CLASSES, organ_margin=2.0)
    folder = predicted(trained, ct, tmp_path / "out", classes=["liver_tumor"])
    assert volumes(folder)["classes"][0]["voxels"] == 0


def test_arrays_on_disk_give_the_same_result_and_leave_nothing(ct, tmp_path, taxonomy, by_intensity, monkeypatch):
    by_intensity(RAMPS)
    trained = model(taxonomy, CLASSES, largest=["liver"], organ_margin=5.0, sides=True)
    one = predicted(trained, ct, tmp_path / "a")
    made = []
    monkeypatch.setattr(canonical, "MOST_BYTES", 1000)
    memmap = np.memmap
    monkeypatch.setattr(canonical.np, "memmap", lambda *a, **k: made.append(memmap(*a, **k)) or made[-1])
    other = predicted(trained, ct, tmp_path / "b")
    assert [m.dtype for m in made] == [np.uint8, bool]
    for name in ("combined.nii.gz", "segmentations/liver.nii.gz"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["case"]


def test_an_earlier_result_is_replaced(ct, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    trained = model(taxonomy, CLASSES)
    folder = predicted(trained, ct, tmp_path / "out")
    predicted(trained, ct, tmp_path / "out", classes=["aorta"])
    assert [p.name for p in (folder / "segmentations").iterdir()] == ["aorta.nii.gz"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["case"]


def test_an_earlier_result_survives_a_failure(ct, tmp_path, taxonomy, by_intensity, monkeypatch):
    by_intensity(RAMPS)
    trained = model(taxonomy, CLASSES)
    folder = predicted(trained, ct, tmp_path / "out")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def broken(*args):
        yield np.zeros(SHAPE[1::-1], bool)
        raise OSError("disk full")

    monkeypatch.setattr(results, "native_planes", broken)
    with pytest.raises(OSError, match="disk full"):  # the disk is full for the next scan too
        predicted(trained, ct, tmp_path / "out")
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["case"]


def test_nothing_but_a_result_is_replaced(ct, tmp_path, taxonomy, by_intensity):
    """Results into the folder above that of the slices would else delete the scan."""
    by_intensity(RAMPS)
    precious = tmp_path / "out" / "case" / "slice.dcm"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"x")
    with pytest.raises(AtlasError, match="choose another folder"):
        predicted(model(taxonomy, CLASSES), ct, tmp_path / "out")
    assert precious.read_bytes() == b"x"


def test_a_bad_scan_is_told_of_and_the_rest_go_on(ct, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    bad = tmp_path / "in" / "bad.nii.gz"
    bad.write_bytes(b"not a scan at all")
    long = nib.Nifti1Image(np.zeros((40, 4, 4), np.int16), np.diag([-50.0, -50, 50, 1]))
    nib.save(nib.Nifti1Image(np.zeros((100, 4, 4), np.int16), long.affine), tmp_path / "in" / "long.nii")
    scans = [FileScan("bad", bad), FileScan("long", tmp_path / "in" / "long.nii"), FileScan("good", ct)]
    done = list(predict_scans(model(taxonomy, CLASSES), scans, tmp_path / "out"))
    assert [d.folder is None for d in done] == [True, True, False]
    assert "bad.nii.gz" in done[0].reason
    assert "5.0 m" in done[1].reason
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good"]
    assert set(done[2].seconds) == {"read", "network", "postprocess", "write"}


def test_unknown_class_before_anything_is_read(tmp_path, taxonomy):
    with pytest.raises(SpecError, match="liver_tumor"):
        list(predict_scans(model(taxonomy, CLASSES), [FileScan("x", tmp_path / "none")], tmp_path, classes=["tumor"]))


def test_more_than_255_classes_of_a_big_endian_scan(tmp_path):
    """The label map then has two bytes a voxel, and they must not be swapped."""
    one = {"kind": "organ", "prompt": "x", "colour": [0, 0, 0]}
    classes = [{**one, "bit": n, "name": f"organ_{n}"} for n in range(300)]
    many = Taxonomy.model_validate({"version": 1, "classes": classes})
    shape, affine = (20, 5, 3), affine_of((1.5, 1.5, 1.5))
    grid = canonical_grid(shape, affine, 1.5)
    probabilities = np.zeros((300, *grid.shape), np.uint8)
    for n in range(300):
        probabilities[n].reshape(-1)[n] = 255
    header = nib.Nifti1Header(endianness=">")
    header.set_data_shape(shape)
    header.set_sform(affine, 1)
    frame = Frame(shape, affine, header, "x", "0")
    selection = select(many.names, None, many, PostprocessSpec())
    write_results(tmp_path / "x", probabilities, grid, frame, selection, many, {})
    image = nib.load(tmp_path / "x" / "combined.nii.gz")
    labels = np.asarray(image.dataobj)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels.ravel(order="F"), np.arange(1, 301))
    np.testing.assert_allclose(image.affine, affine)


def test_cases_of_a_corpus_on_their_own_grid(tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    ct = np.zeros((7, 9, 11), np.int16)
    ct[1:5, 2:7, 3:9] = 200

    class Case:
        affine = affine_of((1.5, 1.5, 1.5))
        record = type("Record", (), {"ct_sha256": "c" * 64})

    Case.ct = ct
    corpus = type("Corpus", (dict,), {"location": "/corpus"})({"set/one": Case})
    scans = corpus_scans(corpus, ["set/one"])
    (done,) = predict_scans(model(taxonomy, CLASSES), scans, tmp_path / "out")
    assert done.folder == tmp_path / "out" / "set" / "one"
    image = nib.load(done.folder / "segmentations" / "liver.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), ct == 200)
    np.testing.assert_allclose(image.affine, Case.affine, atol=1e-5)
    assert volumes(done.folder)["sha256"] == "c" * 64


def test_file_is_gzip_of_the_same_bytes_each_time(ct, tmp_path, taxonomy, by_intensity):
    by_intensity(RAMPS)
    trained = model(taxonomy, CLASSES)
    folders = [predicted(trained, ct, tmp_path / name) for name in "ab"]
    for one, other in pairwise(folders):
        for file in (p for p in one.rglob("*.gz")):
            assert file.read_bytes() == (other / file.relative_to(one)).read_bytes()
