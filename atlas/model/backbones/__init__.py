"""Networks that turn an image into the features that the head takes."""

from atlas.model.backbones.build import build_backbone
from atlas.model.backbones.features import Backbone, Features

__all__ = ["Backbone", "Features", "build_backbone"]
