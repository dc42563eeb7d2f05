"""Members are chosen by name, kind and size; readers give right content or an error, never anything else."""

import bz2
import gzip
import io
import stat
import struct
import tarfile
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import FetchError
from atlas.fetch.archives import members, tarred
from atlas.fetch.archives.archive import opened
from atlas.fetch.archives.members import Budget, Member, Selection, clean, junk

TREE = {
    "case_01/ct.nii.gz": bytes(range(256)) * 700,
    "case_01/seg.nii.gz": b"\0" * 300_000,
    "case_02/ct.nii.gz": b"x",
    "readme.txt": b"",
    "Ümlaut/größe 3.txt": b"utf-8",
}


class Kept:
    """A sink in memory."""

    def __init__(self, name, into):
        self.name, self.into, self.data = name, into, b""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.into[self.name] = self.data

    def write(self, data):
        self.data += data
        return len(data)


def contents(path, password=None):
    """All files of an archive."""
    found = {}
    with opened(path, str(path), password) as archive:
        chosen = selection()
        archive.extract(lambda m: Kept(m.name, found) if chosen.place(m) else None)
    return found


def listed(path, password=None):
    with opened(path, str(path), password) as archive:
        if archive.members is not None:
            return list(archive.members)
        seen = []
        archive.extract(seen.append)
        return seen


def selection(wanted=lambda place: True, into="", packed=1000, password=True, **more):
    return Selection("a.zip", into, wanted, Budget(packed), password=password, **more)


# --- names, kinds, sizes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("//etc/passwd", "absolute"),
        ("C:/windows", "absolute"),
        ("c:file", "absolute"),
        ("../up", "leads out"),
        ("a/../../up", "leads out"),
        ("a/..", "leads out"),
        ("..", "leads out"),
        ("a\\..\\..\\up", "backslash"),
        ("a\0.txt", "unprintable"),
        ("a\nb", "unprintable"),
        ("a\x1b[2J", "unprintable"),
        ("gpj.\u202eexe", "unprintable"),
        ("zero\u200bwidth", "unprintable"),
        ("not\udcff8", "unprintable"),
        ("n" * 256, "255 bytes"),
        ("ü" * 128, "255 bytes"),
    ],
)
def test_names_that_are_refused(name, why):
    with pytest.raises(ValueError, match=why):
        clean(name)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/b.nii", "a/b.nii"),
        ("./a//b/./c", "a/b/c"),
        ("./", ""),
        ("...", "..."),
        ("a..b/c", "a..b/c"),
        ("ab:c", "ab:c"),
        ("full\uff0fwidth", "full\uff0fwidth"),
    ],
)
def test_names_that_are_taken(name, path):
    assert clean(name) == path


@given(st.text(alphabet="ab./\\:\0 C", max_size=12))
def test_a_clean_name_stays_below_its_folder(name):
    try:
        path = clean(name)
    except ValueError:
        return
    assert not path.startswith("/")
    assert ".." not in path.split("/")
    assert not {"\\", "\0"} & set(path)


def test_junk():
    assert junk("__MACOSX/a/._b")
    assert junk("a/__MACOSX/b")
    assert junk("a/._b")
    assert junk("a/.DS_Store")
    assert not junk("a/b_MACOSX.nii")


def test_place_is_below_into_and_patterns_see_all_of_it():
    seen = []
    chosen = selection(lambda place: seen.append(place) or place.endswith(".nii"), into="x/y")
    assert chosen.place(Member("./a/b.nii", 3)) == "x/y/a/b.nii"
    assert chosen.place(Member("a/b.txt", 3)) is None
    assert seen == ["x/y/a/b.nii", "x/y/a/b.txt"]


def test_folders_and_junk_are_passed_over():
    chosen = selection()
    assert chosen.place(Member("a/", 0, "folder")) is None
    assert chosen.place(Member("./", 0, "folder")) is None
    assert chosen.place(Member("__MACOSX/._a", 3)) is None


@pytest.mark.parametrize("kind", ["link", "special", "sparse"])
def test_only_plain_files(kind):
    with pytest.raises(FetchError, match=r"a\.zip: its member 'x/y' .* only plain files"):
        selection().place(Member("x/y", 0, kind))
    assert selection(lambda place: False).place(Member("x/y", 0, kind)) is None


def test_an_escaping_member_is_refused_even_if_unwanted_or_junk():
    for name in ("../a", "__MACOSX/../../a"):
        with pytest.raises(FetchError, match="leads out"):
            selection(lambda place: False).place(Member(name, 0))


@pytest.mark.parametrize("name", ["set.zip", ".atlas/records/x.json", ".ATLAS/x"])
def test_reserved_places(name):
    with pytest.raises(FetchError, match="needs itself"):
        selection(reserved=frozenset({"set.zip"})).place(Member(name, 0))


def test_encrypted_without_password_says_what_to_do():
    secret = Member("x", 4, encrypted=True)
    with pytest.raises(FetchError, match="into the environment variable ATLAS_PASSWORD_TOY"):
        selection(password=False, variable="ATLAS_PASSWORD_TOY").place(secret)
    with pytest.raises(FetchError, match="encrypted: true"):
        selection(password=False).place(secret)
    assert selection().place(secret) == "x"


def test_absurd_expansion():
    packed = 10 * 2**20
    most = members.MAX_RATIO * packed
    assert selection(packed=packed).place(Member("x", most)) == "x"
    with pytest.raises(FetchError, match="are believed"):
        selection(packed=packed).place(Member("x", most + 1))
    chosen = selection(packed=packed)
    chosen.place(Member("x", most))
    with pytest.raises(FetchError, match="'y' would bring"):
        chosen.place(Member("y", 1))


def test_a_small_archive_may_hold_a_gibibyte():
    assert selection(packed=1).place(Member("x", 2**30)) == "x"
    with pytest.raises(FetchError, match="are believed"):
        selection(packed=1).place(Member("x", 2**30 + 1))
    with pytest.raises(FetchError, match="are believed"):
        selection().place(Member("x", -1))


def test_too_many_members(monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    chosen = selection()
    for name in "abc":
        chosen.place(Member(name, 0, "folder"))
    with pytest.raises(FetchError, match="more than 3"):
        chosen.place(Member("d", 0))


def test_two_of_one_name():
    same = [Member("a", 1, crc=5), Member("./a", 1, crc=5)]
    assert set(selection().places(same).values()) == {"a"}
    for other in (Member("a", 2, crc=5), Member("a", 1, crc=6)):
        with pytest.raises(FetchError, match="comes twice"):
            selection().places([same[0], other])
    assert len(selection().places([Member("a", 1), Member("A", 2)])) == 2


def test_a_file_that_is_a_folder_too():
    with pytest.raises(FetchError, match="'a/b/c' lies in a folder that is a file"):
        selection().places([Member("a/b", 1), Member("a/b/c", 1)])


# --- what all formats have in common


def make_zip(path, tree, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)


def make_tar(path, tree):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in tree.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def make_7z(path, tree, **more):
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(path, "w", **more) as archive:
        for name, data in tree.items():
            archive.writestr(data, name)


MAKE = {"a.zip": make_zip, "a.tar": make_tar, "a.tar.gz": make_tar, "a.tgz": make_tar, "a.7z": make_7z}
formats = pytest.mark.parametrize("name", MAKE)


@formats
def test_contents_come_out_as_they_went_in(name, tmp_path):
    MAKE[name](tmp_path / name, TREE)
    assert contents(tmp_path / name) == TREE
    assert {m.name: m.size for m in listed(tmp_path / name)} == {k: len(v) for k, v in TREE.items()}


@formats
def test_an_archive_without_files(name, tmp_path):
    MAKE[name](tmp_path / name, {})
    assert contents(tmp_path / name) == {}


@formats
def test_an_archive_cut_off_anywhere_is_an_error(name, tmp_path):
    MAKE[name](tmp_path / name, {"a": b"first" * 50, "b/c": bytes(range(200))})
    whole = (tmp_path / name).read_bytes()
    # plain tar: what is lost of the padding behind the end marker's first block does not matter
    end = whole.rindex(bytes(range(200))) + 512 if name == "a.tar" else len(whole)
    cut = tmp_path / f"cut_{name}"
    for length in range(0, end, max(1, len(whole) // 150)):
        cut.write_bytes(whole[:length])
        with pytest.raises(FetchError, match="Delete it and fetch it again"):
            contents(cut)


@formats
def test_a_flipped_bit_gives_the_right_content_or_an_error(name, tmp_path):
    tree = {"a": b"first" * 20, "b/c": bytes(range(100))}
    MAKE[name](tmp_path / name, tree)
    whole = (tmp_path / name).read_bytes()
    broken, refused = tmp_path / f"broken_{name}", 0
    for position in range(0, len(whole), max(1, len(whole) // 300)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        broken.write_bytes(damaged)
        try:
            found = contents(broken)
        except FetchError:
            refused += 1
            continue
        if name == "a.tar":  # it has no checksum of contents; that of the whole file is verified before
            found = {key: tree[key] for key in found if len(found[key]) == len(tree.get(key, b""))}
        # names and modes of a zip have no checksum
        assert sorted(found.values()) == sorted(tree.values()), position
    assert refused


def test_names_of_no_archive(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(FetchError, match="archives end in"):
        contents(tmp_path / "a.rar")


# --- zip


def raw_zip(path, entries):
    """Write a zip whose every field can lie. Entries: name, packed data, and local and central fields."""
    body, central = b"", b""
    for name, packed, fields in entries:
        fact = {"method": 0, "crc": zlib.crc32(packed), "size": len(packed), "flags": 0, "mode": 0, "extra": b""}
        fact = {**fact, "packed": len(packed), "offset": len(body), "local": True, **fields}
        raw = name.encode()
        numbers = (fact["flags"], fact["method"], 0, 0x21, fact["crc"], fact["packed"], fact["size"])
        if fact["local"]:
            body += struct.pack("<4s5H3I2H", b"PK\3\4", 20, *numbers, len(raw), len(fact["extra"]))
            body += raw + fact["extra"] + packed
        central += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 0x314, 20, *numbers, len(raw), 0, 0, 0, 0, fact["mode"] << 16, fact["offset"]
        )
        central += raw
    count = len(entries)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(central), len(body), 0)
    path.write_bytes(body + central + end)
    return path


def deflated(data):
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods(method, tmp_path):
    make_zip(tmp_path / "a.zip", TREE, method)
    assert contents(tmp_path / "a.zip") == TREE


def test_zip_deflate64(tmp_path):
    inflate64 = pytest.importorskip("inflate64")
    data = bytes(range(256)) * 3000 + b"\0" * 500_000
    packer = inflate64.Deflater()
    packed = packer.deflate(data) + packer.flush()
    raw_zip(tmp_path / "a.zip", [("x", packed, {"method": 9, "crc": zlib.crc32(data), "size": len(data)})])
    assert contents(tmp_path / "a.zip") == {"x": data}


def test_zip_of_another_method_is_named(tmp_path):
    raw_zip(tmp_path / "a.zip", [("x", b"abc", {"method": 97})])
    with pytest.raises(FetchError, match=r"a\.zip: x: .*unpack it by hand"):
        contents(tmp_path / "a.zip")


def test_zip64(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("big", "w", force_zip64=True) as file,
    ):
        file.write(b"content" * 1000)
    assert contents(tmp_path / "a.zip") == {"big": b"content" * 1000}


def test_zip_behind_other_bytes_and_written_to_a_pipe(tmp_path):
    class Pipe(io.BytesIO):  # then sizes come after the data
        def seekable(self):
            return False

        def tell(self):
            raise OSError

        def seek(self, *args):
            raise OSError

    pipe = Pipe()
    make_zip(pipe, TREE)
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\n" + pipe.getvalue())
    assert contents(tmp_path / "a.zip") == TREE


def test_zip_members_that_share_their_bytes(tmp_path):
    kernel = deflated(b"\0" * 1_000_000)
    fields = {"method": 8, "crc": zlib.crc32(b"\0" * 1_000_000), "size": 1_000_000}
    same = [("a", kernel, fields), ("b", kernel, {**fields, "offset": 0, "local": False})]
    with pytest.raises(FetchError, match="overlap"):
        contents(raw_zip(tmp_path / "same.zip", same))
    # one local header is quoted in the extra field of the one before: both reach the same data
    inner = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0x21, fields["crc"], len(kernel), 1_000_000, 1, 0) + b"b"
    quoted = [
        ("a", kernel, {**fields, "extra": inner}),
        ("b", b"", {**fields, "packed": len(kernel), "offset": 31, "local": False}),
    ]
    with pytest.raises(FetchError, match="overlap"):
        contents(raw_zip(tmp_path / "quoted.zip", quoted))


def test_zip_member_that_reaches_into_the_directory(tmp_path):
    raw_zip(tmp_path / "a.zip", [("a", b"abc", {"packed": 10, "size": 10})])
    with pytest.raises(FetchError, match="overlap"):
        contents(tmp_path / "a.zip")


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("declared", [10, 90_000])
def test_zip_directory_that_lies_about_a_size(method, declared, tmp_path):
    data = bytes(range(250)) * 200
    packed = deflated(data) if method else data
    # the checksum of as much as is declared: who cuts off there sees nothing wrong
    lie = {"method": method, "size": declared, "crc": zlib.crc32(data[:declared])}
    with pytest.raises(FetchError, match="not as declared"):
        contents(raw_zip(tmp_path / "a.zip", [("x", packed, lie)]))


def test_zip_kinds(tmp_path):
    modes = {"link": stat.S_IFLNK, "fifo": stat.S_IFIFO, "device": stat.S_IFCHR, "file": stat.S_IFREG, "dos": 0}
    raw_zip(tmp_path / "a.zip", [(n, b"/etc", {"mode": m | 0o777}) for n, m in modes.items()] + [("f/", b"", {})])
    kinds = {m.name: m.kind for m in listed(tmp_path / "a.zip")}
    assert kinds == {
        "link": "link",
        "fifo": "special",
        "device": "special",
        "file": "file",
        "dos": "file",
        "f/": "folder",
    }


def test_zip_name_with_nul_is_seen_whole(tmp_path):
    raw_zip(tmp_path / "a.zip", [("good.nii\0.exe", b"x", {})])
    assert [m.name for m in listed(tmp_path / "a.zip")] == ["good.nii\0.exe"]


def test_zip_password(tmp_path):
    pyzipper = pytest.importorskip("pyzipper")
    with pyzipper.AESZipFile(
        tmp_path / "a.zip", "w", compression=zipfile.ZIP_DEFLATED, encryption=pyzipper.WZ_AES
    ) as archive:
        archive.setpassword("pässword".encode())
        for name, data in TREE.items():
            archive.writestr(name, data)
    assert all(m.encrypted for m in listed(tmp_path / "a.zip"))
    assert contents(tmp_path / "a.zip", "pässword") == TREE
    with pytest.raises(FetchError, match="its password is wrong, or it is damaged"):
        contents(tmp_path / "a.zip", "other")


def test_zip_of_the_old_encryption(tmp_path):
    """Bytes made by Info-ZIP 3.0: `zip -P secret -X a.zip x`."""
    import shutil
    import subprocess

    if shutil.which("zip") is None:
        pytest.skip("no zip command")
    (tmp_path / "x").write_bytes(b"content" * 100)
    subprocess.run(["zip", "-q", "-X", "-P", "secret", "a.zip", "x"], cwd=tmp_path, check=True)
    assert contents(tmp_path / "a.zip", "secret") == {"x": b"content" * 100}
    with pytest.raises(FetchError, match="password is wrong"):
        contents(tmp_path / "a.zip", "other")


# --- tar


def raw_tar(path, entries, end=True):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for entry, data in entries:
            archive.addfile(entry, io.BytesIO(data))
    if not end:
        whole = path.read_bytes()
        path.write_bytes(whole[: sum(512 + -(-len(data) // 512) * 512 for _, data in entries)])
    return path


def info(name, size=0, kind=tarfile.REGTYPE, **more):
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    for key, value in more.items():
        setattr(entry, key, value)
    return entry


def test_tar_kinds(tmp_path):
    kinds = {
        "sym": (tarfile.SYMTYPE, "link"),
        "hard": (tarfile.LNKTYPE, "link"),
        "fifo": (tarfile.FIFOTYPE, "special"),
        "char": (tarfile.CHRTYPE, "special"),
        "block": (tarfile.BLKTYPE, "special"),
        "strange": (b"Z", "special"),
        "folder": (tarfile.DIRTYPE, "folder"),
        "file": (tarfile.REGTYPE, "file"),
    }
    raw_tar(tmp_path / "a.tar", [(info(name, kind=kind, linkname="x"), b"") for name, (kind, _) in kinds.items()])
    assert {m.name: m.kind for m in listed(tmp_path / "a.tar")} == {name: kind for name, (_, kind) in kinds.items()}


def test_tar_with_long_and_foreign_names(tmp_path):
    tree = {"d/" * 60 + "ü" * 90: b"long", "x" * 150: b"y"}
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
            for name, data in tree.items():
                archive.addfile(info(name, len(data)), io.BytesIO(data))
        assert contents(tmp_path / "a.tar") == tree


def test_sparse_tar(tmp_path):
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": str(2**50)}
    data = b"1\n0\n0\n".ljust(512, b"\0")
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info("x", 512, pax_headers=pax), io.BytesIO(data))
    assert [m.kind for m in listed(tmp_path / "a.tar")] == ["sparse"]


def test_tar_that_lost_its_end(tmp_path):
    entries = [(info("a", 600), b"x" * 600), (info("b", 5), b"12345")]
    assert set(contents(raw_tar(tmp_path / "whole.tar", entries))) == {"a", "b"}
    with pytest.raises(FetchError, match="no end marker"):
        contents(raw_tar(tmp_path / "cut.tar", entries, end=False))


def test_tar_with_a_damaged_header_in_the_middle_is_not_taken_for_a_shorter_one(tmp_path):
    path = raw_tar(tmp_path / "a.tar", [(info("a", 5), b"12345"), (info("b", 5), b"12345")])
    damaged = bytearray(path.read_bytes())
    damaged[1024] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(FetchError, match="no end marker"):
        contents(path)


def forged(name, size, kind):
    """A tar header whose size is stored in binary, which may be negative."""
    block = bytearray(info(name, 0, kind).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize("size", [-512, -1024, 2**40, 2**70])
def test_tar_headers_that_would_read_without_end(kind, size, tmp_path):
    (tmp_path / "a.tar").write_bytes(forged("x", size, kind) + bytes(4096))
    found = selection(packed=5000)
    with opened(tmp_path / "a.tar", "a.tar") as archive, pytest.raises(FetchError):
        archive.extract(lambda m: found.place(m) and None)


def test_tar_of_headers_about_headers(tmp_path):
    header = forged("x", 5, tarfile.GNUTYPE_LONGNAME) + b"name\0".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(header * 3000 + bytes(1024))
    with pytest.raises(FetchError, match="damaged"):
        contents(tmp_path / "a.tar")


def test_tar_that_goes_on_after_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tarred, "MAX_TAIL", 2**20)
    make_tar(tmp_path / "a.tar", {"a": b"x"})
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole + bytes(2**19)))
    assert contents(tmp_path / "a.tar.gz") == {"a": b"x"}
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole + bytes(2**24)))
    with pytest.raises(FetchError, match="goes on"):
        contents(tmp_path / "a.tar.gz")


def test_gzip_checksum_behind_the_last_member_is_verified(tmp_path):
    make_tar(tmp_path / "a.tar.gz", {"a": b"x" * 1000})
    damaged = bytearray((tmp_path / "a.tar.gz").read_bytes())
    damaged[-8] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(damaged)
    with pytest.raises(FetchError, match="damaged"):
        contents(tmp_path / "a.tar.gz")


def test_gzip_without_isal(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "isal.igzip", None)
    make_tar(tmp_path / "a.tgz", TREE)
    assert contents(tmp_path / "a.tgz") == TREE


def test_gzip_of_several_pieces_and_gzip_that_a_browser_took_off(tmp_path):
    make_tar(tmp_path / "a.tar", TREE)
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(whole[:100_000]) + gzip.compress(whole[100_000:]))
    assert contents(tmp_path / "b.tar.gz") == TREE
    (tmp_path / "c.tar.gz").write_bytes(whole)
    assert contents(tmp_path / "c.tar.gz") == TREE


def test_tar_packed_otherwise(tmp_path):
    make_tar(tmp_path / "a.tar", TREE)
    (tmp_path / "b.tar").write_bytes(bz2.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(FetchError, match="damaged"):
        contents(tmp_path / "b.tar")


# --- 7z


def test_7z_in_several_blocks_and_of_some_members(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    make_7z(tmp_path / "a.7z", {"a": b"1" * 1000, "b": b"2" * 1000, "c/d": b"3"})
    with py7zr.SevenZipFile(tmp_path / "a.7z", "a") as archive:
        archive.writestr(b"4" * 99, "e")
        archive.writestr(b"", "f")
    found = {}
    with opened(tmp_path / "a.7z", "a.7z") as archive:
        archive.extract(lambda m: Kept(m.name, found) if m.name in {"b", "e", "f"} else None)
    assert found == {"b": b"2" * 1000, "e": b"4" * 99, "f": b""}


def test_7z_kinds(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"x")
    (tmp_path / "real" / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writeall(tmp_path / "real", "real")
    assert {m.name: m.kind for m in listed(tmp_path / "a.7z")} == {
        "real": "folder",
        "real/file": "file",
        "real/link": "link",
    }


def test_7z_of_two_with_one_name(tmp_path):
    py7zr = pytest.importorskip("py7zr")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.writestr(b"1", "a")
        archive.writestr(b"2", "a")
    with pytest.raises(FetchError, match="comes twice"):
        contents(tmp_path / "a.7z")


@pytest.mark.parametrize("header", [False, True])
def test_7z_password(header, tmp_path):
    make_7z(tmp_path / "a.7z", TREE, password="secret", header_encryption=header)
    assert contents(tmp_path / "a.7z", "secret") == TREE
    with pytest.raises(FetchError, match="its password is wrong, or it is damaged"):
        contents(tmp_path / "a.7z", "other")
    if header:
        with pytest.raises(FetchError, match="a password is needed"):
            listed(tmp_path / "a.7z")
    else:
        assert all(m.encrypted == (m.size > 0) for m in listed(tmp_path / "a.7z"))


# --- what is not installed


@pytest.mark.parametrize(("name", "package"), [("a.7z", "py7zr"), ("a.zip", "pyzipper")])
def test_missing_package(name, package, tmp_path, monkeypatch):
    module = pytest.importorskip(package)
    if name == "a.7z":
        make_7z(tmp_path / name, TREE)
    else:
        with module.AESZipFile(tmp_path / name, "w", encryption=module.WZ_AES) as archive:
            archive.setpassword(b"secret")
            archive.writestr("x", b"y")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(FetchError, match=rf"{package}.*pip install 'atlas-corpus\[archives\]'"):
        contents(tmp_path / name, "secret")
