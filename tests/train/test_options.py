import re
from pathlib import Path

import pytest

from atlas.errors import SpecError
from atlas.model.encoders import ENCODERS
from atlas.model.hashed import hashed_embeddings
from atlas.model.loss_spec import LossSpec
from atlas.spec.library import load_taxonomy, load_training, recipes
from atlas.spec.training import EmbeddingSpec
from atlas.stream import Augmentation, Chance, Sampling
from atlas.train import embed
from atlas.train.embed import embeddings_of
from atlas.train.options import augmentation_of, loss_of, settings_of
from atlas.train.schedule import check_schedule
from atlas.train.start import check_patch

CLASSES = ("spleen", "kidney_left", "liver_tumor")


class TestSettings:
    def test_defaults_are_those_of_the_classes(self, recipe_of):
        assert settings_of(recipe_of(), CLASSES) == (Sampling(), Augmentation(), LossSpec())

    def test_null_is_no_augmentation(self, recipe_of):
        assert settings_of(recipe_of(data__augmentation=None), CLASSES).augmentation is None

    def test_what_yaml_can_say(self, recipe_of):
        recipe = recipe_of(
            data__sampling={"datasets": {"one": 2.0}, "lesions": [1, 2, 3], "jitter": 0},
            data__augmentation={"elastic": [0.2, 0, 6], "mirror": 0.5, "per_axis": True},
            loss={"dice": 2, "focal": 2.0, "class_weights": {"liver_tumor": 3}},
            model__deep_supervision=2,
        )
        found = settings_of(recipe, CLASSES)
        assert found.sampling == Sampling(datasets={"one": 2.0}, lesions=(1, 2, 3), jitter=0)
        assert found.augmentation == Augmentation(elastic=Chance(0.2, 0, 6), mirror=0.5, per_axis=True)
        assert found.loss == LossSpec(dice=2, focal=2.0, class_weights=(1.0, 1.0, 3), levels=(1.0, 0.5, 0.25))


class TestLoss:
    def test_each_level_weighs_half_of_the_one_before(self):
        assert loss_of({}, 3, CLASSES).levels == (1.0, 0.5, 0.25, 0.125)

    def test_weights_of_levels_may_be_given(self):
        assert loss_of({"levels": [1, 1]}, 1, CLASSES).levels == (1, 1)

    def test_weights_of_classes_may_be_a_list(self):
        assert loss_of({"class_weights": [1, 2, 3]}, 0, CLASSES).class_weights == (1, 2, 3)

    def test_a_weight_that_is_none_is_refused(self):
        with pytest.raises(SpecError, match=r"loss: levels and class_weights -1: valid are|loss: .*above 0"):
            loss_of({"class_weights": {"spleen": -1}}, 0, CLASSES)


@pytest.mark.parametrize("value", [[0.1, 0], [0.1, 0, 1, 2], {"probability": 1}, 3])
def test_a_chance_is_three_numbers(value):
    with pytest.raises(SpecError, match=r"data\.augmentation: blur is \[probability, low, high\], not"):
        augmentation_of({"blur": value})


class TestEmbeddings:
    taxonomy = load_taxonomy()

    def made(self, **entries):
        return embeddings_of(EmbeddingSpec.model_validate(entries), self.taxonomy, CLASSES)

    def test_hashed_reads_the_words_of_the_taxonomy(self):
        words = [self.taxonomy.by_name[name].prompt for name in CLASSES]
        found = self.made()
        assert (found.names, found.prompts, found.kind) == (CLASSES, tuple(words), "hashed")
        assert found.digest == hashed_embeddings(CLASSES, words).digest
        assert self.made(template="V3").prompts[0] == f"A computerized tomography of a {words[0]}."

    def test_baselines(self):
        assert self.made(kind="one-hot").vectors.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        assert self.made(kind="learned") is None

    def test_a_file_of_the_first_classes_of_the_taxonomy(self, tmp_path):
        import numpy as np

        table = np.random.default_rng(0).normal(size=(32, 7)).astype(np.float32)
        np.save(tmp_path / "own.npy", table)
        found = self.made(kind="file", file=str(tmp_path / "own.npy"))
        assert found.vectors.tolist() == table[[self.taxonomy.bit(name) for name in CLASSES]].tolist()

    @pytest.mark.parametrize("kind", list(ENCODERS))
    def test_a_text_encoder_reads_v3_and_keeps_what_it_made(self, kind, monkeypatch, tmp_path):
        calls = []
        monkeypatch.setattr(embed, "encoded_embeddings", lambda *given, **keywords: calls.append((given, keywords)))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        self.made(kind=kind)
        self.made(kind=kind, template="V1")
        (names, words), keywords = calls[0]
        assert names == CLASSES
        assert words == tuple(self.taxonomy.by_name[name].prompt for name in CLASSES)
        assert keywords == {"encoder": kind, "template": "V3", "cache": tmp_path / "atlas" / "embeddings"}
        assert calls[1][1]["template"] == "V1"


PAGE = Path(__file__).resolve().parents[2] / "docs" / "train.md"


class TestRecipes:
    @pytest.mark.parametrize("name", recipes("training"))
    def test_those_that_are_shipped_fit_their_networks(self, name):
        recipe = load_training(name)
        check_patch(recipe)
        check_schedule(recipe.optimiser)
        settings_of(recipe, recipe.classes or CLASSES)

    def test_that_of_the_docs_is_one(self, tmp_path):
        path = tmp_path / "mine.yaml"
        path.write_text(re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL).group(1))
        recipe = load_training(str(path))
        check_patch(recipe)
        check_schedule(recipe.optimiser)
        settings_of(recipe, recipe.classes)
        assert set(type(recipe).model_fields) - set(recipe.model_fields_set) <= {"description", "extend"}
