"""A few of the real scans through the public interface, against computations without atlas (`make realdata`: all)."""

from pathlib import Path

import compare
import make
import pandas as pd
import patches
import prepare
import pytest
import truth

import atlas

REAL = Path(__file__).resolve().parents[3] / "shared/realdata"
CASES = (
    "ts_example/example_ct",
    "ts_thorax/thorax_1.5mm",
    "odd_nifti/CT_pitch",
    "ts_example/example_ct_dicom",
    "chaos_ct/3",
    "dcmqi/ct-3slice",
    "ibsi/ibsi_1",
    "odd_dicom/CRLM-CT-1004",
    "word/word_0110",
    "abdomenatlas_11_mini/BDMAP_00000338",
    "kits19/case_00038",
    "kits19/case_00194",
    "kits23/case_00402",
    "panorama/100001_00001",
    "panorama/100403_00001",
    "crlm/CRLM-CT-1161",
)
REAL_CTS = CASES[:8]
LIVER_CTS = ("ts_example/example_ct", "ts_example/example_ct_dicom", "chaos_ct/3", "dcmqi/ct-3slice")
SIDED = (
    "ts_example/example_ct",
    "ts_example/example_ct_dicom",
    "word/word_0110",
    "abdomenatlas_11_mini/BDMAP_00000338",
)

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason=f"the real scans are not at {REAL}; licences forbid to ship them"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Cases by id, the folder of the corpora, and what went otherwise than expected in the builds."""
    target = tmp_path_factory.mktemp("realdata")
    sources = target / "sources"
    cases = prepare.keep(prepare.lay_out(REAL, sources), {*CASES, *make.QUARANTINED})
    prepare.make_cts(cases, workers=1)
    prepare.merge_sides(cases, sources)
    wrong = make.build(sources, target, datasets=dict.fromkeys(case.dataset for case in cases))
    return {case.case_id: case for case in cases}, target, wrong


@pytest.fixture(scope="module")
def table(built):
    """One row for each structure of each case."""
    cases, target, wrong = built
    assert not wrong
    corpora = target / "realdata.zarr", target / "realdata-nearest.zarr"
    return pd.DataFrame([row for name in CASES for row in compare.compare_case(cases[name], *corpora)])


def test_only_what_is_no_volume_or_has_no_labels_is_quarantined(built):
    """The reasons are compared in `make.build`."""
    assert built[2] == []
    assert sorted(atlas.open(built[1] / "realdata.zarr").cases.case_id) == sorted(CASES)


def test_corpora_pass_verify(built):
    assert make.run("verify", built[1] / "realdata.zarr") == 0


@pytest.mark.parametrize("case_id", CASES)
def test_structures_are_those_of_the_source(table, case_id):
    """Availability, Dice with nearest, volume and surface with occupancy, left and right."""
    rows = table[table.case == case_id]
    assert rows.dice.count() > 0
    assert [fault for row in rows.to_dict("records") for fault in compare.row_faults(row)] == []


def test_left_is_left_of_right(table):
    sides = compare.side_rows(table)
    assert {"kidney_left", "lung_left", "femur_head_left", "hip_left"} <= set(sides.structure)
    assert (sides.native_x_mm < sides.native_right_mm).all()
    assert (sides.x_mm < sides.right_mm).all()


@pytest.mark.parametrize("case_id", LIVER_CTS)
def test_liver_is_on_the_right(table, case_id):
    """Of the body that the CT shows: both could be mirrored, but not the liver in the body."""
    (liver,) = table[(table.case == case_id) & (table.structure == "liver")].itertuples()
    assert liver.right_of_middle_mm > compare.RIGHT_MM


def test_surfaces_are_nearer_than_those_of_nearest_on_average(table):
    measured = compare.comparable_surfaces(table)
    assert len(measured) > 20
    assert measured.surface_mm.mean() < measured.surface_nearest_mm.mean()


@pytest.mark.parametrize("case_id", REAL_CTS)
def test_ct_is_linearly_interpolated(built, case_id):
    result = compare.compare_ct(built[0][case_id], built[1] / "realdata.zarr")
    assert result["compared"] > 0.6
    assert result["ct_error"] <= compare.CT_HU


@pytest.mark.parametrize("case_id", SIDED)
def test_merged_pairs_are_split_again(built, case_id):
    cases, target, _ = built
    rows = compare.compare_merged(cases[case_id], target / "realdata.zarr", target / "realdata-merged.zarr")
    assert {row["structure"].rsplit("_", 1)[0] for row in rows} & set(truth.PAIRS)
    assert {row["structure"]: row["dice"] for row in rows if row["dice"] < compare.MERGED_DICE} == {}


def test_kidneys_of_kits_are_split(built):
    kidneys = make.kits(built[1] / "realdata.zarr").set_index("case")
    for case_id in ("kits19/case_00038", "kits23/case_00402"):
        assert kidneys.left_ml[case_id] > 50
        assert kidneys.right_ml[case_id] > 50
    assert kidneys.left_ml["kits19/case_00194"] == 0  # one kidney only
    assert "one organ only" in kidneys.warnings["kits19/case_00194"]


def test_patches_are_crops_of_the_cases(built):
    assert patches.compare_stream(built[1] / "realdata.zarr", 25) == []
