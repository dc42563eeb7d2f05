"""What several tests need: a small taxonomy, and the folder of real scans."""

from pathlib import Path

import pytest
from hypothesis import settings

from atlas.spec import LabelMap, Taxonomy

settings.register_profile("atlas", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("atlas")

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


@pytest.fixture(scope="session")
def realdata():
    """Folder of real scans; licences keep them out of the repository."""
    if not REALDATA.is_dir():
        pytest.skip("no real scans beside the checkout (../shared/realdata)")
    return REALDATA


def _class(bit, name, *, kind="organ", parents=()):
    side = next((s for s in ("left", "right") if name.endswith(f"_{s}")), None)
    other = {"left": "right", "right": "left"}.get(side)
    return {
        "bit": bit,
        "name": name,
        "kind": kind,
        "side": side,
        "mirror": name.replace(side, other) if side else None,
        "parents": list(parents),
        "prompt": name,
        "colour": [bit * 20, 255 - bit * 20, 100],
    }


@pytest.fixture(scope="session")
def taxonomy():
    """Eight classes: an organ with its tumour, a pair with unsided and sided parts, a vessel."""
    return Taxonomy.model_validate(
        {
            "version": 1,
            "classes": [
                _class(0, "liver"),
                _class(1, "liver_tumor", kind="lesion", parents=["liver"]),
                _class(2, "kidney_left"),
                _class(3, "kidney_right"),
                _class(4, "kidney_tumor", kind="lesion", parents=["kidney_left/right"]),
                _class(5, "cyst_left", kind="lesion", parents=["kidney_left"]),
                _class(6, "cyst_right", kind="lesion", parents=["kidney_right"]),
                _class(7, "aorta", kind="vessel"),
            ],
        }
    )


@pytest.fixture
def label_map():
    """Make a label map of a dataset called `toy` from what it is given."""

    def make(**content):
        return LabelMap.model_validate({"dataset": "toy", **content})

    return make
