"""Pseudo labels beside what people annotated: masks before and after, against plain set operations on whole masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from atlas.corpus import open_corpus
from atlas.corpus.catalog import write_catalog
from atlas.corpus.complete import complete, lacking
from atlas.corpus.record import CaseRecord, ClassRecord, Identity, NativeRecord
from atlas.corpus.verify import verify
from atlas.corpus.write import array_digest, write_case
from atlas.errors import CorpusError, SpecError
from atlas.harmonize.grid import Grid
from atlas.harmonize.pack import Entry, MaskPacker

SHAPE = (12, 14, 16)
AIR = np.full(SHAPE, -1000, np.int16)
WHOLES = {  # of the taxonomy of these tests, written out
    "liver_tumor": [("liver",)],
    "kidney_tumor": [("kidney_left", "kidney_right")],
    "cyst_left": [("kidney_left",)],
    "cyst_right": [("kidney_right",)],
}


def made(taxonomy, masks, unknown=None, provenance=None, shape=SHAPE):
    """Record, codes, table and foreground of a case, packed voxel by voxel."""
    unknown, provenance = unknown or {}, provenance or {}
    packer = MaskPacker(shape)
    for name in taxonomy.names:
        bit = 1 << taxonomy.bit(name)
        if name in masks:
            packer.update((0, 0, 0), masks[name], lambda e, _, b=bit: Entry(e.classes | b, e.unknown))
        if name in unknown:
            packer.update((0, 0, 0), unknown[name], lambda e, _, b=bit: Entry(e.classes, e.unknown | b))
    packed = packer.packed(keep=-1)
    kinds = {name: provenance.get(name, "manual") for name in taxonomy.names if name in masks}
    record = CaseRecord(
        case_id="one/z",
        dataset="one",
        source_case="z",
        patient_id="z",
        licence="CC0-1.0",
        shape=shape,
        spacing=1.5,
        origin=(0.0, 0.0, 0.0),
        affine=Grid(shape, 1.5, (0.0, 0.0, 0.0)).affine.tolist(),
        native=NativeRecord(shape=shape[::-1], spacing=(1.5, 1.5, 1.5), orientation="RAS"),
        hu_min=-1000,
        hu_max=-1000,
        body_bbox=None,
        available=hex(sum(1 << taxonomy.bit(name) for name in kinds)),
        classes=tuple(
            ClassRecord(name=n, provenance=k, model="old" if k == "pseudo" else None, voxels=int(masks[n].sum()))
            for n, k in kinds.items()
        ),
        sources=(),
        identity=Identity(label_map="l", recipe="r", software="1"),
        ct_sha256=array_digest(np.full(shape, -1000, np.int16)),
        codes_sha256=array_digest(packed.codes),
        warnings=(),
    )
    foreground = {name: np.argwhere(masks[name])[:3].astype(np.uint16) for name in kinds if masks[name].any()}
    return {"record": record, "codes": packed.codes, "table": packed.table, "foreground": foreground}


def completed(taxonomy, case, predictions, ct=AIR, samples=20):
    return complete(**case, ct=ct, predictions=predictions, model="m", taxonomy=taxonomy, samples=samples)


def decoded(taxonomy, done, which=0):
    """Class -> mask (which 0) or unknown (1) of a completed case, voxel by voxel."""
    each = np.array([[row[which] >> bit & 1 for bit in range(len(taxonomy))] for row in done.table], bool)
    return {name: each[:, bit][done.codes] for bit, name in enumerate(taxonomy.names)}


def box(z, y, x, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def kinds(done):
    return {c.name: c.provenance for c in done.record.classes}


def test_a_class_that_is_lacking_is_added_and_nothing_else_changes(taxonomy):
    masks = {"aorta": box((0, 9), (2, 5), (3, 6)), "cyst_left": np.zeros(SHAPE, bool)}
    case = made(taxonomy, masks, unknown={"aorta": box((9, 12), (0, 14), (0, 16))})
    spleen = box((3, 8), (4, 9), (5, 11))
    done = completed(taxonomy, case, {"liver": spleen, "aorta": spleen, "cyst_left": spleen})
    after, unknown = decoded(taxonomy, done), decoded(taxonomy, done, 1)
    for name, mask in (*masks.items(), ("liver", spleen)):
        assert np.array_equal(after[name], mask)
    assert np.array_equal(unknown["aorta"], box((9, 12), (0, 14), (0, 16)))
    assert not unknown["liver"].any()
    assert not after["kidney_left"].any()
    assert kinds(done) == {"liver": "pseudo", "cyst_left": "manual", "aorta": "manual"}
    assert done.record.available == hex(0b10100001)


def test_the_record_says_what_was_added(taxonomy):
    case = made(taxonomy, {"aorta": box((0, 9), (2, 5), (3, 6))})
    mask = box((3, 8), (4, 9), (5, 11)) | box((0, 1), (0, 1), (0, 1))
    done = completed(taxonomy, case, {"liver": mask, "kidney_left": np.zeros(SHAPE, bool)})
    before, after = case["record"], done.record
    liver, kidney, aorta = after.classes
    assert aorta == before.classes[0]
    assert (kidney.name, kidney.voxels, kidney.bbox, kidney.model) == ("kidney_left", 0, None, "m")
    assert (liver.provenance, liver.model, liver.voxels) == ("pseudo", "m", int(mask.sum()))
    assert liver.volume_ml == pytest.approx(mask.sum() * 1.5**3 / 1000)
    assert liver.bbox == (0, 0, 0, 8, 9, 11)
    assert liver.centroid_mm == pytest.approx(1.5 * np.argwhere(mask).mean(axis=0)[::-1], abs=1e-3)
    assert (liver.components, liver.touches_border) == (2, True)
    same = {"available", "classes", "codes_sha256"}
    assert before.model_dump(exclude=same) == after.model_dump(exclude=same)
    assert after.codes_sha256 == array_digest(done.codes)


def test_foreground_of_old_classes_stays_and_of_new_ones_lies_within(taxonomy):
    case = made(taxonomy, {"aorta": box((0, 9), (2, 5), (3, 6))})
    mask = box((3, 8), (4, 9), (5, 11))
    done, again = (completed(taxonomy, case, {"liver": mask, "cyst_left": np.zeros(SHAPE, bool)}) for _ in range(2))
    assert list(done.foreground) == ["liver", "aorta"]
    assert np.array_equal(done.foreground["aorta"], case["foreground"]["aorta"])
    voxels = done.foreground["liver"]
    assert (voxels.shape, voxels.dtype) == ((20, 3), np.uint16)
    assert len(np.unique(voxels, axis=0)) == 20
    assert mask[tuple(voxels.T)].all()
    assert np.array_equal(voxels, again.foreground["liver"])


def test_nothing_to_add_is_the_case_itself(taxonomy):
    case = made(taxonomy, {"liver": box((0, 9), (2, 5), (3, 6))}, provenance={"liver": "revised"})
    done = completed(taxonomy, case, {"liver": np.ones(SHAPE, bool)})
    assert done.record is case["record"]
    assert done.codes is case["codes"]


def test_a_pseudo_label_is_replaced_and_one_that_is_not_predicted_stays(taxonomy):
    masks = {"liver": box((0, 4), (0, 4), (0, 4)), "aorta": box((0, 9), (8, 9), (8, 9))}
    case = made(taxonomy, masks, provenance=dict.fromkeys(masks, "pseudo"))
    assert lacking(case["record"], taxonomy.names) == taxonomy.names
    new = box((5, 9), (5, 9), (5, 9))
    done = completed(taxonomy, case, {"liver": new})
    after = decoded(taxonomy, done)
    assert np.array_equal(after["liver"], new)
    assert np.array_equal(after["aorta"], masks["aorta"])
    assert {c.name: c.model for c in done.record.classes} == {"liver": "m", "aorta": "old"}


def test_a_lesion_is_cut_to_an_organ_but_for_where_that_is_unknown(taxonomy):
    liver, unknown = box((0, 6), (0, 14), (0, 8)), box((9, 12), (0, 14), (0, 16))
    case = made(taxonomy, {"liver": liver}, unknown={"liver": unknown})
    lesion = box((4, 11), (3, 6), (5, 10))
    after = decoded(taxonomy, completed(taxonomy, case, {"liver_tumor": lesion}))
    assert np.array_equal(after["liver"], liver)
    assert np.array_equal(after["liver_tumor"], lesion & (liver | unknown))
    assert (after["liver_tumor"] & unknown).any()


def test_an_organ_takes_in_the_lesions_that_were_annotated(taxonomy):
    lesion, organ = box((4, 7), (3, 6), (5, 10)), box((0, 5), (0, 5), (0, 8))
    case = made(taxonomy, {"liver_tumor": lesion})
    after = decoded(taxonomy, completed(taxonomy, case, {"liver": organ}))
    assert np.array_equal(after["liver_tumor"], lesion)
    assert np.array_equal(after["liver"], organ | lesion)


def test_a_predicted_lesion_does_not_make_its_predicted_organ_larger(taxonomy):
    case = made(taxonomy, {"aorta": box((0, 9), (2, 5), (3, 6))})
    lesion, organ = box((4, 7), (3, 6), (5, 10)), box((0, 5), (0, 5), (0, 8))
    after = decoded(taxonomy, completed(taxonomy, case, {"liver": organ, "liver_tumor": lesion}))
    assert np.array_equal(after["liver"], organ)
    assert np.array_equal(after["liver_tumor"], lesion & organ)


def test_a_lesion_of_either_side_lies_in_one_of_both(taxonomy):
    left, right = box((2, 8), (2, 8), (1, 5)), box((2, 8), (2, 8), (11, 15))
    lesion = box((3, 5), (3, 5), (0, 16))
    case = made(taxonomy, {"kidney_left": left, "kidney_right": right})
    after = decoded(taxonomy, completed(taxonomy, case, {"kidney_tumor": lesion}))
    assert np.array_equal(after["kidney_tumor"], lesion & (left | right))
    # of one side alone nothing follows
    after = decoded(taxonomy, completed(taxonomy, made(taxonomy, {"kidney_left": left}), {"kidney_tumor": lesion}))
    assert np.array_equal(after["kidney_tumor"], lesion)


@pytest.mark.parametrize("fixed", [(), ("kidney_left",), ("kidney_right",)])
def test_a_lesion_of_unknown_side_extends_the_kidney_it_touches(taxonomy, fixed):
    sides = {"kidney_left": box((2, 8), (2, 8), (1, 5)), "kidney_right": box((2, 8), (2, 8), (11, 15))}
    lesions = {"kidney_left": box((3, 5), (3, 5), (3, 7)), "kidney_right": box((6, 9), (6, 9), (9, 13))}
    case = made(
        taxonomy,
        {"kidney_tumor": lesions["kidney_left"] | lesions["kidney_right"], **{name: sides[name] for name in fixed}},
    )
    after = decoded(taxonomy, completed(taxonomy, case, {n: m for n, m in sides.items() if n not in fixed}))
    for name, mask in sides.items():
        assert np.array_equal(after[name], mask if name in fixed else mask | lesions[name])


def test_more_than_256_codes(taxonomy):
    rng = np.random.default_rng(0)
    shape = (30, 30, 30)
    free = [n for n in taxonomy.names if n not in {"liver_tumor", "kidney_tumor", "cyst_left", "cyst_right"}]
    masks = {n: rng.random(shape) < 0.5 for n in ["aorta", "liver", "kidney_left"]}
    lesion_free = {"kidney_right": rng.random(shape) < 0.5}
    unknown = {n: rng.random(shape) < 0.5 for n in masks}
    case = made(taxonomy, masks, unknown=unknown, shape=shape)
    assert case["codes"].dtype == np.uint8
    lesions = {n: rng.random(shape) < 0.5 for n in set(taxonomy.names) - set(free)}
    done = completed(taxonomy, case, {**lesion_free, **lesions}, ct=np.full(shape, -1000, np.int16))
    assert done.codes.dtype == np.uint16
    assert len(done.table) > 256
    assert list(done.table) == sorted(done.table)
    for which, old in enumerate((masks, unknown)):
        after = decoded(taxonomy, done, which)
        assert all(np.array_equal(after[name], mask) for name, mask in old.items())


def test_wrong_input(taxonomy):
    case = made(taxonomy, {"aorta": box((0, 9), (2, 5), (3, 6))})
    with pytest.raises(CorpusError, match=r"one/z: liver was predicted with shape \(2, 2, 2\)"):
        completed(taxonomy, case, {"liver": np.ones((2, 2, 2), bool)})
    with pytest.raises(SpecError, match="'lever' is not a class"):
        completed(taxonomy, case, {"lever": np.ones(SHAPE, bool)})


@st.composite
def situations(draw):
    """Who annotated what: class -> "manual", "revised", "pseudo" or None; which are predicted; a seed of the masks."""
    names = ["liver", "liver_tumor", "kidney_left", "kidney_right", "kidney_tumor", "cyst_left", "cyst_right", "aorta"]
    labels = {name: draw(st.sampled_from(["manual", "revised", "pseudo", None])) for name in names}
    predicted = draw(st.sets(st.sampled_from(names)))
    return labels, predicted, draw(st.integers(0, 2**32 - 1))


def blob(rng, name):
    """A few boxes, lesions small; left ones rather left (low x), right ones rather right."""
    mask = np.zeros(SHAPE, bool)
    shift = -3 if name.endswith("left") else 3 if name.endswith("right") else 0
    for _ in range(rng.integers(0, 4)):
        size = rng.integers(1, 4 if name in WHOLES else 8, 3)
        start = np.clip(
            rng.integers(0, np.array(SHAPE) - size + 1) + np.array([0, 0, shift]), 0, np.array(SHAPE) - size
        )
        mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


@settings(max_examples=150)
@given(situations())
def test_any_case(taxonomy, situation):
    labels, predicted, seed = situation
    rng = np.random.default_rng(seed)
    before = {name: blob(rng, name) for name, label in labels.items() if label is not None}
    unknown = {n: blob(rng, "organ") & ~before[n] for n in before if labels[n] != "pseudo" and rng.random() < 0.3}
    predictions = {name: blob(rng, name) for name in sorted(predicted)}
    case = made(taxonomy, before, unknown, {n: k for n, k in labels.items() if k is not None})
    done = completed(taxonomy, case, predictions)
    after, unsure = decoded(taxonomy, done), decoded(taxonomy, done, 1)

    added = {name for name in predicted if labels[name] not in {"manual", "revised"}}
    kept = set(before) - added
    assert kinds(done) == {n: "pseudo" if n in added else labels[n] for n in taxonomy.names if n in kept | added}
    for name in taxonomy.names:
        if name in kept:
            assert np.array_equal(after[name], before[name])
            assert np.array_equal(unsure[name], unknown.get(name, np.zeros(SHAPE, bool)))
        elif name in added:
            assert not unsure[name].any()
        else:
            assert not after[name].any()
            assert not unsure[name].any()
    for part, (organs,) in WHOLES.items():
        if part not in kept | added or not set(organs) <= kept | added:
            continue
        within = np.logical_or.reduce([after[organ] | unsure[organ] for organ in organs])
        if part in added:
            assert not (after[part] & ~within).any()
            assert not (after[part] & ~predictions[part]).any()
        if part in kept and set(organs) <= added and len(organs) == 1:
            assert not (after[part] & ~within).any()
    for organ in added - set(WHOLES):  # it is what was predicted, and lesions that people drew
        lesions = [before[part] for part, (organs,) in WHOLES.items() if organ in organs and part in kept]
        grown = np.logical_or.reduce([predictions[organ], *lesions])
        assert not (predictions[organ] & ~after[organ]).any()
        assert not (after[organ] & ~grown).any()
    for part in added & set(WHOLES):  # nothing is cut but what lies outside
        organs = WHOLES[part][0]
        within = np.logical_or.reduce([after[organ] | unsure[organ] for organ in organs])
        if set(organs) <= kept | added:
            assert np.array_equal(after[part], predictions[part] & within)
        else:
            assert np.array_equal(after[part], predictions[part])
    for record in done.record.classes:
        if record.name in added:
            mask = after[record.name]
            assert record.voxels == mask.sum()
            assert record.components == ndimage.label(mask, np.ones((3, 3, 3)))[1]
            assert (record.name in done.foreground) == bool(mask.any())


def test_written_and_verified(taxonomy, folder):
    """In a corpus: through `Case.mask`, and `verify` has nothing to say."""
    corpus = open_corpus(folder)
    truth = {name: corpus["one/a"].mask(name) for name in ("liver", "liver_tumor")}
    shape = corpus["one/a"].record.shape
    kidney = box((5, 20), (10, 20), (2, 12), shape)
    case = corpus["one/a"]
    done = complete(
        case.record,
        ct=np.asarray(case.ct[...]),
        codes=np.asarray(case.codes[...]),
        table=tuple(zip(case.table, case.unknown_table, strict=True)),
        foreground=case.foreground,
        predictions={"liver": kidney, "kidney_left": kidney, "aorta": np.zeros(shape, bool)},
        model="m",
        taxonomy=taxonomy,
        samples=20,
    )
    ct = np.asarray(case.ct[...])
    write_case(folder, ct=ct, taxonomy=taxonomy, storage=corpus.recipe.storage, **done._asdict())
    write_catalog(folder, taxonomy, corpus.recipe.splits)
    assert [finding for _, findings in verify(folder) for finding in findings] == []
    case = open_corpus(folder)["one/a"]
    assert case.available == {"liver", "liver_tumor", "kidney_left", "aorta"}
    for name, mask in {**truth, "kidney_left": kidney}.items():
        assert np.array_equal(case.mask(name), mask)
    assert not case.mask("aorta").any()
    table = open_corpus(folder).annotations.query("case_id == 'one/a' and available").set_index("class")
    assert table.provenance.to_dict() == {
        "liver": "manual",
        "liver_tumor": "manual",
        "kidney_left": "pseudo",
        "aorta": "pseudo",
    }
