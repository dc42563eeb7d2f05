"""Downloading and building in one graph: they overlap, a host is asked politely, and what fails is said."""

import logging
import os
import shutil
import signal
import threading
import zipfile
from types import SimpleNamespace

import loopback
import numpy as np
import pytest
from loopback import Watch, until

from atlas.build import build
from atlas.build.delivery import Delivery
from atlas.corpus import open_corpus
from atlas.errors import BuildError, FetchError
from atlas.fetch.transport import client
from atlas.spec import load_recipe


@pytest.fixture
def site(toy):
    """A publisher of the toy dataset: a watched server, and its folder."""
    watch = Watch()
    client._client.cache_clear()
    with loopback.serving(toy.root / "site", watch) as url:
        yield SimpleNamespace(folder=toy.root / "site/toy/http", url=f"{url}/toy/http", watch=watch)
    client.client().close()
    client._client.cache_clear()


@pytest.fixture
def logged():
    """What Dask would have printed."""
    printed = []

    class Keep(logging.Handler):
        def emit(self, record):
            printed.append(self.format(record))

    keep = Keep(logging.WARNING)
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).addHandler(keep)
    yield printed
    for name in ("distributed", "tornado", "asyncio"):
        logging.getLogger(name).removeHandler(keep)


def offer(toy, site, files, **access):
    """Move files to the publisher, and say in the manifest where they are."""
    lines = []
    for target, more in files.items():
        place = site.folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if (toy.sources / "toy" / target).exists():
            shutil.move(toy.sources / "toy" / target, place)
        fields = {"url": f"{more.pop('site', site.url)}/{target}", "to": target, **more}
        lines.append(f"{{{', '.join(f'{key}: {value}' for key, value in fields.items())}}}")
    said = {"kind": "open", **access, "files": f"[{', '.join(lines)}]"}
    toy.spec("manifests", "access: {kind: open}", f"access: {{{', '.join(f'{k}: {v}' for k, v in said.items())}}}")


def pairs(toy, names):
    """Cases of two files each."""
    for seed, name in enumerate(names):
        toy.add(name, seed=seed)
    return {f"{kind}/{name}.nii.gz": {} for name in names for kind in ("ct", "seg")}


def zipped(toy, site, archive, places):
    """Put files into an archive at the publisher's."""
    site.folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(site.folder / archive, "w") as file:
        for place in places:
            file.write(toy.sources / "toy" / place, place)
            (toy.sources / "toy" / place).unlink()


def as_masks(toy, names):
    """The same cases with a folder of masks each."""
    toy.spec("manifests", "image: ct/{case}.nii.gz", "image: '{case}/ct.nii.gz'")
    toy.spec("manifests", "labels:\n    segmentation: seg/{case}.nii.gz", "masks: '{case}/{structure}_mask.nii.gz'")
    toy.spec("label_maps", "values:\n  segmentation:\n    1: liver", "structures:\n    liver: liver")
    toy.spec("label_maps", "    2: liver_tumor\n    3: kidney_left/right", "    kidney: kidney_left/right")
    for seed, name in enumerate(names):
        _, seg, affine = toy.add(name, seed=seed)
        folder = toy.sources / "toy" / name
        folder.mkdir()
        toy.ct(name).rename(folder / "ct.nii.gz")
        toy.seg(name).unlink()
        toy.save(folder / "liver_mask.nii.gz", (seg == 1).astype(np.uint8), affine)
        toy.save(folder / "kidney_mask.nii.gz", (seg == 3).astype(np.uint8), affine)


def committed(toy, case):
    return (toy.root / "corpus.zarr/cases/toy" / case / "zarr.json").exists()


def run(toy, mirror=None, **options):
    recipe = load_recipe("toys")
    delivery = Delivery.planned(recipe.datasets, toy.sources, mirror=mirror)
    options = {"workers": 1, **options}
    return build(recipe, toy.sources, toy.root / "corpus.zarr", delivery=delivery, **options)


def hold(site, word, condition):
    """Hold back what has a word in its path until something is so; the list tells whether it came to be."""
    met = []

    def gate(path):
        if word in path:
            met.append(until(condition))

    site.watch.gate = gate
    return met


def test_a_case_is_built_while_the_next_is_still_held_back(toy, site, logged):
    offer(toy, site, pairs(toy, ["c1", "c2"]))
    met = hold(site, "c2", lambda: committed(toy, "c1"))
    summary = run(toy)
    assert (summary.built, summary.missing, summary.quarantined) == (2, {}, {})
    assert met == [True, True]
    assert logged == []


def test_a_case_waits_for_nothing_but_its_own_last_file(toy, site):
    """News that come right after a look at the folder are not forgotten until the next."""
    offer(toy, site, pairs(toy, ["c1", "c2", "c3"]))
    met = hold(site, "c3", lambda: committed(toy, "c1") and committed(toy, "c2"))
    assert run(toy).built == 3
    assert all(met)


def test_archives_of_whole_cases_overlap_as_well(toy, site):
    as_masks(toy, ["c1", "c2"])
    for name in ("c1", "c2"):
        zipped(toy, site, f"{name}.zip", [f"{name}/{f}.nii.gz" for f in ("ct", "liver_mask", "kidney_mask")])
    offer(toy, site, {f"{name}.zip": {"whole_cases": "true"} for name in ("c1", "c2")})
    met = hold(site, "c2", lambda: committed(toy, "c1"))
    assert run(toy).built == 2
    assert met == [True]


def test_a_folder_of_masks_is_not_built_before_the_last_archive_is_in(toy, site):
    as_masks(toy, ["c1"])
    zipped(toy, site, "a.zip", ["c1/ct.nii.gz", "c1/liver_mask.nii.gz"])
    zipped(toy, site, "b.zip", ["c1/kidney_mask.nii.gz"])
    offer(toy, site, {name: {"holds": "[c1/*]"} for name in ("a.zip", "b.zip")})
    built_early = []

    def gate(path):
        if "b.zip" in path:
            assert until((toy.sources / "toy/c1/ct.nii.gz").exists)
            built_early.append(until(lambda: committed(toy, "c1"), seconds=1.5))

    site.watch.gate = gate
    assert run(toy).built == 1
    assert built_early == [False]
    case = open_corpus(toy.root / "corpus.zarr")["toy/c1"]
    assert case.available == {"liver", "kidney_left", "kidney_right"}


def together(site, hosts, count):
    """Hold every answer back until so many are under way at each host, or no more come."""
    site.watch.gate = lambda path: until(lambda: all(site.watch.most[host] >= count for host in hosts), seconds=0.3)


@pytest.mark.parametrize("connections", [None, 1])
def test_a_host_is_asked_for_so_much_at_once(toy, site, connections):
    names = [f"c{n}" for n in range(4)]
    offer(toy, site, pairs(toy, names), **({"connections": connections} if connections else {}))
    together(site, ["127.0.0.1"], connections or 2)
    assert run(toy).built == 4
    assert site.watch.most["127.0.0.1"] == (connections or 2)
    assert len(site.watch.asked) == 8


def test_two_hosts_are_asked_at_the_same_time(toy, site):
    files = pairs(toy, ["c1", "c2", "c3"])
    for target in files:
        if target.startswith("seg"):
            files[target]["site"] = site.url.replace("127.0.0.1", "localhost")
    offer(toy, site, files)
    arrived = []

    def gate(path):
        arrived.append(until(lambda: site.watch.most["localhost"] and site.watch.most["127.0.0.1"], seconds=30))

    site.watch.gate = gate
    assert run(toy).built == 3
    assert all(arrived)
    assert max(site.watch.most.values()) <= 2


def test_a_mirror_is_one_host_however_many_it_stands_for(toy, site):
    files = pairs(toy, ["c1", "c2", "c3"])
    for target in files:
        if target.startswith("seg"):
            files[target]["site"] = site.url.replace("127.0.0.1", "localhost")
    offer(toy, site, files)
    mirror = Watch()
    mirror.gate = lambda path: until(lambda: mirror.most["127.0.0.1"] > 2, seconds=0.3)
    copies = toy.root / "copies/mirror/http/toy"
    shutil.copytree(site.folder, copies)
    (copies / "seg/c3.nii.gz").unlink()
    with loopback.serving(toy.root / "copies", mirror) as url:
        assert run(toy, mirror=f"{url}/mirror/http").built == 3
    assert mirror.most["127.0.0.1"] == 2
    assert site.watch.paths == ["/toy/http/seg/c3.nii.gz"]


def test_a_folder_as_mirror(toy, site):
    offer(toy, site, pairs(toy, ["c1"]))
    shutil.copytree(site.folder, toy.root / "copies/toy")
    assert run(toy, mirror=str(toy.root / "copies")).built == 1
    assert site.watch.asked == []


def test_what_is_missing_is_named_and_fetched_the_next_time(toy, site, logged):
    offer(toy, site, pairs(toy, ["c1", "c2", "c3"]))
    away = site.folder / "seg/c2.away"
    (site.folder / "seg/c2.nii.gz").rename(away)
    summary = run(toy)
    assert summary.built == 2
    assert list(summary.missing) == ["toy/seg/c2.nii.gz"]
    assert "404" in summary.missing["toy/seg/c2.nii.gz"]
    assert list(summary.quarantined) == ["toy/c2"]
    assert "no label file" in summary.quarantined["toy/c2"]
    assert "not fetched: toy/seg/c2.nii.gz (" in summary.quarantined["toy/c2"]
    away.rename(site.folder / "seg/c2.nii.gz")
    site.watch.asked.clear()
    summary = run(toy)
    assert (summary.built, summary.kept, summary.missing, summary.quarantined) == (1, 2, {}, {})
    assert site.watch.paths == ["/toy/http/seg/c2.nii.gz"]
    assert logged == []


def test_a_folder_that_lacks_a_mask_is_not_built(toy, site):
    """From the outside it looks complete: the structure would be taken for one that nobody drew."""
    as_masks(toy, ["c1", "c2"])
    offer(toy, site, {f"{c}/{f}.nii.gz": {} for c in ("c1", "c2") for f in ("ct", "liver_mask", "kidney_mask")})
    (site.folder / "c2/kidney_mask.nii.gz").unlink()
    summary = run(toy)
    assert summary.built == 1
    assert "not fetched: toy/c2/kidney_mask.nii.gz" in summary.quarantined["toy/c2"]


def test_a_file_that_is_there_and_wrong_is_not_built(toy, site):
    files = pairs(toy, ["c1", "c2"])
    files["seg/c2.nii.gz"]["sha256"] = "0" * 64
    offer(toy, site, files)
    shutil.copy(site.folder / "seg/c2.nii.gz", toy.seg("c2"))
    shutil.copy(site.folder / "ct/c2.nii.gz", toy.ct("c2"))
    summary = run(toy)
    assert summary.built == 1
    assert "0" * 64 in summary.missing["toy/seg/c2.nii.gz"]
    assert "not fetched: toy/seg/c2.nii.gz" in summary.quarantined["toy/c2"]


def test_a_download_with_another_checksum(toy, site):
    files = pairs(toy, ["c1"])
    files["ct/c1.nii.gz"]["md5"] = "0" * 32
    offer(toy, site, files)
    summary = run(toy)
    assert summary.built == 0
    assert "0" * 32 in summary.missing["toy/ct/c1.nii.gz"]
    assert not toy.ct("c1").exists()


def test_a_full_disk_stops_before_anything_starts(toy, site):
    files = pairs(toy, ["c1"])
    files["ct/c1.nii.gz"]["size"] = 10**17
    offer(toy, site, files)
    with pytest.raises(FetchError, match=r"need 100000\.0 TB, and .* are free"):
        run(toy)
    assert site.watch.asked == []
    assert not (toy.root / "corpus.zarr").exists()


def test_a_worker_that_dies_fetches_nothing_twice(toy, site):
    offer(toy, site, pairs(toy, ["c1", "c2"]))
    killed = []

    def on_case(done, total, outcome):
        if not killed:
            (worker,) = [pid for pid in workers() if pid not in before]
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)

    before = set(workers())
    hold(site, "c2", lambda: committed(toy, "c1"))
    summary = run(toy, progress=on_case)
    assert killed
    assert (summary.built, summary.quarantined) == (2, {})
    assert len(site.watch.asked) == 4


def workers():
    """Process ids of Dask's workers: the children of this process that were spawned with a pipe to it."""
    from multiprocessing import active_children

    return [child.pid for child in active_children() if "Dask" in child.name]


def test_offline_asks_nobody(toy, site):
    offer(toy, site, pairs(toy, ["c1", "c2"]))
    with pytest.raises(BuildError, match=r"nothing in .* matches .*`atlas fetch toy` says how to get what is missing"):
        build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1)
    shutil.copy(site.folder / "ct/c1.nii.gz", toy.ct("c1"))
    shutil.copy(site.folder / "seg/c1.nii.gz", toy.seg("c1"))
    assert build(load_recipe("toys"), toy.sources, toy.root / "corpus.zarr", workers=1).built == 1
    assert site.watch.asked == []


def test_a_licence_that_forbids_is_refused_by_name(toy, site):
    offer(toy, site, pairs(toy, ["c1"]))
    toy.spec("manifests", "{id: CC0-1.0, commercial: true", "{id: CC-BY-NC-4.0, commercial: false")
    toy.spec("pipelines", "datasets: [toy]", "datasets: [toy]\nlicences: {commercial: true}")
    with pytest.raises(BuildError, match=r"toy \(CC-BY-NC-4\.0\)"):
        run(toy)
    assert site.watch.asked == []


def test_a_cluster_that_exists_is_left_as_it_was(toy, site, logged):
    from distributed import Client, LocalCluster

    offer(toy, site, pairs(toy, ["c1", "c2"]))
    met = hold(site, "c2", lambda: committed(toy, "c1"))
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options, protocol="tcp") as cluster:
        before = set(cluster.scheduler.workers)
        threads = threading.active_count()
        seen = {}

        def look(event):
            seen.update({worker.name: dict(worker.resources) for worker in cluster.scheduler.workers.values()})

        summary = run(toy, workers=None, scheduler=cluster.scheduler_address, fetching=look)
        assert (summary.built, summary.missing) == (2, {})
        assert set(cluster.scheduler.workers) == before
        assert not cluster.scheduler.tasks
        assert not [name for name in cluster.scheduler.worker_plugins if "case" in name]
        with Client(cluster) as other:
            (left,) = other.scheduler_info()["workers"].values()
        assert not any(left["resources"].values())
    assert met == [True, True]
    (fetching,) = [resources for name, resources in seen.items() if "fetch" in str(name)]
    (building,) = [resources for name, resources in seen.items() if "fetch" not in str(name)]
    assert fetching == {"connection to 127.0.0.1": 2, "unpack": 2}
    assert [amount for name, amount in building.items() if name.startswith("case of")] == [2]
    assert threading.active_count() <= threads + 2
    assert logged == []


def test_a_cluster_whose_workers_come_late(toy):
    """As on a queue of jobs: the first worker joins when everything waits already."""
    from distributed import LocalCluster

    toy.add("c1")
    options = {"n_workers": 0, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options, protocol="tcp") as cluster:
        threading.Thread(target=lambda: until(lambda: cluster.scheduler.unrunnable) and cluster.scale(1)).start()
        out = toy.root / "corpus.zarr"
        assert build(load_recipe("toys"), toy.sources, out, scheduler=cluster.scheduler_address).built == 1


def test_progress_of_files_is_reported(toy, site):
    zipped_as = [place.relative_to(toy.sources / "toy").as_posix() for place in (toy.ct("c1"), toy.seg("c1"))]
    toy.add("c1")
    zipped(toy, site, "all.zip", zipped_as)
    size = (site.folder / "all.zip").stat().st_size
    offer(toy, site, {"all.zip": {}})
    seen = []
    recipe = load_recipe("toys")
    (arrival,) = Delivery.planned(recipe.datasets, toy.sources).fetch(seen.append)
    assert arrival.error is None
    assert arrival.transferred == size
    assert {event.file for event in seen} == {"toy/all.zip"}
    told = [(event.stage, event.done, event.total) for event in seen]
    assert ("fetch", size, size) in told
    assert ("done", size, None) in told


def test_tasks_are_light(toy, site):
    """A series of a thousand slices is a parcel; its arrival carries none of it back."""
    import pickle

    from atlas.build.fetching import Arrival, Parcel
    from atlas.fetch.download import Download

    place = "patients/1.2.840.113654.2.55.9/1.2.840.113654.2.55.10"
    slices = [
        Download("toy", f"s3://bucket/{n:036d}.dcm", f"{place}/{n:036d}.dcm", 500_000, md5="0" * 32, group=f"{place}/")
        for n in range(1000)
    ]
    parcel = Parcel(f"toy/{place}/", tuple(slices))
    assert len(pickle.dumps(parcel)) < 500_000
    assert len(pickle.dumps(Arrival(parcel.name))) < 500
    assert hash(parcel) == hash(Parcel(parcel.name, ()))
