"""What the YAML files may say: taxonomy, manifests, label maps, recipes to build and to train."""

from atlas.spec.label_map import LabelMap
from atlas.spec.library import (
    load_label_map,
    load_manifest,
    load_recipe,
    load_taxonomy,
    load_training,
    names,
    recipes,
)
from atlas.spec.manifest import Manifest
from atlas.spec.recipe import Recipe
from atlas.spec.taxonomy import Taxonomy
from atlas.spec.training import TrainingRecipe

__all__ = [
    "LabelMap",
    "Manifest",
    "Recipe",
    "Taxonomy",
    "TrainingRecipe",
    "load_label_map",
    "load_manifest",
    "load_recipe",
    "load_taxonomy",
    "load_training",
    "names",
    "recipes",
]
