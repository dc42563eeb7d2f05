"""Augmentation of patches: what is done is drawn by patch number (numpy), and done where the tensors are (torch)."""

from atlas.stream.augment.intensity import apply_intensity
from atlas.stream.augment.parameters import Parameters
from atlas.stream.augment.settings import Augmentation, Chance
from atlas.stream.augment.spatial import apply_spatial

__all__ = ["Augmentation", "Chance", "Parameters", "apply_intensity", "apply_spatial"]
