"""The wheel holds what the checkout holds, and works where there is no checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("manifests", "label_maps", "pipelines")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built wheel. The tools are those of this environment: a test must not need the network."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    (path,) = out.glob("*.whl")
    return path


def test_all_specifications_travel(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        for path in (ROOT / folder).glob("*.yaml"):
            assert f"atlas/{folder}/{path.name}" in packed
    assert "atlas/py.typed" in packed
    assert any(name.endswith("shapes.yaml") for name in packed)


def test_an_installed_wheel_finds_them(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)  # what installing a pure wheel does
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import atlas, atlas.spec as s; "
        "assert atlas.__file__.startswith(sys.argv[1]), atlas.__file__; "
        "[s.load_label_map(n) for n in s.names('manifests')]; [s.load_recipe(n) for n in s.recipes('build')]; "
        "[s.load_training(n) for n in s.recipes('training')]; "
        "print(*s.names('manifests'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == sorted(p.stem for p in (ROOT / "manifests").glob("*.yaml"))


def test_the_wheel_holds_no_tests_and_no_scans(wheel):
    packed = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/")) or name.endswith((".gz", ".dcm"))]
