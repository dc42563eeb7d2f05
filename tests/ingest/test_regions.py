"""Slices that were annotated, from the publisher's table; the table may be anything."""

import csv
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import ScanError
from atlas.ingest.regions import MAX_TABLE_BYTES, region_of
from atlas.spec.files import Layout

HEADINGS = "source,dataset,case,x0,x1,y0,y1,z0,z1"


def layout(rows=None):
    return Layout.model_validate(
        {
            "image": "i/{case}.nii.gz",
            "labels": {"organs": "l/{case}.nii.gz"},
            "regions": {"file": "crop/table.csv", "rows": rows, "case": 2, "slices": [7, 8]},
        }
    )


@pytest.fixture
def table(tmp_path):
    """Write the table from its lines, or from bytes."""
    path = tmp_path / "crop" / "table.csv"
    path.parent.mkdir()

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else "\n".join(content).encode())
        return tmp_path

    return write


def line(case, lo, hi):
    return f"a,b,{case},1,2,3,4,{lo},{hi}"


def test_no_table_no_region(tmp_path):
    plain = Layout.model_validate({"image": "i/{case}.nii.gz", "labels": {"organs": "l/{case}.nii.gz"}})
    assert region_of(plain, tmp_path, "0001") is None


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_line_of_the_case(table, end, mark):
    lines = [HEADINGS, line("0004", 10, 95), line(" 0005 ", "7", " 80 "), '"a, b",b,"0006",1,2,3,4,"3","9"', ""]
    folder = table(mark + end.join(lines).encode())
    assert region_of(layout(), folder, "0004") == (10, 95)
    assert region_of(layout(), folder, "0005") == (7, 80)
    assert region_of(layout(), folder, "0006") == (3, 9)


def test_zeros_in_front_of_a_number_may_be_missing(table):
    folder = table([HEADINGS, line("2", 10, 95), line("20", 7, 80), line("", 1, 2)])
    assert region_of(layout(), folder, "0002") == (10, 95)
    assert region_of(layout(), folder, "0020") == (7, 80)
    with pytest.raises(ScanError, match="0 lines for the case 0000"):
        region_of(layout(), folder, "0000")


def test_a_case_of_each_part_of_one_table(table):
    first = [line(f"{n:04d}", n, n + 100) for n in range(1, 44)]
    second = [line(f"{n:04d}", n + 1, n + 200) for n in range(1, 48)]
    folder = table([HEADINGS, *first, *second])
    assert region_of(layout([0, 43]), folder, "0001") == (1, 101)
    assert region_of(layout([43, 90]), folder, "0001") == (2, 201)
    assert region_of(layout([0, 43]), folder, "0043") == (43, 143)
    assert region_of(layout([43, 90]), folder, "0047") == (48, 247)
    with pytest.raises(ScanError, match="0 lines for the case 0044"):
        region_of(layout([0, 43]), folder, "0044")
    with pytest.raises(ScanError, match="2 lines for the case 0001"):
        region_of(layout(), folder, "0001")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([HEADINGS, line("0001", "", 9)], r"table\.csv, line 2: '' in column 7 \(from 0\) is no number"),
        ([HEADINGS, line("0001", 4, "9.0")], r"'9\.0' in column 8"),
        ([HEADINGS, line("0001", "-4", 9)], r"'-4' in column 7"),
        ([HEADINGS, line("0001", "\u0664", 9)], r"in column 7"),  # a digit of another script
        ([HEADINGS, line("0001", 4, "9" * 6)], r"'999999' in column 8"),
        ([HEADINGS, line("0001", 9, 9)], r"line 2: slices from 9 up to 9 are none"),
        ([HEADINGS, line("0001", 9, 4)], r"slices from 9 up to 4 are none"),
        ([HEADINGS, "a,b,0001,1,2"], r"'' in column 7"),
        ([HEADINGS], r"0 lines for the case 0001"),
        ([line("0001", 4, 9)], r"0 lines for the case 0001"),  # the first line is headings, whatever it holds
        ([], r"0 lines for the case 0001"),
        ([HEADINGS, 'a,b,"0001,1,2,3,4,4,9'], r"not a CSV table in UTF-8"),
        ([HEADINGS, 'a,b,"00"01,1,2,3,4,4,9'], r"not a CSV table in UTF-8"),
    ],
)
def test_refused_with_file_and_line(table, lines, says):
    with pytest.raises(ScanError, match=says):
        region_of(layout(), table(lines), "0001")


def test_fewer_lines_than_the_manifest_knows(table):
    with pytest.raises(ScanError, match="1 lines below the headings, expected 43 at least"):
        region_of(layout([0, 43]), table([HEADINGS, line("0001", 4, 9)]), "0001")


def test_no_file_and_files_that_are_no_tables(table, tmp_path):
    with pytest.raises(ScanError, match="cannot be read: No such file"):
        region_of(layout(), tmp_path, "0001")
    with pytest.raises(ScanError, match="not a CSV table in UTF-8"):
        region_of(layout(), table(b"\x1f\x8b\xff\xfe"), "0001")
    with pytest.raises(ScanError, match=f"larger than {MAX_TABLE_BYTES} bytes"):
        region_of(layout(), table(b"x" * (MAX_TABLE_BYTES + 1)), "0001")


@given(st.binary(max_size=200))
def test_anything_is_a_region_or_an_error_that_names_the_file(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("table")
    (folder / "crop").mkdir()
    (folder / "crop" / "table.csv").write_bytes(HEADINGS.encode() + b"\n" + content)
    try:
        lo, hi = region_of(layout(), folder, "0001")
    except ScanError as error:
        refused = str(error)
    else:
        refused = "table.csv" if 0 <= lo < hi else ""
    assert "table.csv" in refused


def test_as_another_reader_reads_it(table):
    """A large table with numbers drawn at random, against a dictionary of the csv module."""
    draw = random.Random(3)
    spans = {f"{n:04d}": (lo := draw.randrange(300), lo + draw.randrange(1, 300)) for n in range(1, 200)}
    folder = table([HEADINGS, *(line(case, *span) for case, span in spans.items())])
    with (folder / "crop" / "table.csv").open(newline="") as file:
        expected = {row["case"]: (int(row["z0"]), int(row["z1"])) for row in csv.DictReader(file)}
    assert {case: region_of(layout(), folder, case) for case in spans} == expected == spans
