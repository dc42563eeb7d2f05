"""Where a dataset's files come from: what to download from where, and what a person has to do."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from atlas.spec.base import Spec, Strings, below

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z")
"""What archives end in; they are unpacked."""

LISTINGS = ("idc", "s3", "gs", "hf")
"""Schemes of addresses that may stand for many files."""

SCHEMES = ("https", "http", *LISTINGS, "gdrive", "synapse")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_RANGE = re.compile(r"(\D*)(\d+)\.\.(\D*)(\d+)")


class SourceFile(Spec):
    """A file that the publisher serves, or several files of one address.

    `url` may be
    `https://...`; `s3://bucket/key` and `gs://bucket/key` (public buckets, or with the usual credentials; a key that
    ends in / or holds `*` stands for all files below or like it); `hf://datasets/owner/name[@revision]/path` (same);
    `gdrive://id[?resourcekey=...]`; `synapse://syn123[/name]`; `idc://collection?Modality=CT,SEG` (the series of a
    TCIA collection in the Imaging Data Commons). Nothing: a person has to put it there (see the access's steps).
    """

    url: str | None = None
    to: Annotated[str, AfterValidator(below)] | None = None
    """Place below the dataset's folder; by default the last part of the address at the top of it. Of many files: the
    folder for them, which for `idc` may hold {PatientID}, {StudyInstanceUID}, {SeriesInstanceUID} and {Modality}."""
    each: Strings = ()
    """What {case} in `url` and `to` stands for, one file each: names, or ranges like case_00000..case_00299."""
    what: str | None = None
    size: Annotated[int, Field(gt=0)] | None = None
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    into: Annotated[str, AfterValidator(below)] = ""
    """Folder that an archive is unpacked into, below the dataset's."""
    holds: Strings = ()
    """Patterns of the files that are wanted out of an archive, by their place below the dataset's folder (`**/` is any
    depth, `*` stays within a name); the others stay in it. None: all of them."""
    nested: Strings = ()
    """Patterns of archives within the archive, unpacked where they lie."""
    whole_cases: bool = False
    """A case of which one file comes out of this archive comes out of it whole."""
    encrypted: bool = False
    """Its password is taken from the environment variable ATLAS_PASSWORD_<DATASET>."""

    @property
    def archive(self) -> bool:
        """Whether it is unpacked."""
        return self.target.lower().endswith(ARCHIVES)

    @property
    def target(self) -> str:
        """Place below the dataset's folder; of many files, the folder for them."""
        if self.to is not None:
            return self.to
        parts = urlsplit(self.url or "")
        return "" if parts.scheme in LISTINGS and self.many else PurePosixPath(parts.path).name

    @property
    def many(self) -> bool:
        """Whether the address stands for files that have to be listed first."""
        parts = urlsplit(self.url or "")
        listed = parts.scheme in LISTINGS and (parts.path.endswith("/") or "*" in parts.path)
        return parts.scheme == "idc" or listed

    @property
    def cases(self) -> tuple[str, ...]:
        """What `each` says, ranges written out."""
        return tuple(case for text in self.each for case in _expanded(text))

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.url is None and self.to is None:
            raise ValueError("a file without url needs `to`: where a person puts it")
        if self.url is not None:
            _check_url(self.url, hashed=self.sha256 is not None)
            if not self.many and not self.target:
                raise ValueError(f"{self.url}: say with `to` under which name it is stored")
        if bool(self.each) != ("{case}" in f"{self.url}{self.to}"):
            raise ValueError("{case} in url or to, and `each`, belong together")
        self.cases  # noqa: B018 - ranges must be readable
        return self


class Access(Spec):
    """How a person gets the files."""

    kind: Literal["open", "login", "request", "gated"]
    via: Strings = ()
    steps: Strings = ()
    """What a person has to do, in order: register, accept terms, make a token, put files somewhere."""
    files: tuple[SourceFile, ...] = Field(default=(), strict=False)
    connections: Annotated[int, Field(ge=1, le=16)] = 2
    """At once to one host."""
    note: str | None = None


def _check_url(url: str, *, hashed: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{url}: starts with none of {', '.join(f'{s}://' for s in SCHEMES)}")
    if not parts.netloc or parts.username or parts.password:
        raise ValueError(f"{url}: needs a host or bucket, and may hold no user name or password")
    if parts.scheme == "http" and not hashed and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{url}: http:// can be tampered with on the way; use https:// or give the sha256")


def _expanded(text: str) -> list[str]:
    """Names of a range like case_007..case_012, or the one name."""
    if ".." not in text:
        return [text]
    found = _RANGE.fullmatch(text)
    if not found or found[1] != found[3] or len(found[2]) > len(found[4]) or int(found[2]) > int(found[4]):
        raise ValueError(f"{text!r} is no range like case_00000..case_00299")
    return [f"{found[1]}{n:0{len(found[2])}d}" for n in range(int(found[2]), int(found[4]) + 1)]
