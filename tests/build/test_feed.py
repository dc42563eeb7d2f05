"""Which cases may be built while others are still being fetched."""

import pytest

from atlas.build import fetching
from atlas.build.feed import complete
from atlas.build.fetching import Parcel
from atlas.errors import FetchError
from atlas.fetch import http
from atlas.fetch.download import Download, Unpacking
from atlas.fetch.http import Fetched
from atlas.ingest.cases import CaseFiles
from atlas.spec.files import Layout

PAIRS = Layout(case=r"c\d+", image="ct/{case}.nii.gz", labels={"s": "seg/{case}.nii.gz"})
MASKS = Layout(case=r"c\d+", image="{case}/ct.nii.gz", masks="{case}/masks/{structure}.nii.gz")
SERIES = Layout(case=r"c\d+", image="{case}/*/", labels={"s": "seg/{case}.nii.gz"})
STUDY = Layout(case=r"c\d+", study="all/{case}/")


def pair(name):
    return CaseFiles(name, image=f"ct/{name}.nii.gz", labels={"s": f"seg/{name}.nii.gz"})


def parcel(*targets, archive=False, whole=False, group=""):
    unpacking = Unpacking() if archive else None
    return Parcel(
        f"toy/{group or targets[0]}",
        tuple(Download("toy", f"https://x/{t}", t, archive=unpacking, whole_cases=whole, group=group) for t in targets),
    )


def names(cases):
    return [case.source_case for case in cases]


def test_everything_is_handed_out_at_the_end_faults_included():
    broken = CaseFiles("c2", problem="no CT")
    assert names(complete([pair("c1"), broken], PAIRS, ())) == ["c1", "c2"]


def test_a_pair_is_complete_with_its_second_file():
    cases = [pair("c1"), CaseFiles("c2", image="ct/c2.nii.gz", problem="no label file")]
    assert names(complete(cases, PAIRS, {parcel("labels.zip", archive=True)})) == ["c1"]


@pytest.mark.parametrize("layout", [MASKS, SERIES, STUDY])
def test_no_folder_is_complete_before_the_archives_are_in(layout):
    assert complete([pair("c1")], layout, {parcel("more.zip", archive=True)}) == []


@pytest.mark.parametrize("layout", [MASKS, SERIES, STUDY])
def test_unless_the_archives_hold_whole_cases(layout):
    assert names(complete([pair("c1")], layout, {parcel("more.zip", archive=True, whole=True)})) == ["c1"]


@pytest.mark.parametrize(
    ("layout", "target", "group"),
    [
        (MASKS, "c1/masks/liver.nii.gz", ""),
        (SERIES, "c1/1.2.3/0001.dcm", "c1/1.2.3/"),
        (SERIES, "seg/c1.nii.gz", ""),
        (STUDY, "all/c1/1.2/SEG_3/0001.dcm", "all/c1/1.2/SEG_3/"),
    ],
)
def test_a_case_waits_for_its_own_files_only(layout, target, group):
    cases = [pair("c1"), pair("c2")]
    assert names(complete(cases, layout, {parcel(target, group=group)})) == ["c2"]


def test_a_folder_of_slices_is_marked_until_it_is_whole(tmp_path, monkeypatch):
    """Killed, failed or stopped in the middle: the mark stays, and the next run takes it away."""
    series = parcel("c1/s/1.dcm", "c1/s/2.dcm", group="c1/s/")
    seen = []

    def transfer(download, folder, **_):
        seen.append((folder / "c1/s/.incomplete").exists())
        if broken and download.target.endswith("2.dcm"):
            raise FetchError("cut")
        return Fetched(download.target, 1, "", 1)

    monkeypatch.setattr(http, "transfer", transfer)
    monkeypatch.setattr(fetching, "_reporter", lambda *_: None)
    broken = True
    assert fetching._transferred(series, tmp_path, None).error == "cut"
    assert (tmp_path / "c1/s/.incomplete").exists()
    broken = False
    assert fetching._transferred(series, tmp_path, None).error is None
    assert not (tmp_path / "c1/s/.incomplete").exists()
    assert seen == [True] * 4
