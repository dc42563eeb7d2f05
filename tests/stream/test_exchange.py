"""Batches as MONAI dictionaries and TorchIO subjects; positions are checked with nibabel."""

import sys
from itertools import product

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
import torchio

from atlas.errors import AtlasError
from atlas.stream.opened import DOCUMENTS, inside, parse_case
from atlas.stream.pack import pack

CLASSES = ["aorta", "liver", "spleen"]
PATCH = (20, 24, 28)
ORIGINS = {"one/b": (20, 30, -2), "two/a": (90, 30, 20)}


@pytest.fixture(scope="module")
def packed(corpus, corpus_folder, taxonomy):
    folders = {case_id: corpus_folder / "cases" / case_id for case_id in ORIGINS}
    cases = [parse_case(c, {name: (f / name).read_bytes() for name in DOCUMENTS}) for c, f in folders.items()]
    ct = np.full((2, *PATCH), -1024, np.int16)
    codes = np.zeros((2, *PATCH), np.uint8)
    for b, (case_id, origin) in enumerate(ORIGINS.items()):
        volume, within = inside(cases[b].shape, origin, PATCH)
        ct[b][within], codes[b][within] = corpus[case_id].ct[volume], corpus[case_id].codes[volume]
    volumes = torch.from_numpy(ct), torch.from_numpy(codes)
    origins = np.array(list(ORIGINS.values()))
    return pack(cases, origins, *volumes, target=["liver", None], index=np.array([7, 8]), taxonomy=taxonomy)


@pytest.fixture(params=["zyx", "xyz"])
def batch(packed, request):
    return packed.to("cpu", classes=CLASSES, axes=request.param)


VOXELS = list(product((0, 3, 19), (0, 7, 23), (2, 9, 27)))  # (z, y, x) of the patch


def position(corpus, case_id, voxel):
    """RAS mm of a voxel (z, y, x) of the patch, by way of the case."""
    in_case = np.add(ORIGINS[case_id], voxel)
    return nib.affines.apply_affine(corpus[case_id].affine, in_case[::-1])


def test_a_monai_voxel_lies_where_it_lies_in_the_case(corpus, batch):
    items = batch.to_monai()
    assert [item["case_id"] for item in items] == list(ORIGINS)
    for item, key, voxel in product(items, ("image", "label", "unknown"), VOXELS):
        assert isinstance(item[key], monai.data.MetaTensor)
        index = voxel if batch.axes == "zyx" else voxel[::-1]
        found = nib.affines.apply_affine(item[key].affine.numpy(), index)
        np.testing.assert_allclose(found, position(corpus, item["case_id"], voxel))


def test_a_torchio_voxel_lies_where_it_lies_in_the_case(corpus, batch):
    subjects = batch.to_torchio()
    assert [subject["case_id"] for subject in subjects] == list(ORIGINS)
    for subject, key, (z, y, x) in product(subjects, ("image", "label", "unknown"), VOXELS):
        found = nib.affines.apply_affine(subject[key].affine, (x, y, z))
        np.testing.assert_allclose(found, position(corpus, subject["case_id"], (z, y, x)))
        assert subject[key].orientation == ("R", "A", "S")


def test_monai_values(batch):
    for b, item in enumerate(batch.to_monai()):
        assert torch.equal(item["image"].as_tensor(), batch.image[b])
        assert torch.equal(item["label"].as_tensor(), batch.mask[b].to(torch.uint8))
        assert torch.equal(item["unknown"].as_tensor(), batch.unknown[b].to(torch.uint8))
        assert torch.equal(item["available"], batch.available[b])
        assert item["classes"] == tuple(CLASSES)
        assert item["origin"] == ORIGINS[item["case_id"]]
        assert (item["target"], item["index"]) == [("liver", 7), (None, 8)][b]
    assert batch.unknown.any()


def test_torchio_values(packed):
    zyx = packed.to("cpu", classes=CLASSES)
    for axes in ("zyx", "xyz"):
        for b, subject in enumerate(packed.to("cpu", classes=CLASSES, axes=axes).to_torchio()):
            assert isinstance(subject["image"], torchio.ScalarImage)
            assert isinstance(subject["label"], torchio.LabelMap)
            assert subject.spatial_shape == PATCH[::-1]
            assert torch.equal(subject["image"].data, zyx.image[b].permute(0, 3, 2, 1))
            assert torch.equal(subject["label"].data, zyx.mask[b].permute(0, 3, 2, 1).to(torch.uint8))
            assert torch.equal(subject["unknown"].data, zyx.unknown[b].permute(0, 3, 2, 1).to(torch.uint8))
            assert torch.equal(subject["available"], zyx.available[b])
            assert subject["classes"] == tuple(CLASSES)


def test_nothing_unknown_has_no_key(packed):
    batch = packed.to("cpu", classes=["liver", "spleen"])
    assert not any("unknown" in item for item in [*batch.to_monai(), *batch.to_torchio()])


def test_monai_s_transforms_take_it(batch):
    """A transform that reads the affine, and one that crops; in the order of axes that the batch has."""
    item = batch.to_monai()[0]
    oriented = monai.transforms.Orientationd(("image", "label"), "RAS", labels=None)(dict(item))
    for key in ("image", "label"):
        as_xyz = item[key].permute(0, 3, 2, 1) if batch.axes == "zyx" else item[key]
        assert torch.equal(oriented[key].as_tensor(), as_xyz.as_tensor())
    cropped = monai.transforms.CenterSpatialCropd(("image", "label"), 16)(dict(item))
    assert cropped["label"].shape == (3, 16, 16, 16)
    loaded = next(iter(monai.data.DataLoader(batch.to_monai(), batch_size=2, collate_fn=lambda x: x)))
    assert len(loaded) == 2


def test_torchio_s_transforms_take_it(batch):
    subject = batch.to_torchio()[1]
    flipped = torchio.Flip(axes="LR")(subject)
    assert torch.equal(flipped["label"].data, subject["label"].data.flip(1))


def test_items_do_not_share_their_affines(batch):
    first, second = batch.to_monai()
    first["image"].affine[0, 3] += 1000
    assert first["image"].affine[0, 3] != first["label"].affine[0, 3]
    again = batch.to_monai()
    assert torch.equal(again[0]["image"].affine, first["label"].affine)
    assert torch.equal(again[1]["image"].affine, second["image"].affine)


@pytest.mark.parametrize("package", ["monai", "torchio"])
def test_a_package_that_is_missing_is_named(batch, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "monai.data", None)
    with pytest.raises(AtlasError, match=f"pip install {package}$"):
        getattr(batch, f"to_{package}")()
