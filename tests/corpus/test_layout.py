"""The store, read by others: zarr-python, tensorstore and OME-Zarr readers."""

import json

import numpy as np
import pytest
import tensorstore as ts
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels


def test_metadata_is_valid_ngff(corpus):
    for case_id in ("one/a", "one/b", "two/a"):
        group = zarr.open_group(corpus.location, path=f"cases/{case_id}", mode="r")
        Image.from_zarr(group)
        Labels.from_zarr(group["labels"])
        ImageLabel.from_zarr(group["labels/masks"])


def test_a_stock_reader_sees_image_and_labels_aligned(corpus, truth):
    image, labels, masks = list(Reader(parse_url(f"{corpus.location}/cases/one/a", mode="r"))())
    np.testing.assert_array_equal(np.asarray(image.data[0]), truth["one/a"][0])
    assert masks.data[0].shape == image.data[0].shape
    assert masks.metadata["coordinateTransformations"] == image.metadata["coordinateTransformations"]
    scale, translation = image.metadata["coordinateTransformations"][0]
    assert scale["scale"] == [1.5, 1.5, 1.5]
    assert translation["translation"] == [100.0, -40.0, -50.0]
    np.testing.assert_array_equal(np.asarray(masks.data[0]) > 0, truth["one/a"][1]["liver"])
    names = {value: p["classes"] for value, p in masks.metadata["properties"].items()}
    assert sorted(names.values(), key=len) == [["liver"], ["liver", "liver_tumor"]]
    assert len(masks.metadata["color"]) == 2
    del labels


@pytest.mark.parametrize("array", ["ct", "labels/masks/0", "foreground"])
def test_tensorstore_and_zarr_read_the_same(corpus, array):
    path = f"{corpus.location}/cases/two/a/{array}"
    one = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True).result().read().result()
    np.testing.assert_array_equal(one, zarr.open_array(path, mode="r")[...])


def test_chunks_and_codecs_are_those_of_the_contract(corpus):
    for array, dtype, size in (("ct", "int16", 2), ("labels/masks/0", "uint8", 1)):
        metadata = json.loads((_path(corpus) / f"cases/one/a/{array}/zarr.json").read_text())
        assert metadata["data_type"] == dtype
        assert metadata["dimension_names"] == ["z", "y", "x"]
        # shards of whole chunks, no larger than the volume needs
        assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [64, 64, 64]
        sharding = metadata["codecs"][0]
        assert sharding["name"] == "sharding_indexed"
        assert sharding["configuration"]["chunk_shape"] == [32, 32, 32]
        blosc = sharding["configuration"]["codecs"][1]["configuration"]
        assert (blosc["cname"], blosc["clevel"], blosc["shuffle"], blosc["typesize"]) == ("lz4hc", 5, "shuffle", size)


def test_code_tables(corpus, taxonomy):
    attributes = zarr.open_group(corpus.location, path="cases/two/a/labels/masks", mode="r").attrs["atlas"]
    kidney, aorta = 1 << taxonomy.bit("kidney_left"), 1 << taxonomy.bit("aorta")
    assert attributes["bitmasks"] == [hex(b) for b in (0, 0, kidney, aorta, aorta)]
    assert attributes["unknown"] == [hex(b) for b in (0, aorta, 0, 0, aorta)]


def test_root_holds_what_a_reader_needs(corpus):
    root = json.loads((_path(corpus) / "zarr.json").read_text())["attributes"]["atlas"]
    assert root["format"] == "1.0"
    assert root["grid"] == {"spacing": 1.5}
    assert [c["name"] for c in root["taxonomy"]["classes"]] == list(corpus.taxonomy.names)
    assert root["recipe"]["name"] == "toy"


def _path(corpus):
    from pathlib import Path

    return Path(corpus.location)
