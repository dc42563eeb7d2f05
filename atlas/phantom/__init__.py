"""Phantoms: bodies with a known anatomy, written in the published layout of any dataset."""

from atlas.phantom.anatomy import Anatomy, anatomy
from atlas.phantom.publish import Publication, publish
from atlas.phantom.write import PhantomCase, write_dataset

__all__ = ["Anatomy", "PhantomCase", "Publication", "anatomy", "publish", "write_dataset"]
