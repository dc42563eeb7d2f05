"""The same case in every file format, and with its labels in one file or several, is the same case."""

import numpy as np
import pytest
import SimpleITK as sitk

from atlas.build import build
from atlas.corpus import open_corpus
from atlas.spec import load_recipe

SUFFIXES = ["nii", "nii.gz", "mha", "mhd", "nrrd", "nhdr"]


def store(path, data, affine):
    """Write with SimpleITK: (i, j, k) data and its RAS affine to ITK's own axes and LPS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    flip = np.diag([-1.0, -1.0, 1.0])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flip @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    sitk.WriteImage(image, str(path))


def masks(case):
    return {name: case.mask(name) for name in case.available}


@pytest.fixture
def reference(toy):
    """What a plain NIfTI pair gives, and the arrays behind it."""
    arrays = toy.add("c0")
    build(load_recipe("toys"), toy.sources, toy.root / "plain.zarr", workers=1)
    case = open_corpus(toy.root / "plain.zarr")["toy/c0"]
    return case.ct[...], masks(case), arrays


def test_every_format(toy, reference):
    ct, expected, (data, seg, affine) = reference
    for number, suffix in enumerate(SUFFIXES, start=1):
        store(toy.sources / f"toy/ct/c{number}.{suffix}", data.astype(np.int16), affine)
        store(toy.sources / f"toy/seg/c{number}.{suffix}", seg, affine)
    patterns = {kind: ", ".join(f"'{kind}/{{case}}.{s}'" for s in SUFFIXES) for kind in ("ct", "seg")}
    toy.spec("manifests", "image: ct/{case}.nii.gz", f"image: [{patterns['ct']}]")
    toy.spec("manifests", "segmentation: seg/{case}.nii.gz", f"segmentation: [{patterns['seg']}]")
    summary = build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    assert summary.quarantined == {}
    corpus = open_corpus(toy.root / "corpus.zarr")
    for number in range(1, len(SUFFIXES) + 1):
        case = corpus[f"toy/c{number}"]
        np.testing.assert_array_equal(case.ct[...], ct)
        for name, mask in masks(case).items():
            np.testing.assert_array_equal(mask, expected[name], err_msg=f"{SUFFIXES[number - 1]} {name}")


def test_several_label_files(toy, reference):
    _, expected, (_, seg, affine) = reference
    (toy.sources / "toy/kidney").mkdir()
    toy.save(toy.seg("c0"), np.where(seg == 3, 0, seg).astype(np.uint8), affine)
    toy.save(toy.sources / "toy/kidney/c0.nii.gz", (seg == 3).astype(np.uint8), affine)
    toy.spec(
        "manifests",
        "segmentation: seg/{case}.nii.gz",
        "segmentation: seg/{case}.nii.gz\n    kidneys: kidney/{case}.nii.gz",
    )
    toy.spec("label_maps", "    3: kidney_left/right", "  kidneys:\n    1: kidney_left/right")
    build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    case = open_corpus(toy.root / "corpus.zarr")["toy/c0"]
    for name, mask in masks(case).items():
        np.testing.assert_array_equal(mask, expected[name], err_msg=name)


def test_a_folder_of_masks(toy, reference):
    _, expected, (_, seg, affine) = reference
    folder = toy.sources / "toy/masks/c0"
    folder.mkdir(parents=True)
    for name, mask in {"liver": np.isin(seg, [1, 2]), "tumour": seg == 2, "kidneys": seg == 3}.items():
        toy.save(folder / f"{name}.nii.gz", mask.astype(np.uint8), affine)
    toy.spec(
        "manifests", "  labels:\n    segmentation: seg/{case}.nii.gz", "  masks: 'masks/{case}/{structure}.nii.gz'"
    )
    toy.spec(
        "label_maps",
        "values:\n  segmentation:\n    1: liver\n    2: liver_tumor\n    3: kidney_left/right",
        "structures:\n  liver: liver\n  tumour: liver_tumor\n  kidneys: kidney_left/right",
    )
    build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    case = open_corpus(toy.root / "corpus.zarr")["toy/c0"]
    assert case.available == set(expected)
    for name, mask in masks(case).items():
        np.testing.assert_array_equal(mask, expected[name], err_msg=name)
    (folder / "tumour.nii.gz").unlink()
    build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    case = open_corpus(toy.root / "corpus.zarr")["toy/c0"]
    assert case.available == set(expected) - {"liver_tumor"}
