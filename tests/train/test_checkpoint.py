"""Checkpoints that are damaged, and runs that are not the one that is asked for: refused, with a way out."""

import json
import pickle
import re
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from atlas.corpus import open_corpus
from atlas.errors import AtlasError, CheckpointError, TrainingError
from atlas.train import checkpoint
from atlas.train.checkpoint import load_checkpoint, save_checkpoint
from atlas.train.loop import train

from .conftest import LABELLED, write_corpus


@pytest.fixture(scope="module")
def trained(corpus, recipe_of, tmp_path_factory):
    """A run of four steps with a checkpoint at each second."""
    run = tmp_path_factory.mktemp("trained") / "run"
    recipe = recipe_of(optimiser__steps=4, optimiser__ema=0.5, validation__every=2)
    train(recipe, corpus, run, device="cpu")
    return run, recipe


@pytest.fixture
def own(trained, tmp_path):
    """Copy of it that a test may damage, and its recipe."""
    return shutil.copytree(trained[0], tmp_path / "run"), trained[1]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    """One bit within a tensor."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 500] ^= 4
    path.write_bytes(bytes(content))


def legacy(path):
    """A file that torch would unpickle, and not a zip file."""
    torch.save({"step": 1}, path, _use_new_zipfile_serialization=False)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def hostile(path):
    torch.save({**torch.load(path, weights_only=True), "step": Evil()}, path)


def incomplete(path):
    state = torch.load(path, weights_only=True)
    del state["optimiser"]
    torch.save(state, path)


def of_another_format(path):
    torch.save({**torch.load(path, weights_only=True), "format": "other"}, path)


DAMAGES = [truncated, emptied, flipped, legacy, hostile, incomplete, of_another_format]


class TestDamaged:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_is_named_with_the_way_out_which_works(self, own, corpus, damage, capsys):
        run, recipe = own
        last = run / "checkpoints" / "last.pt"
        damage(last)
        with pytest.raises(CheckpointError) as error:
            train(recipe, corpus, run, resume=True, device="cpu")
        assert str(error.value).startswith(f"{last}: damaged, cannot go on from it (")
        assert str(error.value).endswith("delete it, and --resume goes on from previous.pt beside it")
        assert "\n" not in str(error.value)
        assert "executed" not in capsys.readouterr().out
        last.unlink()
        assert train(recipe, corpus, run, resume=True, device="cpu").step == 4

    def test_the_previous_one_is_that_of_the_step_before(self, own, corpus, recipe_of, tmp_path):
        states = [torch.load(own[0] / "checkpoints" / name, weights_only=True) for name in ("previous.pt", "last.pt")]
        assert [state["step"] for state in states] == [4, 4]  # before and after validation
        assert [state["validated"] for state in states] == [2, 4]

    def test_both_damaged(self, own, corpus):
        run, recipe = own
        truncated(run / "checkpoints" / "previous.pt")
        (run / "checkpoints" / "last.pt").unlink()
        with pytest.raises(CheckpointError, match=r"previous\.pt: damaged.*; delete it, and training begins anew"):
            train(recipe, corpus, run, resume=True, device="cpu")

    def test_that_of_another_network(self, own, corpus):
        run, recipe = own
        path = run / "checkpoints" / "last.pt"
        state = torch.load(path, weights_only=True)
        state["network"].popitem()
        torch.save(state, path)
        with pytest.raises(CheckpointError, match="run: the checkpoint is that of another network"):
            train(recipe, corpus, run, resume=True, device="cpu")

    @pytest.mark.parametrize(("entry", "value"), [("recipe", "{"), ("stream", {"seed": 9, "patch": 1, "run": 3})])
    def test_that_of_another_run(self, own, corpus, entry, value):
        run, recipe = own
        path = run / "checkpoints" / "last.pt"
        torch.save({**torch.load(path, weights_only=True), entry: value}, path)
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(run))}: "):
            train(recipe, corpus, run, resume=True, device="cpu")

    def test_a_description_that_is_damaged(self, own, corpus):
        run, recipe = own
        truncated(run / "run.json")
        with pytest.raises(CheckpointError, match=r"run\.json: not the description of a run"):
            train(recipe, corpus, run, resume=True, device="cpu")


class TestWriting:
    def test_a_reader_never_sees_half_of_one(self, own, monkeypatch):
        run, _ = own
        before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
        state = load_checkpoint(run)

        def failing(content, file):
            file.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint.torch, "save", failing)
        with pytest.raises(CheckpointError, match=r"last\.pt: cannot be written \(.*No space left"):
            save_checkpoint(run, state)
        assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before

    def test_what_is_saved_comes_back(self, tmp_path):
        state = dict.fromkeys(checkpoint.PARTS, 3) | {"network": {"a": torch.arange(4.0)}}
        assert load_checkpoint(tmp_path) is None
        save_checkpoint(tmp_path, state | {"step": 1})
        save_checkpoint(tmp_path, state)
        assert torch.equal(load_checkpoint(tmp_path)["network"]["a"], torch.arange(4.0))
        (tmp_path / "checkpoints" / "last.pt").unlink()
        assert load_checkpoint(tmp_path)["step"] == 1


class TestAnotherRun:
    def test_a_folder_that_holds_one_is_not_written_over(self, own, corpus):
        run, recipe = own
        with pytest.raises(TrainingError, match="holds a run already; --resume goes on with it, or choose another"):
            train(recipe, corpus, run, device="cpu")

    def test_a_file_is_no_folder(self, corpus, recipe_of, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(TrainingError, match="run: is a file"):
            train(recipe_of(), corpus, tmp_path / "run", device="cpu")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"optimiser__steps": 8}, "optimiser.steps was 4, now is 8"),
            ({"optimiser__lr": 0.1, "seed": 3}, "optimiser.lr was 0.003, now is 0.1; seed was 0, now is 3"),
            ({"classes": ["liver"]}, "classes was None, now is ['liver']"),
            ({"model__backbone": {"kind": "unet", "features": [8, 16, 16]}}, "model.backbone.features was [8, 16, 32]"),
            ({"loss": {"dice": 2}}, "loss.dice was nothing, now is 2"),
        ],
    )
    def test_another_recipe_says_what_differs(self, own, corpus, recipe_of, change, says):
        run, _ = own
        other = recipe_of(**{"optimiser__steps": 4, "optimiser__ema": 0.5, "validation__every": 2} | change)
        before = load_file(run / "model.safetensors")
        with pytest.raises(TrainingError, match="was begun with another recipe") as error:
            train(other, corpus, run, resume=True, device="cpu")
        assert says in str(error.value)
        assert all(torch.equal(before[n], t) for n, t in load_file(run / "model.safetensors").items())

    def test_another_corpus_says_what_differs(self, own, tmp_path):
        run, recipe = own
        fewer = {name: case for name, case in LABELLED.items() if name != "two/d"}
        other = open_corpus(write_corpus(tmp_path / "other.zarr", fewer))
        with pytest.raises(TrainingError, match="was begun on another corpus") as error:
            train(recipe, other, run, resume=True, device="cpu")
        assert "cases selected was 7, now is 6" in str(error.value)

    def test_a_corpus_with_other_labels_says_so(self, own, corpus_folder, tmp_path):
        run, recipe = own
        other = dict(LABELLED) | {"two/d": ("p1", ("spleen", "liver"))}
        with pytest.raises(TrainingError, match=r"was begun on another corpus \(location was .*toy\.zarr"):
            train(recipe, open_corpus(write_corpus(tmp_path / "o.zarr", other)), run, resume=True, device="cpu")

    def test_a_corpus_may_have_moved(self, own, corpus_folder, tmp_path):
        run, recipe = own
        moved = open_corpus(shutil.copytree(corpus_folder, tmp_path / "moved.zarr"))
        assert train(recipe, moved, run, resume=True, device="cpu").step == 4

    def test_a_taxonomy_with_other_bits(self, own, corpus):
        run, recipe = own
        path = run / "run.json"
        content = json.loads(path.read_text())
        by_name = {entry["name"]: entry for entry in content["taxonomy"]["classes"]}
        by_name["liver"]["bit"], by_name["spleen"]["bit"] = by_name["spleen"]["bit"], by_name["liver"]["bit"]
        content["taxonomy"]["classes"].sort(key=lambda entry: entry["bit"])
        path.write_text(json.dumps(content))
        with pytest.raises(
            TrainingError, match=r"bits of classes was as in run\.json, now is others for spleen, liver"
        ):
            train(recipe, corpus, run, resume=True, device="cpu")


class TestDoesNotFit:
    """A recipe that a corpus, a network or a device does not suit: said before anything is read or written."""

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"classes": ["liver", "livr"]}, r"classes: .*'livr' is not a class.*toy\.zarr"),
            ({"classes": ["liver", "aorta", "colon"]}, r"classes: aorta, colon available in none of the 7 cases.*"
             r"available are: spleen, liver, liver_tumor"),
            ({"classes": []}, r"classes: an empty list"),
            ({"classes": ["liver", "liver"]}, r"classes: named more than once: liver"),
            ({"data__split": ["training"]}, r"no case of this corpus has the split 'training'; there is: test, train"),
            ({"data__patch": 18}, r"data\.patch 18: the sides must be multiples of 4 for the backbone unet, as in 16"),
            ({"data__patch": [16, 18, 24]}, r"data\.patch \(16, 18, 24\): .*as in \[16, 16, 24\]"),
            ({"optimiser__warmup": 6}, r"optimiser\.warmup 6: fewer than optimiser\.steps, 6"),
            ({"optimiser__precision": "fp16"}, r"optimiser\.precision fp16 needs a GPU: on a CPU.*; use fp32"),
            ({"optimiser__precision": "bf16"}, r"optimiser\.precision bf16 needs a GPU: on a CPU.*; use fp32"),
            ({"data__sampling": {"jiter": 1}}, r"data\.sampling: no option is called jiter; there are: datasets,"),
            ({"data__sampling": {"jitter": 2}}, r"data\.sampling: jitter 2: it is a fraction"),
            ({"data__sampling": {"classes": {"aorta": 1}}}, r"weights of aorta, which are not among those asked for"),
            ({"data__augmentation": {"zoom": 1}}, r"data\.augmentation: no option is called zoom; there are: rot"),
            ({"data__augmentation": {"noise": 0.5}}, r"data\.augmentation: noise is \[probability, low, high\]"),
            ({"data__augmentation": {"noise": [2, 0, 1]}}, r"data\.augmentation: noise: probability is a number"),
            ({"loss": {"dise": 1}}, r"loss: no option is called dise; there are: dice, bce"),
            ({"loss": {"smooth": 0}}, r"loss: smooth 0: valid is a finite number above 0"),
            ({"loss": {"levels": [1, 1]}}, r"loss\.levels: 2 weights, but model\.deep_supervision 0 has 1"),
            ({"loss": {"class_weights": {"aorta": 2}}}, r"loss\.class_weights: aorta is not a class of the model:"),
            ({"loss": {"class_weights": [1, 2]}}, r"loss\.class_weights: 2 weights for 3 classes"),
            ({"embeddings": {"kind": "file", "file": "/nowhere.pth"}}, r"/nowhere\.pth: there is no such file"),
            ({"embeddings": {"kind": "hashed", "template": "V4"}}, r"the wording of template V4 is not known"),
            ({"model__weights": "/nowhere.pth"}, r"/nowhere\.pth: "),
        ],
    )  # fmt: skip
    def test_is_refused_before_a_folder_is_made(self, corpus, recipe_of, tmp_path, change, says):
        with pytest.raises(AtlasError, match=says):
            train(recipe_of(**change), corpus, tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("device", "says"),
        [("cuda:99", r"device cuda:99: there are \d+ GPUs"), ("gpu", "device 'gpu': none is called")],
    )
    def test_a_device_that_is_not_there(self, corpus, recipe_of, tmp_path, device, says):
        with pytest.raises(TrainingError, match=says):
            train(recipe_of(), corpus, tmp_path / "run", device=device)

    def test_the_patch_is_looked_at_before_the_corpus(self, recipe_of, tmp_path):
        with pytest.raises(AtlasError, match=r"data\.patch 18"):
            train(recipe_of(data__patch=18), None, tmp_path / "run")


def test_an_unpickled_file_would_have_been_executed(tmp_path, capsys):
    """The hostile file of the tests above is one."""
    path = tmp_path / "x.pt"
    torch.save({"step": Evil()}, path)
    with zipfile.ZipFile(path) as archive, archive.open("x/data.pkl") as file:
        pickle.Unpickler(file).load()
    assert "executed" in capsys.readouterr().out
