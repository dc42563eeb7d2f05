"""Whether one model learns all classes from datasets that label a few each, and whether availability is why.

    python benchmarks/partial_labels.py [--out DIR]

Six datasets of phantoms, four of them in the layout of published ones, label one to three of twelve classes each. One
model is trained on them by `atlas.train.loop.train`, and evaluated on phantoms of other bodies, all twelve labelled.
Then everything is done again with a corpus from the same files in which all twelve classes are available in all cases,
and empty where nobody labelled them: label maps with further values that occur nowhere. The network, its first
weights, the patches and their order are the same; that patches differ in nothing but `available` is checked.

`benchmarks/partial/` holds the specifications and the recipes.
"""

import argparse
import os
import sys
import time
from pathlib import Path

SPECS = Path(__file__).resolve().parent / "partial"
TRAIN_CASES, TEST_CASES = 20, 12
"""Of each dataset."""
ABSENT = frozenset({"hepatic_vessel_tumor"})
"""It looks like a liver_tumor, is none, and no dataset here says which is which."""
NEVER = 100
"""Values from here on occur in no label volume."""
COMPARED = 100
"""Batches of both trainings that are compared."""
ORGANS, LESIONS = 0.90, 0.70
"""Dice that the model has to reach."""


# Corpora ----------------------------------------------------------------------------------------------------------


def declare_background(out, recipe, classes):
    """Label maps in which every class is available: what a dataset does not label has a value that never occurs."""
    import yaml

    from atlas.spec import load_label_map, load_taxonomy

    folder, taxonomy = out / "background" / "label_maps", load_taxonomy()
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in recipe.datasets:
        label_map = load_label_map(dataset)
        said = {taxonomy.classes[bit].name for target in label_map.targets() for bit in taxonomy.target_bits(target)}
        others = [name for name in classes if name not in said]
        values = {
            volume: {
                **{value: list(targets) for value, targets in meaning.items()},
                **{NEVER + number: [name] for number, name in enumerate(others)},
            }
            for volume, meaning in label_map.values.items()
        }
        (folder / f"{dataset}.yaml").write_text(yaml.safe_dump({"dataset": dataset, "values": values}))
    return folder.parent


def make_corpora(out, classes):
    """The corpus of partial labels, the same with missing labels as background, and that to test on."""
    import atlas
    from atlas.build.run import build
    from atlas.phantom import write_dataset
    from atlas.spec import load_recipe

    os.environ["ATLAS_PATH"] = str(SPECS)
    train, test = load_recipe("partial_train"), load_recipe("partial_test")
    for recipe, cases in ((train, TRAIN_CASES), (test, TEST_CASES)):
        for dataset in recipe.datasets:
            write_dataset(dataset, out / "sources", cases=cases, absent=ABSENT)
    background = declare_background(out, train, classes)
    found = []
    for name, recipe, path in (
        ("masked", train, SPECS),
        ("background", train, f"{background}{os.pathsep}{SPECS}"),
        ("test", test, SPECS),
    ):
        os.environ["ATLAS_PATH"] = str(path)
        build(recipe, out / "sources", out / f"{name}.zarr")
        found.append(atlas.open(out / f"{name}.zarr"))
    return found


def check_corpora(masked, background, classes):
    """Raise unless one labels at most 3 classes a dataset and the other says that it labels all, in the same cases."""
    available = masked.annotations[masked.annotations.available].groupby("dataset")["class"].nunique()
    assert available.max() <= 3, available
    for case_id in masked.cases.case_id:
        one, other = masked[case_id], background[case_id]
        assert other.available == frozenset(classes)
        assert one.present == other.present
        assert one.record.ct_sha256 == other.record.ct_sha256


def check_patches(recipe, masked, background):
    """Raise unless both trainings see the same images and the same labels, and differ in `available` alone."""
    from itertools import islice

    from atlas.stream import stream
    from atlas.train.options import settings_of

    streams = [
        stream(
            corpus,
            batch_size=recipe.optimiser.batch,
            patch_size=recipe.data.patch,
            device="cpu",
            classes=recipe.classes,
            sampling=settings_of(recipe, recipe.classes).sampling,
            seed=recipe.seed,
        )
        for corpus in (masked, background)
    ]
    for one, other in islice(zip(*streams, strict=True), COMPARED):
        labels = one.available[:, :, None, None, None]
        assert one.case_id == other.case_id
        assert (one.image == other.image).all()
        assert (one.mask & labels == other.mask).all()
        assert one.unknown is None is other.unknown
        assert other.available.all()
        assert not one.available.all()
    for patches in streams:
        patches.close()


# Training ---------------------------------------------------------------------------------------------------------


def trained_and_scored(name, recipe, corpus, test, out):
    """Dice of each test case and class, and the seconds of the training."""
    from atlas.train.evaluation.run import evaluate
    from atlas.train.loop import train
    from atlas.train.run import load_run

    def tell(progress):
        if progress.note:
            print(f"{name}: {progress.note}", file=sys.stderr)
        elif progress.step % 50 == 0:
            print(f"{name}: step {progress.step} of {progress.steps}, {progress.figures}", file=sys.stderr, flush=True)

    run = out / f"run_{name}"
    summary = train(recipe, corpus, run, resume=True, device="cpu", progress=tell)
    if summary.stopped:
        sys.exit(f"{name}: stopped by {summary.stopped}; run it again to go on")
    return evaluate(load_run(run), test).scores, summary.seconds


def table(masked, scores):
    """One row a class."""
    available = masked.annotations[masked.annotations.available]
    print("\n| class | labelled in | cases | test cases that have it | Dice | lowest | missing as background |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, own in scores["masked"].groupby("class", sort=False):
        labelled = available[available["class"] == name]
        other = scores["background"][scores["background"]["class"] == name]
        print(
            f"| {name} | {', '.join(sorted(labelled.dataset.unique()))} | {len(labelled)} | {(own.truth_ml > 0).sum()} "
            f"| {own.dice.mean():.3f} | {own.dice.min():.3f} | {other.dice.mean():.3f} |"
        )
    for kind, least in (("organ", ORGANS), ("lesion", LESIONS)):
        means = [frame[frame.kind == kind].groupby("class").dice.mean() for frame in scores.values()]
        print(f"\n{kind}s: at least {means[0].min():.3f} ({least} is wanted), mean {means[0].mean():.3f}; "
              f"missing as background: at most {means[1].max():.3f}, mean {means[1].mean():.3f}")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/partial_labels"))
    options = parser.parse_args()
    from atlas.spec import load_training

    recipe = load_training(str(SPECS / "pipelines/partial_labels.yaml"))
    start = time.perf_counter()
    masked, background, test = make_corpora(options.out.resolve(), recipe.classes)
    check_corpora(masked, background, recipe.classes)
    check_patches(recipe, masked, background)
    print(f"{len(masked.cases)} cases to learn from, {len(test.cases)} to test on: {time.perf_counter() - start:.0f} s")
    scores, seconds = {}, {}
    for name, corpus in (("masked", masked), ("background", background)):
        scores[name], seconds[name] = trained_and_scored(name, recipe, corpus, test, options.out)
    table(masked, scores)
    print(f"\n{recipe.optimiser.steps} steps: " + ", ".join(f"{name} {s / 60:.1f} min" for name, s in seconds.items()))


if __name__ == "__main__":
    main()
