"""Toy datasets that any build can read, and a client to build with."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from atlas.phantom import write_dataset
from atlas.phantom.places import Published
from atlas.spec import names

sys.path.insert(0, str(Path(__file__).parent))


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
    """Two phantoms of every shipped dataset: folder of sources, and what is in them.

    A dataset whose CT others have labelled gets the cases that they have, so that it is complete by itself.
    """
    sources = tmp_path_factory.mktemp("phantoms")
    written, lent = {}, {}
    datasets = {name: Published.of(name, sources) for name in shipped}
    for name in sorted(shipped, key=lambda name: datasets[name].lender() is datasets[name]):
        here = datasets[name]
        written[name] = write_dataset(name, sources, cases=lent.get(name, 2))
        if here.manifest.layout.image_of:
            cases = [here.lent(phantom.case_id.removeprefix(f"{name}/")) for phantom in written[name]]
            lent.setdefault(here.manifest.layout.image_of, []).extend(cases)
    return sources, written


def masks_of(case):
    """Name and mask of every available class, out of the codes."""
    codes = np.asarray(case.codes[...])
    for name in sorted(case.available):
        yield name, np.array([bits >> case.taxonomy.bit(name) & 1 for bits in case.table], dtype=bool)[codes]


@pytest.fixture(scope="session")
def equal_masks():
    """Compare the masks of a case with the formula, where it was annotated; what is lost is what 5 mm voxels cannot
    show."""

    def check(case, phantom):
        truth = phantom.truth(case.record.shape, case.affine)
        known = phantom.annotated(case.record.shape, case.affine)
        voxel_ml = abs(np.linalg.det(case.affine[:3, :3])) / 1000
        scores = {}
        for name, drawn in masks_of(case):
            mask, true = drawn & known, truth[name] & known
            if true.sum() * voxel_ml > 3:
                scores[name] = 2 * (mask & true).sum() / (mask.sum() + true.sum())
            elif not true.any():
                # a shape that only grazes the volume may show in a voxel or two
                assert mask.sum() * voxel_ml < 1, (phantom.case_id, name)
            mirror = case.taxonomy.by_name[name].mirror
            if mirror in truth:
                assert (mask & truth[mirror]).sum() <= 0.1 * mask.sum(), (phantom.case_id, name, "is", mirror)
        low = {name: round(float(score), 3) for name, score in scores.items() if score < 0.75}
        assert not low, phantom.case_id
        # a dataset of small lesions may have none that is large enough
        assert np.mean(list(scores.values()) or [1.0]) > 0.85, phantom.case_id

    return check
