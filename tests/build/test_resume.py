"""A build that was interrupted, or whose inputs changed, ends like one that was not."""

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atlas.build import build
from atlas.corpus import open_corpus
from atlas.errors import BuildError
from atlas.spec import load_recipe


def digests(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def run(toy, out="corpus.zarr", **options):
    return build(load_recipe("toys"), toy.sources, toy.root / out, workers=1, **options)


def test_unchanged_cases_are_kept(toy):
    for n in range(3):
        toy.add(f"c{n}", seed=n)
    assert (run(toy).built, run(toy).kept) == (3, 3)


def test_only_what_changed_is_built_again(toy):
    for n in range(3):
        toy.add(f"c{n}", seed=n)
    run(toy)
    toy.add("c1", seed=7)
    summary = run(toy)
    assert (summary.built, summary.kept) == (1, 2)
    toy.add("c3", seed=9)
    summary = run(toy)
    assert (summary.built, summary.kept, summary.cases) == (1, 3, 4)


def test_a_changed_label_map_redoes_its_dataset_and_no_other(toy):
    toy.add("c0")
    other = toy.specs / "manifests" / "other.yaml"
    other.write_text((toy.specs / "manifests/toy.yaml").read_text().replace("id: toy", "id: other"))
    labels = (toy.specs / "label_maps/toy.yaml").read_text().replace("dataset: toy", "dataset: other")
    (toy.specs / "label_maps/other.yaml").write_text(labels)
    toy.spec("pipelines", "[toy]", "[toy, other]")
    shutil.copytree(toy.sources / "toy", toy.sources / "other")
    assert run(toy).built == 2
    (toy.specs / "label_maps/other.yaml").write_text(labels.replace("2: liver_tumor", "2: kidney_tumor"))
    summary = run(toy)
    assert (summary.built, summary.kept) == (1, 1)
    corpus = open_corpus(toy.root / "corpus.zarr")
    assert "kidney_tumor" in corpus["other/c0"].available
    assert "kidney_tumor" not in corpus["toy/c0"].available


@pytest.mark.parametrize(
    ("folder", "old", "new", "built"),
    [
        ("pipelines", "grid: {spacing: 3.0}", "grid: {spacing: 3.0}\nresample: {labels: nearest}", 2),
        ("pipelines", "grid: {spacing: 3.0}", "grid: {spacing: 3.0}\nsplits: {train: 1.0, val: 0.0, test: 0.0}", 0),
        ("label_maps", "3: kidney_left/right", "3: kidney_left/right\nnotes: [nothing new]", 0),
        (
            "label_maps",
            "3: kidney_left/right",
            "3: kidney_left/right\ncases:\n  c0: {reason: bad, unavailable: [liver]}",
            1,
        ),
        ("manifests", "name: A toy", "name: Another name", 0),
        ("manifests", "id: CC0-1.0", "id: CC-BY-4.0", 2),
    ],
)
def test_what_a_changed_specification_redoes(toy, folder, old, new, built):
    for n in range(2):
        toy.add(f"c{n}", seed=n)
    run(toy)
    toy.spec(folder, old, new)
    assert run(toy).built == built


def test_a_case_that_turns_bad_leaves_the_corpus_and_one_that_is_mended_enters(toy):
    toy.add("c0")
    toy.add("c1", seed=1)
    run(toy)
    good = toy.ct("c1").read_bytes()
    toy.ct("c1").write_bytes(good[: len(good) // 2])
    summary = run(toy)
    assert list(summary.quarantined) == ["toy/c1"]
    corpus = open_corpus(toy.root / "corpus.zarr")
    assert list(corpus.cases.case_id) == ["toy/c0"]
    assert list(corpus.quarantine.case_id) == ["toy/c1"]
    toy.ct("c1").write_bytes(good)
    assert run(toy).quarantined == {}
    corpus = open_corpus(toy.root / "corpus.zarr")
    assert len(corpus) == 2
    assert corpus.quarantine.empty


def test_a_second_build_waits_for_nobody_and_harms_nothing(toy):
    import fcntl

    toy.add("c0")
    run(toy)
    before = digests(toy.root / "corpus.zarr")
    with (toy.root / "corpus.zarr.log.jsonl").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match="another build is at work"):
            run(toy)
    assert digests(toy.root / "corpus.zarr") == before


def test_a_corpus_keeps_its_grid_and_its_bits(toy):
    toy.add("c0")
    run(toy)
    toy.spec("pipelines", "spacing: 3.0", "spacing: 2.0")
    with pytest.raises(BuildError, match=r"its grid is 3\.0 mm, the recipe says 2\.0 mm"):
        run(toy)
    (toy.root / "thesis").mkdir()
    (toy.root / "thesis/chapter1.tex").write_text("precious")
    with pytest.raises(BuildError, match="something in this folder"):
        run(toy, out="thesis")


def test_builds_on_a_cluster_that_exists(toy):
    from distributed import LocalCluster

    toy.add("c0")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        summary = build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", scheduler=cluster.scheduler_address)
    assert summary.built == 1


def start(toy, out):
    command = [sys.executable, "-m", "atlas", "build", "toys", "--sources", toy.sources, "--out", out, "--workers", "2"]
    environment = {**os.environ, "ATLAS_PATH": str(toy.specs)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def descendants(pid):
    """Process ids of the workers that a build has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found


def wait_for_workers(process):
    """Let the build get to work: two worker processes are alive."""
    deadline = time.monotonic() + 60
    while len(descendants(process.pid)) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.slow
def test_ten_kills_and_the_corpus_is_byte_for_byte_the_same(toy):
    for n in range(12):
        toy.add(f"c{n}", seed=n, shape=(120, 96, 60))
    undisturbed, disturbed = toy.root / "one.zarr", toy.root / "two.zarr"
    assert start(toy, undisturbed).wait() == 0
    expected = digests(undisturbed)
    dice = random.Random(20)
    for attempt in range(10):
        process = start(toy, disturbed)
        wait_for_workers(process)
        time.sleep(dice.uniform(0.0, 2.5))
        if attempt % 2:
            workers = descendants(process.pid)
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(dice.choice(workers), signal.SIGKILL)
            process.wait()
            shutil.rmtree(disturbed / "cases" / "toy" / f"c{attempt}", ignore_errors=True)  # work for the next one
        else:
            process.kill()
            process.wait()
    assert start(toy, disturbed).wait() == 0
    assert digests(disturbed) == expected
