"""Patches through tensorstore: of the right voxels wherever the corpus lies, and a clear end where a store fails."""

import importlib.util
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

import atlas
from atlas.errors import CorpusError
from atlas.stream import address
from atlas.stream.address import address_of
from atlas.stream.opened import CODES, CT
from atlas.stream.remote import TensorStoreSource
from atlas.stream.stored import blank

_spec = importlib.util.spec_from_file_location("faulty_server", Path(__file__).with_name("faulty_server.py"))
faulty_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(faulty_server)
FaultyServer = faulty_server.FaultyServer

os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")  # read once in a process, at its first request

CASES = ["one/a", "one/b", "one/c", "two/a", "two/b", "two/c", "three/a", "three/b"]
BUCKET = "bucket"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    """No settings of the person who runs the tests."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "FSSPEC_", "GOOGLE_", "STORAGE_", "TENSORSTORE_GCS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    before = set(os.environ)
    yield
    for name in set(os.environ) - before:  # what a source has set
        del os.environ[name]


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(scope="module")
def expected(corpus_folder, truth):
    """Case id -> (ct as it was drawn, codes as the format's own library reads them)."""
    corpus = atlas.open(corpus_folder)
    return {case_id: (truth[case_id][0], corpus[case_id].codes[...]) for case_id in CASES}


@pytest.fixture
def serve(tmp_path):
    """Serve the folder in which a corpus lies as a bucket."""
    servers = []

    def start(folder):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / BUCKET).symlink_to(folder.parent)
        servers.append(FaultyServer(tmp_path / "site"))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def bucket(serve, own_folder, keys, monkeypatch):
    """A corpus that a test may damage, in a bucket that may fail: (server, source of patches, folder)."""
    monkeypatch.setattr(address, "RETRIES", {"max_retries": 3, "initial_delay": "50ms", "max_delay": "100ms"})
    server = serve(own_folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return server, TensorStoreSource(f"s3://{BUCKET}/own.zarr"), own_folder


def crop(volume, origin, patch, fill):
    """Patch by padding the whole volume."""
    result = np.full(patch, fill, volume.dtype)
    for place in itertools.product(*(range(o, o + p) for o, p in zip(origin, patch, strict=True))):
        if all(0 <= k < n for k, n in zip(place, volume.shape, strict=True)):
            result[tuple(k - o for k, o in zip(place, origin, strict=True))] = volume[place]
    return result


def padded(volume, origin, patch, fill):
    """The same for large patches."""
    around = [(max(-o, 0), max(o + p - n, 0)) for o, p, n in zip(origin, patch, volume.shape, strict=True)]
    larger = np.pad(volume, around, constant_values=fill)
    return larger[tuple(slice(o + a, o + a + p) for o, p, (a, _) in zip(origin, patch, around, strict=True))]


def read(source, case_id, origin=(0, 0, 0), patch=None, case=None):
    case = case or source.open_case(case_id)
    patch = patch or case.shape
    ct, codes = np.full(patch, -999, np.int16), np.full(patch, 77, case.codes_dtype)
    source.read(case, origin, ct, codes)
    return ct, codes


def check(source, expected, case_id, **where):
    for found, right in zip(read(source, case_id, **where), expected[case_id], strict=True):
        np.testing.assert_array_equal(found, right)


def remove(folder, case_id, *paths):
    for path in paths or [""]:
        shutil.rmtree(folder / "cases" / case_id / path)


# where a corpus may lie


@pytest.mark.parametrize(
    ("scheme", "trailing"), [("folder", "/"), ("http", ""), ("http", "/"), ("s3", "/"), ("gs", "")]
)
def test_reads_every_case_wherever_it_lies(scheme, trailing, serve, corpus_folder, corpus, expected, keys, monkeypatch):
    server = serve(corpus_folder)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
    location = {
        "folder": str(corpus_folder),
        "http": f"{server.url}/{BUCKET}/toy.zarr",
        "s3": f"s3://{BUCKET}/toy.zarr",
        "gs": f"gs://{BUCKET}/toy.zarr",
    }[scheme]
    source = TensorStoreSource(location + trailing)
    for case_id in CASES:
        case = source.open_case(case_id)
        assert case.case_id == case_id
        assert case.codes_dtype == (np.uint16 if case_id == "two/b" else np.uint8)
        wanted = corpus[case_id].foreground
        assert list(case.spans) == list(wanted)
        for name, (first, last) in case.spans.items():
            np.testing.assert_array_equal(case.voxels[first:last], wanted[name])
        check(source, expected, case_id, case=case)
    assert bool(server.asked) == (scheme != "folder")


@pytest.fixture(scope="module")
def moto(corpus_folder):
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="me", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="corpora", ACL="public-read")
    for path in corpus_folder.rglob("*"):
        if path.is_file():
            client.put_object(
                Bucket="corpora",
                Key=f"of/toy.zarr/{path.relative_to(corpus_folder)}",
                Body=path.read_bytes(),
                ACL="public-read",
            )
    yield url
    server.stop()


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_s3_with_the_variables_that_atlas_open_reads(variable, moto, keys, expected, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv(variable, moto)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    corpus = atlas.open("s3://corpora/of/toy.zarr")
    assert sorted(corpus.cases["case_id"]) == sorted(CASES)
    source = TensorStoreSource(corpus.location)
    for case_id in CASES:
        check(source, expected, case_id)


def test_public_buckets_need_no_credentials(moto, expected, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    check(TensorStoreSource("s3://corpora/of/toy.zarr"), expected, "one/a")


def test_a_case_deleted_from_s3_during_a_run(moto, keys, expected, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    source = TensorStoreSource("s3://corpora/of/toy.zarr")
    case = source.open_case("three/a")
    read(source, "three/a", (0, 0, 0), (32, 32, 32), case)
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    found = client.list_objects_v2(Bucket="corpora", Prefix="of/toy.zarr/cases/three/a/")["Contents"]
    kept = {o["Key"]: client.get_object(Bucket="corpora", Key=o["Key"])["Body"].read() for o in found}
    try:
        for key in kept:
            client.delete_object(Bucket="corpora", Key=key)
        with pytest.raises(CorpusError, match=r"s3://corpora/of/toy.zarr: three/a is not there.*rebuild-catalog"):
            read(source, "three/a", (32, 32, 32), (32, 32, 32), case)
    finally:
        for key, content in kept.items():
            client.put_object(Bucket="corpora", Key=key, Body=content, ACL="public-read")


KEYS = {"AWS_ACCESS_KEY_ID": "me"}
ELSEWHERE = {"endpoint": "http://elsewhere:9000", "aws_region": "q"}


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, {}),
        ({"AWS_REGION": "eu-west-1"}, {}),  # Amazon says where a bucket is
        ({"AWS_ENDPOINT_URL": "http://elsewhere:9000"}, ELSEWHERE),
        ({"AWS_ENDPOINT_URL": "http://elsewhere:9000/"}, ELSEWHERE),
        ({"AWS_ENDPOINT_URL": "http://any", "AWS_ENDPOINT_URL_S3": "http://elsewhere:9000"}, ELSEWHERE),
        ({"AWS_ENDPOINT_URL": "http://any", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, {}),
        ({"AWS_ENDPOINT_URL": "http://any", "AWS_REGION": "x"}, {"endpoint": "http://any", "aws_region": "x"}),
        ({"AWS_ENDPOINT_URL": "http://any", "AWS_DEFAULT_REGION": "y"}, {"endpoint": "http://any", "aws_region": "y"}),
        ({"AWS_PROFILE": "mine"}, {"endpoint": "http://of.profile", "aws_region": "z"}),
        ({"AWS_PROFILE": "mine", "AWS_ENDPOINT_URL": "http://any"}, {"endpoint": "http://any", "aws_region": "z"}),
        ({"AWS_PROFILE": "unknown"}, {}),
        (
            {"AWS_CONFIG_FILE": "/nowhere", "AWS_ENDPOINT_URL": "http://a"},
            {"endpoint": "http://a", "aws_region": "us-east-1"},
        ),
    ],
)
def test_endpoint_of_s3(environ, endpoint, tmp_path):
    config = tmp_path / "config"
    config.write_text("[default]\nregion = q\n[profile mine]\nendpoint_url = http://of.profile\nregion = z\n")
    found = address_of("s3://b/c/d", {"AWS_CONFIG_FILE": str(config), **environ})
    assert found.kvstore == {"driver": "s3", "bucket": "b", "path": "c/d/", **endpoint}


@pytest.mark.parametrize(
    ("environ", "credentials"),
    [
        (KEYS | {"AWS_PROFILE": "mine"}, {"type": "environment"}),  # as botocore orders them
        ({"AWS_PROFILE": "mine"}, {"type": "default", "profile": "mine"}),
        ({"FSSPEC_S3_ANON": "true"}, {"type": "anonymous"}),
        ({}, {"type": "default"}),
    ],
)
def test_credentials_of_s3(environ, credentials):
    found = address_of("s3://b/c", {"AWS_CONFIG_FILE": "/nowhere", **environ})
    assert found.context["aws_credentials"] == credentials
    ts.Context(found.context)  # tensorstore knows these words


def test_credentials_of_a_profile_sign_the_requests(serve, corpus_folder, expected, tmp_path, monkeypatch):
    server = serve(corpus_folder)
    (tmp_path / "config").write_text(f"[profile mine]\nendpoint_url = {server.url}\nregion = z\n")
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = MYKEY\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    check(TensorStoreSource(f"s3://{BUCKET}/toy.zarr"), expected, "one/c")
    assert server.signed_by() == {"MYKEY"}


@pytest.mark.parametrize("location", ["ftp://host/corpus", "s3://", "gs:///corpus", "memory://corpus"])
def test_says_where_a_corpus_may_lie(location):
    with pytest.raises(CorpusError, match=r"a folder, s3://bucket/\.\.\., gs://bucket/\.\.\., https:// or http://"):
        address_of(location, {})


@pytest.mark.parametrize("host", ["localhost:4443", "http://localhost:4443/"])
def test_emulator_of_google(host):
    assert address_of("gs://b/c", {"STORAGE_EMULATOR_HOST": host}).environment["TENSORSTORE_GCS_HTTP_URL"] == (
        "http://localhost:4443"
    )


def test_stalled_transfers_are_given_up_unless_a_person_says_otherwise(serve, corpus_folder, monkeypatch):
    monkeypatch.setenv("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", "99")
    monkeypatch.delenv("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", raising=False)
    TensorStoreSource(f"{serve(corpus_folder).url}/{BUCKET}/toy.zarr").open_case("one/c")
    assert os.environ["TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS"] == "99"
    assert os.environ["TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES"] == "1024"


# what is read


@pytest.fixture(scope="module")
def sources(corpus_folder, tmp_path_factory):
    """The same corpus in a folder and on a server."""
    root = tmp_path_factory.mktemp("site")
    (root / BUCKET).symlink_to(corpus_folder.parent)
    server = FaultyServer(root)
    yield [TensorStoreSource(str(corpus_folder)), TensorStoreSource(f"{server.url}/{BUCKET}/toy.zarr")]
    server.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_patches_are_crops_of_the_volume(data, sources, expected):
    source = data.draw(st.sampled_from(sources))
    case_id = data.draw(st.sampled_from(CASES))
    shape = expected[case_id][0].shape
    patch = data.draw(st.tuples(*[st.integers(1, 100)] * 3))
    origin = tuple(data.draw(st.integers(-p - 5, n + 5)) for p, n in zip(patch, shape, strict=True))
    ct, codes = read(source, case_id, origin, patch)
    np.testing.assert_array_equal(ct, padded(expected[case_id][0], origin, patch, -999))
    np.testing.assert_array_equal(codes, padded(expected[case_id][1], origin, patch, 77))


def test_the_crop_of_these_tests_is_right(expected):
    volume = expected["one/c"][0]
    for origin in [(-3, 5, 60), (2, -4, -2), (19, 32, 64)]:
        np.testing.assert_array_equal(padded(volume, origin, (4, 9, 7), 5), crop(volume, origin, (4, 9, 7), 5))


def test_threads_share_a_source(sources, expected):
    with ThreadPoolExecutor(8) as pool:
        for source in sources:
            list(pool.map(lambda case_id, source=source: check(source, expected, case_id), CASES * 3))


def test_buffers_may_be_parts_of_a_batch(sources, expected):
    ct, codes = np.zeros((2, 40, 50, 70), np.int16), np.zeros((2, 40, 50, 70), np.uint8)
    case = sources[0].open_case("one/a")
    sources[0].read(case, (0, 0, 0), ct[1], codes[1])
    np.testing.assert_array_equal(ct[1], expected["one/a"][0])
    assert not ct[0].any()
    with pytest.raises(TypeError):
        sources[0].read(case, (0, 0, 0), ct[1], np.zeros((40, 50, 70), np.int8))


def test_codecs_and_names_that_the_writer_does_not_use(own_folder, expected):
    for name, right in zip((CT, CODES), expected["two/a"], strict=True):
        shutil.rmtree(own_folder / "cases/two/a" / name)
        metadata = {
            "shape": right.shape,
            "data_type": right.dtype.name,
            "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [30, 50, 40]}},
            "chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}},
            "codecs": [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, "bytes", "gzip"],
        }
        kvstore = {"driver": "file", "path": f"{own_folder}/cases/two/a/{name}/"}
        store = ts.open({"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}, create=True).result()
        store.write(right).result()
    check(TensorStoreSource(str(own_folder)), expected, "two/a")
    (own_folder / "cases/two/a" / CODES / "2.1.0").unlink()  # of the spleen
    with pytest.raises(CorpusError, match=r"two/a is not complete, labels/masks/0/2\.1\.0 is missing"):
        read(TensorStoreSource(str(own_folder)), "two/a", (75, 55, 0), (10, 20, 30))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cells_with_nothing_in_them(data):
    corner = data.draw(st.lists(st.integers(0, 9), min_size=3, max_size=3))
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    grid = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    values = data.draw(st.sampled_from([np.zeros(shape, int), np.full(shape, 3)]))
    for place in data.draw(st.lists(st.tuples(*(st.integers(0, n - 1) for n in shape)), max_size=4)):
        values[place] = 7
    cells = {}
    for place in np.ndindex(shape):
        cell = tuple((k + c) // g for k, c, g in zip(place, corner, grid, strict=True))
        cells.setdefault(cell, set()).add(int(values[place]))
    found = list(blank(values, corner, grid, 0))
    assert len(found) == len(set(found))
    assert set(found) == {cell for cell, seen in cells.items() if seen == {0}}


# how often the store is asked


def test_an_index_is_asked_for_once(bucket):
    server, source, _ = bucket
    case = source.open_case("three/a")
    assert len(server.asked) == 6, "five documents and the list of voxels"
    server.asked.clear()
    for origin in [(0, 0, 0), (32, 32, 32), (0, 32, 0), (2, 3, 4)]:
        read(source, "three/a", origin, (30, 30, 30), case)
    indices = [path for _, path, part in server.asked if part and part.startswith("bytes=-")]
    assert sorted(indices) == [f"/{BUCKET}/own.zarr/cases/three/a/{name}/c/0/0/0" for name in (CT, CODES)]
    read(source, "three/a", (0, 0, 0), (30, 30, 30), case)
    asked = len(server.asked)
    read(source, "three/a", (0, 0, 0), (30, 30, 30), case)
    assert len(server.asked) <= asked + 1, "all but whether the shard is still there came out of the memory"


def test_a_shard_without_classes_is_no_error_and_is_looked_for_once(bucket, expected):
    server, source, folder = bucket
    assert not (folder / "cases/two/a" / CODES / "c/0/0/1").exists()
    case = source.open_case("two/a")
    where = {"origin": (0, 0, 64), "patch": (20, 60, 6), "case": case}
    ct, codes = read(source, "two/a", **where)
    np.testing.assert_array_equal(ct, expected["two/a"][0][:20, :60, 64:])
    assert not codes.any()
    assert server.count(r"two/a/zarr\.json") == 2
    assert server.asked[-1][1].endswith("zarr.json")
    read(source, "two/a", **where)
    assert server.count(r"two/a/zarr\.json") == 2


def test_a_ct_of_nothing_but_air_is_no_error(bucket, own_folder):
    _, source, folder = bucket
    (folder / "cases/two/c/zarr.json").write_text(
        (folder / "cases/two/c/zarr.json").read_text().replace('"hu_max": -1000', '"hu_max": -1024')
    )
    remove(folder, "two/c", f"{CT}/c")
    ct, codes = read(source, "two/c")
    assert (ct == -1024).all()
    assert not codes.any()


# what fails


@pytest.mark.parametrize(
    ("kind", "what", "times"),
    [
        ("drop", r"one/a/ct/c/0/0/0", 2),
        ("drop", r"one/a/(labels/masks/)?zarr\.json", 2),
        ("drop", r"one/a/foreground/c", 2),
        ("slow down", r"one/a/ct/c/0/0/0", 2),
        ("slow down", r"one/a/(labels/masks/)?zarr\.json", 2),
        ("shorten", r"one/a/ct/c/0/0/0", 1),  # documents have no checksum: a short one is taken for damaged
    ],
)
def test_passing_faults_are_not_noticed(kind, what, times, bucket, expected):
    server, source, _ = bucket
    server.fail(kind, what, times)
    check(source, expected, "one/a")
    assert server.faults[0].times == 0


def test_a_transfer_that_stalls_is_begun_again(bucket, expected):
    server, source, _ = bucket
    server.fail("stall", "one/a/ct/c/0/0/0", times=1)
    check(source, expected, "one/a")
    assert server.count("one/a/ct/c/0/0/0") > 1


CANNOT = r"^s3://bucket/own\.zarr: one/a cannot be reached \(.*\).*go on from the last state"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("drop", CANNOT),
        ("slow down", CANNOT),
        ("refuse", r"^s3://bucket/own\.zarr: permission to read one/a is denied .*AWS_PROFILE"),
        ("shorten", r"^s3://bucket/own\.zarr: one/a is damaged .*atlas verify"),
        ("stall", CANNOT),
    ],
)
@pytest.mark.parametrize("when", ["opening", "reading"])
def test_lasting_faults_end_with_a_sentence(kind, message, when, bucket):
    server, source, _ = bucket
    source.patience = 1.5 if kind == "stall" else 60
    case = source.open_case("one/a")
    server.fail(kind, "one/a/zarr.json" if when == "opening" else "one/a/ct/c/0/0/0")
    ct, codes = np.full((40, 50, 70), 5, np.int16), np.full((40, 50, 70), 6, np.uint8)
    if (kind, when) == ("shorten", "opening"):
        message = r"^s3://bucket/own\.zarr: one/a: the case is damaged"
    with pytest.raises(CorpusError, match=message):
        source.open_case("one/a") if when == "opening" else source.read(case, (0, 0, 0), ct, codes)
    assert (ct == 5).all(), "buffers are left as they were"
    assert (codes == 6).all()


def test_a_server_that_is_not_there(serve, own_folder, monkeypatch):
    monkeypatch.setattr(address, "RETRIES", {"max_retries": 2, "initial_delay": "50ms", "max_delay": "100ms"})
    server = serve(own_folder)
    server.close()
    with pytest.raises(CorpusError, match=r"one/a cannot be reached \(.*connect"):
        TensorStoreSource(f"{server.url}/{BUCKET}/own.zarr").open_case("one/a")


@pytest.mark.parametrize("case_id", ["one/z", "nine/a"])
def test_a_case_that_is_not_there(case_id, bucket):
    with pytest.raises(CorpusError, match=rf"^s3://bucket/own\.zarr: {case_id} is not there.*rebuild-catalog"):
        bucket[1].open_case(case_id)


@pytest.mark.parametrize("case_id", ["one", "../a", "one/..", "one/a/ct", ""])
def test_ids_do_not_lead_out_of_the_corpus(case_id, bucket):
    with pytest.raises(CorpusError, match="not a case id"):
        bucket[1].open_case(case_id)
    assert not bucket[0].asked


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([""], r"three/a is not there, or not any more \(cases/three/a/zarr\.json is missing\)"),
        ([CT], r"three/a is not there, or not any more \(cases/three/a/ct/zarr\.json is missing\)"),
        ([f"{CT}/c"], r"three/a is not complete, ct/c/\d/\d/\d is missing"),
        ([f"{CODES}/c"], r"three/a is not complete, labels/masks/0/c/\d/\d/\d is missing"),
    ],
)
@pytest.mark.parametrize(("kind", "known"), [("bucket", False), ("bucket", True), ("folder", True)])
def test_a_case_deleted_during_a_run_is_never_air(paths, message, known, kind, bucket):
    _, source, folder = bucket
    source = source if kind == "bucket" else TensorStoreSource(str(folder))
    case = source.open_case("three/a")
    if known:
        for z, y, x in itertools.product((0, 64), repeat=3):
            read(source, "three/a", (z, y, x), (20, 20, 20), case)
    remove(folder, "three/a", *paths)
    with pytest.raises(CorpusError, match=message):
        read(source, "three/a", (32, 32, 32), (60, 60, 60), case)


def test_a_case_deleted_in_the_midst_of_a_read(bucket):
    server, source, _ = bucket
    case = source.open_case("three/a")
    server.fail("delete case", "three/a/ct/c/0/0/0", after=1)  # the index has been read, the chunks have not
    with pytest.raises(CorpusError, match="three/a is not there"):
        read(source, "three/a", (10, 10, 10), (10, 10, 10), case)


def test_a_patch_of_which_a_part_is_remembered(bucket):
    _, source, folder = bucket
    case = source.open_case("one/a")
    _, codes = read(source, "one/a", (12, 12, 34), (20, 20, 20), case)  # all of it of one chunk
    assert codes.any()
    remove(folder, "one/a")
    with pytest.raises(CorpusError, match="one/a is not there"):
        read(source, "one/a", (12, 12, 14), (20, 20, 40), case)


def test_the_ct_of_a_case_without_classes(bucket):
    _, source, folder = bucket
    remove(folder, "two/c", f"{CT}/c")
    with pytest.raises(CorpusError, match="two/c is not complete, ct/c/0/0/0 is missing"):
        read(source, "two/c")


def test_one_lost_shard(bucket):
    _, source, folder = bucket
    case = source.open_case("three/a")
    (folder / "cases/three/a/ct/c/0/1/0").unlink()  # where the spleen is
    with pytest.raises(CorpusError, match=r"three/a is not complete, ct/c/0/1/0 is missing"):
        read(source, "three/a", (30, 60, 0), (10, 10, 10), case)


def test_a_case_that_is_built_again_during_a_run(bucket):
    _, source, folder = bucket
    case = source.open_case("three/a")
    document = folder / "cases/three/a/labels/masks/zarr.json"
    document.write_text(
        document.read_text()
        .replace('"bitmasks": [', '"bitmasks": [\n    "0x80",')
        .replace('"unknown": [', '"unknown": [\n    "0x0",')
    )
    remove(folder, "three/a", f"{CT}/c")
    with pytest.raises(CorpusError, match="three/a was built again while it was read"):
        read(source, "three/a", case=case)


def test_a_case_that_is_built_again_and_opened_again(bucket, expected):
    _, source, folder = bucket
    check(source, expected, "one/a")
    remove(folder, "one/a")
    shutil.copytree(folder / "cases/three/b", folder / "cases/one/a")
    check(source, expected | {"one/a": expected["three/b"]}, "one/a")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda shard: flip(shard, 4),  # blosc: size of the voxels
        lambda shard: flip(shard, 0),  # blosc: version
        lambda shard: flip(shard, 16),  # blosc: place of the first block
        lambda shard: flip(shard, -1),  # checksum of the index
        lambda shard: flip(shard, -100),  # the index
        lambda shard: shard.write_bytes(shard.read_bytes()[:-1]),
        lambda shard: shard.write_bytes(shard.read_bytes()[:2000]),
        lambda shard: shard.write_bytes(b""),
    ],
)
def test_damaged_shards(damage, own_folder):
    damage(own_folder / "cases/one/b/ct/c/0/0/0")
    with pytest.raises(CorpusError, match=r"own\.zarr: one/b is damaged \(.*ct/c/0/0/0.*\); .*atlas verify"):
        read(TensorStoreSource(str(own_folder)), "one/b")


def test_a_damaged_shard_in_a_bucket(bucket):
    _, source, folder = bucket
    flip(folder / "cases/one/b/ct/c/0/0/0", -1)
    with pytest.raises(
        CorpusError, match=r"^s3://bucket/own\.zarr: one/b is damaged \(.*ct/c/0/0/0.*\); .*atlas verify"
    ):
        read(source, "one/b")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("zarr.json", lambda text: text[:200]),
        ("labels/masks/zarr.json", lambda text: text.replace("unknown", "unheard of")),
        ("ct/zarr.json", lambda text: text.replace('"int16"', '"float32"')),
        ("ct/zarr.json", lambda text: text.replace("blosc", "never heard of")),
        ("ct/zarr.json", lambda text: text.replace("chunk_grid", "chunk_grille")),
        ("ct/zarr.json", lambda text: text.replace("chunk_key_encoding", "chunk_key_encodings")),
        ("foreground/zarr.json", lambda text: text.replace('"uint16"', '"uint32"')),
        ("foreground/zarr.json", lambda text: text.replace('"shape": [\n  ', '"shape": [\n  1000000000')),
    ],
)
def test_damaged_documents(path, change, bucket):
    _, source, folder = bucket
    document = folder / "cases/one/a" / path
    before = document.read_text()
    document.write_text(change(before))
    assert document.read_text() != before
    with pytest.raises(CorpusError, match=r"^s3://bucket/own\.zarr: one/a.*damaged"):
        read(source, "one/a")


def test_chunks_that_would_fill_the_memory(bucket):
    _, source, folder = bucket
    document = folder / "cases/one/a/ct/zarr.json"
    document.write_text(re.sub(r"\b(32|64)\b", "1024", document.read_text()))
    with pytest.raises(CorpusError, match=r"one/a/ct has chunks of \[1024, 1024, 1024\] voxels, too large"):
        read(source, "one/a")


def test_lists_of_voxels_are_checked(bucket, expected):
    _, source, folder = bucket
    (folder / "cases/one/a/foreground/c/0/0").unlink()
    with pytest.raises(CorpusError, match=r"one/a/foreground is missing or damaged"):
        source.open_case("one/a")
    kvstore = {"driver": "file", "path": f"{folder}/cases/one/c/foreground/"}
    ts.open({"driver": "zarr3", "kvstore": kvstore}).result()[0].write([19, 32, 65]).result()
    with pytest.raises(CorpusError, match=r"one/c/foreground is missing or damaged"):
        source.open_case("one/c")


# processes


FORKED = """
import multiprocessing, os, sys
from atlas.errors import CorpusError
from atlas.stream.remote import TensorStoreSource

def work(source, queue):
    import numpy as np
    try:
        case = source.open_case("one/c")
        ct, codes = np.zeros(case.shape, np.int16), np.zeros(case.shape, np.uint8)
        source.read(case, (0, 0, 0), ct, codes)
        queue.put(int(ct.sum()))
    except CorpusError as error:
        queue.put(str(error))

def run(method, source):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=work, args=(source, queue))
    process.start()
    print(queue.get(timeout=100))
    process.join()

if __name__ == "__main__":
    source = TensorStoreSource(sys.argv[1])
    run("fork", source)
    source.open_case("one/a")
    run("fork", source)
    run("fork", TensorStoreSource(sys.argv[1]))
    run("forkserver", source)
"""


def test_forks_before_reading_and_says_so_after(corpus_folder, expected, tmp_path):
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    done = subprocess.run(
        [sys.executable, script, corpus_folder], capture_output=True, text=True, timeout=120, check=True
    )
    before, after, another, forkserver = done.stdout.splitlines()
    right = str(int(expected["one/c"][0].sum()))
    assert before == forkserver == right
    for line in (after, another):
        assert line.startswith(f"{corpus_folder}: cannot be read in a process forked from one that has read")
        assert '"forkserver" or "spawn"' in line


def test_a_pickle_holds_the_location_alone(sources, corpus_folder, expected):
    check(sources[0], expected, "one/a")
    text = pickle.dumps(sources[0])
    assert len(text) < 300
    check(pickle.loads(text), expected, "one/a")


def test_a_server_that_sends_whole_files_only_is_named_as_such(corpus_folder):
    handler = partial(SimpleHTTPRequestHandler, directory=str(corpus_folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        source = TensorStoreSource(f"http://127.0.0.1:{server.server_port}/{corpus_folder.name}")
        case = source.open_case("one/a")
        ct, codes = np.zeros((8, 8, 8), np.int16), np.zeros((8, 8, 8), np.uint8)
        with pytest.raises(CorpusError, match="Range requests"):
            source.read(case, (4, 4, 4), ct, codes)
        server.shutdown()


def test_a_corpus_on_the_web_answers_questions(corpus_folder, corpus):
    handler = partial(SimpleHTTPRequestHandler, directory=str(corpus_folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = atlas.open(f"http://127.0.0.1:{server.server_port}/{corpus_folder.name}")
        pd.testing.assert_frame_equal(there.coverage(), corpus.coverage())
        assert there["one/a"].present == corpus["one/a"].present
        server.shutdown()
