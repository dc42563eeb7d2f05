"""The command line as its users meet it: output, exit status, and never a traceback."""

import io
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from atlas.spec import names


def atlas(*arguments, **environment):
    """Run the command in a process of its own; wide enough that nothing wraps."""
    done = subprocess.run(
        [sys.executable, "-m", "atlas", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
        timeout=550,  # the demo trains a model
    )
    assert b"Traceback" not in done.stdout + done.stderr, done.stderr.decode()
    return done


def text(done):
    return done.stdout.decode()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of a finished demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = atlas("demo", "--out", folder)
    assert done.returncode == 0, done.stderr.decode()
    return folder, text(done)


@pytest.fixture(scope="module")
def corpus(demo):
    return demo[0] / "corpus.zarr"


def test_demo_builds_counts_and_verifies(demo):
    _, output = demo
    assert "15 cases (15 built, 0 unchanged, 0 quarantined)" in output
    assert "15 cases checked, all in order" in output
    assert "kidney_left" in output


def test_coverage_for_machines_is_alone_on_stdout(corpus):
    records = json.loads(text(atlas("coverage", corpus, "--format", "json")))
    assert {r["dataset"] for r in records} >= {"kits23", "word"}
    frame = pd.read_csv(io.StringIO(text(atlas("coverage", corpus, "--format", "csv", "--class", "liver"))))
    assert set(frame["class"]) == {"liver"}
    parquet = pd.read_parquet(io.BytesIO(atlas("coverage", corpus, "--format", "parquet").stdout))
    assert len(parquet) == len(records)


def test_coverage_turns_the_table_when_the_terminal_is_narrow(corpus):
    wide = text(atlas("coverage", corpus, "-c", "liver", "-c", "spleen", COLUMNS="120")).splitlines()
    narrow = text(atlas("coverage", corpus, "-c", "liver", "-c", "spleen", COLUMNS="30")).splitlines()
    assert wide[0].split() == ["dataset", "spleen", "liver"]
    assert narrow[0].split()[0] == "class"
    assert max(map(len, narrow)) <= 30 or len(narrow) > len(wide)


@pytest.mark.parametrize("by", ["split", "licence", "group"])
def test_coverage_by(corpus, by):
    assert text(atlas("coverage", corpus, "--by", by, "-c", "liver")).split()[0] in {by, "class"}


def test_coverage_plot(corpus, tmp_path):
    figure = tmp_path / "map.png"
    assert atlas("coverage", corpus, "--plot", figure).returncode == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert atlas("coverage", corpus, "--plot", tmp_path / "map.doc").returncode == 2


def test_query(corpus):
    done = atlas(
        "query", corpus, "select class, count(*) n from annotations where present group by 1", "--format", "csv"
    )
    counts = pd.read_csv(io.StringIO(text(done))).set_index("class")["n"]
    assert counts["liver"] >= 9
    assert "reason" in text(atlas("query", corpus, "select * from quarantine"))


def test_verify(corpus):
    done = atlas("verify", corpus)
    assert done.returncode == 0
    assert "all in order" in text(done)
    assert atlas("verify", corpus, "--rebuild-catalog").returncode == 0


def test_verify_of_a_damaged_corpus_fails(demo, tmp_path):
    import shutil

    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(demo[0] / "corpus.zarr", damaged)
    next(damaged.glob("cases/word/*/ct/c/0/0/0")).unlink()
    done = atlas("verify", damaged)
    assert done.returncode == 1
    assert "the CT is not what was written" in text(done)
    assert done.stderr.decode().startswith("atlas: ")


def test_build_again_changes_nothing_and_quarantine_is_status_3(demo, tmp_path):
    import shutil

    sources = tmp_path / "sources"
    shutil.copytree(demo[0] / "sources", sources)
    shutil.copytree(demo[0] / "corpus.zarr", tmp_path / "corpus.zarr")
    arguments = (
        "build",
        "demo",
        "--sources",
        sources,
        "--out",
        tmp_path / "corpus.zarr",
        "--workers",
        "1",
        "--offline",
    )
    done = atlas(*arguments)
    assert done.returncode == 0
    assert "0 built, 15 unchanged" in text(done)
    bad = next((sources / "word").rglob("labels*/word_*.nii.gz"))
    bad.write_bytes(b"damaged")
    done = atlas(*arguments, "--only", "word")
    assert done.returncode == 3
    assert f"quarantined: word/{bad.name.split('.')[0]}: " in done.stderr.decode()
    assert "14 cases (0 built, 2 unchanged, 1 quarantined)" in text(done)


def test_datasets(demo):
    done = atlas("datasets", "--format", "json")
    assert [row["dataset"] for row in json.loads(text(done))] == names("manifests")
    output = text(atlas("datasets"))
    assert "CC-BY-NC-SA-4.0" in output
    shown = text(atlas("datasets", "show", "kits23"))
    for word in ("kidney_left", "CC-BY-NC-SA-4.0", "commercial use", "quirks", "case_"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["build", "no_such_recipe", "--sources", ".", "--out", "x"], 1, "no recipe is called"),
        (["build", "demo", "--sources", "nowhere", "--out", "{tmp}/x", "--offline"], 1, "no folder"),
        (["build", "demo", "--sources", ".", "--out", "x", "--only", "kits19"], 1, "not in the recipe demo"),
        (["build", "demo"], 2, "Missing option"),
        (["build", "demo", "--sources", ".", "--out", "x", "--workers", "0"], 2, "workers"),
        (
            ["build", "demo", "--sources", ".", "--out", "x", "--workers", "1", "--scheduler", "tcp://x:1"],
            2,
            "give one",
        ),
        (["coverage", "nowhere.zarr"], 1, "no such folder"),
        (["coverage", "{corpus}", "--class", "livr"], 1, "did you mean liver"),
        (["coverage", "{corpus}", "--by", "month"], 2, "month"),
        (["query", "{corpus}", "selec 1"], 1, "the query failed"),
        (["verify", "nowhere.zarr"], 1, "no such folder"),
        (["datasets", "show", "kits99"], 1, "did you mean kits"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_failures_are_a_sentence_and_a_status(corpus, tmp_path, arguments, status, message):
    done = atlas(*(a.format(corpus=corpus, tmp=tmp_path) for a in arguments))
    assert done.returncode == status, done.stderr.decode()
    assert message in done.stderr.decode().replace("\n", " ")
    assert not done.stdout


def test_version_and_help():
    import atlas as package

    assert text(atlas("--version")).strip() == package.__version__
    for command in ("demo", "datasets", "fetch", "build", "coverage", "query", "verify"):
        assert atlas(command, "--help").returncode == 0
