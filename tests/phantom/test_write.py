"""Phantoms in published layouts, read back by nibabel alone."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pytest

from atlas.errors import SpecError
from atlas.phantom import PhantomCase, write_dataset
from atlas.phantom.case_ids import case_ids
from atlas.phantom.label_files import WRONG_LABEL_ORIGIN_MM
from atlas.spec import LabelMap, Manifest, load_label_map, load_manifest, load_taxonomy, names

if TYPE_CHECKING:
    from pathlib import Path


def is_plain(dataset: str) -> bool:
    """A NIfTI file for every CT and label; other layouts are read back in test_layouts.py."""
    layout = load_manifest(dataset).layout
    volumes = [*layout.image, *layout.masks, *(p for several in layout.labels.values() for p in several)]
    special = layout.study or layout.image_of or layout.alternatives
    return not special and not any(pattern.endswith("/") for pattern in volumes)


DATASETS = [name for name in names("manifests") if is_plain(name)]
TAXONOMY = load_taxonomy()
SMALL = ((-150.0, 150.0), (-120.0, 120.0), (-60.0, 60.0))

MANIFEST = """\
id: made_up
name: Made up
citation: Nobody, 2025
licence: {id: CC0-1.0, commercial: true, redistribution: true}
access: {kind: open}
scans: 4
labelled: 3
unlabelled: ["002"]
known_bad: [{cases: ["001"], reason: none}]
layout:
  case: 00[0-3]
  image: "**/{case}/ct.nii.gz"
  labels: {organs: "{case}/organs.nii", rest: "{case}/rest.nii.gz"}
  masks: "{case}/masks/{structure}.nii.gz"
  storage: STORAGE
"""
LABEL_MAP = """\
dataset: made_up
values:
  organs:
    1: kidney_left/right
    2: kidney_tumor
    3: [lung_upper_lobe_left, lung_left]
    4: [lung_lower_lobe_left, lung_left]
    7: null
  rest: {5: liver_tumor, 6: liver_tumor, 9: liver, 255: unknown}
structures:
  nothing: null
  heart: heart
  appendage: atrial_appendage_left
  liver_all: liver
  vessels: hepatic_vessel
cases: {"003": {reason: test, unavailable: [liver]}}
"""


@functools.cache
def specs(dataset: str) -> tuple[Manifest, LabelMap]:
    return load_manifest(dataset), load_label_map(dataset)


def read(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def place(root: Path, manifest: Manifest, pattern: str, case: PhantomCase, **more: str) -> Path:
    source_case = case.case_id.split("/")[1]
    return root / manifest.id / pattern.replace("**/", "").format(case=source_case, **more)


def stored_labels(root: Path, case: PhantomCase) -> dict[str, tuple[np.ndarray, tuple[str, ...]]]:
    """Binary mask and meaning of every label of a case, as the files have them."""
    manifest, label_map = specs(case.case_id.split("/")[0])
    out = {}
    for name, values in label_map.values.items():
        data, _ = read(place(root, manifest, manifest.layout.labels[name][0], case))
        assert set(np.unique(data)) <= {0, *values}
        out |= {f"{name} {value}": (data == value, targets) for value, targets in values.items()}
    for stem, targets in label_map.structures.items():
        data, _ = read(place(root, manifest, manifest.layout.masks[0], case, structure=stem))
        assert len(np.unique(data)) <= 2
        out[stem] = (data > 0.5, targets)
    return out


def assert_labels_are_true(root: Path, case: PhantomCase) -> None:
    """Every target: the union of its labels and of its parts' is what the formula says."""
    _, image = read(case.image)
    xyz_first = case.truth(image.shape[::-1], image.affine)
    truth = {name: mask.T for name, mask in xyz_first.items()}
    labels = stored_labels(root, case)
    wholes = {t: {t} | TAXONOMY.wholes(t) for _, ts in labels.values() for t in ts if t != "unknown"}
    targets = specs(case.case_id.split("/")[0])[1].targets()
    assert case.available == {TAXONOMY.classes[b].name for t in targets for b in TAXONOMY.target_bits(t)}
    for target in targets:
        found = np.zeros(image.shape, dtype=bool)
        for mask, meaning in labels.values():
            if any(target in wholes[t] for t in meaning if t != "unknown"):
                found |= mask
        expected = np.logical_or.reduce([truth[TAXONOMY.classes[bit].name] for bit in TAXONOMY.target_bits(target)])
        np.testing.assert_array_equal(found, expected, err_msg=f"{case.case_id} {target}")


def assert_header_is_the_publishers(image: nib.Nifti1Image, manifest: Manifest) -> None:
    storage = manifest.layout.storage
    assert "".join(nib.aff2axcodes(image.affine)) == storage.orientation
    assert bool(image.header["sform_code"]) == (storage.affine in ("both", "sform"))
    assert bool(image.header["qform_code"]) == (storage.affine in ("both", "qform"))
    if storage.affine == "both":
        np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-3)


def assert_index_lists(path: Path, case: PhantomCase) -> None:
    """dataset.json as the Decathlon has it, and the Mac files that its archives hold beside the volumes."""
    index = json.loads(path.read_text())
    (entry,) = index["training"]
    assert index["numTraining"] == 1
    assert path.parent / entry["image"] == case.image
    assert entry["image"].startswith("./")
    label = path.parent / entry["label"]
    assert label.is_file()
    assert label.with_name(f"._{label.name}").is_file()


@pytest.mark.parametrize("dataset", DATASETS)
def test_round_trip(dataset: str, tmp_path: Path) -> None:
    manifest, label_map = specs(dataset)
    (case,) = write_dataset(dataset, tmp_path, cases=1)
    source_case = case.case_id.removeprefix(f"{dataset}/")
    assert re.fullmatch(manifest.layout.case, source_case)
    assert case.image == place(tmp_path, manifest, manifest.layout.image[0], case)
    if manifest.layout.index:
        assert_index_lists(tmp_path / dataset / manifest.layout.index, case)
    ct, image = read(case.image)
    assert_header_is_the_publishers(image, manifest)
    assert not manifest.layout.storage.zero_origin or not image.affine[:3, 3].any()
    assert ct.dtype == np.int16
    assert ct.min() >= -1024
    assert -1010 < np.median(ct[:3, :3]) < -990
    assert_labels_are_true(tmp_path, case)
    dtype = manifest.layout.storage.label_dtype
    for name in label_map.values:
        data, label = read(place(tmp_path, manifest, manifest.layout.labels[name][0], case))
        assert data.dtype == dtype
        assert_header_is_the_publishers(label, manifest)
        error = WRONG_LABEL_ORIGIN_MM if manifest.layout.label_geometry == "image" else 0
        np.testing.assert_allclose(label.affine[:3, 3] - image.affine[:3, 3], error, atol=1e-3)
    for stem in label_map.structures:
        data, mask = read(place(tmp_path, manifest, manifest.layout.masks[0], case, structure=stem))
        if dtype == "scaled_int8":
            assert mask.get_data_dtype() == np.int8
            values = np.unique(data)
            np.testing.assert_allclose(values, [0, 1.0000000591][: len(values)], rtol=0, atol=1e-10)
        else:
            assert data.dtype == dtype
        np.testing.assert_allclose(mask.affine, image.affine)
        assert_header_is_the_publishers(mask, manifest)


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    storage = getattr(request, "param", "{}")
    for folder, text in (("manifests", MANIFEST.replace("STORAGE", storage)), ("label_maps", LABEL_MAP)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "made_up.yaml").write_text(text)
    monkeypatch.setenv("ATLAS_PATH", str(tmp_path))
    specs.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    "made_up",
    [
        f"{{orientation: {orientation}, label_dtype: {dtype}, affine: {affine}, zero_origin: {zero}}}"
        for orientation, dtype, affine, zero in [
            ("RAS", "uint8", "both", "false"),
            ("IPL", "float64", "sform", "true"),
            ("SRA", "int16", "qform", "true"),
            ("ALI", "uint16", "qform", "false"),
        ]
    ],
    indirect=True,
)
def test_any_layout(made_up: Path) -> None:
    (case,) = write_dataset("made_up", made_up, cases=1, seed=5, spacing=(4, 6, 5))
    assert case.case_id == "made_up/000"  # the other three are bad, without labels, or an exception
    _, image = read(case.image)
    assert_header_is_the_publishers(image, specs("made_up")[0])
    steps = {frozenset("LR"): 4, frozenset("PA"): 6, frozenset("IS"): 5}
    codes = nib.aff2axcodes(image.affine)
    expected = [step for code in codes for ends, step in steps.items() if code in ends]
    assert image.header.get_zooms() == tuple(expected)
    assert_labels_are_true(made_up, case)


def test_meanings(made_up: Path) -> None:
    (case,) = write_dataset("made_up", made_up, cases=["007"])
    labels = {name: mask for name, (mask, _) in stored_labels(made_up, case).items()}
    assert all(mask.any() for name, mask in labels.items() if name != "organs 2")
    assert not (labels["heart"] & labels["appendage"]).any(), "parts with a mask of their own"
    vessels = labels["vessels"]
    assert (labels["liver_all"] & vessels).sum() == vessels.sum(), "no part by the taxonomy: both masks"
    unmeant = labels["organs 7"] | labels["rest 255"] | labels["nothing"]
    _, image = read(case.image)
    body = case.anatomy.paint(image.shape, image.affine)
    assert not any((case.anatomy.members(name)[body] & unmeant).any() for name in case.available)
    assert case.anatomy.members("skin")[body][unmeant].all()


def test_same_bytes(made_up: Path) -> None:
    for attempt, case in (("a", "000"), ("b", "000"), ("other", "007")):
        write_dataset("made_up", made_up / attempt, cases=[case], field=SMALL)
    first, second, other = (files(made_up / attempt) for attempt in ("a", "b", "other"))
    assert first == second
    assert first["made_up/000/ct.nii.gz"] != other["made_up/007/ct.nii.gz"]


def test_options_reach_the_body(made_up: Path) -> None:
    (case,) = write_dataset(
        "made_up", made_up, cases=1, absent=frozenset({"kidney_left"}), rotation_deg=90, offset_mm=(30, 0, 0)
    )
    _, image = read(case.image)
    masks = case.truth(image.shape[::-1], image.affine)
    assert not masks["kidney_left"].any()
    z, y, x = np.argwhere(masks["kidney_right"]).mean(axis=0)
    where = (image.affine @ [x, y, z, 1])[:3]
    assert where[1] > 30, "on the left side, the right kidney is up"
    assert where[0] > 50, "and the back is where the right was"


def test_only_nifti(made_up: Path) -> None:
    path = made_up / "manifests" / "made_up.yaml"
    path.write_text(path.read_text().replace("organs.nii", "organs.nrrd"))
    with pytest.raises(SpecError, match=r"organs\.nrrd"):
        write_dataset("made_up", made_up, cases=1, field=SMALL)


@pytest.mark.parametrize(
    "pattern",
    [r"liver_\d+", r"BDMAP_\d{8}", "[^/]+", r"(?:train|val)_[a-f]{3}(?:_a|_b)?", r"\d{1,3}\.x", "^a|b$", r"[-_]x*"],
)
def test_case_ids(pattern: str) -> None:
    found = case_ids(pattern, 2, seed="0")
    assert len(set(found)) == 2
    assert all(re.fullmatch(pattern, case) for case in found)
    assert found == case_ids(pattern, 2, seed="0")
    assert not set(found[:1]) & set(case_ids(pattern, 1, seed="0", avoid=found[:1]))


def test_too_few_case_ids() -> None:
    with pytest.raises(SpecError, match="no 3 case numbers"):
        case_ids("a|b", 3, seed="0")
