"""Which files addresses stand for: buckets by moto, the hub and Synapse by local servers, IDC by its real index."""

import hashlib
from functools import lru_cache

import duckdb
import httpx2
import pytest
from moto.server import ThreadedMotoServer

from atlas.errors import FetchError
from atlas.fetch.download import Unpacking
from atlas.fetch.listing import downloads
from atlas.fetch.sources import buckets, idc
from atlas.fetch.sources.base import RefusedError, Wanted
from atlas.fetch.transport.retry import policy
from atlas.spec import Manifest
from atlas.spec.patterns import matcher

SECRET = "s3cr3t-t0ken"

OFF = """
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SKIP_SIGNATURE AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_REGION
    AWS_DEFAULT_REGION STORAGE_EMULATOR_HOST GOOGLE_APPLICATION_CREDENTIALS GOOGLE_SERVICE_ACCOUNT
    GOOGLE_SERVICE_ACCOUNT_KEY HF_TOKEN HF_ENDPOINT SYNAPSE_AUTH_TOKEN ATLAS_SYNAPSE_ENDPOINT ATLAS_IDC_INDEX
"""


@pytest.fixture(autouse=True)
def _nobody(monkeypatch):
    for name in OFF.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(policy, "sleep", lambda seconds: None)


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto, monkeypatch):
    """Put objects into a new bucket of a server that speaks S3, and GCS's XML, which is the same for listings."""
    httpx2.post(f"{moto}/moto-api/reset")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", moto)

    public = {"x-amz-acl": "public-read"}

    def fill(name, objects):
        httpx2.put(f"{moto}/{name}")
        for key, content in objects.items():
            assert httpx2.put(f"{moto}/{name}/{key}", content=content, headers=public).status_code == 200

    return fill


def manifest(*files, layout=None, connections=2):
    return Manifest.model_validate(
        {
            "id": "toy",
            "name": "Toy",
            "citation": "none",
            "licence": {"id": "CC0-1.0", "commercial": True, "redistribution": True},
            "access": {"kind": "open", "connections": connections, "files": list(files)},
            "scans": 1,
            "labelled": 1,
            "layout": layout or {"image": "ct/{case}.nii.gz", "labels": {"all": "seg/{case}.nii.gz"}},
        }
    )


def listed(file, **more):
    made = manifest(file, **more)
    return downloads(made.access.files[0], made)


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a/*.zip", "a/b.zip", True),
        ("a/*.zip", "a/b/c.zip", False),
        ("**/*.zip", "c.zip", True),
        ("**/*.zip", "a/b/c.zip", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/**/c", "ac", False),
        ("?.zip", "a.zip", True),
        ("?.zip", "/.zip", False),
        ("a.zip", "aXzip", False),
        ("A", "a", False),
    ],
)
def test_patterns(pattern, path, expected):
    assert matcher([pattern])(path) is expected
    assert matcher(["other", pattern])(path) is expected


def test_no_patterns_match_nothing():
    assert not matcher([])("a")


# --- files that need no listing


def test_single_file_as_the_manifest_says():
    facts = {"size": 5, "md5": "0" * 32, "sha256": "1" * 64}
    [found] = listed(
        {
            "url": "https://a.org/x.zip",
            **facts,
            "into": "in",
            "holds": ["**/*.nii"],
            "nested": ["*.tar"],
            "whole_cases": True,
            "encrypted": True,
        },
        connections=5,
    )
    assert (found.url, found.target, found.size, found.md5, found.sha256) == (
        "https://a.org/x.zip",
        "x.zip",
        *facts.values(),
    )
    assert found.archive == Unpacking("in", ("**/*.nii",), ("*.tar",), "ATLAS_PASSWORD_TOY")
    assert (found.whole_cases, found.connections, found.group) == (True, 5, "")


def test_a_file_for_each_case():
    found = listed({"url": "https://a.org/{case}.nii.gz?v=1", "to": "{case}/ct.nii.gz", "each": ["c_008..c_011", "x"]})
    assert [d.target for d in found] == [f"{c}/ct.nii.gz" for c in ("c_008", "c_009", "c_010", "c_011", "x")]
    assert found[0].url == "https://a.org/c_008.nii.gz?v=1"
    assert found[0].archive is None


def test_two_files_in_one_place():
    with pytest.raises(FetchError, match=r"both .*/a\.zip and .*/b\.zip would be x\.zip"):
        listed({"url": "https://a.org/{case}.zip", "to": "x.zip", "each": ["a", "b"]})


# --- buckets


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_prefix(bucket, scheme):
    objects = {"p/one.nii.gz": b"1", "p/sub/two%20%25%26.nii.gz": b"22", "p/sub/": b"", "p/": b"", "other.txt": b"x"}
    bucket("somebucket", objects | {"p/.hidden/x": b"x", "p/sub/.git": b"x"})
    found = listed({"url": f"{scheme}://somebucket/p/", "to": "ct"})
    assert [(d.url, d.target, d.size) for d in found] == [
        (f"{scheme}://somebucket/p/one.nii.gz", "ct/one.nii.gz", 1),
        (f"{scheme}://somebucket/p/sub/two%20%25%26.nii.gz", "ct/sub/two %&.nii.gz", 2),
    ]
    assert [d.md5 for d in found] == ([md5(b"1"), md5(b"22")] if scheme == "s3" else [None, None])


def test_listed_addresses_can_be_asked(bucket):
    """What the listing says about a file is true of what its address gives."""
    from atlas.fetch.address import address

    bucket("somebucket", {"p/a%20%25%2B%26%3F%23.bin": b"content", "p/b.bin": b"else"})
    found = listed({"url": "s3://somebucket/p/"})
    assert [d.target for d in found] == ["a %+&?#.bin", "b.bin"]
    for download in found:
        body = httpx2.get(address(download.url).url).content
        assert (len(body), md5(body)) == (download.size, download.md5)


def test_glob(bucket):
    bucket("somebucket", dict.fromkeys(("p/a1.zip", "p/a2.zip", "p/a2.txt", "p/q/a3.zip", "pa4.zip"), b"x"))
    assert [d.target for d in listed({"url": "s3://somebucket/p/a*.zip"})] == ["a1.zip", "a2.zip"]
    deep = listed({"url": "s3://somebucket/p/**/*.zip", "to": "in", "holds": ["*.nii"]})
    assert [d.target for d in deep] == ["in/a1.zip", "in/a2.zip", "in/q/a3.zip"]
    assert all(d.archive.holds == ("*.nii",) for d in deep)


def test_slices_belong_together(bucket):
    bucket("somebucket", {f"p/{case}/{k}.dcm": b"x" for case in "ab" for k in range(2)})
    layout = {"image": "ct/{case}/", "labels": {"all": "seg/{case}.nii.gz"}}
    found = listed({"url": "s3://somebucket/p/", "to": "ct"}, layout=layout)
    assert [d.group for d in found] == ["ct/a/", "ct/a/", "ct/b/", "ct/b/"]
    assert {d.group for d in listed({"url": "s3://somebucket/p/", "to": "ct"})} == {""}


def test_tags_are_no_checksums_where_keys_may_encrypt(bucket, monkeypatch):
    bucket("somebucket", {"p/x": b"1"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    [found] = listed({"url": "s3://somebucket/p/"})
    assert (found.size, found.md5) == (1, None)


def test_tags_of_parts_are_no_checksums(httpserver, monkeypatch):
    entries = "".join(
        f"<Contents><Key>p/{k}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{tag}&quot;</ETag><Size>7</Size></Contents>"
        for k, tag in (("a", "0" * 32 + "-3"), ("b", "1" * 32), ("c", "opaque"))
    )
    xml = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
    httpserver.expect_request("/somebucket").respond_with_data(xml, content_type="application/xml")
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for("/"))
    assert [d.md5 for d in listed({"url": "s3://somebucket/p/"})] == [None, "1" * 32, None]


@pytest.mark.parametrize("key", ["p/..%2F..%2Fx", "p/a%2F..%2F..%2Fx", "p/a%5Cx", "p/a%01b"])
def test_no_way_out(bucket, key):
    """Whoever can write into a bucket cannot write anywhere else here."""
    bucket("somebucket", {"p/fine": b"x", key: b"x"})
    with pytest.raises(FetchError, match="s3://somebucket/p/"):
        listed({"url": "s3://somebucket/p/"})


@pytest.mark.parametrize("path", ["p/../x", "p/a/../../x", "p/./x", "p//x", "p/a\\x", "p/a\nb", "p/..", "p/", "p/..."])
def test_no_way_out_of_any_listing(path):
    with pytest.raises(FetchError, match="cannot be the name"):
        Wanted("p/", lambda path: True).target("ct", path, "source")


def test_nothing_there(bucket):
    bucket("somebucket", {"q/x": b"x"})
    with pytest.raises(FetchError, match="stands for no file"):
        listed({"url": "s3://somebucket/p/"})
    with pytest.raises(FetchError, match=r"s3://no-bucket/p/: cannot be listed \(NoSuchBucket"):
        listed({"url": "s3://no-bucket/p/"})


def test_refused_bucket(httpserver, monkeypatch):
    body = f"<Error><Code>AccessDenied</Code><Message>no</Message><StringToSign>{SECRET}</StringToSign></Error>"
    httpserver.expect_request("/somebucket").respond_with_data(body, status=403)
    monkeypatch.setenv("AWS_ENDPOINT_URL", httpserver.url_for("/"))
    with pytest.raises(RefusedError, match="AccessDenied: no") as raised:
        listed({"url": "s3://somebucket/p/"})
    assert SECRET not in str(raised.value)


def test_listing_needs_a_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(FetchError, match=r"pip install 'atlas-corpus\[cloud\]'"):
        listed({"url": "s3://somebucket/p/"})


# --- hub


def tree(*paths):
    return [
        {"type": "directory", "oid": "0", "size": 0, "path": "dir/sub"},
        *(
            {"type": "file", "oid": "0", "size": size, "path": path}
            | ({"lfs": {"oid": sha256, "size": size, "pointerSize": 1}} if sha256 else {})
            for path, size, sha256 in paths
        ),
    ]


@pytest.fixture
def hub(httpserver, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", httpserver.url_for("/").rstrip("/"))
    return httpserver


def test_hub_folder(hub):
    entries = tree(("dir/a.tar.gz", 10, "a" * 64), ("dir/sub/b c.csv", 3, None), ("dir/.gitattributes", 1, None))
    place = "/api/datasets/owner/name/tree/v1/dir"
    hub.expect_request(place, query_string={"recursive": "true", "expand": "false"}).respond_with_json(entries)
    found = listed({"url": "hf://datasets/owner/name@v1/dir/", "to": "raw", "into": "x"})
    assert [(d.url, d.target, d.size, d.sha256) for d in found] == [
        ("hf://datasets/owner/name@v1/dir/a.tar.gz", "raw/a.tar.gz", 10, "a" * 64),
        ("hf://datasets/owner/name@v1/dir/sub/b%20c.csv", "raw/sub/b c.csv", 3, None),
    ]
    assert [d.archive for d in found] == [Unpacking("x"), None]


def test_hub_glob_with_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    entries = tree(("a_1.tar.gz", 10, "a" * 64), ("a_2.txt", 3, None), ("sub/a_3.tar.gz", 1, None))
    key = {"authorization": f"Bearer {SECRET}"}
    hub.expect_request("/api/datasets/owner/name/tree/main", headers=key).respond_with_json(entries)
    found = listed({"url": "hf://datasets/owner/name/*.tar.gz"})
    assert [d.target for d in found] == ["a_1.tar.gz"]
    assert SECRET not in repr(found)


def test_hub_lists_a_way_out(hub):
    entries = tree(("dir/../../x", 1, None))
    hub.expect_request("/api/datasets/owner/name/tree/main/dir").respond_with_json(entries)
    with pytest.raises(FetchError, match="cannot be the name"):
        listed({"url": "hf://datasets/owner/name/dir/"})


def test_gated_on_the_hub(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    hub.expect_request("/api/datasets/owner/name/tree/main/dir").respond_with_json(
        {"error": "gated"}, status=403, headers={"X-Error-Code": "GatedRepo"}
    )
    with pytest.raises(RefusedError, match=r"accept its terms at .*/datasets/owner/name and set HF_TOKEN") as raised:
        listed({"url": "hf://datasets/owner/name/dir/"})
    assert SECRET not in str(raised.value)


def test_hub_cannot_be_listed(hub):
    hub.expect_request("/api/datasets/owner/name/tree/main/dir").respond_with_data("", status=418)
    with pytest.raises(FetchError, match="answered 418"):
        listed({"url": "hf://datasets/owner/name/dir/"})


def test_hub_folder_needs_a_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match=r"pip install 'atlas-corpus\[hub\]'"):
        listed({"url": "hf://datasets/owner/name/dir/"})
    assert listed({"url": "hf://datasets/owner/name/file"})[0].target == "file"


# --- Synapse


def test_synapse_tells_size_and_md5(httpserver, monkeypatch):
    file = {"url": "synapse://syn1/RawData.zip"}
    assert listed(file)[0].size is None
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("ATLAS_SYNAPSE_ENDPOINT", httpserver.url_for("/"))
    httpserver.expect_request("/repo/v1/entity/child", method="POST").respond_with_json({"id": "syn2"})
    handles = [
        {"concreteType": "org.sagebionetworks.repo.model.file.S3FileHandle", "contentSize": 9, "contentMd5": "A" * 32},
        {"concreteType": "org.sagebionetworks.repo.model.file.PreviewFileHandle", "contentSize": 1},
        {"concreteType": "org.sagebionetworks.repo.model.file.S3FileHandle", "contentSize": 2, "isPreview": True},
    ]
    httpserver.expect_request("/repo/v1/entity/syn2/filehandles").respond_with_json({"list": handles})
    [found] = listed(file)
    assert (found.target, found.size, found.md5) == ("RawData.zip", 9, "a" * 32)
    assert (found.url, found.archive) == (file["url"], Unpacking())


# --- Imaging Data Commons


@pytest.mark.parametrize(
    ("collection", "modality", "series", "patients"),
    [
        ("pancreas_ct", "CT", 80, 80),
        ("colorectal_liver_metastases", "CT", 197, 197),
        ("colorectal_liver_metastases", "SEG", 197, 197),
        ("colorectal_liver_metastases", "CT,SEG", 394, 197),
    ],
)
def test_series_of_the_real_index(collection, modality, series, patients):
    """Counts of the collections' own pages. Others' segmentations of the same scans (224 SEG) are left out."""
    found = idc.series(f"idc://{collection}?Modality={modality}")
    assert len(found) == series
    assert len({one.names["PatientID"] for one in found}) == patients
    assert {one.names["Modality"] for one in found} == set(modality.split(","))
    assert idc.version().split(".")[0].isdigit()


def test_filters_by_any_column():
    found = idc.series("idc://pancreas_ct?PatientID=PANCREAS_0001,PANCREAS_0002&Modality=CT&instanceCount=240,195")
    assert [one.names["PatientID"] for one in found] == ["PANCREAS_0001", "PANCREAS_0002"]
    assert [one.instances for one in found] == [240, 195]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("idc://pancreas_ctt", "near it are pancreas_ct"),
        ("idc://pancreas_ct?Modality=XX", "no such series"),
        ("idc://pancreas_ct?Modalty=CT", "no column 'Modalty'; it has collection_id, "),
        ("idc://pancreas_ct?Modality=CT%27)%20or%201=1--", "no such series"),
        ("idc://x?a%22)%20or%20(%22b=1", "no column"),
    ],
)
def test_nothing_in_the_index(url, match):
    with pytest.raises(FetchError, match=match):
        listed({"url": url})


@pytest.fixture
def index(bucket, monkeypatch, tmp_path):
    """An index of a small collection, and its bucket: patient -> instances there, instances the index says."""

    def make(patients):
        rows, objects = [], {}
        for k, (patient, (there, said)) in enumerate(patients.items()):
            rows.append(("toy", None, patient, f"1.2.{k}", f"1.3.{k}", "CT", said, f"s3://idc-toy/u{k}/*"))
            objects |= {f"u{k}/{n}.dcm": f"{k}{n}".encode() for n in range(there)}
        bucket("idc-toy", objects)
        names = "collection_id analysis_result_id PatientID StudyInstanceUID SeriesInstanceUID Modality instanceCount "
        names = (names + "series_aws_url").split()
        kinds = ["bigint" if name == "instanceCount" else "varchar" for name in names]
        with duckdb.connect() as database:
            columns = ", ".join(f'"{name}" {kind}' for name, kind in zip(names, kinds, strict=True))
            database.execute(f"create table t ({columns})")
            database.executemany(f"insert into t values ({', '.join('?' * len(names))})", rows)
            database.execute(f"copy t to '{tmp_path / 'index.parquet'}' (format parquet)")
        monkeypatch.setenv("ATLAS_IDC_INDEX", str(tmp_path / "index.parquet"))

    return make


def test_instances_of_series(index):
    index({"P1": (3, 3), "P2": (1, 1)})
    layout = {"study": "{case}/"}
    found = listed(
        {"url": "idc://toy?Modality=CT", "to": "dicom/{PatientID}/{Modality}_{SeriesInstanceUID}"}, layout=layout
    )
    assert [d.target for d in found] == [*(f"dicom/P1/CT_1.3.0/{n}.dcm" for n in range(3)), "dicom/P2/CT_1.3.1/0.dcm"]
    assert [d.group for d in found] == [*["dicom/P1/CT_1.3.0/"] * 3, "dicom/P2/CT_1.3.1/"]
    assert [(d.size, d.md5) for d in found] == [(2, md5(text)) for text in (b"00", b"01", b"02", b"10")]
    assert found[0].url == "s3://idc-toy/u0/0.dcm"
    assert [d.group for d in listed({"url": "idc://toy"})] == [*["P1/1.2.0/1.3.0/"] * 3, "P2/1.2.1/1.3.1/"]
    assert idc.version() == "index.parquet"


def test_credentials_do_not_change_what_idc_says(index, monkeypatch):
    """Its buckets are public; the checksums stay."""
    index({"P1": (1, 1)})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert listed({"url": "idc://toy"})[0].md5 == md5(b"00")


@pytest.mark.parametrize(("there", "said"), [(2, 3), (3, 2), (0, 1)])
def test_bucket_and_index_disagree(index, there, said):
    index({"P1": (there, said), "P2": (1, 1)})
    with pytest.raises(FetchError, match=rf"series 1\.3\.0 has {said} instances by the index and {there} in"):
        listed({"url": "idc://toy"})


@pytest.mark.parametrize("patient", ["../P1", "..", "a/b", "", ".atlas", "a\\b", "a\nb"])
def test_patients_lead_nowhere_else(index, patient):
    index({patient: (1, 1)})
    with pytest.raises(FetchError, match="cannot be the name"):
        listed({"url": "idc://toy"})


def test_unknown_folder_names():
    with pytest.raises(FetchError, match="PatientName"):
        listed({"url": "idc://pancreas_ct", "to": "{PatientName}"})


def test_index_needs_a_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "idc_index_data", None)
    with pytest.raises(FetchError, match=r"pip install 'atlas-corpus\[tcia\]'"):
        listed({"url": "idc://pancreas_ct"})


def test_region_of_a_bucket(httpserver, monkeypatch):
    """Amazon tells it in the header of any answer, also of one that refuses or points elsewhere."""
    monkeypatch.setattr(buckets, "S3", httpserver.url_for("/").rstrip("/"))
    monkeypatch.setattr(buckets, "_region", lru_cache(buckets._region.__wrapped__))
    headers = {"x-amz-bucket-region": "us-west-2"}
    httpserver.expect_request("/there", method="HEAD").respond_with_data(status=301, headers=headers)
    httpserver.expect_request("/silent", method="HEAD").respond_with_data(status=403)
    assert [buckets._region(name) for name in ("there", "silent")] == ["us-west-2", "us-east-1"]
