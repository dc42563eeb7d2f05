"""Stream patches out of a corpus of real scans; compare them with whole arrays read by zarr-python, and draw some."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

import atlas
from atlas.stream import Augmentation, Chance

if TYPE_CHECKING:
    from pathlib import Path

PATCH, BATCH = (48, 96, 96), 4
AIR = -1024


def crop(array: np.ndarray, origin: np.ndarray, fill: int) -> np.ndarray:
    """Patch of a whole array, by NumPy alone."""
    out = np.full(PATCH, fill, array.dtype)
    start = np.maximum(origin, 0)
    stop = np.minimum(origin + PATCH, array.shape)
    within = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, origin, strict=True))
    out[within] = array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return out


def compare_stream(path: Path, batches: int) -> list[str]:
    """What is wrong with random patches: CT, every class of the case, and that the class aimed at is there."""
    corpus = atlas.open(path)
    wrong, arrays = [], {}
    with atlas.stream(corpus, batch_size=BATCH, patch_size=PATCH, device="cpu", window=(-1024, 3071)) as stream:
        for batch in islice(stream, batches):
            for b, case_id in enumerate(batch.case_id):
                case = corpus[case_id]
                if case_id not in arrays:
                    arrays[case_id] = np.asarray(case.ct[...]), np.asarray(case.codes[...])
                ct, codes = (crop(a, batch.origin[b], fill) for a, fill in zip(arrays[case_id], (AIR, 0), strict=True))
                seen = np.rint(batch.image[b, 0].numpy().astype(float) * 4095 - 1024)
                if not np.array_equal(seen, ct):
                    wrong.append(f"{case_id}: a patch at {batch.origin[b].tolist()} has another CT than the case")
                for c, name in enumerate(batch.classes):
                    table = np.array([m >> corpus.taxonomy.bit(name) & 1 for m in case.table], bool)
                    expected = table[codes] if name in case.available else np.zeros(PATCH, bool)
                    if not np.array_equal(batch.mask[b, c].numpy(), expected):
                        wrong.append(f"{case_id}: a patch at {batch.origin[b].tolist()} has another {name}")
                    if name == batch.target[b] and not expected.any():
                        wrong.append(f"{case_id}: a patch aimed at {name} shows none of it")
    return wrong


def draw(path: Path, picture: Path, dataset: str) -> None:
    """Middle slices of patches as they are, augmented and mirrored; the patient's right is on the left."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    corpus = atlas.open(path)
    names = ("liver", "kidney_left", "kidney_right", "spleen", "pancreas", "stomach", "aorta")
    with atlas.stream(
        corpus, batch_size=6, patch_size=96, device=None, datasets=dataset, classes=names, seed=3
    ) as stream:
        packed = next(stream)
    mirror = Augmentation(rotation=Chance(0, 0, 0), scaling=Chance(0, 1, 1), mirror=1.0)
    rows = {"as it is": None, "augmented": Augmentation(), "mirrored": mirror}
    figure, axes = plt.subplots(3, 6, figsize=(15, 8))
    colours = plt.get_cmap("tab10").colors
    for line, (title, augmentation) in zip(axes, rows.items(), strict=True):
        drawn = augmentation and augmentation.draw(3, packed.index, (96, 96, 96))
        batch = packed.to("cpu", classes=names, augmentation=drawn)
        for b, axis in enumerate(line):
            picture_of = np.stack([batch.image[b, 0, 48].numpy()] * 3, -1)
            for c in range(len(names)):
                where = batch.mask[b, c, 48].numpy()
                picture_of[where] = 0.5 * picture_of[where] + 0.5 * np.array(colours[c])
            axis.imshow(picture_of[:, ::-1], origin="lower")
            axis.set_title(f"{title}: {batch.target[b] or 'background'}", fontsize=7)
            axis.axis("off")
    figure.legend([plt.Rectangle((0, 0), 1, 1, color=colours[c]) for c in range(len(names))], names, ncols=7, loc=8)
    figure.savefig(picture, dpi=70, bbox_inches="tight")
    plt.close(figure)
