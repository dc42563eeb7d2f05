"""What building a case costs: beside other preprocessing, and against voxels, cases, workers and structures.

    python benchmarks/build.py                     # everything but --large; installs the peers for itself
    python benchmarks/build.py --no-peers --large  # nothing to install

Every figure comes from a process of its own that first imports what it needs, then starts the clock. The cases
are generated (a body of simple solids with noise, as `atlas demo` uses) and kept below --work for the next run.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve()
CHECKOUT = HERE.parents[1]
PEERS = ("monai", "torchio", "nnunetv2")

TARGET = 1.5
SIDE = 512
PIXEL = 0.8
"""Spacing along x and y, mm."""
SLICE, THIN_SLICE = 2.5, 1.0
"""Spacing along z, and that of the case of 1,000 slices, mm."""
ORGANS = (
    "spleen",
    "kidney_left/right",  # sides are found, as for most datasets
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "pancreas",
    "adrenal_gland_left/right",
    "duodenum",
    "urinary_bladder",
    "colon",
    "small_bowel",
    "portal_vein_and_splenic_vein",
)
STRUCTURES = 104
RICH = "totalseg_v2"
"""The dataset with the most structures. Those come first that the generated body has; the rest are empty."""
NOISE_HU, AIR_NOISE_HU = 22.0, 9.0
SLAB = 25
"""Slices generated at a time."""


# Generated cases ------------------------------------------------------------------------------------------


def make_case(folder, kind, slices, thickness):
    """Write one case, its manifest and its label map; `kind`: organs, volume (104 structures) or masks."""
    import numpy as np

    from atlas.phantom.anatomy import anatomy
    from atlas.phantom.labels import mask_tables, value_tables
    from atlas.phantom.write import FIELD
    from atlas.spec import load_label_map, load_taxonomy

    taxonomy, body = load_taxonomy(), anatomy(3)
    shape = (SIDE, SIDE, slices)
    low, high = np.array(FIELD).T
    # the body is stretched to fill the scan, so that a voxel costs the same however many slices there are
    paint = np.diag([*((high - low) / shape), 1.0])
    paint[:3, 3] = low + np.diag(paint)[:3] / 2
    paint[0] *= -1  # stored left, posterior, superior: the commonest order
    paint[0, 3] = high[0] - abs(paint[0, 0]) / 2
    numbers = np.empty(shape, np.uint16, order="F")
    for first in range(0, slices, SLAB):
        part = numbers[:, :, first : first + SLAB]
        shifted = paint.copy()
        shifted[:3, 3] += shifted[:3, 2] * first
        part[...] = body.paint(part.shape, shifted)
    meanings = {name: (name,) for name in ORGANS}
    if kind != "organs":
        structures = load_label_map(RICH).structures
        cells = mask_tables(structures, body, taxonomy)
        shown = np.bincount(numbers[::4, ::4, ::4].ravel(), minlength=len(body.cells) + 1) > 0
        order = sorted(structures, key=lambda name: not (cells[name] & shown).any())
        meanings = {name: structures[name] for name in order[:STRUCTURES]}
    affine = np.diag([-PIXEL, PIXEL, thickness, 1.0])
    source = folder / "sources/bench"
    write_ct(source / "images/case_0.nii.gz", numbers, body.hu, affine)
    if kind == "masks":
        for name, cells in mask_tables(meanings, body, taxonomy).items():
            write_label(source / f"masks/case_0/{name}.nii.gz", numbers, cells.astype(np.uint8), affine)
    else:
        values = dict(enumerate(meanings.values(), start=1))
        table = value_tables(values, body, taxonomy)[0]
        write_label(source / "labels/case_0.nii.gz", numbers, table.astype(np.uint8), affine)
    write_specifications(folder / "specifications", meanings, masks=kind == "masks")
    (folder / "complete").touch()


def write_ct(path, numbers, hu, affine):
    import numpy as np

    rng = np.random.default_rng(0)

    def slab(part):
        noise = rng.standard_normal(part.shape, np.float32) * np.where(part, NOISE_HU, AIR_NOISE_HU)
        return np.clip(hu[part] + noise, -1024, 3071).astype(np.int16)

    write_volume(path, numbers, slab, np.int16, affine)


def write_label(path, numbers, table, affine):
    write_volume(path, numbers, lambda part: table[part], table.dtype, affine)


def write_volume(path, numbers, slab, dtype, affine):
    """Write a .nii.gz slab by slab; `slab` makes voxels of cell numbers."""
    import nibabel as nib
    from isal import igzip

    header = nib.Nifti1Header()
    header.set_data_shape(numbers.shape)
    header.set_data_dtype(dtype)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    path.parent.mkdir(parents=True, exist_ok=True)
    with igzip.open(path, "wb", compresslevel=3) as file:
        file.write(header.binaryblock + bytes(4))
        for first in range(0, numbers.shape[2], SLAB):
            file.write(slab(numbers[:, :, first : first + SLAB]).tobytes(order="F"))


def write_specifications(folder, meanings, *, masks):
    """Write the manifest and the label map of the generated dataset (YAML may be JSON)."""
    layout = {"case": r"case_\d+", "image": "images/{case}.nii.gz"}
    label_map = {"dataset": "bench"}
    if masks:
        layout["masks"] = "masks/{case}/{structure}.nii.gz"
        label_map["structures"] = {name: list(targets) for name, targets in meanings.items()}
    else:
        layout["labels"] = {"segmentation": "labels/{case}.nii.gz"}
        values = {number: list(targets) for number, targets in enumerate(meanings.values(), start=1)}
        label_map["values"] = {"segmentation": values}
    manifest = {
        "id": "bench",
        "name": "Generated for the benchmark",
        "citation": "none",
        "licence": {"id": "CC0-1.0", "commercial": True, "redistribution": True},
        "access": {"kind": "open"},
        "scans": 1,
        "labelled": 1,
        "layout": layout,
    }
    for kind, content in (("manifests", manifest), ("label_maps", label_map)):
        path = folder / kind / "bench.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_yaml(content), encoding="utf-8")


def to_yaml(content):
    import yaml

    return yaml.safe_dump(content, sort_keys=False)


# Contestants: each prepares itself and gives back the work that is timed -----------------------------------


def by_atlas(folder):
    """Read, check, hash, resample, split sides, reconcile, measure and write: the whole case."""
    import distributed  # noqa: F401 - as in a worker, whose memory counts
    import tensorstore  # noqa: F401

    from atlas.build.case import build_case
    from atlas.build.context import Context
    from atlas.corpus.write import write_root
    from atlas.ingest.cases import find_cases
    from atlas.spec import load_label_map, load_manifest, load_taxonomy

    corpus, sources = fresh(folder / "corpus"), folder / "sources/bench"
    manifest, taxonomy, recipe = load_manifest("bench"), load_taxonomy(), benchmark_recipe()
    context = Context(manifest, load_label_map("bench"), taxonomy, recipe, sources, corpus)
    files = find_cases(manifest, sources)[0]
    write_root(corpus, taxonomy, recipe, "benchmark")

    def work():
        outcome = build_case(files, context)
        if outcome.state != "built":
            raise SystemExit(f"not built: {outcome.reason}\n{outcome.trace or ''}")

    return work


def by_whole_build(folder, cases, workers):
    """`atlas build` of copies of the case, Dask cluster included."""
    from atlas.build import build

    source = folder / "sources/bench"
    many = fresh(folder / "many")
    for number in range(cases):
        for kind in ("images", "labels"):
            link = many / "bench" / kind / f"case_{number}.nii.gz"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(source / kind / "case_0.nii.gz", link)
    corpus = fresh(folder / "corpus-of-many") / "corpus.zarr"

    def work():
        summary = build(benchmark_recipe(), many, corpus, workers=workers)
        if summary.built != cases:
            raise SystemExit(f"not built: {summary.quarantined}")

    return work


def benchmark_recipe():
    from atlas.spec import Recipe

    return Recipe(name="benchmark", datasets=("bench",))


def by_monai(folder):
    """Load, orient and space CT and label; nothing is checked or written."""
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, Spacingd

    keys = ("image", "label")
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS"),
            Spacingd(keys, pixdim=(TARGET,) * 3, mode=("bilinear", "nearest")),
        ]
    )
    image, label = pair(folder)
    return lambda: transform({"image": image, "label": label})


def by_torchio(folder):
    """Load, orient and space CT and label; nothing is checked or written."""
    import torchio

    transform = torchio.Compose([torchio.ToCanonical(), torchio.Resample(TARGET)])
    image, label = pair(folder)
    return lambda: transform(torchio.Subject(image=torchio.ScalarImage(image), label=torchio.LabelMap(label)))


def by_nnunet(folder):
    """Load, crop, normalize, space and sample the foreground with the default settings; nothing is written."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    def resampling(*, is_seg, order):
        return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}

    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": [TARGET] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(is_seg=False, order=3),
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": resampling(is_seg=True, order=1),
        "architecture": {},
    }
    intensities = {"mean": 50.0, "std": 100.0, "percentile_00_5": -200.0, "percentile_99_5": 300.0}
    plans = PlansManager(
        {
            "dataset_name": "benchmark",
            "plans_name": "benchmark",
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {"0": intensities},
            "configurations": {"3d_fullres": configuration},
        }
    )
    labels = {"background": 0, **{name: number for number, name in enumerate(ORGANS, start=1)}}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
    preprocessor = DefaultPreprocessor(verbose=False)
    image, label = pair(folder)
    return lambda: preprocessor.run_case([image], label, plans, plans.get_configuration("3d_fullres"), dataset)


def pair(folder):
    source = folder / "sources/bench"
    return str(source / "images/case_0.nii.gz"), str(source / "labels/case_0.nii.gz")


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


CONTESTANTS = {
    "atlas": by_atlas,
    "MONAI": by_monai,
    "TorchIO": by_torchio,
    "nnU-Net v2": by_nnunet,
    "build": by_whole_build,
}


# Measuring --------------------------------------------------------------------------------------------------


def measure_here(name, folder, arguments):
    """In the fresh process: prepare, then time the work, and print what it took."""
    work = CONTESTANTS[name](folder, *arguments)
    before, start = cpu_seconds(), time.perf_counter()
    work()
    result = {"wall": time.perf_counter() - start, "cpu": cpu_seconds() - before, "peak": peak_bytes()}
    print(json.dumps(result), flush=True)


def cpu_seconds():
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def peak_bytes():
    """High-water mark of this program's memory; that of getrusage includes whoever started it."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measured(name, folder, *arguments, python=sys.executable):
    """Run a contestant in a fresh process."""
    command = [python, str(HERE), "--measure", name, "--folder", str(folder), *map(str, arguments)]
    environment = {**os.environ, "ATLAS_PATH": str(folder / "specifications"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def case_folder(work, kind, slices, thickness=SLICE):
    """Folder of a generated case; made in a process of its own, which leaves this one small."""
    folder = work / f"{kind}-{slices}-{thickness:g}mm"
    if not (folder / "complete").exists():
        print(f"(generating {kind}, {SIDE} x {SIDE} x {slices})", file=sys.stderr, flush=True)
        wanted = [kind, str(slices), str(thickness)]
        subprocess.run([sys.executable, str(HERE), "--make", "--folder", str(fresh(folder)), *wanted], check=True)
    for path in (folder / "sources").rglob("*.nii.gz"):  # into the page cache, for everyone alike
        path.read_bytes()
    return folder


def install_peers(folder):
    """Give the other libraries an environment of their own."""
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        print("(installing the peers; this happens once)", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        constraints = str(CHECKOUT / "constraints.txt")
        for packages in (("torch",), PEERS):  # torch first: its release is pinned, the others take any
            command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", constraints, *packages]
            subprocess.run(command, check=True)
        (folder / "complete").touch()
    return str(python)


# What is printed --------------------------------------------------------------------------------------------


def table(title, columns, rows):
    """Print a Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def seconds(values):
    middle = statistics.median(values)
    return f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else f"{middle:.2f}"


def gib(values):
    return f"{statistics.median(values) / 2**30:.2f}"


def compare(work, python, repeats, slices, thickness):
    """One case by everyone, in turn."""
    folder = case_folder(work, "organs", slices, thickness)
    names = [name for name in CONTESTANTS if name != "build" and (python or name == "atlas")]
    runs = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            runs[name].append(measured(name, folder, python=sys.executable if name == "atlas" else python))
    values = {name: {key: [run[key] for run in runs[name]] for key in runs[name][0]} for name in names}

    def ratio(name, key):
        return f"{statistics.median(values[name][key]) / statistics.median(values['atlas'][key]):.1f}"

    rows = [
        [name, seconds(v["wall"]), seconds(v["cpu"]), gib(v["peak"]), ratio(name, "wall"), ratio(name, "cpu")]
        for name, v in values.items()
    ]
    columns = ["", "wall s (range)", "CPU s (range)", "peak GiB", "wall, times atlas", "CPU, times atlas"]
    size = sum(Path(path).stat().st_size for path in pair(folder)) / 1e6
    voxels = f"{SIDE} x {SIDE} x {slices} voxels of {PIXEL} x {PIXEL} x {thickness:g} mm"
    table(f"{voxels}, {len(ORGANS)} labels, {size:.0f} MB", columns, rows)


def against_voxels(work, repeats, counts):
    voxels, walls, rows = [], [], []
    for slices in counts:
        runs = [measured("atlas", case_folder(work, "organs", slices)) for _ in range(repeats)]
        voxels.append(SIDE * SIDE * slices / 1e6)
        walls.append(statistics.median(run["wall"] for run in runs))
        cpu = statistics.median(run["cpu"] for run in runs)
        peak = gib([run["peak"] for run in runs])
        rows.append([str(slices), f"{walls[-1]:.2f}", f"{cpu:.2f}", f"{1000 * walls[-1] / voxels[-1]:.1f}", peak])
    columns = ["slices", "wall s", "CPU s", "wall ms per million voxels", "peak GiB"]
    table("Against the number of voxels", columns, rows)
    slope, start = statistics.linear_regression(voxels, walls)
    print(f"\nLine: {start:.2f} s + {1000 * slope:.1f} ms per million voxels; correlation ", end="")
    print(f"{statistics.correlation(voxels, walls):.4f}")


def against_cases(work, slices, counts):
    folder = case_folder(work, "organs", slices)
    walls = {(n, w): measured("build", folder, n, w)["wall"] for n in counts for w in (1, 2)}
    rows = [[str(n), f"{walls[n, 1]:.1f}", f"{walls[n, 2]:.1f}", f"{walls[n, 1] / walls[n, 2]:.2f}"] for n in counts]
    first, last = counts[0], counts[-1]
    each = [(walls[last, w] - walls[first, w]) / (last - first) for w in (1, 2)]
    rows.append(["one more", f"{each[0]:.2f}", f"{each[1]:.2f}", f"{each[0] / each[1]:.2f}"])
    columns = ["cases", "1 worker, s", "2 workers, s", "ratio"]
    table("Against cases and workers (whole builds, start of the workers included)", columns, rows)


def large(work):
    rows = []
    for kind, text in (("volume", "one label volume"), ("masks", f"{STRUCTURES} files")):
        run = measured("atlas", case_folder(work, kind, 1000, THIN_SLICE))
        rows.append([text, f"{run['wall']:.1f}", f"{run['cpu']:.1f}", gib([run["peak"]])])
    columns = [f"{STRUCTURES} structures as", "wall s", "CPU s", "peak GiB"]
    table(f"{SIDE} x {SIDE} x 1000 voxels of {PIXEL} x {PIXEL} x {THIN_SLICE} mm", columns, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter that has the peers; else they are installed")
    parser.add_argument("--no-peers", action="store_true", help="this build alone")
    parser.add_argument("--only", choices=["peers", "voxels", "cases", "large"], help="one table")
    parser.add_argument("--large", action="store_true", help="also 1,000 slices with 104 structures (takes minutes)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slices", type=int, default=250, help="of the case that is compared")
    parser.add_argument("--thickness", type=float, default=SLICE, help="of its slices, mm")
    parser.add_argument("--cases", type=int, nargs="+", default=[2, 8], help="numbers of cases that are built")
    parser.add_argument("--work", type=Path, default=CHECKOUT / "build/benchmark", help="where cases are kept")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        kind, slices, thickness = options.arguments
        make_case(options.folder, kind, int(slices), float(thickness))
    elif options.measure:
        measure_here(options.measure, options.folder, [int(a) for a in options.arguments])
    else:
        report(options)


def report(options):
    def wanted(part):
        return options.only in (None, part)

    work = options.work.resolve()
    if wanted("peers"):
        python = None if options.no_peers else options.peers or install_peers(CHECKOUT / "build/benchmark-venv")
        compare(work, python, options.repeats, options.slices, options.thickness)
    if wanted("voxels"):
        against_voxels(work, options.repeats, [64, 125, 250, 500])
    if wanted("cases"):
        against_cases(work, options.slices, sorted(options.cases))
    if options.large or options.only == "large":
        large(work)


if __name__ == "__main__":
    main()
