"""Batches, packed and unpacked, against what was written into the corpus."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from atlas.corpus import layout
from atlas.errors import CorpusError, SpecError
from atlas.stream import channels
from atlas.stream.augment import Parameters
from atlas.stream.batch import PackedBatch
from atlas.stream.opened import DOCUMENTS, inside, parse_case
from atlas.stream.pack import pack, patch_affine

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
PATCH = (24, 32, 28)
ORIGINS = {
    "one/a": (5, 12, 30),
    "one/b": (20, 30, -2),  # narrower than the patch
    "one/c": (-2, 1, 37),  # thinner than the patch
    "two/a": (90, 30, 20),  # across the slice above which the aorta is unknown
    "two/b": (3, 4, 5),  # uint16
    "two/c": (4, 0, 1),
    "three/a": (72, 3, 40),  # the first and the last bit of the taxonomy
    "three/b": (12, 20, 15),
}
CLASSES = [
    "face",
    "liver",
    "aorta",
    "kidney_right",
    "spleen",
    "lung_left",
    "lung_right",
    "kidney_left",
    "pancreas_tumor",
]


@pytest.fixture(scope="module")
def opened(corpus_folder):
    """Function that opens a case."""

    def open_case(case_id):
        folder = corpus_folder / layout.case_path(case_id)
        return parse_case(case_id, {name: (folder / name).read_bytes() for name in DOCUMENTS})

    return open_case


@pytest.fixture(scope="module")
def packed(corpus, opened, taxonomy):
    """Function that packs a patch of each case."""

    def make(*case_ids, target=None, patch=PATCH):
        cases = [opened(case_id) for case_id in case_ids]
        dtype = np.uint16 if any(case.codes_dtype == np.uint16 for case in cases) else np.uint8
        ct = np.full((len(cases), *patch), -1024, np.int16)
        codes = np.zeros((len(cases), *patch), dtype)
        for b, case in enumerate(cases):
            volume, within = inside(case.shape, ORIGINS[case.case_id], patch)
            ct[b][within] = corpus[case.case_id].ct[volume]
            codes[b][within] = corpus[case.case_id].codes[volume]
        return pack(
            cases,
            np.array([ORIGINS[case_id] for case_id in case_ids]),
            torch.from_numpy(ct),
            torch.from_numpy(codes),
            target=target or [None] * len(cases),
            index=np.arange(100, 100 + len(cases)),
            taxonomy=taxonomy,
        )

    return make


def cut(volume, origin, patch, fill):
    """Patch out of a volume that is made larger on all sides, so that no bound needs thought."""
    larger = np.pad(volume, 100, constant_values=fill)
    z, y, x = (o + 100 for o in origin)
    return larger[z : z + patch[0], y : y + patch[1], x : x + patch[2]]


def expected(truth, case_id, classes, patch=PATCH):
    """Image, masks, availability and unknown regions of a patch, class by class."""
    ct, masks, unknown = truth[case_id]
    ct = cut(ct, ORIGINS[case_id], patch, -1024).astype(np.float64)
    image = np.clip((ct + 175) / 425, 0, 1)[None]
    held, not_known = (
        np.stack(
            [cut(of[c], ORIGINS[case_id], patch, fill=False) if c in of else np.zeros(patch, bool) for c in classes]
        )
        for of in (masks, unknown)
    )
    return image, held, np.array([name in masks for name in classes]), not_known


def check(batch, truth, case_ids, classes):
    wanted = [np.stack(part) for part in zip(*(expected(truth, c, classes) for c in case_ids), strict=True)]
    image, mask, available, unknown = wanted
    np.testing.assert_allclose(batch.image.cpu().numpy(), image, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(batch.mask.cpu().numpy(), mask)
    np.testing.assert_array_equal(batch.available.cpu().numpy(), available)
    if unknown.any():
        np.testing.assert_array_equal(batch.unknown.cpu().numpy(), unknown)
    else:
        assert batch.unknown is None


@pytest.mark.parametrize("case_id", ORIGINS)
def test_a_patch_is_what_was_written(packed, truth, case_id):
    batch = packed(case_id).to("cpu", classes=CLASSES)
    check(batch, truth, [case_id], CLASSES)
    assert batch.image.dtype == torch.float32
    assert batch.classes == tuple(CLASSES)


def test_patches_of_all_cases_in_one_batch(packed, truth):
    batch = packed(*ORIGINS)
    assert batch.codes.dtype == torch.uint16
    assert len(batch) == len(ORIGINS)
    assert batch.nbytes == 4 * len(ORIGINS) * np.prod(PATCH)
    assert len({len(truth[c][1]) for c in ORIGINS}) > 1  # tables of different lengths
    check(batch.to("cpu", classes=CLASSES), truth, ORIGINS, CLASSES)


def test_all_classes_in_bit_order(packed, truth, taxonomy):
    batch = packed("two/a", "three/a").to("cpu")
    assert batch.classes == taxonomy.names
    check(batch, truth, ["two/a", "three/a"], taxonomy.names)
    assert batch.mask[1, taxonomy.bit("face")].any()


def test_there_is_no_unknown_where_the_classes_asked_for_are_known(packed, truth):
    batch = packed("one/a", "two/a", "three/b")
    assert batch.to("cpu", classes=["spleen", "liver"]).unknown is None
    known = batch.to("cpu", classes=["spleen", "aorta"]).unknown
    assert known.any(dim=(2, 3, 4)).tolist() == [[False, False], [False, True], [False, False]]


def test_unavailable_classes_are_neither_there_nor_unknown(packed, taxonomy):
    """A damaged or foreign table may set bits of classes that were not annotated."""
    batch = packed("one/a", "two/a")
    batch.tables[...] = 0xFFFFFFFF
    held = batch.to("cpu", classes=CLASSES)
    np.testing.assert_array_equal(held.mask[:, :, 0, 0, 0], held.available)
    np.testing.assert_array_equal(held.unknown[:, :, 0, 0, 0], held.available)
    none = ["pancreas", "colon"]
    assert not held.available.all()
    assert batch.to("cpu", classes=none).unknown is None
    assert not batch.to("cpu", classes=none).mask.any()


def test_axes_may_run_the_other_way(packed):
    zyx, xyz = (packed("one/a", "two/a").to("cpu", classes=CLASSES, axes=axes) for axes in ("zyx", "xyz"))
    assert xyz.image.shape == (2, 1, 28, 32, 24)
    for name in ("image", "mask", "unknown"):
        assert torch.equal(getattr(xyz, name), getattr(zyx, name).permute(0, 1, 4, 3, 2))
        assert getattr(xyz, name).is_contiguous()
    np.testing.assert_array_equal(xyz.origin, zyx.origin)
    np.testing.assert_array_equal(xyz.affine, zyx.affine)
    assert (zyx.axes, xyz.axes) == ("zyx", "xyz")


def test_what_a_patch_is_goes_along(packed):
    batch = packed("one/a", "one/b", target=["liver", None]).to("cpu", classes=["liver"])
    assert batch.case_id == ("one/a", "one/b")
    assert batch.target == ("liver", None)
    assert batch.index.tolist() == [100, 101]
    np.testing.assert_array_equal(batch.origin, [ORIGINS["one/a"], ORIGINS["one/b"]])
    assert len(batch) == 2


def test_another_window(packed, truth):
    ct = cut(truth["one/a"][0], ORIGINS["one/a"], PATCH, -1024)
    image = packed("one/a").to("cpu", classes=["liver"], window=(-1000, 1000)).image[0, 0]
    np.testing.assert_allclose(image.numpy(), np.clip((ct + 1000) / 2000, 0, 1), rtol=0, atol=1e-6)


def test_the_buffers_may_be_used_again(packed):
    """On the CPU too nothing of the result lies in them."""
    batch = packed("one/a", "two/a")
    unpacked = batch.to("cpu", classes=CLASSES)
    before = [t.clone() for t in (unpacked.image, unpacked.mask, unpacked.unknown, unpacked.available)]
    batch.ct.fill_(0)
    batch.codes.fill_(1)
    batch.tables[...] = batch.available[...] = 0
    after = (unpacked.image, unpacked.mask, unpacked.unknown, unpacked.available)
    assert all(map(torch.equal, after, before))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": ["livr"]}, "did you mean liver"),
        ({"classes": ["liver", "aorta", "liver"]}, "more than once: liver"),
        ({"classes": []}, "no class"),
        ({"window": (250.0, -175.0)}, "lower to a higher HU"),
        ({"window": (0.0, float("inf"))}, "lower to a higher HU"),
        ({"window": (float("nan"), 0.0)}, "lower to a higher HU"),
        ({"window": (0, 1, 2)}, "lower to a higher HU"),
        ({"axes": "yxz"}, "'zyx' or 'xyz'"),
        ({"augmentation": Parameters.neutral([1, 2, 3])}, "for 3 patches, the batch has 2"),
    ],
)
def test_what_cannot_be_asked_for(packed, wrong, message):
    with pytest.raises(SpecError, match=message):
        packed("one/a", "two/a").to("cpu", **wrong)


@pytest.mark.parametrize("case_ids", [("one/a", "one/b"), ("two/b", "one/a")])
def test_a_damaged_case_is_named(packed, case_ids):
    batch = packed(*case_ids)
    limit = batch.tables.shape[1]
    batch.codes.numpy()[1, -1, -1, -1] = limit
    with pytest.raises(CorpusError, match=rf"^{case_ids[1]}: a voxel holds code {limit}"):
        batch.to("cpu", classes=["liver"])
    batch.codes.numpy()[1, -1, -1, -1] = limit - 1
    batch.to("cpu", classes=["liver"])


def test_mirrored_patches_swap_left_and_right(packed):
    batch = packed("one/a", "one/a", "three/a", "two/a", target=["kidney_left", "kidney_left", None, "aorta"])
    classes = ["kidney_left", "liver", "kidney_right", "lung_left", "lung_right", "aorta", "face"]
    mirror = np.array([True, False, True, True])
    plain = batch.to("cpu", classes=classes)
    mirrored = batch.to("cpu", classes=classes, augmentation=replace(Parameters.neutral(batch.index), mirror=mirror))
    other = [classes.index(name) for name in ("kidney_right", "liver", "kidney_left", "lung_right", "lung_left")] + [
        5,
        6,
    ]
    for b, m in enumerate(mirror):
        for name in ("mask", "unknown"):
            before, after = getattr(plain, name)[b], getattr(mirrored, name)[b]
            assert torch.equal(after, before[other].flip(3) if m else before)
        assert torch.equal(mirrored.available[b], plain.available[b][other] if m else plain.available[b])
        assert torch.equal(mirrored.image[b], plain.image[b].flip(3) if m else plain.image[b])
    assert mirrored.target == ("kidney_right", "kidney_left", None, "aorta")
    assert plain.mask[0, 0].sum() != plain.mask[0, 2].sum()  # or nothing would be swapped


def test_a_mirrored_patch_has_the_availability_of_the_mirror_class(packed, opened, taxonomy):
    batch = packed("one/a")
    batch.available[0] &= ~words(taxonomy, "kidney_left", batch.available.shape[1])
    augmentation = replace(Parameters.neutral(batch.index), mirror=np.array([True]))
    mirrored = batch.to("cpu", classes=["kidney_left", "kidney_right"], augmentation=augmentation)
    assert mirrored.available.tolist() == [[True, False]]
    assert not mirrored.mask[0, 1].any()


def words(taxonomy, name, count):
    bit = taxonomy.bit(name)
    return np.array([1 << bit - 32 * w if 32 * w <= bit < 32 * w + 32 else 0 for w in range(count)], np.uint32)


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_what_comes_from_outside_is_air_and_unknown(packed, axes):
    batch = packed("one/a", "one/a")
    shrunk = np.array([[0.5, 0.5, 0.5], [1, 1, 1]])
    augmentation = replace(Parameters.neutral(batch.index), scale=shrunk)
    batch.ct.fill_(100)
    small = batch.to("cpu", classes=["liver", "aorta", "spleen"], augmentation=augmentation, axes=axes)
    assert small.available[0].tolist() == [True, False, False]
    sides = PATCH if axes == "zyx" else PATCH[::-1]
    middle = np.zeros(sides, bool)
    middle[tuple(slice(n // 4, n - n // 4) for n in sides)] = True
    np.testing.assert_array_equal(small.unknown[0, 0], ~middle)
    assert not small.unknown[0, 1:].any()
    assert not small.unknown[1].any()
    assert not small.mask[0][:, ~torch.from_numpy(middle)].any()
    np.testing.assert_allclose(small.image[0, 0][middle], 275 / 425, atol=1e-6)
    assert not small.image[0, 0][~middle].any()


def test_the_code_from_outside_is_no_code_of_a_full_table(packed, taxonomy):
    """256 codes fill a byte; 65536 fill two."""
    for dtype, count in ((torch.uint8, 256), (torch.uint16, 65536)):
        batch = packed("one/a")
        tables = np.zeros((1, count, 2, 5), np.uint32)
        tables[:, 0, 0] = words(taxonomy, "liver", 5)
        augmentation = replace(Parameters.neutral([1]), scale=np.full((1, 3), 0.5))
        full = replace(batch, tables=tables, codes=torch.zeros(batch.codes.shape, dtype=dtype))
        small = full.to("cpu", classes=["liver"], augmentation=augmentation)
        assert 0.5 < small.unknown.float().mean() < 0.99
        assert torch.equal(small.mask, ~small.unknown)


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_intensity_acts_on_the_windowed_image(packed, axes):
    batch = packed("one/a", "two/a")
    augmentation = replace(Parameters.neutral(batch.index), shift=np.array([0.25, 0.0]))
    plain = batch.to("cpu", classes=["aorta"], axes=axes)
    shifted = batch.to("cpu", classes=["aorta"], axes=axes, augmentation=augmentation)
    torch.testing.assert_close(shifted.image[0], (plain.image[0] + 0.25).clamp(0, 1))
    assert torch.equal(shifted.image[1], plain.image[1])
    assert torch.equal(shifted.mask, plain.mask)
    assert torch.equal(shifted.unknown, plain.unknown)


def test_blur_follows_the_axes_of_the_body(packed):
    """Widths are (z, y, x), whatever the order of the axes in what is returned."""
    batch = packed("one/a")
    augmentation = replace(Parameters.neutral(batch.index), blur=np.array([[2.0, 0.0, 0.0]]))
    zyx, xyz = (batch.to("cpu", classes=["liver"], augmentation=augmentation, axes=axes) for axes in ("zyx", "xyz"))
    assert torch.equal(xyz.image, zyx.image.permute(0, 1, 4, 3, 2))
    assert not torch.equal(zyx.image, batch.to("cpu", classes=["liver"]).image)


def test_an_augmentation_that_does_nothing_does_nothing(packed):
    batch = packed("one/a", "two/a")
    plain = batch.to("cpu", classes=CLASSES)
    same = batch.to("cpu", classes=CLASSES, augmentation=Parameters.neutral(batch.index))
    for name in ("image", "mask", "unknown", "available"):
        assert torch.equal(getattr(plain, name), getattr(same, name))


def test_tables_of_different_sizes_are_filled_with_zeros(opened, packed):
    batch = packed("one/a", "two/b", "three/a")
    for b, case_id in enumerate(batch.case_id):
        case = opened(case_id)
        rows, _, count = case.table.shape
        np.testing.assert_array_equal(batch.tables[b, :rows, :, :count], case.table)
        np.testing.assert_array_equal(batch.available[b, :count], case.available)
        assert not batch.tables[b, rows:].any()
        assert not batch.tables[b, :, :, count:].any()
        assert not batch.available[b, count:].any()
    assert len({opened(case_id).table.shape[2] for case_id in batch.case_id}) > 1


def test_the_affine_of_a_patch_leads_to_the_same_places():
    rng = np.random.default_rng(0)
    affine = np.vstack([rng.normal(size=(3, 4)), [0, 0, 0, 1]])
    origin, voxel = np.array([-3, 40, 7]), np.array([2, 5, 11])  # (z, y, x)
    moved = patch_affine(affine, origin)
    np.testing.assert_allclose(moved @ [*voxel[::-1], 1], affine @ [*(origin + voxel)[::-1], 1])


def test_channels_of_unsided_classes_are_the_same_in_the_mirror(taxonomy):
    names = channels.named(taxonomy, ["liver", "kidney_left"])
    bits = channels.bits(taxonomy, names, np.array([False, True]))
    liver, left, right = (taxonomy.bit(n) for n in ("liver", "kidney_left", "kidney_right"))
    assert bits.tolist() == [[liver, left], [liver, right]]
    assert channels.named(taxonomy, "liver") == ("liver",)
    with pytest.raises(SpecError, match="did you mean liver"):  # before any bit is looked up
        channels.named(taxonomy, ["livr"])


@cuda
@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_a_gpu_gives_the_same_batch(packed, axes):
    batch = packed(*ORIGINS)
    pinned = replace(batch, ct=batch.ct.pin_memory(), codes=batch.codes.pin_memory())
    here, there = (b.to(d, classes=CLASSES, axes=axes) for b, d in ((batch, "cpu"), (pinned, "cuda")))
    for name in ("image", "mask", "unknown", "available"):
        assert getattr(there, name).is_cuda
        assert torch.equal(getattr(there, name).cpu(), getattr(here, name))


@cuda
def test_a_gpu_mirrors_and_shrinks_too(packed):
    batch = packed(*ORIGINS)
    neutral = Parameters.neutral(batch.index)
    augmentation = replace(neutral, mirror=np.ones(len(batch), bool), scale=np.full((len(batch), 3), 0.5))
    here, there = (batch.to(d, classes=CLASSES, augmentation=augmentation) for d in ("cpu", "cuda"))
    assert there.target == here.target
    torch.testing.assert_close(there.image.cpu(), here.image, atol=1e-4, rtol=0)
    assert (there.unknown.cpu() != here.unknown).float().mean() < 1e-3
    assert (there.mask.cpu() != here.mask).float().mean() < 1e-3


def test_a_packed_batch_holds_nothing_else():
    """The order of its fields is what others build on."""
    names = "ct codes tables available case_id origin affine target index taxonomy"
    assert list(PackedBatch.__dataclass_fields__) == names.split()
