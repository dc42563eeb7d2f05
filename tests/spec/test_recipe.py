import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas.errors import SpecError
from atlas.spec import library
from atlas.spec.recipe import Recipe, Splits


class TestShipped:
    def test_all_are_valid_and_named_after_their_file(self):
        assert library.recipes("build") == ["abdomen", "demo"]
        for name in library.recipes("build"):
            assert library.load_recipe(name).name == name

    def test_each_builds_or_trains(self):
        assert library.recipes("training") == ["demo_model", "universal_swin_unetr", "universal_unet"]
        assert sorted(library.recipes("build") + library.recipes("training")) == library.names("pipelines")
        for name in library.recipes("training"):
            assert library.load_training(name).name == name

    def test_abdomen_builds_every_dataset(self):
        recipe = library.load_recipe("abdomen")
        assert set(recipe.datasets) == set(library.names("manifests"))
        assert recipe.grid.spacing == 1.5

    def test_demo_is_coarse_and_spans_four_layouts(self):
        recipe = library.load_recipe("demo")
        assert recipe.datasets == ("msd03_liver", "kits23", "word", "totalseg_v2", "abdomenatlas_11_mini")
        assert (recipe.grid.spacing, recipe.storage.chunk) == (3.0, 32)


class TestTraining:
    def test_the_published_network_has_its_classes_in_order(self):
        recipe = library.load_training("universal_swin_unetr")
        assert recipe.classes == library.load_taxonomy().names[:32]
        assert (recipe.model.backbone.kind, recipe.model.backbone.feature_size) == ("swin_unetr", 48)
        assert recipe.data.patch == 96

    def test_needs_no_download(self):
        assert {library.load_training(name).embeddings.kind for name in library.recipes("training")} == {"hashed"}

    def test_one_is_not_taken_for_the_other(self):
        with pytest.raises(
            SpecError, match=r"universal_unet\.yaml: this recipe trains a model, use it with: atlas train"
        ):
            library.load_recipe("universal_unet")
        with pytest.raises(
            SpecError, match=r"builds a corpus, use it with: atlas build\. Recipes .*: demo_model, univ"
        ):
            library.load_training("abdomen")

    def test_by_path_as_well(self, tmp_path):
        path = tmp_path / "r.yaml"
        path.write_text("name: r\ndatasets: [lits]\n")
        with pytest.raises(SpecError, match=r"r\.yaml: this recipe builds a corpus"):
            library.load_training(str(path))
        path.write_text("name: r\nmodel: {backbone: {kind: unet}}\noptimiser: {steps: 3}\n")
        assert library.load_training(str(path)).optimiser.steps == 3
        with pytest.raises(SpecError, match=r"r\.yaml: this recipe trains a model"):
            library.load_recipe(str(path))

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("optimiser: {steps: 0}", r"line 3, optimiser\.steps: .*greater than or equal to 1"),
            ("optimiser: {steps: 5, momentum: 1}", r"line 3, optimiser\.momentum: unknown key"),
            ("optimiser: {steps: 5, ema: 1}", r"line 3, optimiser\.ema: .*less than 1"),
            ("optimiser: {steps: 5}\nembeddings: {kind: file}", r"embeddings: kind: file and file: come together"),
            ("optimiser: {steps: 5}\ndata: {patch: 8}", r"line 4, data\.patch"),
        ],
    )
    def test_refused_with_file_and_line(self, tmp_path, text, says):
        path = tmp_path / "r.yaml"
        path.write_text(f"name: r\nmodel: {{backbone: {{kind: unet}}}}\n{text}\n")
        with pytest.raises(SpecError, match=says) as error:
            library.load_training(str(path))
        assert str(path) in str(error.value)


class TestDefaults:
    def test_are_those_of_the_design(self):
        recipe = Recipe.model_validate({"name": "r", "datasets": ["a"]})
        assert recipe.grid.spacing == 1.5
        assert (recipe.resample.labels, recipe.resample.antialias) == ("occupancy", False)
        assert (recipe.storage.chunk, recipe.storage.shard) == (32, 288)
        assert (recipe.splits.train, recipe.splits.val, recipe.splits.test) == (0.8, 0.1, 0.1)


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("datasets: []", r"line 2, datasets: .*at least 1"),
            ("datasets: [lits, lits]", r"a dataset is named twice"),
            ("datasets: lits", r"line 2, datasets: .*valid tuple"),
            ("datasets: [lits]\ngrid: {spacing: 0}", r"line 3, grid\.spacing: .*greater than 0\.1.*got 0"),
            ("datasets: [lits]\ngrid: {spacing: 30}", r"grid\.spacing: "),
            ("datasets: [lits]\ngrid: {spaceing: 1.5}", r"line 3, grid\.spaceing: unknown key"),
            ("datasets: [lits]\nresample: {labels: linear}", r"resample\.labels: .*'occupancy' or 'nearest'"),
            ("datasets: [lits]\nstorage: {chunk: 33}", r"storage\.chunk: .*multiple of 16"),
            ("datasets: [lits]\nstorage: {chunk: 64, shard: 96}", r"a shard \(96\) must hold whole chunks \(64\)"),
            ("datasets: [lits]\nsplits: {train: 0.9}", r"train, val and test must add up to 1"),
            ("datasets: [lits]\nsplits: {train: 1.1, val: -0.1, test: 0.0}", r"splits\.train: "),
            ("datasets: [lits, kits24]", r"no dataset is called 'kits24'; did you mean kits2\d or kits2\d"),
            ("datasets: [lits, qqqq]", r"no dataset is called 'qqqq'; there are: abdomenatlas_10_mini, .*word"),
        ],
    )
    def test_with_file_and_valid_choices(self, tmp_path, text, says):
        path = tmp_path / "r.yaml"
        path.write_text(f"name: r\n{text}\n")
        with pytest.raises(SpecError, match=says) as error:
            library.load_recipe(str(path))
        assert str(path) in str(error.value)


class TestSplits:
    def test_whole_numbers_will_do(self):
        assert Splits.model_validate({"train": 1, "val": 0, "test": 0}).train == 1

    def test_thirds_add_up(self):
        assert Splits.model_validate({"train": 0.7, "val": 0.2, "test": 0.1})

    @given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    def test_accepted_shares_add_up(self, train, val, test):
        try:
            splits = Splits(train=train, val=val, test=test)
        except ValidationError:
            assert abs(train + val + test - 1) > 1e-9
        else:
            assert splits.train + splits.val + splits.test == pytest.approx(1)
