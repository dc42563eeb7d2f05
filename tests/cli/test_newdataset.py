"""atlas datasets new: a private folder becomes a dataset that builds, after its user has said what the labels mean."""

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from atlas.corpus import open_corpus
from atlas.phantom import write_dataset
from atlas.spec import load_label_map, load_manifest, names

AFFINE = np.array([[-3.0, 0, 0, 90], [0, -3.0, 0, 70], [0, 0, 3.0, -40], [0, 0, 0, 1]])
"""LPS axes."""


def atlas(*arguments, **environment):
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "atlas", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "COLUMNS": "120", **environment},
        check=False,
        timeout=300,
    )
    if arguments[0] == "datasets":
        assert b"Traceback" not in done.stdout + done.stderr, done.stderr.decode()
    return done


def text(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def save(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, AFFINE)
    image.set_qform(AFFINE, 1)
    image.to_filename(path)


def scan(seed):
    """A body with a spine; a liver (5) on its right with a lump (9), a kidney (7) on each side."""
    rng = np.random.default_rng(seed)
    i, j, k = np.ogrid[:60, :48, :30]
    body = ((i - 30) / 27) ** 2 + ((j - 24) / 20) ** 2 + 0 * k < 1
    spine = (abs(i - 30) < 3) & (abs(j - 37) < 3) & (k >= 0)
    ct = np.where(spine, 600, np.where(body, 40, -1000)) + rng.integers(-9, 9, body.shape)
    seg = np.zeros(body.shape, np.uint8)
    seg[10:24, 14:28, 14:26] = 5  # the first axis runs to the left
    seg[14:17, 18:21, 18:21] = 9
    seg[14:20, 30:36, 2:12] = seg[40:46, 30:36, 4:13] = 7
    return ct.astype(np.int16), seg


def draft(tmp_path, folder, like, name="clinic"):
    return atlas("datasets", "new", name, folder, "--like", like, "--out", tmp_path / "mine")


def edit(path, *changes):
    content = path.read_text()
    for old, new in changes:
        assert old in content, content
        content = content.replace(old, new)
    path.write_text(content)


def build(tmp_path, name="clinic"):
    out = tmp_path / "corpus.zarr"
    edit(tmp_path / f"mine/pipelines/{name}.yaml", ("spacing: 1.5", "spacing: 3.0"))
    done = atlas(
        "build", name, "--sources", tmp_path / "sources", "--out", out, "--workers", "1",
        ATLAS_PATH=str(tmp_path / "mine"),
    )  # fmt: skip
    return done, out


def nearest(seg, case):
    """Label of every canonical voxel, by looking up where its centre lies in the source."""
    z, y, x = case.record.shape
    k, j, i = np.meshgrid(range(z), range(y), range(x), indexing="ij")
    points = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ (np.linalg.inv(AFFINE) @ np.asarray(case.affine)).T
    index = np.rint(points[..., :3]).astype(int)
    inside = ((index >= 0) & (index < seg.shape)).all(axis=-1)
    result = np.zeros(case.record.shape, seg.dtype)
    result[inside] = seg[tuple(index[inside].T)]
    return result, (points @ AFFINE.T)[..., 0]


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def check(case, seg):
    labels, x = nearest(seg, case)
    assert case.available == {"liver", "liver_tumor", "kidney_left", "kidney_right"}
    for name, expected in {
        "liver": np.isin(labels, (5, 9)),
        "liver_tumor": labels == 9,
        "kidney_right": (labels == 7) & (x > 0),  # RAS: to the right
        "kidney_left": (labels == 7) & (x < 0),
    }.items():
        assert expected.any()
        assert dice(case.mask(name), expected) > 0.9, name


@pytest.mark.parametrize(
    ("like", "ct", "seg"),
    [
        ("pairs", "imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("pairs", "{}_ct.nii.gz", "{}_seg.nii.gz"),
        ("folders", "all/{}/scan.nii.gz", "all/{}/labels/{}_lab.nii.gz"),
    ],
)
def test_from_a_folder_to_a_corpus(tmp_path, like, ct, seg):
    folder = tmp_path / "scans of ours"
    truth = {}
    for seed, case in enumerate(("p01", "p02", "p11")):
        data, truth[case] = scan(seed)
        save(folder / ct.format(case), data)
        save(folder / seg.format(case, case), truth[case])
    (folder / "readme.txt").write_text("Read me first.\n")
    before = sorted(folder.rglob("*"))
    printed = text(draft(tmp_path, folder, like))
    assert "3 cases with CT and labels, like p01, p02, p11" in printed
    assert "spacing 3 x 3 x 3 mm" in printed
    counts = {value: sum(int((s == value).sum()) for s in truth.values()) for value in (5, 7, 9)}
    for value, count in counts.items():
        row = next(line for line in printed.splitlines() if line.startswith(f"segmentation {value} "))
        assert row.split()[2:4] == [f"{count:,}", "3"]
        assert ("on the right" in row) == (value != 7)
    assert sorted(folder.rglob("*")) == before

    # nothing is mapped: the build says so
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/clinic").symlink_to(folder)
    link = next(line for line in printed.splitlines() if "ln -s" in line)
    assert f"ln -s '{folder}' sources/clinic" in link
    done, out = build(tmp_path)
    assert done.returncode == 1
    assert "names no class" in done.stderr.decode()
    assert not out.exists()

    # as the user would edit it
    edit(tmp_path / "mine/pipelines/clinic.yaml", ("spacing: 3.0", "spacing: 1.5"))
    edit(
        tmp_path / "mine/label_maps/clinic.yaml",
        ("5: null", "5: liver"),
        ("7: null", "7: kidney_left/right"),
        ("9: null", "9: liver_tumor"),
    )
    done, out = build(tmp_path)
    assert "3 cases (3 built" in text(done)
    corpus = open_corpus(out)
    for case, labels in truth.items():
        check(corpus[f"clinic/{case}"], labels)
    assert "clinic" in text(atlas("datasets", "show", "clinic", ATLAS_PATH=str(tmp_path / "mine")))


def test_masks_are_mapped_by_exact_names_alone(tmp_path):
    for case in ("a1", "a2"):
        data, seg = scan(0)
        folder = tmp_path / "sources/clinic" / case
        save(folder / "ct.nii.gz", data)
        for name, mask in {"Liver": np.isin(seg, (5, 9)), "lever_tumour": seg == 9, "spleen": seg == 99}.items():
            save(folder / "masks" / f"{name}.nii.gz", mask.astype(np.uint8))
    printed = text(draft(tmp_path, tmp_path / "sources/clinic", "masks"))
    assert "ln -s" not in printed
    assert f"--sources {tmp_path}/sources" in printed
    label_map = (tmp_path / "mine/label_maps/clinic.yaml").read_text()
    assert "'Liver': liver  #" in label_map
    assert "'lever_tumour': null  # which class? nearest: liver_tumor" in label_map
    assert "'spleen': spleen  # by its name; empty in all" in label_map
    done, out = build(tmp_path)
    text(done)
    case = open_corpus(out)["clinic/a1"]
    assert case.available == {"liver", "spleen"}
    assert case.present == {"liver"}
    assert dice(case.mask("liver"), np.isin(nearest(scan(0)[1], case)[0], (5, 9))) > 0.9


def test_names_out_of_a_legend_and_cases_that_do_not_fit(tmp_path):
    folder = tmp_path / "data"
    for n in range(5):
        data, seg = scan(n)
        save(folder / f"ct/p{n}.nii.gz", data)
        if n != 1:
            save(folder / f"seg/p{n}.nii.gz", seg)
    save(folder / "seg/p3.nii.gz", scan(3)[1][:40])
    (folder / "seg/p4.nii.gz").write_bytes(b"damaged")
    save(folder / "other/thing.nii.gz", scan(3)[1])
    (folder / "dataset.json").write_text('{"labels": {"background": 0, "liver": 5, "kidney": 7, "lump": 9}}')
    printed = text(draft(tmp_path, folder, "pairs"))
    assert "cases without labels: p1" in printed
    assert "did not fit: p4: " in printed
    assert "belong to no case: other/thing.nii.gz" in printed
    assert "names of the label values: dataset.json" in printed
    label_map = (tmp_path / "mine/label_maps/clinic.yaml").read_text()
    assert '5: liver  # called "liver" in the legend' in label_map
    assert '7: null  # which class? called "kidney" in the legend; nearest: ' in label_map
    os.environ["ATLAS_PATH"] = str(tmp_path / "mine")
    try:
        assert load_manifest("clinic").unlabelled == ("p1",)
        assert load_label_map("clinic").values["segmentation"] == {5: ("liver",), 7: (), 9: ()}
    finally:
        del os.environ["ATLAS_PATH"]


def test_like_a_shipped_dataset(tmp_path):
    write_dataset("msd09_spleen", tmp_path, cases=3)
    for path in sorted((tmp_path / "msd09_spleen").rglob("spleen_*")):
        path.rename(path.with_name(path.name.replace("spleen_", "ours_")))
    printed = text(draft(tmp_path, tmp_path / "msd09_spleen", "msd09_spleen"))
    assert "3 cases" in printed
    manifest = (tmp_path / "mine/manifests/clinic.yaml").read_text()
    assert "case: '[^/]+'" in manifest
    assert "(there: spleen)" in (tmp_path / "mine/label_maps/clinic.yaml").read_text()


@pytest.mark.parametrize("objects", ["dicom_seg", "rtstruct"])
def test_dicom_studies(tmp_path, objects):
    studies = (load_manifest(name) for name in names("manifests"))
    source = next(m for m in studies if m.layout.study and m.layout.storage.objects == objects)
    phantoms = write_dataset(source.id, tmp_path, cases=2)
    printed = text(draft(tmp_path, tmp_path / source.id, "dicom"))
    assert "2 cases with CT and labels" in printed
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/clinic").symlink_to(tmp_path / source.id)
    done, out = build(tmp_path)
    text(done)
    for _, case in sorted(open_corpus(out).cases.iterrows()):
        built = open_corpus(out)[case["case_id"]]
        truths = [phantom.truth(built.record.shape, built.affine) for phantom in phantoms]
        assert max(dice(built.mask("liver"), truth["liver"]) for truth in truths) > 0.85


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["clinic", "{tmp}/nowhere", "--like", "pairs"], 1, "no such folder"),
        (["clinic", "{tmp}/empty", "--like", "pairs"], 1, "no NIfTI, MHA or NRRD"),
        (["clinic", "{tmp}/empty", "--like", "dicom"], 1, "no folder holds both"),
        (["clinic", "{tmp}/empty", "--like", "kits23"], 1, "nothing in it lies as in kits23"),
        (["clinic", "{tmp}/mr", "--like", "pairs"], 1, "neither certainly a CT"),
        (["kits23", "{tmp}/empty", "--like", "pairs"], 1, "there is a dataset called kits23"),
        (["../x", "{tmp}/empty", "--like", "pairs"], 2, "letters, digits"),
        (["taxonomy", "{tmp}/empty", "--like", "pairs"], 2, "letters, digits"),
        (["clinic", "{tmp}/empty", "--like", "heaps"], 2, "none of pairs, folders, masks, dicom"),
        (["clinic", "{tmp}/empty"], 2, "--like"),
    ],
)
def test_failures_are_a_sentence_and_write_nothing(tmp_path, arguments, status, message):
    (tmp_path / "empty").mkdir()
    for case in "ab":
        save(tmp_path / f"mr/img/{case}.nii.gz", np.arange(8000, dtype=np.int16).reshape(20, 20, 20))
        save(tmp_path / f"mr/seg/{case}.nii.gz", np.zeros((20, 20, 20), np.uint8))
    done = atlas("datasets", "new", *(a.format(tmp=tmp_path) for a in arguments), "--out", tmp_path / "mine")
    assert done.returncode == status
    message_seen = " ".join(done.stderr.decode().replace("│", " ").split())
    assert message in message_seen
    assert not (tmp_path / "mine").exists()


def test_nothing_is_overwritten(tmp_path):
    for case in "ab":
        data, seg = scan(0)
        save(tmp_path / f"d/ct/{case}.nii.gz", data)
        save(tmp_path / f"d/seg/{case}.nii.gz", seg)
    mine = tmp_path / "mine/label_maps/clinic.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("of the user\n")
    done = draft(tmp_path, tmp_path / "d", "pairs")
    assert done.returncode == 1
    assert "is not overwritten" in done.stderr.decode()
    assert mine.read_text() == "of the user\n"
    assert [p for p in (tmp_path / "mine").rglob("*") if p.is_file()] == [mine]
