"""What fetching, unpacking and reading DICOM cost, beside what people use for it now.

    python benchmarks/obtain.py [--megabytes 1024] [--slices 250]

Files are generated, served on the loopback interface, and are in the page cache for everyone. Each figure is that of a
process of its own; the contestants take turns, three times, and medians are printed. The peers are functions of the
standard library, as MONAI's and TorchIO's `download_and_extract` call them, and ITK's series reader.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

ROUNDS = 3
PIXELS = 512


# Contestants: each runs in a fresh process, with imports done before the clock starts --------------------------


def fetch_atlas(job):
    from atlas.fetch import http
    from atlas.fetch.download import Download

    download = Download("bench", job["url"], "file.bin", size=job["size"], sha256=job["sha256"])
    return lambda out: http.transfer(download, out)


def fetch_urlretrieve(job):
    def run(out):
        path, _ = urllib.request.urlretrieve(job["url"], out / "file.bin")
        with Path(path).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == job["sha256"]

    return run


def unpack_atlas(job):
    from atlas.fetch.download import Download, Unpacking
    from atlas.fetch.records import Record, write_record
    from atlas.fetch.unpack import unpack

    source = Path(job["archive"])
    download = Download("bench", "", source.name, archive=Unpacking())

    def ready(out):
        os.link(source, out / source.name)
        # it was verified as it was fetched
        stat = source.stat()
        write_record(out, Record(source.name, "", stat.st_size, job["sha256"], None, stat.st_mtime_ns))

    return lambda out: unpack(download, out), ready


def unpack_extractall(job):
    def run(out):
        if job["archive"].endswith(".zip"):
            with zipfile.ZipFile(job["archive"]) as archive:
                archive.extractall(out)
        else:
            with tarfile.open(job["archive"]) as archive:
                archive.extractall(out, filter="data")

    return run


def dicom_atlas(job):
    from atlas.ingest.volume import read_ct

    return lambda _: read_ct(Path(job["series"]))


def dicom_itk(job):
    import SimpleITK as sitk

    def run(_):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(job["series"]))
        sitk.GetArrayFromImage(reader.Execute())

    return run


TASKS = {
    "fetch, verify sha256": ("fetch", {"atlas": fetch_atlas, "urlretrieve + hashlib": fetch_urlretrieve}),
    "unpack zip": ("zip", {"atlas": unpack_atlas, "zipfile.extractall": unpack_extractall}),
    "unpack tar.gz": ("tar", {"atlas": unpack_atlas, "tarfile.extractall": unpack_extractall}),
    "read a DICOM series": ("dicom", {"atlas": dicom_atlas, "ITK series reader": dicom_itk}),
}


def contest(task, name, job):
    """Run one contestant; prints seconds of wall and processor, and peak memory."""
    made = TASKS[task][1][name](job)
    run, ready = made if isinstance(made, tuple) else (made, lambda _: None)
    with tempfile.TemporaryDirectory(dir=job["scratch"]) as out:
        ready(Path(out))
        os.sync()
        wall, cpu = time.perf_counter(), time.process_time()
        run(Path(out))
        figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    # not ru_maxrss, in which the parent's pages before exec count
    status = Path("/proc/self/status").read_text(encoding="ascii")
    figures["MiB"] = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps(figures))


# What they work on ----------------------------------------------------------------------------------------


def volume_like(size, rng):
    """Bytes that compress about as little as volumes that are compressed already."""
    return rng.integers(0, 256, size, dtype=np.uint8).tobytes()


def make_series(folder, slices, rng):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.Modality, ds.ImageType, ds.InstanceNumber = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [-200, -200, 2.5 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness = [0.8, 0.8], 5
        ds.Rows = ds.Columns = PIXELS
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
        ds.PixelData = rng.integers(0, 4000, (PIXELS, PIXELS), dtype=np.uint16).tobytes()
        ds.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)


def make_archives(folder, megabytes, rng):
    """Sixteen members that are compressed already, as volumes in archives are."""
    members = [(f"case_{k:02d}/ct.nii.gz", volume_like(megabytes * 2**20 // 16, rng)) for k in range(16)]
    with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members:
            archive.writestr(name, content)
    with tarfile.open(folder / "all.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, content in members:
            path = folder / "member"
            path.write_bytes(content)
            archive.add(path, name)


def jobs(folder, megabytes, slices):
    rng = np.random.default_rng(0)
    (folder / "site").mkdir()
    (folder / "site/file.bin").write_bytes(volume_like(megabytes * 2**20, rng))
    make_archives(folder, megabytes, rng)
    make_series(folder / "series", slices, rng)
    handler = partial(SimpleHTTPRequestHandler, directory=folder / "site")
    handler.func.log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def digest(path):
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    file = folder / "site/file.bin"
    url = f"http://127.0.0.1:{server.server_port}/file.bin"
    return {
        "fetch": {"url": url, "size": file.stat().st_size, "sha256": digest(file)},
        "zip": {"archive": str(folder / "all.zip"), "sha256": digest(folder / "all.zip")},
        "tar": {"archive": str(folder / "all.tar.gz"), "sha256": digest(folder / "all.tar.gz")},
        "dicom": {"series": str(folder / "series")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--slices", type=int, default=250)
    parser.add_argument("--contest", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contest:
        task, name, job = options.contest
        contest(task, name, json.loads(job))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepared = jobs(Path(folder), options.megabytes, options.slices)
        print(f"{options.megabytes} MiB; {options.slices} slices of {PIXELS} x {PIXELS}\n")
        print("| task | with | wall s | CPU s | peak MiB | wall, times atlas |\n| --- | --- | --- | --- | --- | --- |")
        for task, (kind, contestants) in TASKS.items():
            print_rows(task, contestants, {**prepared[kind], "scratch": folder})


def print_rows(task, contestants, job):
    found = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name in contestants:
            command = [sys.executable, __file__, "--contest", task, name, json.dumps(job)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(answer))
    middle = {n: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for n, rows in found.items()}
    for name, m in middle.items():
        times = m["wall"] / middle["atlas"]["wall"]
        print(f"| {task} | {name} | {m['wall']:.2f} | {m['cpu']:.2f} | {m['MiB']:.0f} | {times:.1f} |")


if __name__ == "__main__":
    main()
