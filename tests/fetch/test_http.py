"""Fetching one file from servers that fail: what results is right or absent, never wrong."""

import gzip
import hashlib
import json
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import FetchError
from atlas.fetch.http import get, get_json, transfer
from atlas.fetch.places import part_path
from atlas.fetch.records import record
from atlas.fetch.transport.answers import is_page, validator
from atlas.fetch.transport.retry import policy

PATH = "/data.nii.gz"


def digest(content):
    return hashlib.sha256(content).hexdigest()


def left(folder):
    """Files of the publisher, or parts of them, below a folder."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and ".atlas" not in p.parts)


def test_a_file_arrives(site, content, make, tmp_path):
    seen = []
    download = make(site.serve(PATH, content), "a/b.nii.gz", of=content, md5=hashlib.md5(content).hexdigest())
    done = transfer(download, tmp_path, progress=lambda *said: seen.append(said))
    assert (tmp_path / "a/b.nii.gz").read_bytes() == content
    assert (done.target, done.size, done.sha256) == ("a/b.nii.gz", len(content), digest(content))
    assert done.transferred == len(content)
    assert seen[-1] == ("a/b.nii.gz", len(content), len(content))
    assert left(tmp_path) == ["b.nii.gz"]
    assert site.asked[0].headers["accept-encoding"] == "identity"
    assert "range" not in site.asked[0].headers


def test_what_is_there_is_not_asked_for_again(site, content, make, tmp_path):
    download = make(site.serve(PATH, content))
    transfer(download, tmp_path)
    again = transfer(download, tmp_path)
    assert (again.transferred, again.sha256) == (0, digest(content))
    assert len(site.asked) == 1


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_cut_connections_go_on_where_they_were(site, faults, content, make, tmp_path, seed, reset):
    """Each answer is cut after some bytes; FIN keeps all of them, RST may lose what was on the way."""
    import random

    dice = random.Random(seed)
    cuts = [faults.cut(dice.randrange(0, 6000), reset=reset) for _ in range(5)]
    done = transfer(make(site.serve(PATH, content, *cuts)), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == content
    if not reset:
        assert done.transferred == len(content)
        assert any(site.ranges())
    assert {a.headers.get("if-range") for a in site.asked if "range" in a.headers} <= {'"one"'}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=6), known=st.booleans())
def test_right_or_absent_whatever_happens(site, faults, make, tmp_path_factory, plan, known):
    """Any sequence of faults ends in the right file, or in an error and no file.

    Without a checksum the faults that forge bytes under a good name are left out: nothing could tell.
    """
    content = bytes(range(256)) * 10
    wrong = content[:1000] + b"?" + content[1001:]
    kinds = [
        faults.cut,
        lambda n: faults.cut(n, reset=True),
        lambda n: faults.cut(n, chunked=True),
        lambda n: faults.status((500, 502, 503, 504, 429, 408)[n % 6]),
        lambda n: faults.body(content[n:], 206, content_range=f"bytes {n}-{len(content) - 1}/{len(content)}"),
        lambda n: faults.body(content[n:], 206, content_range=f"bytes {n}-{n + 5}/{n + 3}"),
        lambda n: faults.status(416, content_range=f"bytes */{n}"),
        lambda n: faults.body(content, etag='"two"') if n % 2 else faults.body(content, etag=None),
        lambda n: faults.body(wrong, etag='"one"') if known else faults.cut(n),
        lambda n: faults.body(b"<!doctype html><title>Quota exceeded</title>"),
    ]
    folder = tmp_path_factory.mktemp("fetched")
    url = site.serve(PATH, content, *(kinds[kind](n) for kind, n in plan))
    download = make(url, of=content if known else None)
    while site.faults[PATH]:
        try:
            done = transfer(download, folder)
        except FetchError:
            assert "data.nii.gz" not in left(folder)
        else:
            assert done.sha256 == digest(content)
            break
    assert transfer(download, folder).sha256 == digest(content)
    assert (folder / "data.nii.gz").read_bytes() == content
    assert left(folder) == ["data.nii.gz"]


def test_a_server_that_ignores_ranges_starts_again(site, faults, content, make, tmp_path):
    done = transfer(make(site.serve(PATH, content, faults.cut(5000), faults.body(content))), tmp_path)
    assert site.ranges() == [None, "bytes=5000-"]
    assert (tmp_path / "data.nii.gz").read_bytes() == content
    assert done.transferred == len(content) + 5000


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (0, "bytes 0-{last}/{size}"),
        (4000, "bytes 4000-{last}/{size}"),
        (5000, "bytes 5000-{last}/{more}"),
        (5000, None),
        (5000, "bytes 5000-{size}/{size}"),
        (5000, "bytes {last}-5000/*"),
        (5000, "pages 5000-6000/9000"),
    ],
)
def test_a_wrong_range_is_thrown_away(site, faults, content, make, tmp_path, first, said):
    """What does not begin where it should, or is of another size, is not appended; ranges are not trusted again."""
    size = len(content)
    said = said and said.format(last=size - 1, size=size, more=size + 1)
    wrong = faults.body(content[first:], 206, content_range=said)
    transfer(make(site.serve(PATH, content, faults.cut(5000), wrong)), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == content
    assert site.ranges() == [None, "bytes=5000-", None]


def test_a_range_that_comes_with_status_200_is_not_the_whole_file(site, faults, content, make, tmp_path):
    where = f"bytes 5000-{len(content) - 1}/{len(content)}"
    wrong = faults.body(content[5000:], 200, content_range=where)
    transfer(make(site.serve(PATH, content, faults.cut(5000), wrong)), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == content
    assert site.ranges() == [None, "bytes=5000-", None]


def test_a_rest_that_comes_in_pieces(site, faults, content, make, tmp_path):
    """A server may give less than was asked for."""
    piece = faults.body(content[5000:9000], 206, content_range=f"bytes 5000-8999/{len(content)}", etag='"one"')
    transfer(make(site.serve(PATH, content, faults.cut(5000), piece)), tmp_path)
    assert site.ranges() == [None, "bytes=5000-", "bytes=9000-"]
    assert (tmp_path / "data.nii.gz").read_bytes() == content


def test_a_file_that_changed_in_between_is_fetched_anew(site, faults, content, make, tmp_path):
    url, newer = site.serve(PATH, content, faults.cut(5000), always=None), content[::-1]

    def change(*arguments):
        site.files[PATH], site.etags[PATH] = newer, '"two"'
        faults.whole()(arguments[0], newer, arguments[2])

    site.faults[PATH].append(change)
    transfer(make(url), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == newer


def test_a_206_of_another_version_is_not_appended(site, faults, content, make, tmp_path):
    """A server that ignores If-Range, told by the ETag of its answer."""
    newer = content[::-1]
    where = f"bytes 5000-{len(content) - 1}/{len(content)}"
    rest = faults.body(newer[5000:], 206, content_range=where, etag='"two"')
    url = site.serve(PATH, newer, faults.body(content, etag='"one"', cut=5000), rest, etag='"two"')
    transfer(make(url), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == newer


@pytest.mark.parametrize("etag", [None, 'W/"one"'])
def test_without_validator_and_checksum_it_begins_again(site, faults, content, make, tmp_path, etag):
    transfer(make(site.serve(PATH, content, faults.cut(5000), etag=etag), size=len(content)), tmp_path)
    assert site.ranges() == [None, None]
    assert (tmp_path / "data.nii.gz").read_bytes() == content


def test_with_a_checksum_no_validator_is_needed(site, faults, content, make, tmp_path):
    transfer(make(site.serve(PATH, content, faults.cut(5000), etag='W/"one"'), of=content), tmp_path)
    assert site.ranges() == [None, "bytes=5000-"]
    assert "if-range" not in site.asked[1].headers


def test_last_modified_serves_where_there_is_no_strong_etag(site, faults, content, make, tmp_path):
    then = format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)
    broken = faults.body(content, cut=5000, etag='W/"one"', last_modified=then)
    transfer(make(site.serve(PATH, content, broken, etag=then)), tmp_path)
    assert site.asked[1].headers["if-range"] == then
    assert site.asked[1].headers["range"] == "bytes=5000-"


def test_what_can_stand_in_if_range():
    """RFC 9110, 8.8.2.2: within the second of its last modification a file can change once more."""
    first, then = "Wed, 01 Jan 2020 00:00:00 GMT", "Wed, 01 Jan 2020 00:00:01 GMT"
    assert validator({"last-modified": first, "date": then}) == first
    assert validator({"last-modified": first, "date": first}) is None
    assert validator({"last-modified": first}) is None
    assert validator({"last-modified": "yesterday", "date": then}) is None
    assert validator({"etag": '"a"', "last-modified": first, "date": then}) == '"a"'
    assert validator({"etag": 'W/"a"'}) is None
    assert validator({"etag": "a"}) is None


def test_nothing_beyond_the_end(site, faults, content, make, tmp_path):
    """416 when all is there: the size was not known, the connection broke at the very end."""
    end = faults.body(content, chunked=True, cut=len(content), etag='"one"')
    transfer(make(site.serve(PATH, content, end)), tmp_path)
    assert site.ranges() == [None, f"bytes={len(content)}-"]
    assert (tmp_path / "data.nii.gz").read_bytes() == content


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("said", ["bytes */12", "bytes */*", None])
def test_a_416_of_another_file_starts_again(site, faults, content, make, tmp_path, said, chunked):
    broken = faults.cut(5000, chunked=chunked)
    url = site.serve(PATH, content, broken, faults.status(416, content_range=said))
    transfer(make(url), tmp_path)
    assert site.ranges() == [None, "bytes=5000-", None]


def test_truncated_bodies_are_given_up_in_the_end(site, faults, content, make, tmp_path):
    """The server says more than it ever sends."""
    download = make(site.serve(PATH, content, always=faults.body(content[:-1], length=len(content))), of=content)
    with pytest.raises(FetchError, match=r"data.nii.gz from .*Given up after 8 tries"):
        transfer(download, tmp_path)
    assert not (tmp_path / "data.nii.gz").exists()


def test_a_chunked_body_that_is_too_short(site, faults, content, make, tmp_path):
    url = site.serve(PATH, content, faults.body(content[:5000], chunked=True, etag='"one"'))
    transfer(make(url, size=len(content)), tmp_path)
    assert site.ranges() == [None, "bytes=5000-"]
    assert (tmp_path / "data.nii.gz").read_bytes() == content


def test_more_than_announced_is_not_written(site, faults, content, make, tmp_path):
    url = site.serve(PATH, content, always=faults.body(content, chunked=True))
    with pytest.raises(FetchError, match="more came than the 7,000 bytes announced"):
        transfer(make(url, size=7000), tmp_path)
    assert left(tmp_path) == []


def test_a_corrupted_body_is_fetched_once_more(site, faults, content, make, tmp_path):
    wrong = content[:100] + b"x" + content[101:]
    done = transfer(make(site.serve(PATH, content, faults.body(wrong)), of=content), tmp_path)
    assert (done.sha256, done.transferred) == (digest(content), 2 * len(content))


def test_a_corrupted_part_is_thrown_away_and_fetched_once_more(site, content, make, tmp_path):
    part_path(tmp_path / "data.nii.gz").write_bytes(b"x" * 5000)
    transfer(make(site.serve(PATH, content), of=content), tmp_path)
    assert site.ranges() == ["bytes=5000-", None]
    assert (tmp_path / "data.nii.gz").read_bytes() == content


@pytest.mark.parametrize("which", ["sha256", "md5"])
def test_a_file_that_stays_wrong_is_not_kept(site, content, make, tmp_path, which):
    found = hashlib.new(which, content).hexdigest()
    download = make(site.serve(PATH, content), **{which: "0" * len(found)})
    with pytest.raises(FetchError, match=f"expected {which} 0+, found {found}, also when fetched once more"):
        transfer(download, tmp_path)
    assert left(tmp_path) == []
    assert record(tmp_path, "data.nii.gz") is None
    assert len(site.asked) == 2


def test_a_size_other_than_the_manifests_is_refused_before_the_body(site, content, make, tmp_path):
    with pytest.raises(FetchError, match=r"manifest says 5 bytes, and the server has 20,000"):
        transfer(make(site.serve(PATH, content), size=5), tmp_path)
    assert left(tmp_path) == []
    assert len(site.asked) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_waited_out(site, faults, content, make, tmp_path, waits, code):
    transfer(make(site.serve(PATH, content, *[faults.status(code)] * 4), of=content), tmp_path)
    assert waits == [1, 2, 4, 8]
    assert (tmp_path / "data.nii.gz").read_bytes() == content


def test_waits_grow_up_to_a_limit_and_then_it_ends(site, faults, content, make, tmp_path, waits):
    with pytest.raises(FetchError, match=r"server answered 503.*Given up after 8 tries"):
        transfer(make(site.serve(PATH, content, always=faults.status(503))), tmp_path)
    assert waits == [1, 2, 4, 8, 16, 32, 60]


def test_progress_makes_the_count_start_again(site, faults, content, make, tmp_path, waits):
    steps = [step for _ in range(4) for step in (*[faults.status(500)] * 5, faults.cut(1000))]
    transfer(make(site.serve(PATH, content, *steps)), tmp_path)
    assert len(waits) == 24
    assert max(waits) == 32


def test_a_server_that_falls_silent_is_asked_again(site, faults, content, make, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(policy, "read", 0.2)
    hold = threading.Event()
    done = transfer(make(site.serve(PATH, content, faults.silence(hold))), tmp_path)
    hold.set()
    assert (done.transferred, site.ranges()) == (len(content), [None, "bytes=10000-"])
    assert waits == [1]


def test_running_on_the_spot_is_not_progress(site, faults, content, make, tmp_path):
    """Never resumable, and always cut: each try begins at the start."""
    url = site.serve(PATH, content, always=faults.body(content, cut=5000))
    with pytest.raises(FetchError, match="Given up after 8 tries"):
        transfer(make(url), tmp_path)
    assert len(site.asked) == 8


def test_retry_after_in_seconds_and_as_a_date(site, faults, content, make, tmp_path, waits, monkeypatch):
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    monkeypatch.setattr(policy, "now", lambda: now)
    date = format_datetime(now + timedelta(seconds=77), usegmt=True)
    past = format_datetime(now - timedelta(days=1), usegmt=True)
    said = ["33", date, past, "soon", "Thu, 99 Foo 2026"]
    transfer(make(site.serve(PATH, content, *(faults.status(429, retry_after=s) for s in said))), tmp_path)
    assert waits == [33, 77, 4, 8, 16]


def test_a_server_that_asks_for_hours_is_not_waited_for(site, faults, content, make, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(policy, "now", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    with pytest.raises(FetchError, match=r"come back in 120 minutes \(at 2026-01-02 05:04 UTC\)"):
        transfer(make(site.serve(PATH, content, faults.status(503, retry_after="7200"))), tmp_path)
    for absurd in ("9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"):
        with pytest.raises(FetchError, match="at 2027-01-02"):
            transfer(make(site.serve(PATH, content, faults.status(503, retry_after=absurd))), tmp_path)
    assert waits == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "Accept the dataset's terms"),
        (403, "Accept the dataset's terms"),
        (404, "may have moved it"),
        (410, "may have moved it"),
        (400, "would not help"),
        (451, "would not help"),
        (304, "would not help"),
    ],
)
def test_other_refusals_end_at_once(site, faults, content, make, tmp_path, code, said):
    with pytest.raises(FetchError, match=said):
        transfer(make(site.serve(PATH, content, always=faults.status(code))), tmp_path)
    assert len(site.asked) == 1
    assert left(tmp_path) == []


QUOTA = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>Too many users</body></html>"
)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream", None])
@pytest.mark.parametrize("page", [QUOTA, b"\n <!-- a --><!-- b -->" + QUOTA, b"\xef\xbb\xbf" + QUOTA.lower()])
def test_a_page_is_no_file(site, faults, content, make, tmp_path, kind, page):
    for known in ({}, {"of": content}):
        with pytest.raises(FetchError, match=r"(?i)the page 'Google Drive - Quota exceeded'.*quota"):
            transfer(make(site.serve(PATH, content, faults.body(page, content_type=kind)), **known), tmp_path)
    assert left(tmp_path) == []
    assert len(site.asked) == 2


@pytest.mark.parametrize("code", [200, 206])
def test_a_page_in_the_middle_of_a_file(site, faults, content, make, tmp_path, code):
    """The quota is used up while the file is fetched; what is there is kept."""
    where = f"bytes 5000-{len(content) - 1}/{len(content)}" if code == 206 else None
    page = faults.body(QUOTA.ljust(15_000), code, content_type="text/html", content_range=where)
    url = site.serve(PATH, content, faults.cut(5000), page)
    with pytest.raises(FetchError, match="Quota exceeded"):
        transfer(make(url), tmp_path)
    assert left(tmp_path) == ["data.nii.gz.part"]
    transfer(make(url), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == content
    assert site.ranges()[-1] == "bytes=5000-"


def test_a_page_may_be_what_is_wanted(site, faults, make, tmp_path):
    transfer(make(site.serve("/readme.html", QUOTA), "readme.html"), tmp_path)
    assert (tmp_path / "readme.html").read_bytes() == QUOTA


def test_comments_without_end_take_no_time():
    assert not is_page("", b"<!---->" * 9000, "data.zip")


def test_packing_for_the_way_is_refused(site, faults, content, make, tmp_path):
    packed = faults.body(gzip.compress(content), content_encoding="gzip")
    with pytest.raises(FetchError, match="packs the file with 'gzip' although asked not to"):
        transfer(make(site.serve("/data.nii", content, always=packed), "data.nii"), tmp_path)
    assert left(tmp_path) == []


def test_a_gz_file_that_is_said_to_be_gzip_encoded_is_taken_as_it_is(site, faults, content, make, tmp_path):
    packed = gzip.compress(content)
    url = site.serve(PATH, packed, always=faults.body(packed, content_encoding="gzip"))
    transfer(make(url, of=packed), tmp_path)
    assert (tmp_path / "data.nii.gz").read_bytes() == packed


def test_a_body_whose_end_cannot_be_told_needs_a_size_or_checksum(site, faults, content, make, tmp_path):
    url = site.serve(PATH, content, always=faults.body(content, length=False))
    with pytest.raises(FetchError, match="a cut would go unnoticed"):
        transfer(make(url), tmp_path)
    assert transfer(make(url, of=content), tmp_path).sha256 == digest(content)


def test_an_empty_file_is_no_file(site, make, tmp_path):
    with pytest.raises(FetchError, match="empty file"):
        transfer(make(site.serve(PATH, b"")), tmp_path)
    assert left(tmp_path) == []
    transfer(make(site.serve(PATH, b""), of=b""), tmp_path)
    assert left(tmp_path) == ["data.nii.gz"]


def test_small_answers(site, faults):
    url = site.serve("/list", b'{"files": [1, 2]}', faults.status(503), faults.cut(3))
    assert get_json(f"{url}?page=2", headers={"Authorization": "Bearer secret"}) == {"files": [1, 2]}
    assert site.asked[-1].query == "page=2"
    assert get(url) == b'{"files": [1, 2]}'
    assert get_json(url, post={"a": 1}) == {"files": [1, 2]}
    assert site.asked[-1].headers["content-type"] == "application/json"
    with pytest.raises(FetchError, match="not JSON"):
        get_json(site.serve("/text", b"hello"))
    with pytest.raises(FetchError, match="the page 'Google Drive"):
        get_json(site.serve("/page", QUOTA))
    with pytest.raises(FetchError, match="environment variable TOY_TOKEN"):
        get_json(site.serve("/closed", b"", faults.status(401)), token="TOY_TOKEN")


def test_the_sidecar_is_gone_and_the_record_is_right(site, faults, content, make, tmp_path):
    transfer(make(site.serve(PATH, content, faults.cut(100)) + "?signature=secret", of=content), tmp_path)
    assert not list((tmp_path / ".atlas/parts").iterdir())
    said = json.loads((tmp_path / ".atlas/records/data.nii.gz.json").read_text())
    status = (tmp_path / "data.nii.gz").stat()
    assert said["url"] == site.root + PATH
    assert (said["size"], said["sha256"], said["mtime_ns"]) == (len(content), digest(content), status.st_mtime_ns)
