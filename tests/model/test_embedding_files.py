"""Embeddings in files, ours and those of others, some of them hostile."""

import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch

from atlas.errors import SpecError
from atlas.model import tables
from atlas.model.embedding_files import load_embeddings, read_embeddings, save_embeddings
from atlas.model.hashed import hashed_embeddings
from atlas.spec.library import load_taxonomy

safetensors_torch = pytest.importorskip("safetensors.torch")

TABLE = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


@pytest.fixture
def ours():
    return hashed_embeddings(["liver", "spleen"], ["liver", "milz é"], dim=16)


def rewritten(path, *, tensors=None, **metadata):
    """Write the file again with other content."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored, said = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    safetensors_torch.save_file(tensors or stored, path, metadata=said | metadata)


# ------------------------------------------------------------------------------------------------------------- ours


def test_round_trip(ours, tmp_path):
    path = tmp_path / "deep" / "e.safetensors"
    save_embeddings(ours, path)
    for read in (load_embeddings(path, names=["liver", "spleen"], digest=ours.digest), load_embeddings(path)):
        assert torch.equal(read.vectors, ours.vectors)
        for field in ("names", "prompts", "kind", "model", "template", "digest"):
            assert getattr(read, field) == getattr(ours, field)
    assert [p.name for p in path.parent.iterdir()] == ["e.safetensors"]


def test_the_metadata_can_be_read_without_atlas(ours, tmp_path):
    save_embeddings(ours, tmp_path / "e.safetensors")
    data = (tmp_path / "e.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    said = json.loads(data[8 : 8 + length])["__metadata__"]
    assert said["model"] == "hashed-words v2 dim 16 seed 0"
    assert json.loads(said["names"]) == ["liver", "spleen"]
    assert said["digest"] == ours.digest


def test_a_crash_leaves_the_old_file_and_nothing_else(ours, tmp_path, monkeypatch):
    path = tmp_path / "e.safetensors"
    save_embeddings(ours, path)
    before = path.read_bytes()

    def crash(self, data):
        with self.open("wb") as file:
            file.write(data[:50])
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", crash)
    with pytest.raises(OSError, match="disk full"):
        save_embeddings(ours.select(["spleen"]), path)
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("names", [["spleen", "liver"], ["liver"], ["liver", "spleen", "aorta"]])
def test_other_classes(ours, tmp_path, names):
    save_embeddings(ours, tmp_path / "e.safetensors")
    with pytest.raises(SpecError, match=r"e\.safetensors: holds 2 classes \(liver, spleen\), expected"):
        load_embeddings(tmp_path / "e.safetensors", names=names)


def test_another_model_or_wording(ours, tmp_path):
    save_embeddings(ours, tmp_path / "e.safetensors")
    other = hashed_embeddings(ours.names, ours.prompts, dim=16, seed=1)
    with pytest.raises(SpecError, match=r"e\.safetensors: made by hashed-words v2 dim 16 seed 0.*expected"):
        load_embeddings(tmp_path / "e.safetensors", digest=other.digest)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "open_clip ViT-B-32-quickgelu openai"}, "does not have the hash that it states"),
        ({"template": "a [CLS]"}, "does not have the hash"),
        ({"prompts": '["liver", "Liver"]'}, "does not have the hash"),
        ({"names": '["spleen", "liver"]'}, "does not have the hash"),
        ({"digest": "0" * 64}, "does not have the hash"),
        ({"vectors_sha256": "0" * 64}, "does not have the hash"),
        ({"names": '["liver"]'}, "2 prompts for 1 classes"),
        ({"names": '["liver", "liver"]'}, "named twice"),
        ({"names": '["liver", 3]'}, "names are not a list of strings"),
        ({"names": "liver"}, "names are not a list of strings"),
        ({"prompts": "[" * 100_000}, "prompts are not a list of strings"),
        ({"kind": "CLIP"}, "of kind 'CLIP'; known are hashed, one-hot, encoder, file"),
        ({"format": "atlas class embeddings 2"}, "not embeddings of atlas"),
        ({"tensors": {"vectors": torch.rand(2, 16)}}, "does not have the hash"),
        ({"tensors": {"vectors": torch.rand(3, 16)}}, "3 rows for 2 classes"),
        ({"tensors": {"vectors": torch.rand(32)}}, r"not of shape \(32,\)"),
        ({"tensors": {"vectors": torch.rand(2, 16).double()}}, "embeddings are float16 or float32"),
        ({"tensors": {"vectors": torch.full((2, 16), torch.nan)}}, "not finite in the rows of liver, spleen"),
        ({"tensors": {"a": torch.rand(2, 16), "b": torch.rand(2, 16)}}, "holds 2 arrays"),
    ],
)
def test_files_that_were_changed(ours, tmp_path, changed, message):
    path = tmp_path / "e.safetensors"
    save_embeddings(ours, path)
    rewritten(path, **changed)
    with pytest.raises(SpecError, match=message) as caught:
        load_embeddings(path)
    assert str(path) in str(caught.value)


def test_a_flipped_bit(ours, tmp_path):
    path = tmp_path / "e.safetensors"
    save_embeddings(ours, path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(SpecError, match="does not have the hash"):
        load_embeddings(path)


# ---------------------------------------------------------------------------------------------------- a user's own


def written(path, table):
    """Write a table as the ending of the path says."""
    tensor = torch.from_numpy(np.ascontiguousarray(table))
    if path.suffix == ".npy":
        np.save(path, table)
    elif path.suffix == ".npz":
        np.savez_compressed(path, anything=table)
    elif path.suffix == ".safetensors":
        safetensors_torch.save_file({"anything": tensor}, path)
    else:
        torch.save(tensor, path)
    return path


ENDINGS = [".npy", ".npz", ".safetensors", ".pth", ".pt"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_table_in_every_format(tmp_path, taxonomy, ending, dtype):
    table = TABLE.astype(dtype)
    read = read_embeddings(written(tmp_path / f"own{ending}", table), taxonomy)
    assert read.names == taxonomy.names[:3]
    assert np.array_equal(read.vectors.numpy(), table.astype(np.float32))
    assert read.vectors.dtype == torch.float32
    assert (read.kind, read.template) == ("file", "")
    assert read.model.startswith("file sha256 ")
    assert read.digest != read_embeddings(written(tmp_path / f"other{ending}", 2 * table), taxonomy).digest


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_of_the_rows(tmp_path, taxonomy, ending):
    path = written(tmp_path / f"own{ending}", TABLE)
    assert read_embeddings(path, taxonomy, ["x", "liver", "y"]).names == ("x", "liver", "y")
    with pytest.raises(SpecError, match=f"own{ending}: has 3 rows, but 2 names were given"):
        read_embeddings(path, taxonomy, ["x", "y"])
    with pytest.raises(SpecError, match=f"own{ending}: classes named twice: x"):
        read_embeddings(path, taxonomy, ["x", "y", "x"])
    many = written(tmp_path / f"many{ending}", np.random.default_rng(0).random((9, 2), np.float32))
    with pytest.raises(SpecError, match="has 9 rows, but the taxonomy has 8 classes"):
        read_embeddings(many, taxonomy)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.where(TABLE[1, 1] == TABLE, np.nan, TABLE), "not finite in the rows of liver_tumor"),
        (np.where(TABLE[0, 1] == TABLE, np.inf, TABLE), "not finite in the rows of liver$"),
        (np.ones((3, 5), np.float32), "have the same vector"),
        (TABLE.astype(np.float64), "numbers of type (float64|F64); embeddings are float16 or float32"),
        (TABLE.astype(np.int32), "numbers of type (int32|I32)"),
        (TABLE[0], r"not of shape \(5,\)"),
        (TABLE[None], r"not of shape \(1, 3, 5\)"),
        (np.zeros((3, 0), np.float32), "out of bounds"),
        (np.zeros((5000, 1), np.float32), "out of bounds"),
        (np.zeros((1, 20_000), np.float32), "out of bounds"),
    ],
)
def test_tables_of_wrong_numbers(tmp_path, taxonomy, ending, table, message):
    with pytest.raises(SpecError, match=message) as caught:
        read_embeddings(written(tmp_path / f"own{ending}", table), taxonomy)
    assert f"own{ending}" in str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff{", b"\xff" * 500, b"\x80\x04."])
def test_damaged_files(tmp_path, taxonomy, ending, content):
    (tmp_path / f"own{ending}").write_bytes(content)
    with pytest.raises(SpecError, match=f"own{ending}: "):
        read_embeddings(tmp_path / f"own{ending}", taxonomy)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_truncated_files(tmp_path, taxonomy, ending, share):
    path = written(tmp_path / f"own{ending}", TABLE)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SpecError, match=f"own{ending}: "):
        read_embeddings(path, taxonomy)


def test_a_file_of_atlas_keeps_its_names(ours, tmp_path, taxonomy):
    save_embeddings(ours, tmp_path / "e.safetensors")
    read = read_embeddings(tmp_path / "e.safetensors", taxonomy)
    assert (read.names, read.kind, read.digest) == (ours.names, "hashed", ours.digest)
    with pytest.raises(SpecError, match="holds 2 classes"):
        read_embeddings(tmp_path / "e.safetensors", taxonomy, ["spleen", "liver"])


@pytest.mark.parametrize("array", [TABLE.astype(">f4"), np.asfortranarray(TABLE)])
def test_arrays_stored_another_way_round(tmp_path, taxonomy, array):
    np.save(tmp_path / "own.npy", array)
    assert np.array_equal(read_embeddings(tmp_path / "own.npy", taxonomy).vectors.numpy(), TABLE)


def test_a_tensor_that_is_a_view_or_wants_gradients(tmp_path, taxonomy):
    torch.save(torch.from_numpy(TABLE).T.contiguous().T.requires_grad_(), tmp_path / "own.pth")
    read = read_embeddings(tmp_path / "own.pth", taxonomy)
    assert np.array_equal(read.vectors.numpy(), TABLE)
    assert not read.vectors.requires_grad


def test_missing_unknown_and_too_large(tmp_path, taxonomy, monkeypatch):
    with pytest.raises(SpecError, match="there is no such file"):
        read_embeddings(tmp_path / "own.npy", taxonomy)
    with pytest.raises(SpecError, match="there is no such file"):
        load_embeddings(tmp_path / "own.safetensors")
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(TABLE))
    with pytest.raises(SpecError, match=r"own.pkl: embeddings come in \.safetensors, \.npy, \.npz, \.pth, \.pt"):
        read_embeddings(tmp_path / "own.pkl", taxonomy)
    with (tmp_path / "big.npy").open("wb") as file:
        file.truncate(2**27)  # sparse
    with pytest.raises(SpecError, match="are too many for embeddings"):
        read_embeddings(tmp_path / "big.npy", taxonomy)
    (tmp_path / "big.npy").rename(tmp_path / "big.safetensors")
    with pytest.raises(SpecError, match="are too many for embeddings"):
        load_embeddings(tmp_path / "big.safetensors")


# ---------------------------------------------------------------------------------------------------------- hostile


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("form", ["pickle", "torch", "torch legacy", "npy", "npz"])
def test_code_is_never_run(tmp_path, taxonomy, ending, form):
    path, mark = tmp_path / f"own{ending}", tmp_path / "ran"
    code = Code(mark)
    with path.open("wb") as file:
        if form == "pickle":
            pickle.dump(code, file)
        elif form.startswith("torch"):
            torch.save({"x": code}, file, _use_new_zipfile_serialization=form == "torch")
        elif form == "npy":
            np.save(file, np.array([[code]], object), allow_pickle=True)
        else:
            np.savez(file, x=np.array([[code]], object))
    with pytest.raises(SpecError, match=f"own{ending}: "):
        read_embeddings(path, taxonomy)
    assert not mark.exists()


def test_the_mark_of_these_tests_would_be_seen(tmp_path):
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def header(shape, descr="'<f4'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header("(100000, 100000)"), "out of bounds"),
        (header("(-3, -5)") + TABLE.tobytes(), "out of bounds"),
        (header("(3, 6)") + TABLE.tobytes(), "60 bytes are not an array of shape"),
        (header("(3, 4)") + TABLE.tobytes(), "60 bytes are not an array of shape"),
        (header("(4096, 16384)"), "0 bytes are not an array"),
        (header("(3, 5)", "'|O'") + TABLE.tobytes(), "Python objects, which are never loaded"),
        (header("(3, 5)", "[('x', '<f4')]") + TABLE.tobytes(), "numbers of type"),
        (header("(3, 5)", "__import__('os').getpid()") + TABLE.tobytes(), "cannot be read"),
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_hostile_headers(tmp_path, taxonomy, data, message, ending):
    path = tmp_path / f"own{ending}"
    if ending == ".npy":
        path.write_bytes(data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", data)
    with pytest.raises(SpecError, match=message):
        read_embeddings(path, taxonomy)


def test_a_huge_tensor_out_of_one_number(tmp_path, taxonomy):
    torch.save(torch.rand(1).expand(10**6, 10**6), tmp_path / "own.pth")
    with pytest.raises(SpecError, match=r"shape \(1000000, 1000000\) is out of bounds"):
        read_embeddings(tmp_path / "own.pth", taxonomy)


@pytest.mark.parametrize(
    "value",
    [
        {"x": torch.rand(3, 5)},
        [torch.rand(3, 5)],
        torch.rand(3, 5).to_sparse(),
        torch.rand(3, 5, device="meta"),
    ],
    ids=["dict", "list", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_is_not_one_tensor(tmp_path, taxonomy, value):
    torch.save(value, tmp_path / "own.pth")
    with pytest.raises(SpecError, match=r"own\.pth: "):
        read_embeddings(tmp_path / "own.pth", taxonomy)


@pytest.mark.parametrize("ending", [".npz", ".pth"])
def test_a_small_archive_that_unpacks_to_much(tmp_path, taxonomy, monkeypatch, ending):
    monkeypatch.setattr(tables, "MAX_BYTES", 100_000)
    path = tmp_path / f"own{ending}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("own/data.pkl" if ending == ".pth" else "x.npy", b"\0" * 10**7)
    assert path.stat().st_size < tables.MAX_BYTES
    with pytest.raises(SpecError, match="unpack"):
        read_embeddings(path, taxonomy)


def test_an_archive_of_many_members(tmp_path, taxonomy):
    with zipfile.ZipFile(tmp_path / "own.pth", "w") as archive:
        for i in range(100):
            archive.writestr(f"own/{i}", b"")
    with pytest.raises(SpecError, match="100 members"):
        read_embeddings(tmp_path / "own.pth", taxonomy)
    np.savez(tmp_path / "own.npz", a=TABLE, b=TABLE)
    with pytest.raises(SpecError, match=r"holds 2 arrays \(a.npy, b.npy\), expected one"):
        read_embeddings(tmp_path / "own.npz", taxonomy)


def test_a_safetensors_header_that_states_more_than_there_is(tmp_path, taxonomy):
    for shape, end in (([10**6, 10**6], 4 * 10**12), ([3, 5], 61), ([3, 5], 10**18)):
        said = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        (tmp_path / "own.safetensors").write_bytes(struct.pack("<Q", len(said)) + said + TABLE.tobytes())
        with pytest.raises(SpecError, match=r"own\.safetensors: "):
            read_embeddings(tmp_path / "own.safetensors", taxonomy)
    (tmp_path / "own.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(SpecError, match=r"own\.safetensors: "):
        read_embeddings(tmp_path / "own.safetensors", taxonomy)


# -------------------------------------------------------------------------------------------------------- published


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("txt_encoding.pth", 32),
        ("txt_encoding_abdomenatlas1.0.pth", 9),
        ("txt_encoding_abdomenatlas1.1.pth", 25),
        ("word_embedding_38class.pth", 38),
    ],
)
def test_published_embeddings(realdata, name, rows):
    path = realdata / "text_embeddings" / name
    if not path.is_file():
        pytest.skip(f"no published embeddings beside the checkout ({path})")
    names = [f"class_{i}" for i in range(rows)] if rows != 32 else None
    read = read_embeddings(path, load_taxonomy(), names)
    assert read.vectors.shape == (rows, 512)
    alone = torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
    assert torch.equal(read.vectors, alone.float())
    lengths = read.vectors.norm(dim=1)
    assert 5 < lengths.min() < lengths.max() < 15  # not normalised


@pytest.mark.realdata
def test_the_rows_of_the_published_embeddings_are_the_first_classes_of_the_taxonomy(realdata):
    path = realdata / "text_embeddings" / "txt_encoding.pth"
    if not path.is_file():
        pytest.skip(f"no published embeddings beside the checkout ({path})")
    read = read_embeddings(path, load_taxonomy())
    unit = read.vectors / read.vectors.norm(dim=1, keepdim=True)
    near = unit @ unit.T - 2 * torch.eye(32)

    def nearest(name):
        return read.names[int(near[read.names.index(name)].argmax())]

    # a text encoder puts the two sides of an organ next to each other
    for organ in ("kidney", "lung", "femur_head", "adrenal_gland"):
        if f"{organ}_left" in read.names:
            assert {nearest(f"{organ}_left"), nearest(f"{organ}_right")} == {f"{organ}_left", f"{organ}_right"}
