"""Zip archives: their directory checked against what lies in the file, their members inflated here.

The standard library reads the directory. It would cut a member off at its declared size without a word, and inflates at
a third of the speed.
"""

from __future__ import annotations

import stat
import struct
from contextlib import contextmanager
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, Literal, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from atlas.fetch.archives.archive import CHUNK, damaged, missing, reading, unreadable
from atlas.fetch.archives.members import Member

try:
    from isal import isal_zlib as zlib
except ImportError:
    import zlib  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from atlas.fetch.archives.archive import Archive, Sink

# APPNOTE.TXT 6.3.10 of PKWARE: 4.3.7 local header, 4.3.16 end record, 4.4.4 flags, 4.4.5 methods
_LOCAL = struct.Struct("<4s22xHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_END = struct.Struct("<4s6xH10x")
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFF
_ENCRYPTED = 0x1
_DEFLATE64 = 9
_AES = 99  # WinZip, AES Encryption Information


class Zip:
    """A zip archive. See `atlas.fetch.archives.archive.Archive`."""

    def __init__(self, file: IO[bytes], label: str, password: str | None) -> None:
        self._file = file
        self._label = label
        self._password = password.encode() if password is not None else None
        with reading(label):
            self._zip = ZipFile(file)
            _check_count(self._zip, file)
            self._starts = _starts(self._zip, file)
        self.members = [_member(info) for info in self._zip.infolist()]
        self._aes: Any = None

    def extract(self, choose: Callable[[Member], Sink | None]) -> None:
        """See `Archive`."""
        for index, member in enumerate(self.members):
            sink = choose(member)
            if sink is not None:
                with sink:
                    self._copy(index, sink)

    def _copy(self, index: int, sink: Sink) -> None:
        info = self._zip.infolist()[index]
        chunks = self._plain(info, self._starts[index]) if _own(info) else self._by_library(index)
        count = crc = 0
        while True:
            with reading(f"{self._label}: {info.filename}", encrypted=bool(info.flag_bits & _ENCRYPTED)):
                chunk = next(chunks, None)
            if chunk is None:
                break
            count += len(chunk)
            crc = zlib.crc32(chunk, crc)
            sink.write(chunk)
        if _own(info) and (count, crc) != (info.file_size, info.CRC):
            raise damaged(f"{self._label}: {info.filename}", f"{count} bytes with CRC {crc:08x}, not as declared")

    def _plain(self, info: ZipInfo, start: int) -> Iterator[bytes]:
        packed = self._packed(start, info.compress_size)
        if info.compress_type == ZIP_STORED:
            return packed
        return _inflated(packed) if info.compress_type == ZIP_DEFLATED else _inflated64(packed, self._label)

    def _packed(self, start: int, size: int) -> Iterator[bytes]:
        self._file.seek(start)
        while size > 0:
            chunk = self._file.read(min(CHUNK, size))
            if not chunk:
                raise EOFError("ends too early")
            size -= len(chunk)
            yield chunk

    def _by_library(self, index: int) -> Iterator[bytes]:
        """Encrypted members, and rare methods; checksums are verified there."""
        info = self._zip.infolist()[index]
        try:
            if info.flag_bits & _ENCRYPTED and info.compress_type == _AES:
                content = self._aes_zip().open(self._aes_zip().infolist()[index], pwd=self._password)
            else:
                content = self._zip.open(info, pwd=self._password)
        except NotImplementedError as error:
            raise unreadable(f"{self._label}: {info.filename}", str(error)) from error
        with content:
            while chunk := content.read(CHUNK):
                yield chunk

    def _aes_zip(self) -> Any:  # noqa: ANN401 - pyzipper is not typed
        if self._aes is None:
            try:
                from pyzipper import AESZipFile
            except ImportError as error:
                raise missing(self._label, "pyzipper") from error
            self._aes = AESZipFile(self._file)
        return self._aes


@contextmanager
def zipped(path: Path, label: str, password: str | None) -> Iterator[Archive]:
    """Open a zip archive."""
    with path.open("rb") as file:
        yield Zip(file, label, password)


def _check_count(archive: ZipFile, file: IO[bytes]) -> None:
    """A damaged length in the directory can hide members behind it from the library."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _MAX_COMMENT))
    tail = file.read()
    last = len(tail) - _END.size
    at = last if tail[last:].startswith(_END_SIGNATURE) else tail.rfind(_END_SIGNATURE)
    _, count = _END.unpack_from(tail, at)
    found = len(archive.infolist())
    # some writers let the count run over instead of using zip64
    if count != _IN_ZIP64 and count != found & 0xFFFF:
        raise ValueError(f"{found} members in its directory and {count} in its end record")


def _starts(archive: ZipFile, file: IO[bytes]) -> list[int]:
    """Where the data of each member begins.

    Members that share bytes of the file are refused: that is how a small archive is made to hold petabytes
    (D. Fifield, A better zip bomb, WOOT 2019).
    """
    starts, spans = [], []
    for info in archive.infolist():
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        if signature != _LOCAL_SIGNATURE:
            raise ValueError(f"no member at byte {info.header_offset}, where {info.filename!r} should be")
        start = info.header_offset + _LOCAL.size + name + extra
        starts.append(start)
        spans.append((info.header_offset, start + info.compress_size, info.filename))
    directory = cast("Any", archive).start_dir
    for (_, end, name), (begin, _, _) in pairwise([*sorted(spans), (directory, directory, "")]):
        if end > begin:
            raise ValueError(f"the bytes of its member {name!r} overlap with others")
    return starts


def _member(info: ZipInfo) -> Member:
    # the library cuts a name off at NUL
    name = info.orig_filename
    return Member(name, info.file_size, _kind(info), info.CRC, bool(info.flag_bits & _ENCRYPTED))


def _kind(info: ZipInfo) -> Literal["file", "folder", "link", "special"]:
    form = stat.S_IFMT(info.external_attr >> 16)
    if form == stat.S_IFLNK:
        return "link"
    if form not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "special"
    empty = form == stat.S_IFDIR and not info.file_size
    return "folder" if info.is_dir() or empty else "file"


def _own(info: ZipInfo) -> bool:
    """Whether it is read here and not by a library."""
    known = info.compress_type in {ZIP_STORED, ZIP_DEFLATED, _DEFLATE64}
    return known and not info.flag_bits & _ENCRYPTED


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(wbits=-15)
    for piece in packed:
        rest = piece
        while rest and not inflater.eof:
            yield inflater.decompress(rest, CHUNK)
            rest = inflater.unconsumed_tail
    while not inflater.eof and (data := inflater.decompress(b"", CHUNK)):
        yield data
    if not inflater.eof:
        raise EOFError("the compressed data breaks off")


def _inflated64(packed: Iterator[bytes], label: str) -> Iterator[bytes]:
    """Deflate64, which Windows uses for files beyond 2 GiB."""
    try:
        from inflate64 import Inflater
    except ImportError as error:
        raise missing(label, "inflate64") from error
    inflater = Inflater()
    step = CHUNK >> 4  # it gives all that comes out of what it is given, up to a thousand times as much
    for piece in packed:
        for at in range(0, len(piece), step):
            yield inflater.inflate(piece[at : at + step])
