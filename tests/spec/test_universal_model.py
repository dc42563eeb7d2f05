"""Classes that our label maps make available, against what the Universal Model supervises in the same datasets.

Its rows are written out by hand from its table of supervised classes; the differences are those of the page in docs,
which is read here so that page and label maps cannot drift apart.
"""

from pathlib import Path

import pytest

from atlas.harmonize.rules import compile_rules
from atlas.spec import library

PAGE = Path(__file__).resolve().parents[2] / "docs" / "universal_model.md"

BEYOND = "(beyond the 32)"

GIBSON = """spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava
    portal_vein_and_splenic_vein pancreas adrenal_gland_right adrenal_gland_left duodenum"""

ROWS = {
    "01": GIBSON,
    "01_2": "spleen kidney_left gallbladder esophagus liver stomach pancreas duodenum",
    "02": "spleen kidney_left gallbladder esophagus liver stomach pancreas duodenum",
    "03": "liver",
    "04": "liver liver_tumor",
    "05": "kidney_right kidney_left kidney_tumor kidney_cyst",
    "06": "spleen kidney_right kidney_left gallbladder liver stomach pancreas lung_right lung_left",
    "07": """liver spleen kidney_left kidney_right stomach gallbladder esophagus pancreas duodenum colon small_bowel
        adrenal_gland_right adrenal_gland_left rectum urinary_bladder femur_head_left femur_head_right""",
    "08": "liver kidney_right kidney_left spleen pancreas",
    "09": """spleen kidney_right kidney_left gallbladder esophagus liver stomach aorta inferior_vena_cava pancreas
        adrenal_gland_right adrenal_gland_left duodenum urinary_bladder prostate""",
    "10_03": "liver liver_tumor",
    "10_06": "lung_tumor",
    "10_07": "pancreas pancreas_tumor",
    "10_08": "hepatic_vessel hepatic_vessel_tumor",
    "10_09": "spleen",
    "10_10": "colon_tumor",
    "12": "liver urinary_bladder lung_right lung_left kidney_right kidney_left",
    "13": """liver kidney_right kidney_left spleen pancreas aorta inferior_vena_cava stomach gallbladder esophagus
        adrenal_gland_right adrenal_gland_left celiac_trunk""",
    "15": f"{GIBSON} hepatic_vessel lung_right lung_left",
    "18": """liver kidney_right spleen pancreas aorta inferior_vena_cava adrenal_gland_right adrenal_gland_left
        gallbladder esophagus stomach duodenum kidney_left""",
    "target": """spleen kidney_right kidney_left gallbladder liver stomach aorta inferior_vena_cava pancreas""",
    "assemble": f"""{GIBSON} hepatic_vessel lung_right lung_left colon small_bowel rectum urinary_bladder prostate
        femur_head_left femur_head_right celiac_trunk""",
}

WITHOUT_A_ROW = {"flare22", "crlm", "hcc_tace_seg", "pediatric_ct_seg"}


def table():
    """Lines of the page's table: row, dataset, the label files a case has (none: all), fewer, more, why."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for line in lines[2:]:
        row, dataset, fewer, more, why = (cell.strip() for cell in line.strip("|").split("|"))
        name, _, files = dataset.partition(": ")
        yield row, name, tuple(files.split()), fewer, more, why


LINES = list(table())


def available(dataset, files, taxonomy, case="any"):
    """Classes that a case with everything that the label map names would have."""
    label_map = library.load_label_map(dataset)
    layers = files or (*label_map.values, *label_map.structures)
    return set(taxonomy.members(compile_rules(label_map, taxonomy).available(layers, case)))


def test_the_page_has_every_dataset_that_both_have():
    assert {dataset for _, dataset, *_ in LINES} | WITHOUT_A_ROW == set(library.names("manifests"))
    assert not WITHOUT_A_ROW & {dataset for _, dataset, *_ in LINES}
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{dataset}`" in text for dataset in WITHOUT_A_ROW)


def test_the_page_has_every_row_that_is_not_of_single_cases_or_private():
    assert {row for row, *_ in LINES} == set(ROWS) - {"01_2"}


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join([line[1], *line[2]]))
def test_available_classes_differ_from_the_row_as_the_page_says(line, taxonomy, universal):
    row, dataset, files, fewer, more, why = line
    supervised, ours = set(ROWS[row].split()), available(dataset, files, taxonomy)
    beyond = {name for name in ours if name not in universal}
    assert supervised <= set(universal)
    assert supervised - ours == set(fewer.split())
    if BEYOND in more:
        assert len(beyond) > 1
        assert ours - supervised - beyond == set(more.replace(BEYOND, "").split())
    else:
        assert ours - supervised == set(more.split())
    assert bool(fewer or more) == bool(why), "differences are justified, and only they"


def test_test_scans_of_btcv_have_the_classes_of_their_own_row(taxonomy):
    cases = [*range(61, 71), *range(74, 81)]
    assert set(library.load_label_map("gibson_multiorgan_btcv").cases) == {f"{n:04d}" for n in cases}
    for number in cases:
        assert available("gibson_multiorgan_btcv", (), taxonomy, f"{number:04d}") == set(ROWS["01_2"].split())
    assert available("gibson_multiorgan_btcv", (), taxonomy, "0040") == set(ROWS["01"].split())


def test_the_rows_are_those_of_the_numbers_in_its_table(universal):
    """The same rows as numbers of its 32 classes, from 1, where they are easy to misread as names."""
    numbers = {
        "01": range(1, 15),
        "01_2": (1, 3, 4, 5, 6, 7, 11, 14),
        "06": (1, 2, 3, 4, 6, 7, 11, 16, 17),
        "07": (6, 1, 3, 2, 7, 4, 5, 11, 14, 18, 19, 12, 13, 20, 21, 23, 24),
        "09": (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 21, 22),
        "12": (6, 21, 16, 17, 2, 3),
        "13": (6, 2, 3, 1, 11, 8, 9, 7, 4, 5, 12, 13, 25),
        "15": range(1, 18),
        "18": (6, 2, 1, 11, 8, 9, 12, 13, 4, 5, 7, 14, 3),
        "target": (1, 2, 3, 4, 6, 7, 8, 9, 11),
        "assemble": range(1, 26),
    }
    for row, expected in numbers.items():
        assert set(ROWS[row].split()) == {universal[n - 1] for n in expected}, row
