"""Archives as publishers pack them, always with the same bytes for the same content."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from atlas.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH = (2020, 1, 1, 12, 0, 0)
"""When everything in an archive was last changed."""
EPOCH_S = 1_577_880_000
"""The same in seconds since 1970, UTC."""


def pack(name: str, members: Mapping[str, bytes], password: str | None = None) -> bytes:
    """Make an archive of the kind that a name says.

    Parameters
    ----------
    name : str
        Its name, ending in .zip, .tar, .tar.gz, .tgz or .7z.
    members : mapping of str to bytes
        By their names in the archive.
    password : str, optional
        For a zip archive, which is then encrypted with AES. Its bytes differ each time: salt is drawn for every member.

    Raises
    ------
    SpecError
        If the archive is of another kind, or of one that is not encrypted here.
    """
    kind = next((kind for kind in _PACKERS if name.lower().endswith(kind)), None)
    if kind is None or (password is not None and kind != ".zip"):
        raise SpecError(f"{name}: phantoms are packed as {', '.join(_PACKERS)}, with a password as .zip only")
    return _encrypted(members, password) if password is not None else _PACKERS[kind](members)


def _zip(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, compresslevel=1)
    return out.getvalue()


def _encrypted(members: Mapping[str, bytes], password: str) -> bytes:
    import pyzipper

    out = io.BytesIO()
    with pyzipper.AESZipFile(out, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as archive:
        archive.setpassword(password.encode())
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), EPOCH_S
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _tar_gz(members: Mapping[str, bytes]) -> bytes:
    return gzip.compress(_tar(members), compresslevel=1, mtime=0)


def _seven_zip(members: Mapping[str, bytes]) -> bytes:
    import py7zr

    out = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, py7zr.SevenZipFile(out, "w") as archive:
        for number, (name, content) in enumerate(members.items()):
            # through a file, since only from one it takes the time
            path = Path(folder) / str(number)
            path.write_bytes(content)
            path.chmod(0o644)
            os.utime(path, (EPOCH_S, EPOCH_S))
            archive.write(path, name)
    return out.getvalue()


_PACKERS = {".zip": _zip, ".tar": _tar, ".tar.gz": _tar_gz, ".tgz": _tar_gz, ".7z": _seven_zip}
