"""Every bad input gets a clear reason in the quarantine list, and everything else is built."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from atlas.build import build
from atlas.corpus import open_corpus
from atlas.spec import load_recipe


def resaved(path, change_data=None, change_affine=None, dtype=None, slope=None, qform_code=1):
    """Read a NIfTI, change it, and write it back."""
    image = nib.load(path)
    data, affine = np.asarray(image.dataobj), image.affine.copy()
    data = change_data(data) if change_data else data
    affine = change_affine(affine) if change_affine else affine
    new = nib.Nifti1Image(data.astype(dtype or data.dtype), affine)
    new.set_sform(affine, 1)
    new.set_qform(affine, qform_code)
    if slope is not None:
        new.header.set_slope_inter(*slope)
    new.to_filename(path)


def put(data, index, value, dtype=None):
    data = data.astype(dtype or data.dtype)
    data[index] = value
    return data


def shear(affine):
    affine[0, 2] = 1.5
    return affine


def moved(affine):
    affine[:3, 3] += 40
    return affine


def edit_header(path, **fields):
    """Change NIfTI header fields in place, without any library's opinion."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(bytes(raw), 1))


BAD = {
    "unknown_value": (lambda t, c: resaved(t.seg(c), lambda d: put(d, (40, 25, 20), 77)), r"77.*It has: 1, 2, 3"),
    "half_label": (
        lambda t, c: resaved(t.seg(c), lambda d: put(d, (40, 25, 20), 0.5, np.float32)),
        r"seg/.*0\.5",
    ),
    "negative_label": (lambda t, c: resaved(t.seg(c), lambda d: put(d, (4, 4, 4), -1, np.int16)), r"-1"),
    "nan": (lambda t, c: resaved(t.ct(c), lambda d: put(d, (4, 4, 4), np.nan, np.float32)), r"1 NaN"),
    "truncated": (lambda t, c: t.ct(c).write_bytes(t.ct(c).read_bytes()[:5000]), r"ct/.*incomplete"),
    "not_gzip": (lambda t, c: t.ct(c).write_bytes(b"this is no gzip file, but a note"), r"ct/"),
    "empty_file": (lambda t, c: t.seg(c).write_bytes(b""), r"seg/"),
    "two_volumes": (
        lambda t, c: resaved(t.ct(c), lambda d: np.stack([d, d], axis=-1)),
        r"2 volumes",
    ),
    "zero_slices": (lambda t, c: edit_header(t.ct(c), dim=[3, 60, 48, 0, 1, 1, 1, 1]), r"ct/"),
    "shear": (lambda t, c: resaved(t.ct(c), change_affine=shear, qform_code=0), r"ct/.*degree"),
    "no_orientation": (lambda t, c: edit_header(t.ct(c), sform_code=0, qform_code=0), r"ct/.*orientation"),
    "sform_qform": (
        lambda t, c: edit_header(t.ct(c), srow_x=[-3.0, 0, 0, 90]),
        r"mm.*affine: sform.*qform",
    ),
    "elsewhere": (lambda t, c: resaved(t.seg(c), change_affine=moved), r"beyond the CT.*label_geometry"),
    "no_label": (lambda t, c: t.seg(c).unlink(), r"no label file 'segmentation'.*seg/\{case\}"),
    "no_ct": (lambda t, c: t.ct(c).unlink(), r"no CT"),
}

STRANGE_BUT_GOOD = {
    "almost_integers": lambda t, c: resaved(t.seg(c), lambda d: d * 0.99995, dtype=np.float32),
    "one_volume_4d": lambda t, c: resaved(t.ct(c), lambda d: d[..., None]),
    "scaled": lambda t, c: resaved(t.ct(c), lambda d: d + 1024, dtype=np.uint16, slope=(1.0, -1024.0)),
    "flipped_label": lambda t, c: resaved(
        t.seg(c), lambda d: d[::-1], lambda a: a @ np.array([[-1, 0, 0, 59], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    ),
}


@pytest.fixture(scope="module")
def built(module_toy):
    """Summary and corpus of one dataset in which every fault has a case of its own, and c000 has none."""
    toy = module_toy
    reference = toy.add("c000")
    names = {}
    for number, (name, spoil) in enumerate([*((n, s) for n, (s, _) in BAD.items()), *STRANGE_BUT_GOOD.items()], 1):
        case = f"c{number:03}"
        names[name] = f"toy/{case}"
        toy.add(case)
        spoil(toy, case)
    (toy.sources / "toy/ct/._c000.nii.gz").write_bytes(b"Mac OS X")
    summary = build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=2)
    return summary, open_corpus(toy.root / "corpus.zarr"), names, reference


def test_everything_else_is_built(built):
    summary, corpus, names, _ = built
    assert set(summary.quarantined) == {names[name] for name in BAD}
    assert set(corpus.cases.case_id) == {"toy/c000", *(names[name] for name in STRANGE_BUT_GOOD)}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_case_says_why(built, name):
    import re

    summary, corpus, names, _ = built
    reason = summary.quarantined[names[name]]
    assert re.search(BAD[name][1], reason), reason
    assert not reason.startswith("unexpected"), reason
    listed = corpus.quarantine.set_index("case_id").loc[names[name]]
    assert listed.reason == reason
    assert listed.dataset == "toy"


@pytest.mark.parametrize("name", STRANGE_BUT_GOOD)
def test_a_strange_case_equals_the_plain_one(built, name):
    _, corpus, names, _ = built
    strange, plain = corpus[names[name]], corpus["toy/c000"]
    np.testing.assert_array_equal(strange.ct[...], plain.ct[...])
    for mask in sorted(plain.available):
        np.testing.assert_array_equal(strange.mask(mask), plain.mask(mask), err_msg=mask)


def test_a_label_whose_axes_run_the_other_way_needs_no_warning(built):
    _, corpus, names, _ = built
    assert corpus[names["flipped_label"]].record.warnings == ()


def test_known_bad_and_double_files(toy):
    toy.add("c0")
    toy.add("c1")
    toy.add("c2")
    toy.spec(
        "manifests",
        "layout:\n",
        "known_bad:\n  - {cases: [c0], reason: the table is in it, link: 'https://example.org/7'}\nlayout:\n",
    )
    toy.spec("manifests", "  image: ct/{case}.nii.gz", "  image: ['ct/{case}.nii.gz', 'more/{case}.nii.gz']")
    (toy.sources / "toy/more").mkdir()
    (toy.sources / "toy/more/c1.nii.gz").write_bytes(b"x")
    summary = build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    assert summary.quarantined == {
        "toy/c0": "known to be bad: the table is in it (https://example.org/7)",
        "toy/c1": "two files for one: ct/c1.nii.gz and more/c1.nii.gz; keep one of them",
    }
    assert summary.built == 1


def test_an_index_lists_what_must_be_there(toy):
    toy.add("c0")
    toy.spec("manifests", "  image: ct/{case}.nii.gz", "  image: ct/{case}.nii.gz\n  index: dataset.json")
    (toy.sources / "toy/dataset.json").write_text(
        '{"training": [{"image": "./ct/c0.nii.gz"}, {"image": "./ct/c5.nii.gz"}]}'
    )
    summary = build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    assert list(summary.quarantined) == ["toy/c5"]
    assert summary.quarantined["toy/c5"].startswith("no CT")
