"""What the YAML files may say: taxonomy, manifests, label maps and recipes."""

from atlas.spec.label_map import LabelMap
from atlas.spec.library import load_label_map, load_manifest, load_recipe, load_taxonomy, names
from atlas.spec.manifest import Manifest
from atlas.spec.recipe import Recipe
from atlas.spec.taxonomy import Taxonomy

__all__ = [
    "LabelMap",
    "Manifest",
    "Recipe",
    "Taxonomy",
    "load_label_map",
    "load_manifest",
    "load_recipe",
    "load_taxonomy",
    "names",
]
