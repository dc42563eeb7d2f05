"""`atlas fetch` and the fetching `atlas build` as their users meet them: words, order, exit status, Ctrl-C."""

import hashlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_path = Path(__file__).parents[1] / "build" / "loopback.py"
_spec = importlib.util.spec_from_file_location("loopback", _path)
loopback = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loopback)

MANIFEST = """
id: toy
name: A toy
citation: none
licence: {{id: CC-BY-NC-4.0, commercial: false, redistribution: true}}
access: {{kind: {kind}, steps: [{steps}], files: [{files}]}}
scans: 9
labelled: 9
layout: {{case: 'c\\d+', image: 'ct/{{case}}.nii.gz', labels: {{seg: 'seg/{{case}}.nii.gz'}}}}
"""


class Shop:
    """A publisher, and a folder to fetch into. What is fetched need not be a scan."""

    def __init__(self, root, url, watch):
        self.root, self.url, self.watch = root, url, watch
        self.site, self.to = root / "site/toy/http", root / "ct data"

    def offer(self, files, kind="open", steps=""):
        for target, content in files.items():
            place = self.site / target
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        said = [
            f"{{{'' if kind == 'gated' else f'url: {self.url}/toy/http/{target}, '}to: {target}, "
            f"size: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}}}"
            for target, content in files.items()
        ]
        specs = self.root / "specs"
        for folder in ("manifests", "label_maps", "pipelines"):
            (specs / folder).mkdir(parents=True, exist_ok=True)
        (specs / "manifests/toy.yaml").write_text(MANIFEST.format(kind=kind, steps=steps, files=", ".join(said)))
        (specs / "label_maps/toy.yaml").write_text("dataset: toy\nvalues: {seg: {1: liver}}\n")
        (specs / "pipelines/toys.yaml").write_text("name: toys\ndatasets: [toy]\ngrid: {spacing: 3.0}\n")

    def start(self, *arguments, stderr=subprocess.PIPE):
        environment = {**os.environ, "ATLAS_PATH": str(self.root / "specs"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "atlas", *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def atlas(self, *arguments):
        """Status, standard output and standard error."""
        return self.ended(self.start(*arguments))

    def fetch(self, *arguments):
        return self.atlas("fetch", "toy", "--to", self.to, *arguments)

    @staticmethod
    def ended(process):
        out, err = process.communicate(timeout=60)
        for noise in ("Traceback", "distributed", "CommClosed", "Warning", "tornado"):
            assert noise not in out + err, err
        return process.returncode, out, err


@pytest.fixture
def shop(tmp_path):
    watch = loopback.Watch()
    with loopback.serving(tmp_path / "site", watch) as url:
        yield Shop(tmp_path, url, watch)


def pair(case, size=2000):
    return {f"{kind}/{case}.nii.gz": bytes([n]) * size for n, kind in enumerate(("ct", "seg"))}


def test_fetch_says_the_licence_first_and_what_came(shop):
    shop.offer({**pair("c1"), **pair("c2")})
    said, log = [], shop.root / "stderr.txt"
    shop.watch.gate = lambda path: said.append(log.read_text())
    with log.open("w") as stderr:
        process = shop.start("fetch", "toy", "--to", shop.to, stderr=stderr)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said[0] == "toy: licence CC-BY-NC-4.0; commercial use: no; redistribution: yes\n"
    assert sorted(log.read_text().removeprefix(said[0]).splitlines()) == [
        f"toy/{kind}/{case}.nii.gz: there (2.0 kB fetched)" for kind in ("ct", "seg") for case in ("c1", "c2")
    ]
    assert out == "toy: 2 cases\n"
    asked = len(shop.watch.asked)
    assert shop.fetch() == (0, "toy: 2 cases\n", "")
    assert len(shop.watch.asked) == asked == 4


def test_dry_run_asks_and_writes_nothing(shop):
    shop.offer(pair("c1", size=1_500_000))
    status, out, err = shop.fetch("--dry-run")
    assert status == 0
    assert "licence CC-BY-NC-4.0; commercial use: no" in err
    rows = [line.split() for line in out.splitlines()]
    assert ["toy", "ct/c1.nii.gz", "1.5", "MB", "127.0.0.1", "to", "fetch"] in rows
    assert out.splitlines()[-1] == "2 files to fetch, 3.0 MB"
    assert shop.watch.asked == []
    assert not shop.to.exists()


def test_a_file_that_is_not_there_is_one_sentence_and_status_1(shop):
    shop.offer({**pair("c1"), **pair("c2")})
    (shop.site / "seg/c2.nii.gz").unlink()
    status, out, err = shop.fetch()
    assert status == 1
    assert err.splitlines()[-1] == "atlas: 1 of 4 could not be fetched; run the same command again to go on"
    assert any(line.startswith("toy/seg/c2.nii.gz: ") and "404" in line for line in err.splitlines())
    assert out == "toy: 2 cases, 1 of them incomplete or known to be bad\n"


def test_build_goes_on_without_it_and_says_so(shop):
    shop.offer({**pair("c1"), **pair("c2")})
    (shop.site / "seg/c2.nii.gz").unlink()
    command = ("build", "toys", "--sources", shop.to, "--out", shop.root / "out.zarr", "--workers", 1)
    status, _, err = shop.atlas(*command)
    lines = err.splitlines()
    assert status == 1
    assert lines[0].startswith("toy: licence CC-BY-NC-4.0")
    assert any(line.startswith("missing: toy/seg/c2.nii.gz: ") for line in lines)
    assert any("quarantined: toy/c2: no label file" in line and "not fetched: toy/seg/c2" in line for line in lines)
    assert lines[-1] == "atlas: 1 files or datasets are missing (see above); run it again to go on"
    asked = len(shop.watch.asked)
    assert shop.atlas(*command, "--offline")[0] == 3
    assert len(shop.watch.asked) == asked


def test_many_files_do_not_flood(shop):
    files = {f"{kind}/c{n}.nii.gz": b"%d" % n for n in range(30) for kind in ("ct", "seg")}
    shop.offer(files)
    (shop.site / "ct/c7.nii.gz").unlink()
    status, _, err = shop.fetch()
    lines = err.splitlines()
    assert status == 1
    assert sum("there (" in line for line in lines) == 0
    assert sum("404" in line for line in lines) == 1
    assert len(lines) <= 5
    assert any("60 of 60 files or folders" in line for line in lines)


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_a_gated_dataset(shop):
    content = zip_of(pair("c1"))
    digest = hashlib.sha256(content).hexdigest()
    shop.offer({"all.zip": content}, kind="gated", steps="Register at the challenge, Download the archive")
    place = shop.to / "toy/all.zip"
    status, out, err = shop.fetch()
    assert status == 3
    lines = out.splitlines()
    assert lines[:3] == ["toy: not there", "  1. Register at the challenge", "  2. Download the archive"]
    assert f"put {place}" in lines[3]
    assert digest in lines[3]
    assert f"`atlas fetch toy --to {shop.to}` again" in lines[4]
    assert "licence CC-BY-NC-4.0" in err
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x" * len(content))
    status, _, err = shop.fetch()
    assert status == 1
    assert digest in err
    assert hashlib.sha256(b"x" * len(content)).hexdigest() in err
    place.write_bytes(content)
    status, out, _ = shop.fetch()
    assert (status, out) == (0, "toy: 1 cases\n")
    assert (shop.to / "toy/ct/c1.nii.gz").read_bytes() == pair("c1")["ct/c1.nii.gz"]
    assert shop.watch.asked == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_from_there(shop, how):
    content = os.urandom(2_000_000)
    shop.offer({**pair("c1"), "ct/c2.nii.gz": content})
    shop.watch.slow = "ct/c2"
    process = shop.start("fetch", "toy", "--to", shop.to)
    part = shop.to / "toy/ct/c2.nii.gz.part"
    assert loopback.until(lambda: part.exists() and part.stat().st_size > 200_000)
    process.send_signal(how)
    status, _, err = shop.ended(process)
    if how is signal.SIGINT:
        assert status == 1
        assert err.splitlines()[-1] == "atlas: stopped; run the same command again to go on"
    shop.watch.slow = None
    shop.watch.asked.clear()
    assert shop.fetch()[0] == 0
    (again,) = [asked for path, asked in shop.watch.asked if "ct/c2" in path]
    assert int(again.removeprefix("bytes=").rstrip("-")) >= 200_000
    assert (shop.to / "toy/ct/c2.nii.gz").read_bytes() == content


def test_ctrl_c_stops_a_build_as_well(shop):
    shop.offer({**pair("c1"), "ct/c2.nii.gz": os.urandom(2_000_000)})
    shop.watch.slow = "ct/c2"
    process = shop.start("build", "toys", "--sources", shop.to, "--out", shop.root / "out.zarr", "--workers", 1)
    part = shop.to / "toy/ct/c2.nii.gz.part"
    assert loopback.until(lambda: part.exists() and part.stat().st_size > 100_000)
    process.send_signal(signal.SIGINT)
    status, _, err = shop.ended(process)
    assert status == 1
    assert err.splitlines()[-1] == "atlas: stopped; run the same command again to go on"


def test_a_source_that_cannot_be_asked_is_one_sentence_with_the_dataset(shop):
    shop.offer(pair("c1"))
    manifest = shop.root / "specs/manifests/toy.yaml"
    manifest.write_text(manifest.read_text().replace("files: [", "files: [{url: 'idc://no_such_collection'}, "))
    process = {"ATLAS_IDC_INDEX": str(shop.root / "nowhere.parquet")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*process.popitem())
        status, out, err = shop.fetch("--dry-run")
        assert (status, out) == (1, "")
        assert err == f"atlas: toy: ATLAS_IDC_INDEX names {shop.root / 'nowhere.parquet'}, which is no file\n"
        _, _, err = shop.atlas("build", "toys", "--sources", shop.to, "--out", shop.root / "out.zarr")
        assert err.endswith("which is no file. With --offline, what is there is built\n")
