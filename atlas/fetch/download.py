"""One file to fetch: where from, where to, how it is known to be right, and what happens to it then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str, int, "int | None"], None]
"""Called now and then with a file's target, the bytes done, and how many there will be (None: not known)."""


@dataclass(frozen=True)
class Unpacking:
    """How an archive is unpacked; see `atlas.spec.access.SourceFile`."""

    into: str = ""
    holds: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    password: str | None = None
    """Environment variable that holds the password."""


@dataclass(frozen=True)
class Download:
    """One file.

    Attributes
    ----------
    dataset
        Id of the dataset that it belongs to.
    url
        Address as in the manifest (https, s3, gs, hf, gdrive, synapse), of one file.
    target
        Place below the dataset's folder.
    size, md5, sha256
        What is known about its content.
    archive
        Set if it is unpacked afterwards.
    whole_cases
        Whether every case in it is complete.
    connections
        How many downloads from its host may run at once.
    group
        Folder (below the dataset's, ending in /) that is complete only with all downloads of the same group, such as a
        DICOM series; "" for a file that stands for itself.
    """

    dataset: str
    url: str
    target: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None
    archive: Unpacking | None = None
    whole_cases: bool = False
    connections: int = 2
    group: str = ""

    @property
    def host(self) -> str:
        """What connections are counted by: host, bucket, or the one service behind a scheme."""
        parts = urlsplit(self.url)
        if parts.scheme in {"s3", "gs"}:
            return f"{parts.scheme}://{parts.netloc}"
        return parts.hostname or "" if parts.scheme in {"http", "https"} else parts.scheme

    def path(self, folder: Path) -> Path:
        """Place on disk, given the dataset's folder."""
        return folder / self.target
