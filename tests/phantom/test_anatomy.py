"""Bodies: everything has its place, on its side, and the same seed is the same body."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from atlas.phantom import Anatomy, anatomy
from atlas.phantom.shapes import load_shapes
from atlas.spec import load_taxonomy

SEEDS = range(6)
TAXONOMY = load_taxonomy()
GRID_MM = 5.0


def body_grid(spacing: float = GRID_MM) -> tuple[tuple[int, int, int], np.ndarray]:
    """Grid around a whole body, head and thighs included."""
    low, high = np.array([-260.0, -160.0, -560.0]), np.array([260.0, 160.0, 720.0])
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = low + spacing / 2
    x, y, z = ((high - low) / spacing).astype(int)
    return (x, y, z), affine


@dataclass(frozen=True)
class Seen:
    """A body on a coarse grid: voxels and centre (mm, in the body's own frame) of every cell."""

    body: Anatomy
    voxels: np.ndarray
    centres: np.ndarray

    def size(self, name: str) -> int:
        return int(self.voxels[self.body.members(name)].sum())

    def centre(self, name: str) -> np.ndarray:
        cells = self.body.members(name)
        return self.voxels[cells] @ self.centres[cells] / self.voxels[cells].sum()


def seen(body: Anatomy) -> Seen:
    shape, affine = body_grid()
    numbers = body.paint(shape, affine).ravel()
    voxels = np.bincount(numbers, minlength=len(body.cells) + 1)
    to_body = np.asarray(body.to_body) @ affine
    sums = [np.bincount(numbers, i.ravel(), minlength=len(voxels)) for i in np.indices(shape)]
    index = np.stack(sums, axis=1) / np.maximum(voxels, 1)[:, None]
    return Seen(body, voxels, index @ to_body[:3, :3].T + to_body[:3, 3])


@pytest.fixture(scope="module")
def bodies() -> list[Seen]:
    return [seen(anatomy(seed, taxonomy=TAXONOMY)) for seed in SEEDS]


def test_every_class_has_a_place(bodies) -> None:
    assert {name for here in bodies for name in here.body.names} == set(TAXONOMY.names)


def test_what_a_body_has_survives_coarse_voxels(bodies) -> None:
    sizes = [(here.size(name), name) for here in bodies for name in here.body.names]
    assert min(sizes)[0] >= 3
    organs = [(size, name) for size, name in sizes if TAXONOMY.by_name[name].kind != "lesion"]
    assert min(organs)[0] * GRID_MM**3 > 2000


def test_only_tissue_is_no_class() -> None:
    tissue = {"subcutaneous_fat", "body_wall", "visceral_fat", "mediastinum"}
    known = {cell.name for seed in SEEDS for cell in anatomy(seed, taxonomy=TAXONOMY).cells}
    assert {n for n in known - set(TAXONOMY.names) if not n.startswith("elsewhere_")} == tissue
    mentioned = {n for s in load_shapes().structures for n in (*s.also, s.inside, s.over) if n}
    assert {n for m in mentioned for n in (m.replace("{side}", "left"),)} <= set(TAXONOMY.names)


def test_sides(bodies) -> None:
    for here in bodies:
        for left, right in TAXONOMY.pairs.values():
            if {left.name, right.name} <= here.body.names:
                assert here.centre(left.name)[0] < 0 < here.centre(right.name)[0], left.name


def test_asymmetric_organs_lie_on_their_side(bodies) -> None:
    for here in bodies:
        for name in ("liver", "gallbladder", "inferior_vena_cava", "superior_vena_cava"):
            assert here.centre(name)[0] > 10, name
        for name in ("spleen", "stomach", "heart", "aorta"):
            assert here.centre(name)[0] < -5, name


def test_order_from_head_to_foot_and_from_front_to_back(bodies) -> None:
    spine = [c.name for c in reversed(TAXONOMY.classes) if c.name.startswith("vertebrae_")]
    organs = ["brain", "thyroid_gland", "heart", "liver", "colon", "urinary_bladder", "femur_left"]
    for here in bodies:
        for downwards in (spine, organs):
            assert all(here.centre(a)[2] > here.centre(b)[2] for a, b in itertools.pairwise(downwards))
        backwards = ["sternum", "liver", "vertebrae_L2", "spinal_cord"]
        assert all(here.centre(a)[1] > here.centre(b)[1] for a, b in itertools.pairwise(backwards))


def test_parts_lie_in_their_wholes(bodies) -> None:
    for body in (here.body for here in bodies):
        for part in body.names:
            for whole in TAXONOMY.by_name[part].parents:
                names = [TAXONOMY.classes[bit].name for bit in TAXONOMY.target_bits(whole)]
                outside = body.members(part) & ~np.logical_or.reduce([body.members(n) for n in names])
                assert not outside.any(), f"{part} in {whole}"
        assert body.members("skin")[1:].all()


def test_a_lesion_changes_neither_side_nor_size_of_its_organ() -> None:
    with_tumour = anatomy(3, absent=frozenset(), taxonomy=TAXONOMY)
    without = anatomy(3, absent=frozenset({"liver_tumor", "kidney_tumor"}), taxonomy=TAXONOMY)
    grid = body_grid()
    for organ in ("liver", "kidney_left", "kidney_right", "spleen"):
        np.testing.assert_array_equal(with_tumour.mask(organ, *grid), without.mask(organ, *grid))


def test_absent_organs_take_their_lesions_along() -> None:
    for seed in SEEDS:
        body = anatomy(seed, absent=frozenset({"kidney_left"}), taxonomy=TAXONOMY)
        assert not body.names & {"kidney_left", "kidney_cyst_left"}
        assert "kidney_right" in body.names
        if "kidney_tumor" in body.names:
            assert not (body.members("kidney_tumor") & ~body.members("kidney_right")).any()
    assert "lung_upper_lobe_left" not in anatomy(0, absent=frozenset({"lung_left"})).names


def test_painting_in_windows_equals_the_formula_everywhere() -> None:
    body = anatomy(1, rotation_deg=25, offset_mm=(12, -7, 30), taxonomy=TAXONOMY)
    oblique = np.array([[0, 0.9, 7, -150], [-6.5, 0, 0.4, 120], [0.5, 8, 0, -200], [0, 0, 0, 1.0]])
    shape = (36, 50, 40)
    index = np.stack([*np.indices(shape), np.ones(shape)], axis=-1)
    x, y, z = np.moveaxis(index @ (np.asarray(body.to_body) @ oblique).T, -1, 0)[:3]
    expected = np.zeros(shape, dtype=int)
    for number, cell in enumerate(body.cells, start=1):
        for solid in cell.solids:
            inside = solid.contains(x, y, z)
            if cell.over:
                inside &= body.members(cell.over)[expected]
            expected[inside] = number
    assert len(np.unique(expected)) > 80
    np.testing.assert_array_equal(body.paint(shape, oblique), expected)


def test_a_turned_and_shifted_body_is_the_same_body() -> None:
    straight = anatomy(2, offset_mm=(0, 0, 0), taxonomy=TAXONOMY)
    turned = anatomy(2, offset_mm=(20, 10, -5), rotation_deg=90, taxonomy=TAXONOMY)
    shape, affine = body_grid()
    turn = np.array([[0, -1, 0, 20], [1, 0, 0, 10], [0, 0, 1, -5], [0, 0, 0, 1.0]])
    np.testing.assert_array_equal(straight.paint(shape, affine), turned.paint(shape, turn @ affine))
    # on the left side: what was right points to the ceiling, which is the front of the scanner
    assert (turn @ [1, 0, 0, 0])[1] == 1


def test_moved() -> None:
    body = anatomy(2, taxonomy=TAXONOMY)
    shape, affine = body_grid()
    there = affine.copy()
    there[:3, 3] += (50, -25, 10)
    np.testing.assert_array_equal(
        body.moved((50, -25, 10)).mask("liver", shape, there), body.mask("liver", shape, affine)
    )


def test_seeds() -> None:
    assert anatomy(7, taxonomy=TAXONOMY) == anatomy(7, taxonomy=TAXONOMY)
    assert anatomy(7, taxonomy=TAXONOMY) != anatomy(8, taxonomy=TAXONOMY)


def test_sex() -> None:
    woman, man = (anatomy(0, sex=sex, taxonomy=TAXONOMY).names for sex in ("female", "male"))
    assert "uterus" in woman
    assert "prostate" not in woman
    assert "prostate" in man
    assert "uterus" not in man


def test_attenuation() -> None:
    body = anatomy(0, taxonomy=TAXONOMY)
    by_name = {cell.name: cell.hu for cell in body.cells}
    assert body.hu[0] == -1000
    assert max(by_name[n] for n in by_name if n.startswith("lung_") and n != "lung_tumor") < -800
    assert min(by_name[n] for n in by_name if n.startswith("vertebrae")) >= 400
