"""`import atlas` is light, and modules import only what their place in the house allows."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "dask", "distributed", "SimpleITK", "pandas", "zarr", "nibabel")


def loaded(statement):
    """Top-level packages that a statement pulls in, in a fresh process."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_atlas_pulls_nothing_heavy():
    assert not loaded("import atlas") & set(HEAVY)


def test_reading_a_corpus_needs_no_build_tools():
    assert not loaded("import atlas; atlas.open; import atlas.corpus.verify") & {
        "torch",
        "dask",
        "distributed",
        "SimpleITK",
        "nibabel",
    }


def test_help_is_quick_to_load():
    assert not loaded("import atlas.cli") & {"torch", "dask", "distributed", "SimpleITK", "nibabel", "matplotlib"}


@pytest.mark.parametrize("path", sorted((ROOT / "atlas").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_stay_small(path):
    assert len(path.read_text().splitlines()) <= 300


def test_no_python_names_a_dataset():
    import re

    from atlas.spec import names

    pattern = re.compile(r"\b(" + "|".join(n for n in names("manifests") if len(n) > 4) + r")\b")
    hits = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "atlas").rglob("*.py")
        for line in path.read_text().splitlines()
        if pattern.search(line)
    ]
    assert hits == []
