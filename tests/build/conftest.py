"""Toy datasets that any build can read, and a client to build with."""

import nibabel as nib
import numpy as np
import pytest

from atlas.phantom import write_dataset
from atlas.spec import names


@pytest.fixture(scope="session")
def shipped():
    """Names of all shipped datasets."""
    return names("manifests")


TOY_MANIFEST = """
id: toy
name: A toy
citation: none
licence: {id: CC0-1.0, commercial: true, redistribution: true}
access: {kind: open}
scans: 9
labelled: 9
layout:
  case: 'c\\d+'
  image: ct/{case}.nii.gz
  labels:
    segmentation: seg/{case}.nii.gz
"""

TOY_LABELS = """
dataset: toy
values:
  segmentation:
    1: liver
    2: liver_tumor
    3: kidney_left/right
"""

TOY_RECIPE = """
name: toys
datasets: [toy]
grid: {spacing: 3.0}
"""


class Toy:
    """A dataset of the user's own, found through ATLAS_PATH."""

    def __init__(self, root):
        self.root = root
        self.sources = root / "sources"
        self.specs = root / "specs"
        for folder, name, text in (
            ("manifests", "toy", TOY_MANIFEST),
            ("label_maps", "toy", TOY_LABELS),
            ("pipelines", "toys", TOY_RECIPE),
        ):
            (self.specs / folder).mkdir(parents=True)
            (self.specs / folder / f"{name}.yaml").write_text(text)
        for folder in ("ct", "seg"):
            (self.sources / "toy" / folder).mkdir(parents=True)

    def spec(self, folder, old, new):
        """Change a specification."""
        path = next((self.specs / folder).glob("*.yaml"))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def ct(self, case):
        return self.sources / "toy" / "ct" / f"{case}.nii.gz"

    def seg(self, case):
        return self.sources / "toy" / "seg" / f"{case}.nii.gz"

    def add(self, case, seed=0, shape=(60, 48, 30)):
        """Write a case: a body with a spine, a liver with a tumour on the right, two kidneys."""
        rng = np.random.default_rng(seed)
        i, j, k = np.ogrid[: shape[0], : shape[1], : shape[2]]
        body = ((i - 30) / 27) ** 2 + ((j - 24) / 20) ** 2 + 0 * k < 1
        spine = (abs(i - 30) < 3) & (abs(j - 10) < 3) & (k >= 0)
        data = np.where(spine, 600, np.where(body, 40, -1000)) + rng.integers(-9, 9, shape)
        seg = np.zeros(shape, np.uint8)
        seg[36:50, 20:34, 14:26] = 1
        seg[40:43, 24:27, 18:21] = 2
        seg[14:20, 12:18, 6:16] = seg[40:46, 12:18, 4:13] = 3
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        affine[:3, 3] = [-90, -70, 5 * seed]
        self.save(self.ct(case), data.astype(np.int16), affine)
        self.save(self.seg(case), seg, affine)
        return data, seg, affine

    @staticmethod
    def save(path, data, affine):
        image = nib.Nifti1Image(data, affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.to_filename(path)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A dataset called `toy` with nothing in it yet, and a recipe `toys`."""
    made = Toy(tmp_path)
    monkeypatch.setenv("ATLAS_PATH", str(made.specs))
    return made


@pytest.fixture(scope="module")
def module_toy(tmp_path_factory):
    """The same for all tests of a module."""
    made = Toy(tmp_path_factory.mktemp("toy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATLAS_PATH", str(made.specs))
        yield made


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory, shipped):
    """Two phantoms of every shipped dataset: folder of sources, and what is in them."""
    sources = tmp_path_factory.mktemp("phantoms")
    return sources, {name: write_dataset(name, sources, cases=2, seed=i) for i, name in enumerate(shipped)}
