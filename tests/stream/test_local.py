"""Patches out of a folder, against what was written; and everything that can be wrong with a folder."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorstore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.corpus import layout, open_corpus
from atlas.corpus.write import remove_case
from atlas.errors import CorpusError
from atlas.stream import local, sources
from atlas.stream.local import LocalSource, Unsupported
from atlas.stream.opened import CODES, CT, DOCUMENTS, FOREGROUND, inside, parse_case
from atlas.stream.sources import FolderSource, source_of

CASE_IDS = ["one/a", "one/b", "one/c", "two/a", "two/b", "two/c", "three/a", "three/b"]
AIR, MARK = -1024, 77


def read(source, case, origin, patch):
    """CT and codes of a patch; where it lies outside of the case they keep a mark."""
    ct, codes = np.full(patch, MARK, np.int16), np.full(patch, MARK, case.codes_dtype)
    source.read(case, origin, ct, codes)
    return ct, codes


def expected(ct, codes, origin, patch):
    """The same out of whole volumes, voxel by voxel."""
    axes = [np.arange(first, first + size) for first, size in zip(origin, patch, strict=True)]
    inner = [(axis >= 0) & (axis < n) for axis, n in zip(axes, ct.shape, strict=True)]
    here = inner[0][:, None, None] & inner[1][:, None] & inner[2]
    places = np.ix_(*[np.clip(axis, 0, n - 1) for axis, n in zip(axes, ct.shape, strict=True)])
    return [np.where(here, volume[places], np.array(MARK, volume.dtype)) for volume in (ct, codes)]


def everything(source, case_id):
    case = source.open_case(case_id)
    return read(source, case, (0, 0, 0), case.shape)


def shard(folder, case_id, name=CT, place="0/0/0"):
    return folder / layout.case_path(case_id) / name / "c" / place


def edit(path, change):
    """Change a JSON document."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def volumes(corpus, truth):
    """CT and codes of each case as zarr-python reads them; the CT is what was written."""
    found = {case_id: (truth[case_id][0], corpus[case_id].codes[...]) for case_id in CASE_IDS}
    for case_id, (ct, _) in found.items():
        np.testing.assert_array_equal(corpus[case_id].ct[...], ct)
    return found


@pytest.fixture(scope="module")
def source(corpus_folder):
    return LocalSource(str(corpus_folder))


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_a_case_is_what_zarr_python_reads(source, corpus, volumes, taxonomy, case_id):
    case, known = source.open_case(case_id), corpus[case_id]
    assert case.case_id == case_id
    assert case.shape == known.ct.shape
    assert case.codes_dtype == known.codes.dtype
    np.testing.assert_array_equal(case.affine, known.affine)
    words = [[sum(int(w) << 32 * k for k, w in enumerate(mask)) for mask in pair] for pair in case.table]
    assert words == [list(pair) for pair in zip(known.table, known.unknown_table, strict=True)]
    available = sum(int(w) << 32 * k for k, w in enumerate(case.available))
    assert frozenset(taxonomy.members(available)) == known.available
    assert {n: case.voxels[a:b].tolist() for n, (a, b) in case.spans.items()} == {
        n: v.tolist() for n, v in known.foreground.items()
    }
    for found, stored in zip(read(source, case, (0, 0, 0), case.shape), volumes[case_id], strict=True):
        np.testing.assert_array_equal(found, stored)
        assert found.dtype == stored.dtype


@given(data=st.data(), case_id=st.sampled_from(CASE_IDS))
@settings(max_examples=150)
def test_any_patch(source, corpus, volumes, truth, taxonomy, data, case_id):
    case = source.open_case(case_id)
    patch = data.draw(st.tuples(*[st.integers(1, 70)] * 3))
    origin = tuple(data.draw(st.integers(-p - 2, n + 2)) for p, n in zip(patch, case.shape, strict=True))
    ct, codes = read(source, case, origin, patch)
    for found, right in zip((ct, codes), expected(*volumes[case_id], origin, patch), strict=True):
        np.testing.assert_array_equal(found, right)
    # and the codes stand for the masks that were written
    _, masks, unknown = truth[case_id]
    volume, within = inside(case.shape, origin, patch)
    for name in masks:
        word, bit = divmod(taxonomy.bit(name), 32)
        for which, masks_of in ((1, unknown), (0, masks)):
            told = (case.table[:, which, word] >> bit & 1).astype(bool)[codes[within]]
            right = masks_of[name][volume]
            known = np.zeros_like(right) if which else unknown[name][volume]
            np.testing.assert_array_equal(told[~known], right[~known])


@pytest.mark.parametrize("case_id", ["two/a", "two/b", "one/b"])
@pytest.mark.parametrize("patch", [(160, 160, 160), (64, 64, 64), (1, 1, 1), (3, 200, 5)])
def test_patches_larger_than_shards_and_volumes(source, volumes, case_id, patch):
    case = source.open_case(case_id)
    for origin in ((-9, -13, -11), (0, 0, 0), tuple(n - 1 for n in case.shape), tuple(n // 2 for n in case.shape)):
        for found, right in zip(
            read(source, case, origin, patch), expected(*volumes[case_id], origin, patch), strict=True
        ):
            np.testing.assert_array_equal(found, right)


def test_a_patch_beside_the_volume_stays_as_it_is(source):
    case = source.open_case("one/a")
    for origin in ((40, 0, 0), (-8, 0, 0), (0, 0, 10**6), (-(10**6), -(10**6), 0)):
        ct, codes = read(source, case, origin, (8, 8, 8))
        assert (ct == MARK).all()
        assert (codes == MARK).all()


def test_every_voxel_of_the_lists_is_where_it_should_be(source, truth):
    for case_id in CASE_IDS:
        case = source.open_case(case_id)
        for name in case.spans:
            for fraction in (0.0, 0.5, 0.999999):
                z, y, x = case.target(name, fraction)
                assert truth[case_id][1][name][z, y, x]
    with pytest.raises(CorpusError, match=r"two/c: the catalog says that liver is present.*rebuild-catalog"):
        source.open_case("two/c").target("liver", 0.5)


def test_a_fork_may_read_on(corpus_folder):
    """Nothing is open and no thread runs, so a process may be forked after reading."""
    script = """
        import os, sys
        import numpy as np
        from atlas.stream.local import LocalSource

        source = LocalSource(sys.argv[1])

        def patch():
            case = source.open_case("two/a")
            ct, codes = np.zeros((80, 80, 60), np.int16), np.zeros((80, 80, 60), np.uint8)
            source.read(case, (5, 6, 7), ct, codes)
            return ct.tobytes() + codes.tobytes()

        before = patch()
        child = os.fork()
        if not child:
            os._exit(0 if patch() == before and len(set(before)) > 100 else 1)
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0
        assert patch() == before
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), str(corpus_folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", [LocalSource, FolderSource])
def test_a_source_travels_to_another_process(corpus_folder, volumes, kind):
    source = kind(str(corpus_folder))
    everything(source, "one/a")
    sent = pickle.dumps(source)
    assert len(sent) < 500  # the way to the corpus, not what was read of it
    case = source.open_case("one/a")
    other, other_case = pickle.loads(sent), pickle.loads(pickle.dumps(case))
    for ct, codes in (everything(other, "one/a"), read(pickle.loads(sent), other_case, (0, 0, 0), case.shape)):
        np.testing.assert_array_equal(ct, volumes["one/a"][0])
        np.testing.assert_array_equal(codes, volumes["one/a"][1])


@pytest.mark.parametrize("kind", [LocalSource, FolderSource])
def test_eight_threads(corpus_folder, volumes, kind):
    source = kind(str(corpus_folder))

    def work(number):
        rng = np.random.default_rng(number)
        for _ in range(25):
            case = source.open_case(CASE_IDS[rng.integers(len(CASE_IDS))])
            patch = tuple(rng.integers(1, 60, 3).tolist())
            origin = tuple(int(rng.integers(-10, n)) for n in case.shape)
            found = read(source, case, origin, patch)
            for one, right in zip(found, expected(*volumes[case.case_id], origin, patch), strict=True):
                np.testing.assert_array_equal(one, right)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_no_file_is_left_open(own_folder):
    source = LocalSource(str(own_folder))
    everything(source, "two/a")
    before = descriptors()
    for case_id in CASE_IDS:
        everything(source, case_id)
    broken = shard(own_folder, "one/a")
    broken.write_bytes(broken.read_bytes()[:-1])
    shard(own_folder, "one/b", FOREGROUND, "0/0").unlink()
    for case_id in ("one/a", "one/b", "no/such"):
        for kind in (source, LocalSource(str(own_folder))):
            try:
                everything(kind, case_id)
            except CorpusError:
                continue
    assert descriptors() == before


def test_a_few_cases_are_kept_and_the_others_opened_again(corpus_folder, volumes, monkeypatch):
    monkeypatch.setattr(local, "KEPT", 12_000)
    source = LocalSource(str(corpus_folder))
    cases = [source.open_case(case_id) for case_id in CASE_IDS]
    assert len(source._cases) < len(CASE_IDS)
    for case in cases:  # opened long ago, and not kept any more
        np.testing.assert_array_equal(read(source, case, (0, 0, 0), case.shape)[0], volumes[case.case_id][0])


# --- what a folder may be like ---


@pytest.mark.parametrize("kind", [LocalSource, FolderSource])
def test_a_case_that_never_was(corpus_folder, kind):
    with pytest.raises(CorpusError, match=r"no/such cannot be read \(No such file.*atlas verify CORPUS"):
        kind(str(corpus_folder)).open_case("no/such")


@pytest.mark.parametrize("case_id", ["../cases/one/a", "one", "one/a/ct", "one/../one/a", "../x", "", "/", "one/.."])
def test_what_is_no_case_id(corpus_folder, case_id):
    with pytest.raises(CorpusError):
        LocalSource(str(corpus_folder)).open_case(case_id)


def test_a_case_removed_before_it_is_opened(own_folder):
    remove_case(own_folder, "one/a")
    with pytest.raises(CorpusError, match=r"one/a cannot be read.*rebuild-catalog"):
        FolderSource(str(own_folder)).open_case("one/a")


@pytest.mark.parametrize("already", [None, (0, 0, 0), (64, 0, 0)], ids=["opened", "read", "read elsewhere"])
def test_a_case_removed_after_it_was_opened(own_folder, already):
    source = FolderSource(str(own_folder))
    case = source.open_case("two/a")
    if already:
        read(source, case, already, (10, 10, 10))
    remove_case(own_folder, "two/a")
    with pytest.raises(CorpusError, match=r"two/a cannot be read.*rebuild-catalog"):
        read(source, case, (0, 0, 0), (10, 10, 10))


def built_again(folder, case_id, *, shift=0, shape=None):
    """Another case under the same id: other voxels, the same or another shape, and the same table of codes."""
    place = folder / layout.case_path(case_id)
    partial = folder / ".partial/x"
    shutil.copytree(place, partial)
    documents = {name: json.loads((partial / name / "zarr.json").read_text()) for name in (CT, CODES)}
    for name, document in documents.items():
        old = tensorstore.open(spec_of(place / name)).result().read().result()
        document["shape"] = list(shape or old.shape)
        shutil.rmtree(partial / name)
        (partial / name).mkdir(parents=True)
        (partial / name / "zarr.json").write_text(json.dumps(document))
        new = np.resize(np.roll(old, 5, axis=1) + np.array(shift if name == CT else 0, old.dtype), document["shape"])
        tensorstore.open(spec_of(partial / name)).result().write(new).result()
    edit(partial / "zarr.json", lambda d: d["attributes"]["atlas"].update(shape=documents[CT]["shape"]))
    remove_case(folder, case_id)
    partial.rename(place)


def spec_of(path):
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}


@pytest.mark.parametrize("already", [None, (0, 0, 0), (64, 0, 0)], ids=["opened", "read", "read elsewhere"])
def test_a_case_built_again_after_it_was_opened(own_folder, already):
    source = FolderSource(str(own_folder))
    case = source.open_case("two/a")
    if already:
        read(source, case, already, (10, 10, 10))
    built_again(own_folder, "two/a", shift=3)
    with pytest.raises(CorpusError, match=r"two/a was built again while it was read; start again"):
        read(source, case, (0, 0, 0), (100, 10, 10))
    # whoever opens it anew gets the new one, whole
    new = open_corpus(own_folder)["two/a"]
    for found, right in zip(everything(source, "two/a"), (new.ct[...], new.codes[...]), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("shape", [(120, 96, 70), (160, 100, 70)])
def test_an_old_case_is_not_read_out_of_a_new_one(own_folder, shape):
    """Also where another thread has opened the new one already, or the old one is not kept any more."""
    source = FolderSource(str(own_folder))
    case = source.open_case("two/a")
    built_again(own_folder, "two/a", shape=shape)
    source._local._cases.forget("two/a")
    assert source.open_case("two/a").shape == shape
    with pytest.raises(CorpusError, match="built again"):
        read(source, case, (0, 0, 0), (10, 10, 10))


def test_a_case_built_again_between_its_ct_and_its_codes(own_folder, monkeypatch):
    source = LocalSource(str(own_folder))
    case = source.open_case("two/a")
    before = LocalSource._read_array

    def read_array(self, opened, name, volume, target):
        if name == CODES:
            built_again(own_folder, "two/a", shift=3)
        before(self, opened, name, volume, target)

    monkeypatch.setattr(LocalSource, "_read_array", read_array)
    with pytest.raises(CorpusError, match="built again"):
        read(source, case, (0, 0, 0), (10, 10, 10))


def test_a_shard_that_was_never_written_has_the_fill_value(own_folder, volumes):
    """tensorstore writes none where everything has that value."""
    assert not shard(own_folder, "two/c", CODES).exists()
    source = LocalSource(str(own_folder))
    assert not everything(source, "two/c")[1].any()
    shard(own_folder, "two/a", CT, "1/0/0").unlink()
    right = volumes["two/a"][0].copy()
    right[64:128, :64, :64] = AIR
    ct, codes = everything(source, "two/a")
    np.testing.assert_array_equal(ct, right)
    np.testing.assert_array_equal(codes, volumes["two/a"][1])


@pytest.mark.parametrize("left", [0, 3, 100, 0.5, -1])
@pytest.mark.parametrize("name", [CT, CODES])
def test_a_truncated_shard(own_folder, name, left):
    path = shard(own_folder, "three/a", name)
    stored = path.read_bytes()
    path.write_bytes(stored[: int(len(stored) * left) if isinstance(left, float) else left])
    source = LocalSource(str(own_folder))
    with pytest.raises(CorpusError, match=rf"{name}/c/0/0/0: damaged.*`atlas verify`, and build three/a again"):
        everything(source, "three/a")


def test_a_shard_truncated_while_it_is_read(own_folder):
    source = LocalSource(str(own_folder))
    everything(source, "three/a")
    path = shard(own_folder, "three/a")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorpusError, match="three/a"):
        everything(source, "three/a")


@pytest.mark.parametrize("back", [1, 4, 5, 12, 20, 100])
def test_a_damaged_index(own_folder, back):
    path = shard(own_folder, "one/a")
    stored = bytearray(path.read_bytes())
    stored[-back] ^= 4
    path.write_bytes(stored)
    with pytest.raises(CorpusError, match=r"ct/c/0/0/0: damaged"):
        everything(LocalSource(str(own_folder)), "one/a")


def test_changed_bytes_of_chunks(own_folder, volumes):
    """They are noticed, or voxels are others; nothing else happens."""
    rng = np.random.default_rng(0)
    path = shard(own_folder, "one/a")
    stored = path.read_bytes()
    refused = 0
    for step in range(150):
        changed = bytearray(stored)
        places = rng.integers(0, 60 if step % 2 else len(stored) - 200, rng.integers(1, 4))
        for place in places:
            changed[place] = rng.integers(256)
        path.write_bytes(changed)
        try:
            ct, codes = everything(LocalSource(str(own_folder)), "one/a")
        except CorpusError as error:
            assert "one/a" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert ct.shape == (40, 50, 70)
            np.testing.assert_array_equal(codes, volumes["one/a"][1])
    assert refused > 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(own_folder):
    path = shard(own_folder, "one/a")
    path.chmod(0)
    with pytest.raises(CorpusError, match=r"one/a cannot be read \(Permission denied"):
        everything(LocalSource(str(own_folder)), "one/a")


@pytest.mark.parametrize("name", [CT, CODES])
def test_a_folder_where_a_shard_should_be(own_folder, name):
    path = shard(own_folder, "one/a", name)
    path.unlink()
    path.mkdir()
    with pytest.raises(CorpusError, match=r"one/a cannot be read \(Is a directory"):
        everything(LocalSource(str(own_folder)), "one/a")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_that_are_none(own_folder, name):
    path = own_folder / layout.case_path("one/a") / name
    for content in (b"", b"{", b"null", b"[]", b"\xff\xfe", b"7", b'"x"', b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match="one/a"):
            FolderSource(str(own_folder)).open_case("one/a")
    path.unlink()
    with pytest.raises(CorpusError, match="one/a"):
        FolderSource(str(own_folder)).open_case("one/a")


# --- the list of voxels ---


@pytest.mark.parametrize(
    "change", [lambda s: s[:-5], lambda s: s[:10], lambda s: b"", lambda s: s[:2] + b"\x90" + s[3:]]
)
def test_a_damaged_list_of_voxels(own_folder, change):
    path = shard(own_folder, "one/a", FOREGROUND, "0/0")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CorpusError, match=r"foreground/c/0/0: damaged.*one/a"):
        FolderSource(str(own_folder)).open_case("one/a")


def test_a_list_of_voxels_that_is_missing(own_folder):
    shard(own_folder, "one/a", FOREGROUND, "0/0").unlink()
    with pytest.raises(CorpusError, match="one/a"):
        FolderSource(str(own_folder)).open_case("one/a")


@pytest.mark.parametrize("voxel", [(40, 0, 0), (0, 50, 0), (0, 0, 70), (65_535, 65_535, 65_535)])
def test_a_listed_voxel_outside_of_the_volume(own_folder, voxel):
    path = own_folder / layout.case_path("one/a") / FOREGROUND
    store = tensorstore.open(spec_of(path)).result()
    voxels = store.read().result()
    voxels[-1] = voxel
    store.write(voxels).result()
    with pytest.raises(CorpusError, match="one/a"):
        FolderSource(str(own_folder)).open_case("one/a")


@pytest.mark.parametrize("count", [10**5, 10**9, 10**13, -1, "5", 2.5, None])
def test_a_list_that_says_it_is_long(own_folder, count):
    def change(document):
        document["shape"][0] = count
        document["chunk_grid"]["configuration"]["chunk_shape"][0] = count

    edit(own_folder / layout.case_path("one/a") / FOREGROUND / "zarr.json", change)
    with pytest.raises(CorpusError, match="one/a"):
        FolderSource(str(own_folder)).open_case("one/a")


# --- documents ---

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, 10**30, -(10**30), 0.5, 1e300, float("nan"), float("inf")]),
    st.sampled_from(["", "0x", "0x1", "ff", "-0x1", "0xg", "int16", "uint8", "uint16", "float32", "a/b", "1"]),
    st.lists(st.integers(-1, 70), max_size=4),
    st.just({}),
    st.just([[1, 2], [3]]),
    st.just({"name": "bytes"}),
)


def places(document, path=()):
    """Ways to every value of a document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


READ = {
    "zarr.json": ("shape", "affine", "available"),
    "labels/masks/zarr.json": ("bitmasks", "unknown"),
    "ct/zarr.json": (),
    "labels/masks/0/zarr.json": (),
    "foreground/zarr.json": (),
}


@pytest.fixture(scope="module")
def documents(corpus_folder):
    folder = corpus_folder / layout.case_path("one/a")
    return {name: json.loads((folder / name).read_text()) for name in DOCUMENTS}


def looked_at(name, path):
    """Whether a way leads to something that is read."""
    wanted = READ[name]
    if not wanted:
        return True
    return len(path) < 3 or (path[:2] == ("attributes", "atlas") and path[2] in wanted)


@st.composite
def mutated(draw, documents):
    result = copy.deepcopy(documents)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(DOCUMENTS))
        ways = [path for path in places(result[name]) if looked_at(name, path)]
        if not ways:
            continue
        *way, last = draw(st.sampled_from(ways))
        parent = result[name]
        for key in way:
            parent = parent[key]
        kind = draw(st.sampled_from(["set", "set", "remove", "empty"]))
        if kind == "remove":
            del parent[last]
        else:
            parent[last] = draw(VALUES) if kind == "set" else type(parent[last])()
    return result


@given(data=st.data())
@settings(max_examples=400)
def test_documents_may_say_anything(documents, data):
    changed = data.draw(mutated(documents))
    try:
        case = parse_case("one/a", {name: json.dumps(value).encode() for name, value in changed.items()})
    except CorpusError as error:
        assert "one/a" in str(error)  # noqa: PT017
        return
    assert all(type(n) is int and n > 0 for n in case.shape)
    assert case.affine.shape == (4, 4)
    assert case.table.shape == (len(case.table), 2, len(case.available))
    assert case.table.dtype == case.available.dtype == np.uint32
    assert case.codes_dtype in [np.uint8, np.uint16]
    for first, last in case.spans.values():
        assert 0 <= first <= last <= changed["foreground/zarr.json"]["shape"][0]
    masks = changed["labels/masks/zarr.json"]["attributes"]["atlas"]
    for pair, texts in zip(case.table, zip(masks["bitmasks"], masks["unknown"], strict=True), strict=True):
        assert [sum(int(w) << 32 * k for k, w in enumerate(m)) for m in pair] == [int(t, 16) for t in texts]


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_case_whose_documents_say_anything(documents, own_folder, data):
    """Whatever they say, the case opens and can be read, or the error is one of the corpus's."""
    for name, value in data.draw(mutated(documents)).items():
        (own_folder / layout.case_path("one/a") / name).write_text(json.dumps(value))
    source = LocalSource(str(own_folder))
    try:
        case = source.open_case("one/a")
        read(source, case, (-2, -2, -2), (9, 9, 9))
        read(source, case, (10, 10, 10), (9, 9, 9))
    except (CorpusError, Unsupported):
        pass


# --- other codecs ---


def stored_otherwise(folder, case_id, codec, names=(CT, CODES)):
    """The same case with another codec."""
    for name in names:
        path = folder / layout.case_path(case_id) / name
        values = tensorstore.open(spec_of(path)).result().read().result()

        def change(document):
            document["codecs"][0]["configuration"]["codecs"][1] = codec

        edit(path / "zarr.json", change)
        shutil.rmtree(path / "c")
        tensorstore.open(spec_of(path)).result().write(values).result()


ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
BIT_SHUFFLE = {
    "name": "blosc",
    "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 2, "blocksize": 0},
}


@pytest.mark.parametrize(("codec", "names"), [(ZSTD, (CT, CODES)), (ZSTD, (CODES,)), (BIT_SHUFFLE, (CT,))])
def test_other_codecs_are_read_by_tensorstore(own_folder, volumes, codec, names):
    stored_otherwise(own_folder, "two/a", codec, names)
    with pytest.raises(Unsupported):
        LocalSource(str(own_folder)).open_case("two/a")
    source = FolderSource(str(own_folder))
    case = source.open_case("two/a")
    assert source.open_case("two/a") is not None
    for origin in ((-5, 3, 9), (40, 50, 20)):
        for found, right in zip(
            read(source, case, origin, (60, 60, 60)),
            expected(*volumes["two/a"], origin, (60, 60, 60)),
            strict=True,
        ):
            np.testing.assert_array_equal(found, right)
    for name in ("one/a", "two/b"):  # and its neighbours as ever
        np.testing.assert_array_equal(everything(source, name)[0], volumes[name][0])
    assert set(source._others) == {"two/a"}


def test_other_codecs_in_another_process(own_folder, volumes):
    """Where the case arrives opened, and the source does not know it yet."""
    stored_otherwise(own_folder, "one/a", ZSTD)
    source = FolderSource(str(own_folder))
    case = source.open_case("one/a")
    other = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(read(other, case, (0, 0, 0), case.shape)[0], volumes["one/a"][0])


def test_eight_threads_meet_other_codecs(own_folder, volumes):
    for case_id in ("one/a", "one/b", "one/c"):
        stored_otherwise(own_folder, case_id, ZSTD)
    source = FolderSource(str(own_folder))

    def work(number):
        case_id = CASE_IDS[number % 4]
        return np.array_equal(everything(source, case_id)[0], volumes[case_id][0])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_which_source_reads_a_corpus(corpus_folder, monkeypatch):
    assert isinstance(source_of(str(corpus_folder)), FolderSource)
    assert sources.source_of("https://127.0.0.1/x.zarr").location == "https://127.0.0.1/x.zarr"
