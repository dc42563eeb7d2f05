"""What several tests of prediction need: a model that is described but has no weights, and scans in every position."""

from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from atlas.predict import FileScan, predict_scans
from atlas.spec.training import PostprocessSpec, TrainingRecipe
from atlas.train.run import CorpusRecord, RunDescription

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
OBLIQUE = Rotation.from_euler("xyz", (14, -9, 25), degrees=True).as_matrix()
OFF_MIDDLE = np.array([(-18, 6, 10), (20, -8, -14)])
"""Centres of the two organs, RAS mm from the middle of the scan: the left is negative."""
BACKGROUND, LEFT, RIGHT = 0, 1000, -1000
CLASSES = ("kidney_left", "kidney_right")
RAMPS = {0: (BACKGROUND, LEFT), 1: (BACKGROUND, RIGHT)}


def description(taxonomy, classes=CLASSES, spacing=1.5, **postprocess):
    recipe = TrainingRecipe.model_validate(
        {
            "name": "tiny",
            "classes": list(classes),
            "data": {"patch": 32},
            "model": {"backbone": {"kind": "unet", "features": [4, 8, 8]}},
            "optimiser": {"steps": 1, "precision": "fp32"},
            "loss": {},
            "embeddings": {"kind": "learned"},
            "postprocess": postprocess,
        }
    )
    return RunDescription(
        version="0",
        recipe=recipe,
        classes=tuple(classes),
        heads=(len(classes),),
        taxonomy=taxonomy,
        corpus=CorpusRecord(location="nowhere", spacing=spacing, cases=1, fingerprint=0),
    )


def model(taxonomy, classes=CLASSES, spacing=1.5, **postprocess):
    """Stands for `Trained`; the network is never asked, see the fixture `by_intensity`."""
    return SimpleNamespace(
        folder=Path("run"),
        network=torch.nn.Linear(1, 1),
        description=description(taxonomy, classes, spacing, **postprocess),
        digest="d" * 64,
        classes=tuple(classes),
        patch=(32, 32, 32),
    )


def blobs(shape, affine, centres_mm, radii_mm):
    """Ellipsoids (n, *shape) at places in RAS mm."""
    index = np.indices(shape).reshape(3, -1)
    mm = affine[:3, :3] @ index + affine[:3, 3:]
    return np.stack(
        [
            ((((mm - np.array(c)[:, None]) / np.array(r)[:, None]) ** 2).sum(axis=0) < 1).reshape(shape)
            for c, r in zip(centres_mm, radii_mm, strict=True)
        ]
    )


def two_organs(shape, affine):
    """A CT (i, j, k) with a left and a right organ of different size and height, and their masks."""
    middle = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    masks = blobs(
        shape,
        affine,
        [middle + OFF_MIDDLE[0], middle + OFF_MIDDLE[1]],
        [(11, 15, 17), (14, 10, 12)],
    )
    ct = np.full(shape, BACKGROUND, np.int16)
    ct[masks[0]], ct[masks[1]] = LEFT, RIGHT
    return ct, masks


def stored(data, affine, permutation, signs):
    """The same volume with its axes stored in another order and direction."""
    transform = np.stack([np.argsort(permutation), np.array(signs)], axis=1)
    turned = nib.orientations.apply_orientation(data, transform)
    return np.ascontiguousarray(turned), affine @ nib.orientations.inv_ornt_aff(transform, data.shape)


def affine_of(spacing, direction=None, origin=(-31.0, 12.5, 101.0)):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if direction is None else direction) * spacing
    affine[:3, 3] = origin
    return affine


def predicted(trained, path, out, **options):
    """Results of one file; fails if it could not be predicted."""
    (done,) = predict_scans(trained, [FileScan("case", path)], out, **options)
    assert done.reason is None, done.reason
    return done.folder


def mask(folder, name):
    return np.asarray(nib.load(folder / "segmentations" / f"{name}.nii.gz").dataobj)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


NOTHING = PostprocessSpec()
