"""What is compared: this build, and the preprocessing of MONAI, TorchIO and nnU-Net v2, each in its own process.

python benchmarks/contestants.py NAME FOLDER [ARGUMENT ...]     # prints what it took, as JSON
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

from generated import ORGANS, TARGET, fresh, pair


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


CONTESTANTS = {
    "atlas": by_atlas,
    "MONAI": by_monai,
    "TorchIO": by_torchio,
    "nnU-Net v2": by_nnunet,
    "build": by_whole_build,
}


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


if __name__ == "__main__":
    measure_here(sys.argv[1], Path(sys.argv[2]), [int(a) for a in sys.argv[3:]])
