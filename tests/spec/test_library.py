import os

import pytest

from atlas.errors import SpecError
from atlas.spec import library

MANIFEST = """\
id: {id}
name: {name}
citation: none
licence: {{id: CC0, commercial: true, redistribution: true}}
access: {{kind: open}}
scans: 1
labelled: 1
layout:
  image: "images/{{case}}.nii.gz"
  labels: {{organs: "labels/{{case}}.nii.gz"}}
"""


def manifest(dataset, name="Mine"):
    return MANIFEST.format(id=dataset, name=name)


class TestShipped:
    @pytest.mark.parametrize("folder", ["manifests", "label_maps", "pipelines"])
    def test_folders_are_found_without_a_search_path(self, monkeypatch, folder):
        monkeypatch.delenv("ATLAS_PATH", raising=False)
        assert library.search_path(folder) == [library.shipped(folder)]
        assert library.names(folder)

    def test_the_taxonomy_is_not_a_label_map(self):
        assert "taxonomy" not in library.names("label_maps")

    @pytest.mark.parametrize("folder", ["manifests", "label_maps", "pipelines"])
    def test_files_are_plain_readable_text(self, folder):
        for entry in library.shipped(folder).iterdir():
            text = entry.read_text(encoding="utf-8")
            assert text.isascii()
            assert text.endswith("\n")
            assert "\t" not in text
            assert max(map(len, text.splitlines())) <= 120
            assert not [line for line in text.splitlines() if line != line.rstrip()]


class TestSearchPath:
    def test_an_own_dataset_is_added(self, own):
        own("manifests", "mine", manifest("mine"))
        own("label_maps", "mine", "dataset: mine\nvalues: {organs: {1: liver}}\n")
        own("pipelines", "mine", "name: mine\ndatasets: [mine, lits]\n")
        assert library.load_manifest("mine").name == "Mine"
        assert library.load_label_map("mine").targets() == {"liver"}
        assert library.load_recipe("mine").datasets == ("mine", "lits")
        assert {"mine", "lits"} <= set(library.names("manifests"))

    def test_an_own_file_overrides_the_shipped_one(self, own):
        own("manifests", "lits", manifest("lits", "My LiTS"))
        own("label_maps", "lits", "dataset: lits\nvalues: {organs: {1: spleen}}\n")
        assert library.load_manifest("lits").name == "My LiTS"
        assert library.load_label_map("lits").targets() == {"spleen"}
        assert library.names("manifests").count("lits") == 1
        assert library.load_manifest("word").id == "word"

    def test_an_own_manifest_is_checked_against_the_shipped_label_map(self, own):
        own("manifests", "lits", manifest("lits"))
        with pytest.raises(SpecError, match=r"for the label files \['segmentation'\], the manifest has \['organs'\]"):
            library.load_label_map("lits")

    def test_an_own_taxonomy(self, own):
        own(
            "label_maps",
            "taxonomy",
            "version: 1\nclasses: [{bit: 0, name: ear, kind: organ, prompt: ear, colour: [1, 2, 3]}]\n",
        )
        assert library.load_taxonomy().names == ("ear",)
        with pytest.raises(SpecError, match="'liver' is not a class of the taxonomy"):
            library.load_label_map("msd03_liver")

    def test_the_first_folder_wins(self, tmp_path, monkeypatch):
        for name in ("one", "two"):
            (tmp_path / name / "manifests").mkdir(parents=True)
            (tmp_path / name / "manifests" / "mine.yaml").write_text(manifest("mine", name))
        monkeypatch.setenv("ATLAS_PATH", os.pathsep.join([str(tmp_path / "one"), "", str(tmp_path / "two")]))
        assert library.load_manifest("mine").name == "one"
        assert library.names("manifests").count("mine") == 1

    @pytest.mark.parametrize("kind", ["missing", "file"])
    def test_something_that_is_no_folder_is_refused(self, tmp_path, monkeypatch, kind):
        place = tmp_path / "place"
        if kind == "file":
            place.write_text("")
        monkeypatch.setenv("ATLAS_PATH", str(place))
        with pytest.raises(SpecError, match=r"ATLAS_PATH names .*place, which is not a folder"):
            library.load_manifest("lits")

    def test_a_folder_without_specifications_is_no_error(self, tmp_path, monkeypatch):
        monkeypatch.setenv("ATLAS_PATH", str(tmp_path))
        assert library.load_manifest("lits").id == "lits"

    def test_other_files_beside_them_are_passed_over(self, own, tmp_path):
        own("manifests", "mine", manifest("mine"))
        (tmp_path / "manifests" / "notes.txt").write_text("x")
        (tmp_path / "manifests" / "old.yaml.bak").write_text("x")
        assert not {"notes.txt", "notes", "old", "old.yaml.bak"} & set(library.names("manifests"))


class TestNotFound:
    @pytest.mark.parametrize(
        ("load", "name", "says"),
        [
            (library.load_manifest, "kits24", r"no dataset is called 'kits24'; did you mean kits2"),
            (library.load_manifest, "qqqq", r"no dataset is called 'qqqq'; there are: abdomenatlas_10_mini, "),
            (library.load_label_map, "msd09_splen", r"no label map is called .*did you mean msd09_spleen"),
            (library.load_recipe, "abdomn", r"no recipe is called 'abdomn'; did you mean abdomen"),
            (library.load_recipe, "qqqq", r"no recipe is called 'qqqq'; there are: abdomen, demo$"),
            (library.load_training, "universal_unt", r"no recipe is called .*; did you mean universal_unet"),
            (library.load_training, "qqqq", r"'qqqq'; there are: demo_model, universal_swin_unetr, universal_unet$"),
        ],
    )
    def test_close_names_or_all_are_listed(self, load, name, says):
        with pytest.raises(SpecError, match=says):
            load(name)

    def test_a_recipe_by_path(self, tmp_path):
        path = tmp_path / "mine.yaml"
        with pytest.raises(SpecError, match=r"no recipe at .*mine\.yaml"):
            library.load_recipe(str(path))
        path.write_text("name: anything\ndatasets: [lits]\n")
        assert library.load_recipe(str(path)).name == "anything"

    def test_a_manifest_must_bear_the_name_of_its_file(self, own):
        path = own("manifests", "mine", manifest("yours"))
        with pytest.raises(SpecError, match=r"id is 'yours'; it must be the file's name, 'mine'") as error:
            library.load_manifest("mine")
        assert str(path) in str(error.value)
