"""Learn the labelled real scans by heart: one model, partial labels of several sources. What is right can do that.

Usage: python tests/realdata/overfit.py SOURCE_DIR BUILD_DIR

Builds BUILD_DIR/overfit.zarr (5 mm), trains the recipe overfit_unet in BUILD_DIR/overfit/begun and then overfit_end in
BUILD_DIR/overfit/ended (over an hour on two cores; started again, it goes on), and writes BUILD_DIR/overfit/scores.csv
and a picture of each scan: truth above, prediction below. Exit status 0: a Dice of at least 0.95 for every structure of
more than 5 ml. 1: it says which not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import overlay
import prepare
from make import run
from matplotlib import pyplot as plt

import atlas
from atlas.spec.label_map import PROVENANCES
from atlas.spec.training import PostprocessSpec
from atlas.train.evaluation.run import evaluate
from atlas.train.masks import predicted_masks
from atlas.train.run import load_run

DICE, ML = 0.95, 5.0
COPY = "ts_example/example_ct_sm"
"""A crop of another case with a wrong position; the recipe leaves it out."""


def draw(trained, case, folder):
    """Truth and prediction of what was annotated, in the axial and the coronal plane that show most of it."""
    names = [name for name in trained.classes if name in case.available]
    ct = np.asarray(case.ct[...])
    truth = np.stack([case.mask(name) for name in names])
    found = predicted_masks(trained, ct, names, PostprocessSpec(), overlap=0.5)
    shown = truth.any(0)
    z, y = shown.sum((1, 2)).argmax(), shown.sum((0, 2)).argmax()
    figure, axes = plt.subplots(2, 2, figsize=(11, 9), facecolor="black", layout="constrained")
    for row, (title, masks) in zip(axes, (("truth", truth), ("prediction", found)), strict=True):
        colours = np.zeros((*ct.shape, 4))
        for name, mask in sorted(zip(names, masks, strict=True), key=lambda pair: -pair[1].sum()):
            red, green, blue = (c / 255 for c in case.taxonomy.by_name[name].colour)
            colours[mask] = red, green, blue, overlay.OPACITY
        overlay.plane(row[0], f"{title}, axial {z}", ct[z], colours[z], ("R", "L", "A", "P"))
        overlay.plane(row[1], f"{title}, coronal {y}", ct[:, y], colours[:, y], ("R", "L", "S", "I"))
    figure.suptitle(case.case_id, color="white")
    figure.savefig(folder / f"{case.case_id.replace('/', '-')}.png", dpi=70)
    plt.close(figure)


def main(real: Path, target: Path) -> int:
    """Everything, in order."""
    if not real.is_dir():
        print(f"no real scans at {real}")
        return 1
    sources, corpus, folder = target / "realdata/sources", target / "overfit.zarr", target / "overfit"
    prepare.lay_out(real, sources)
    if run("build", "realdata_overfit", "--sources", sources, "--out", corpus, "--offline"):
        return 1
    begun, ended = folder / "begun", folder / "ended"
    if run("train", "overfit_unet", "--corpus", corpus, "--out", begun, "--resume"):
        return 1
    if run("train", "overfit_end", "--finetune", begun, "--corpus", corpus, "--out", ended, "--resume"):
        return 1
    trained, opened = load_run(ended), atlas.open(corpus)
    scores = evaluate(trained, opened, split=None, provenance=PROVENANCES).scores
    scores = scores[(scores.case_id != COPY) & (scores.truth_ml > ML)].sort_values("dice")
    scores.to_csv(folder / "scores.csv", index=False)
    for case_id in scores.case_id.unique():
        draw(trained, opened[case_id], folder)
    print(scores[["case_id", "class", "truth_ml", "dice"]].to_string(index=False, float_format="{:.3f}".format))
    short = scores[~(scores.dice >= DICE)]
    print(f"\n{len(scores) - len(short)} of {len(scores)} structures of more than {ML:g} ml reach {DICE}")
    return 1 if len(short) else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
