"""Where specifications are found, and that they fit together.

A user's own datasets go into folders named in the environment variable ATLAS_PATH (separated like PATH); each
holds `manifests/`, `label_maps/` and `pipelines/` as far as needed, and is searched before what atlas ships.
"""

from __future__ import annotations

import difflib
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from atlas.errors import SpecError
from atlas.spec.label_map import UNKNOWN, LabelMap
from atlas.spec.manifest import Manifest
from atlas.spec.recipe import Recipe
from atlas.spec.strict_yaml import parse, validated
from atlas.spec.taxonomy import Taxonomy
from atlas.spec.training import TrainingRecipe

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.resources.abc import Traversable

Folder = Literal["manifests", "label_maps", "pipelines"]
Purpose = Literal["build", "training"]

TRAINS = "optimiser"
"""The entry that a training recipe has, and a build recipe has not."""


def shipped(folder: Folder) -> Traversable:
    """Folder of declarative data: inside the wheel, or beside the package in a checkout."""
    packaged = files("atlas") / folder
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / folder


def search_path(folder: Folder) -> list[Traversable]:
    """Folders in the order in which they are searched.

    Raises
    ------
    SpecError
        If ATLAS_PATH names something that is not a folder.
    """
    own = [Path(entry) for entry in os.environ.get("ATLAS_PATH", "").split(os.pathsep) if entry]
    for entry in own:
        if not entry.is_dir():
            raise SpecError(f"ATLAS_PATH names {entry}, which is not a folder")
    return [p for p in [*(entry / folder for entry in own), shipped(folder)] if p.is_dir()]


def names(folder: Folder) -> list[str]:
    """Sorted names of all specifications of a kind."""
    found = {
        entry.name.removesuffix(".yaml")
        for place in search_path(folder)
        for entry in place.iterdir()
        if entry.name.endswith(".yaml")
    }
    return sorted(found - {"taxonomy"})


def recipes(purpose: Purpose) -> list[str]:
    """Sorted names of the recipes in pipelines/ that build a corpus, or that train a model."""
    return [name for name in names("pipelines") if _trains(_find("pipelines", name)) == (purpose == "training")]


def _trains(path: Traversable) -> bool:
    content, _ = parse(path)
    return isinstance(content, dict) and TRAINS in content


def _find(folder: Folder, name: str, known: Callable[[], list[str]] | None = None) -> Traversable:
    for place in search_path(folder):
        candidate = place / f"{name}.yaml"
        if candidate.is_file():
            return candidate
    there = known() if known else names(folder)
    close = difflib.get_close_matches(name, there, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(there)}"
    kind = {"manifests": "dataset", "label_maps": "label map", "pipelines": "recipe"}[folder]
    raise SpecError(f"no {kind} is called {name!r}; {hint}")


def load_taxonomy() -> Taxonomy:
    """Read the taxonomy."""
    return validated(Taxonomy, _find("label_maps", "taxonomy"))


def load_manifest(dataset: str) -> Manifest:
    """Manifest of a dataset.

    Raises
    ------
    SpecError
        If there is none (close names are listed) or it is wrong (file, line and entry are named).
    """
    path = _find("manifests", dataset)
    manifest = validated(Manifest, path)
    if manifest.id != dataset:
        raise SpecError(f"{path}: id is {manifest.id!r}; it must be the file's name, {dataset!r}")
    return manifest


def load_label_map(dataset: str) -> LabelMap:
    """Label map of a dataset, checked against the taxonomy and the manifest.

    Raises
    ------
    SpecError
        If there is none, or it names an unknown class, label file or structure.
    """
    path = _find("label_maps", dataset)
    label_map, taxonomy, manifest = validated(LabelMap, path), load_taxonomy(), load_manifest(dataset)
    try:
        if label_map.dataset != dataset:
            raise SpecError(f"dataset is {label_map.dataset!r}; it must be the file's name, {dataset!r}")
        for target in sorted(label_map.mentioned()):
            taxonomy.target_bits(target)
        _check_files(label_map, manifest)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    return label_map


def _check_files(label_map: LabelMap, manifest: Manifest) -> None:
    if set(label_map.values) != set(manifest.layout.labels):
        raise SpecError(
            f"values are given for the label files {sorted(label_map.values)}, "
            f"the manifest has {sorted(manifest.layout.labels)}"
        )
    if bool(label_map.structures) != bool(manifest.layout.masks or manifest.layout.study):
        raise SpecError("structures (here) and masks or study (manifest) come together or not at all")
    strange = set(label_map.optional) - set(label_map.structures) - set(label_map.values)
    if strange:
        raise SpecError(f"optional names what is neither a structure nor a label file: {', '.join(sorted(strange))}")
    if any(UNKNOWN in targets and len(targets) > 1 for m in label_map.values.values() for targets in m.values()):
        raise SpecError(f"a value means {UNKNOWN!r} or classes, not both")


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe that builds a corpus, by name from the search path or by path (anything that ends in .yaml).

    Raises
    ------
    SpecError
        If there is none, it is one for training, it is wrong, or it names a dataset that has no manifest.
    """
    path = _recipe_path(name_or_path, "build")
    recipe = validated(Recipe, path)
    known = names("manifests")
    for dataset in recipe.datasets:
        if dataset not in known:
            close = difflib.get_close_matches(dataset, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(known)}"
            raise SpecError(f"{path}: no dataset is called {dataset!r}; {hint}")
    return recipe


def load_training(name_or_path: str) -> TrainingRecipe:
    """Read a recipe that trains a model, by name from the search path or by path (anything that ends in .yaml).

    Raises
    ------
    SpecError
        If there is none, it is one that builds a corpus, or it is wrong (file, line and entry are named).
    """
    return validated(TrainingRecipe, _recipe_path(name_or_path, "training"))


def _recipe_path(name_or_path: str, purpose: Purpose) -> Traversable:
    if name_or_path.endswith(".yaml"):
        path: Traversable = Path(name_or_path)
        if not path.is_file():
            raise SpecError(f"no recipe at {path}")
    else:
        path = _find("pipelines", name_or_path, lambda: recipes(purpose))
    if _trains(path) != (purpose == "training"):
        found, command = ("trains a model", "train") if purpose == "build" else ("builds a corpus", "build")
        raise SpecError(
            f"{path}: this recipe {found}, use it with: atlas {command}. Recipes for this command: "
            f"{', '.join(recipes(purpose)) or 'none'}"
        )
    return path
