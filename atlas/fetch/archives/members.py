"""What an archive may hold, decided from names, kinds and sizes alone, before anything is written."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atlas.errors import FetchError
from atlas.fetch.places import OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_MEMBERS = 2_000_000
"""The largest published archives have some hundred thousand slices."""

HARMLESS = 2**30
"""Bytes of contents that any archive may have, however small it is."""

MAX_RATIO = 500
"""Bytes of contents for one of the archive, beyond HARMLESS. CTs pack 2-5:1 and binary masks, mostly zero, 100-400:1;
what is made to fill a disk sits at the 1032:1 that deflate cannot exceed, or far above by other methods."""

MAX_NAME = 255
MAX_PATH = 3000
"""Bytes of one name, and of a path below the dataset's folder. Linux has 255 and 4095; the folder needs some of it."""

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Member:
    """One entry of an archive, as the archive declares it.

    Attributes
    ----------
    name
        As it stands there.
    size
        Bytes of content, unpacked.
    crc
        CRC-32 of the content where the archive's directory gives one.
    encrypted
        Whether a password is needed.
    """

    name: str
    size: int
    kind: Literal["file", "folder", "link", "special", "sparse"] = "file"
    crc: int | None = None
    encrypted: bool = False


_KINDS = {
    "link": "is a link",
    "special": "is a device, pipe or socket",
    "sparse": "is stored with holes (sparse)",
}


class Budget:
    """What may still come out of an archive and those nested in it.

    Parameters
    ----------
    packed
        Bytes of the outermost archive.
    """

    def __init__(self, packed: int) -> None:
        self.limit = max(HARMLESS, MAX_RATIO * packed)
        self.contents = 0
        self.members = 0

    def count(self) -> None:
        """Count one member, wanted or not.

        Raises
        ------
        ValueError
            If it is one too many.
        """
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise ValueError(f"is one of more than {MAX_MEMBERS:,}")

    def spend(self, size: int) -> None:
        """Count the bytes of one member that is unpacked.

        Raises
        ------
        ValueError
            If it is too much.
        """
        self.contents += size
        if size < 0 or self.contents > self.limit:
            raise ValueError(
                f"would bring the contents to {self.contents:,} bytes; of an archive of this size at most "
                f"{self.limit:,} are believed"
            )


@dataclass(frozen=True)
class Selection:
    """Which members of one archive are wanted, and where they come to lie.

    Attributes
    ----------
    archive
        For messages.
    into
        Folder below the dataset's.
    wanted
        Says of a place below the dataset's folder whether it is wanted.
    reserved
        Places that no member may take, such as the archive's own.
    password
        Whether there is one; `variable` should hold it.
    """

    archive: str
    into: str
    wanted: Callable[[str], bool]
    budget: Budget
    reserved: frozenset[str] = frozenset()
    variable: str | None = None
    password: bool = False

    def place(self, member: Member) -> str | None:
        """Where a member comes to lie below the dataset's folder; None if it is a folder, junk or not wanted.

        Raises
        ------
        FetchError
            If it must not be unpacked.
        """
        try:
            return self._place(member)
        except ValueError as why:
            raise refusal(self.archive, member.name, str(why)) from None

    def places(self, members: Iterable[Member]) -> dict[Member, str]:
        """Places of all wanted members of an archive that has a directory.

        Raises
        ------
        FetchError
            If one must not be unpacked, or two want the same place with different content.
        """
        found: dict[Member, str] = {}
        first: dict[str, Member] = {}
        for member in members:
            place = self.place(member)
            if place is None:
                continue
            found[member] = place
            other = first.setdefault(place, member)
            if (other.size, other.crc) != (member.size, member.crc):
                raise refusal(self.archive, member.name, "comes twice, with different content")
        for place, member in first.items():
            if any(parent in first for parent in _parents(place)):
                raise refusal(self.archive, member.name, "lies in a folder that is a file as well")
        return found

    def _place(self, member: Member) -> str | None:
        name = clean(member.name)
        self.budget.count()
        if member.kind == "folder" or junk(name):
            return None
        place = "/".join(part for part in (self.into.strip("/"), name) if part)
        if not name or len(os.fsencode(place)) > MAX_PATH:
            raise ValueError("has no name" if not name else "has too long a path")
        if not self.wanted(place):
            return None
        if member.kind in _KINDS:
            raise ValueError(f"{_KINDS[member.kind]}, and only plain files are unpacked")
        if place in self.reserved or place.split("/")[0].casefold() == OWN:
            raise ValueError("would overwrite what atlas needs itself")
        if member.encrypted and not self.password:
            raise ValueError(f"is encrypted; {password_hint(self.variable)}")
        self.budget.spend(member.size)
        return place


def clean(name: str) -> str:
    """Path of a member as parts joined by /, without `.` and doubled slashes.

    Raises
    ------
    ValueError
        If it leads out of the folder, or is none that a publisher would give.
    """
    if not name.isprintable():
        raise ValueError("has unprintable characters in its name")
    if "\\" in name:
        raise ValueError("has a backslash in its name")
    if name.startswith("/") or _DRIVE.match(name):
        raise ValueError("has an absolute path")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError("leads out of its folder")
    if any(len(os.fsencode(part)) > MAX_NAME for part in parts):
        raise ValueError(f"has a name of more than {MAX_NAME} bytes")
    return "/".join(parts)


def junk(name: str) -> bool:
    """Whether a file is one that archivers add on their own."""
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last in {"__MACOSX", ".DS_Store"}


def password_hint(variable: str | None) -> str:
    """What to do about a missing password."""
    if variable is None:
        return "say `encrypted: true` in the manifest, so that its password is asked for"
    return f"put its password into the environment variable {variable}"


def refusal(archive: str, name: str, why: str) -> FetchError:
    """Error about a member that must not be unpacked."""
    shown = repr(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}...")
    return FetchError(f"{archive}: its member {shown} {why}. Nothing was unpacked from it")


def _parents(place: str) -> list[str]:
    parts = place.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
