"""More classes for a trained model: what it knew is kept, and what was not taught before is learnt."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from atlas.errors import CorpusError, SpecError, TrainingError
from atlas.model.head import Logits, scatter
from atlas.train.extend import Distillation
from atlas.train.from_run import extended_start, finetuned_start
from atlas.train.loop import train
from atlas.train.run import load_run


@pytest.fixture(scope="module")
def recipes(recipe_of):
    """Of a model of the spleen, and of what is made of it."""

    def made(**changes):
        short = {"optimiser__steps": 4, "data__augmentation": None}
        return recipe_of(**short | changes)

    return made


@pytest.fixture(scope="module")
def spleen(corpus, recipes, tmp_path_factory):
    """A run that knows the spleen."""
    run = tmp_path_factory.mktemp("known") / "run"
    train(recipes(classes=["spleen"]), corpus, run, device="cpu")
    return run


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(1).random((2, 1, 16, 16, 16), np.float32))


def outputs(trained, image):
    with torch.no_grad():
        return scatter(trained.network(image), len(image), len(trained.classes))


@pytest.mark.parametrize("own_head", [False, True])
@pytest.mark.parametrize("embeddings", ["hashed", "learned"])
def test_an_extended_network_begins_with_the_same_answers(corpus, recipes, tmp_path, image, own_head, embeddings):
    recipe = recipes(classes=["spleen"], embeddings__kind=embeddings)
    train(recipe, corpus, tmp_path / "run", device="cpu")
    before = load_run(tmp_path / "run")
    wider = recipes(classes=["liver", "spleen", "liver_tumor"], embeddings__kind=embeddings, extend__own_head=own_head)
    start = extended_start(before, wider, corpus)
    assert start.description.classes == ("spleen", "liver", "liver_tumor")
    assert start.description.heads == ((1, 2) if own_head else (3,))
    assert start.description.parent == before.digest
    start.network.eval()
    with torch.no_grad():
        found = scatter(start.network(image), 2, 3)
    torch.testing.assert_close(found[:, :1], outputs(before, image), rtol=0, atol=1e-5)
    assert not torch.allclose(found[:, 1], found[:, 2])


def test_frozen_classes_keep_their_answers_bit_for_bit(corpus, recipes, spleen, tmp_path, image):
    before = load_run(spleen)
    recipe = recipes(classes=["liver"], extend__keep="freeze", extend__own_head=True, optimiser__weight_decay=0.1)
    train(recipe, corpus, tmp_path / "new", device="cpu", start=extended_start(before, recipe, corpus))
    after = load_run(tmp_path / "new")
    assert after.classes == ("spleen", "liver")
    old, new = load_file(spleen / "model.safetensors"), load_file(tmp_path / "new/model.safetensors")
    assert all(torch.equal(old[name], new[name]) for name in old if name != "vectors.vectors")
    assert torch.equal(old["vectors.vectors"], new["vectors.vectors"][:1])
    assert any(not torch.equal(new[n], new[n.replace("heads.1", "heads.0")]) for n in new if n.startswith("heads.1"))
    torch.testing.assert_close(outputs(after, image)[:, :1], outputs(before, image), rtol=0, atol=0)


def test_the_teacher_keeps_what_is_not_annotated(corpus, recipes, spleen, tmp_path, image):
    """Trained on cases of the liver alone, the extended model forgets the spleen without a teacher, not with one."""
    changes = {"optimiser__steps": 12, "optimiser__lr": 0.01, "data__where": "dataset = 'one'"}
    drift = {}
    for weight in (1e-9, 30.0):
        recipe = recipes(classes=["liver"], extend__weight=weight, **changes)
        start = extended_start(load_run(spleen), recipe, corpus)
        run = tmp_path / f"{weight}"
        train(recipe, corpus, run, device="cpu", start=start)
        found = outputs(load_run(run), image)[:, :1].sigmoid() - outputs(load_run(spleen), image).sigmoid()
        drift[weight] = float(found.abs().mean())
    assert drift[30.0] < 0.5 * drift[1e-9]


class TestDistillation:
    def test_is_the_cross_entropy_of_what_is_not_annotated(self, spleen, image):
        teacher = load_run(spleen).network
        term = Distillation(teacher, weight=2.0)
        available = torch.tensor([[True, True, False], [False, True, True]])
        wanted = term.wanted(available)
        assert wanted.tolist() == [[True, True, False], [True, True, True]]
        pairs = wanted.nonzero()
        logits = torch.randn(5, 16, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
        loss = term.loss(image, available, Logits(logits, pairs))
        row = pairs.tolist().index([1, 0])  # the one pair that the teacher knows and nobody annotated
        with torch.no_grad():
            p = teacher(image).logits[1].sigmoid()
        q = logits[row].sigmoid()
        expected = -(p * q.log() + (1 - p) * (1 - q).log()).mean() * 2
        torch.testing.assert_close(loss, expected)
        (gradient,) = torch.autograd.grad(loss, logits)
        others = [i for i in range(5) if i != row]
        assert not gradient[others].any()
        assert gradient[row].any()

    def test_is_zero_where_all_is_annotated(self, spleen, image):
        term = Distillation(load_run(spleen).network, weight=1.0)
        available = torch.ones(2, 2, dtype=torch.bool)
        logits = torch.randn(4, 16, 16, 16, requires_grad=True)
        loss = term.loss(image, available, Logits(logits, available.nonzero()))
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


@pytest.mark.parametrize("embeddings", ["hashed", "learned"])
def test_finetuning_begins_with_the_weights(corpus, recipes, tmp_path, embeddings):
    train(recipes(classes=["spleen", "liver"], embeddings__kind=embeddings), corpus, tmp_path / "run", device="cpu")
    before = load_run(tmp_path / "run")
    recipe = recipes(classes=["liver_tumor", "liver"], embeddings__kind=embeddings)
    start = finetuned_start(before, recipe, corpus)
    assert start.description.classes == ("liver_tumor", "liver")
    assert start.teacher is None
    old, new = before.network.state_dict(), start.network.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if name != "vectors.vectors")
    assert torch.equal(old["vectors.vectors"][1], new["vectors.vectors"][1])
    summary = train(recipe, corpus, tmp_path / "new", device="cpu", start=start)
    assert summary.step == 4
    assert load_run(tmp_path / "new").description.parent == before.digest


def test_resumed_extension_is_the_same_as_one_without_a_pause(corpus, recipes, spleen, tmp_path):
    recipe = recipes(classes=["liver"], validation__every=2)
    train(recipe, corpus, tmp_path / "whole", device="cpu", start=extended_start(load_run(spleen), recipe, corpus))
    paused = tmp_path / "paused"
    train(recipe, corpus, paused, device="cpu", start=extended_start(load_run(spleen), recipe, corpus))
    (paused / "checkpoints/last.pt").unlink()  # as if it had been stopped after the second step
    with pytest.raises(TrainingError, match="began with another model"):
        train(recipe, corpus, paused, resume=True, device="cpu")
    start = extended_start(load_run(spleen), recipe, corpus)
    train(recipe, corpus, paused, resume=True, device="cpu", start=start)
    whole, resumed = (load_file(run / "model.safetensors") for run in (tmp_path / "whole", paused))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


class TestRefused:
    def test_nothing_to_add(self, corpus, recipes, spleen):
        with pytest.raises(SpecError, match=r"there is nothing to add.*--finetune"):
            extended_start(load_run(spleen), recipes(classes=["spleen"]), corpus)

    def test_another_network(self, corpus, recipes, spleen):
        recipe = recipes(classes=["liver"], model__backbone={"kind": "unet", "features": [8, 16, 24]})
        for start in (extended_start, finetuned_start):
            with pytest.raises(SpecError, match=r"model.backbone: the recipe toy has .*24.*must be the same"):
                start(load_run(spleen), recipe, corpus)

    def test_other_embeddings(self, corpus, recipes, spleen):
        recipe = recipes(classes=["liver"], embeddings__kind="learned")
        with pytest.raises(SpecError, match="embeddings: the recipe toy has"):
            finetuned_start(load_run(spleen), recipe, corpus)

    def test_one_hot_has_no_room(self, corpus, recipes, tmp_path):
        train(recipes(classes=["spleen"], embeddings__kind="one-hot"), corpus, tmp_path / "run", device="cpu")
        recipe = recipes(classes=["liver"], embeddings__kind="one-hot")
        with pytest.raises(SpecError, match="no room"):
            extended_start(load_run(tmp_path / "run"), recipe, corpus)

    def test_a_class_that_nobody_labels(self, corpus, recipes, spleen):
        with pytest.raises(SpecError, match="aorta available in none"):
            extended_start(load_run(spleen), recipes(classes=["aorta"]), corpus)

    def test_another_grid(self, corpus, recipes, spleen, monkeypatch):
        coarse = corpus.recipe.model_copy(update={"grid": corpus.recipe.grid.model_copy(update={"spacing": 3.0})})
        monkeypatch.setattr(corpus, "recipe", coarse)
        with pytest.raises(CorpusError, match="3 mm"):
            extended_start(load_run(spleen), recipes(classes=["liver"]), corpus)
