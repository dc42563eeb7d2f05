"""Where files come from: addresses, ranges of cases, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from atlas.spec.access import Access, SourceFile

SHA = "0" * 64


def source(**content):
    return SourceFile.model_validate(content)


class TestAddress:
    @pytest.mark.parametrize(
        ("content", "target", "many", "archive"),
        [
            ({"url": "https://a.org/files/b.zip?download=1"}, "b.zip", False, True),
            ({"url": "https://a.org/b.nii.gz", "to": "img/c.nii.gz"}, "img/c.nii.gz", False, False),
            ({"url": "s3://bucket/deep/key.tar"}, "key.tar", False, True),
            ({"url": "s3://bucket/deep/"}, "", True, False),
            ({"url": "gs://bucket/deep/*.tar.gz", "to": "parts"}, "parts", True, False),
            ({"url": "hf://datasets/own/name@abc/part_*.tar.gz"}, "", True, False),
            ({"url": "hf://datasets/own/name/one.7z"}, "one.7z", False, True),
            ({"url": "idc://collection?Modality=CT,SEG", "to": "x/{PatientID}"}, "x/{PatientID}", True, False),
            ({"url": "synapse://syn1/RawData.zip"}, "RawData.zip", False, True),
            ({"url": "gdrive://id?resourcekey=0-k", "to": "A.TGZ"}, "A.TGZ", False, True),
            ({"to": "by/hand.zip"}, "by/hand.zip", False, True),
        ],
    )
    def test_target(self, content, target, many, archive):
        file = source(**content)
        assert (file.target, file.many, file.archive) == (target, many, archive)

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ({}, "a file without url needs `to`"),
            ({"url": "ftp://a.org/b"}, "starts with none of https://, http://, idc://"),
            ({"url": "b.zip"}, "starts with none of"),
            ({"url": "https:///b.zip"}, "needs a host or bucket"),
            ({"url": "https://me:secret@a.org/b.zip"}, "may hold no user name or password"),
            ({"url": "https://me@a.org/b.zip"}, "may hold no user name or password"),
            ({"url": "http://a.org/b.zip"}, "can be tampered with"),
            ({"url": "gdrive://id"}, "say with `to` under which name"),
            ({"url": "https://a.org/"}, "say with `to` under which name"),
            ({"url": "https://a.org/b.zip", "to": "../b.zip"}, "must stay below"),
            ({"url": "https://a.org/b.zip", "to": "/b.zip"}, "must stay below"),
            ({"url": "https://a.org/b.zip", "into": "a/../../b"}, "must stay below"),
            ({"url": "https://a.org/b.zip", "to": "b\n.zip"}, "must stay below"),
            ({"url": "https://a.org/b.zip", "size": 0}, "greater than 0"),
            ({"url": "https://a.org/b.zip", "md5": "F" * 32}, "match pattern"),
            ({"url": "https://a.org/b.zip", "sha256": "0" * 63}, "match pattern"),
            ({"url": "https://a.org/b.zip", "checksum": SHA}, "Extra inputs"),
        ],
    )
    def test_refused(self, content, says):
        with pytest.raises(ValidationError, match=says):
            source(**content)

    def test_plain_http_with_a_checksum_or_to_this_machine(self):
        assert source(url="http://a.org/b.zip", sha256=SHA).target == "b.zip"
        assert source(url="http://127.0.0.1:8000/b.zip").target == "b.zip"

    @given(st.text(max_size=30))
    def test_accepted_places_stay_below_the_folder(self, text):
        try:
            target = source(to=text).target
        except ValidationError:
            return
        assert ".." not in target.split("/")
        assert not target.startswith("/")


class TestEach:
    URL = "https://a.org/{case}.nii.gz"

    @pytest.mark.parametrize(
        ("each", "cases"),
        [
            (["a", "b"], ["a", "b"]),
            (["case_008..case_011"], ["case_008", "case_009", "case_010", "case_011"]),
            (["0..3", "7"], ["0", "1", "2", "3", "7"]),
            (["8..11"], ["8", "9", "10", "11"]),
            (["5..5"], ["5"]),
        ],
    )
    def test_names_and_ranges(self, each, cases):
        assert list(source(url=self.URL, each=each).cases) == cases

    @pytest.mark.parametrize("text", ["b..a", "case_1..kase_2", "3..1", "010..9", "..", "1..2..3", "a1..b2"])
    def test_no_ranges(self, text):
        with pytest.raises(ValidationError, match="is no range like"):
            source(url=self.URL, each=[text])

    @pytest.mark.parametrize(
        "content", [{"url": URL}, {"url": "https://a.org/b.nii.gz", "each": ["1"]}, {"to": "{case}.nii.gz"}]
    )
    def test_case_and_each_belong_together(self, content):
        with pytest.raises(ValidationError, match="belong together"):
            source(**content)


@pytest.mark.parametrize("content", [{"connections": 0}, {"connections": 17}, {"kind": "free"}, {"steps": "register"}])
def test_access_is_checked(content):
    with pytest.raises(ValidationError):
        Access.model_validate({"kind": "open"} | content)
