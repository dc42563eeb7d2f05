"""Prediction of a tall scan: seconds of each stage and peak memory, against MONAI's sliding window.

    python benchmarks/predict.py [--size 512] [--height 400] [--classes 32] [--device cpu] [--backbone unet]

The scan is made up (0.7 x 0.7 x 1 mm), the weights are random: only size counts. MONAI's `sliding_window_inference`
gets the same network, windows and canonical CT, gives the logits of all classes at once and is stopped there: its
figures leave out reading, sigmoid, post-processing and writing. Each runs in a process of its own. Memory is what the
process holds above what its libraries and the network take: anonymous pages, and those of files (which the system can
take back) apart.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

SPACING = (0.7, 0.7, 1.0)
PATCH = 96
BACKBONES = {"unet": {"kind": "unet", "features": [8, 16, 16]}, "swin_unetr": {"kind": "swin_unetr"}}


def memory():
    """Bytes of this process: anonymous, and of files and shared memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")]


@contextmanager
def watched(result):
    """Put the peak of memory above the present into `result`, looked at every 20 ms."""
    start, peak, over = memory(), memory(), threading.Event()

    def watch():
        while not over.wait(0.02):
            peak[:] = map(max, peak, memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        result["anonymous_mb"], result["file_mb"] = (round((p - s) / 2**20) for p, s in zip(peak, start, strict=True))


def make_run(folder, options):
    """A run with random weights."""
    import torch

    from atlas.spec import load_taxonomy
    from atlas.spec.training import TrainingRecipe
    from atlas.train.run import CorpusRecord, RunDescription, network_of, save_description, save_model

    taxonomy = load_taxonomy()
    classes = taxonomy.names[: options.classes]
    recipe = TrainingRecipe.model_validate(
        {
            "name": "benchmark",
            "data": {"patch": PATCH},
            "model": {"backbone": BACKBONES[options.backbone]},
            "embeddings": {"kind": "learned"},
            "loss": {},
            "optimiser": {"steps": 1},
            "postprocess": {"largest": ["liver"], "organ_margin": 4.5, "sides": True},
        }
    )
    about = RunDescription(
        version="0",
        recipe=recipe,
        classes=classes,
        heads=(len(classes),),
        taxonomy=taxonomy,
        corpus=CorpusRecord(location="", spacing=1.5, cases=0, fingerprint=0),
    )
    torch.manual_seed(0)
    save_description(folder, about, None)
    save_model(folder, network_of(about, None).state_dict())


def make_scan(path, options):
    import nibabel as nib
    import numpy as np

    ct = np.full((options.size, options.size, options.height), -1000, np.int16, order="F")
    rng = np.random.default_rng(0)
    inner = slice(options.size // 8, -options.size // 8)
    for k in range(options.height):
        ct[inner, inner, k] = rng.normal(40, 60, ct[inner, inner, k].shape)
    nib.save(nib.Nifti1Image(ct, np.diag([*SPACING, 1.0])), path)


def ours(folder, options):
    from atlas.predict import FileScan, predict_scans
    from atlas.train.run import load_run

    trained = load_run(folder / "run", options.device)
    result = {}
    with watched(result):
        (done,) = predict_scans(trained, [FileScan("scan", folder / "ct.nii.gz")], folder / "out")
    if done.reason is not None:
        raise SystemExit(done.reason)
    return {**result, **device_memory(options), "seconds": done.seconds}


def monai(folder, options):
    import torch
    from monai.inferers import sliding_window_inference

    from atlas.harmonize.grid import canonical_grid
    from atlas.harmonize.resample import resample_ct
    from atlas.ingest.volume import read_ct
    from atlas.model.head import scatter
    from atlas.train.run import load_run

    trained = load_run(folder / "run", options.device)
    volume = read_ct(folder / "ct.nii.gz")
    grid = canonical_grid(volume.data.shape, volume.affine)
    ct = resample_ct(volume.data, volume.affine, grid)
    del volume
    result = {}
    image = ((torch.from_numpy(ct).float() + 175) / 425).clamp_(0, 1)[None, None].to(options.device)

    def forward(patch):
        return scatter(trained.network(patch), len(patch), len(trained.classes))

    start = time.perf_counter()
    with watched(result), torch.inference_mode():
        sliding_window_inference(image, (PATCH,) * 3, 1, forward, overlap=0.5, mode="gaussian")
    return {**result, **device_memory(options), "seconds": {"network": round(time.perf_counter() - start, 3)}}


def device_memory(options):
    import torch

    if not options.device.startswith("cuda"):
        return {}
    return {"device_mb": round(torch.cuda.max_memory_allocated() / 2**20)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--height", type=int, default=400)
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", choices=BACKBONES, default="unet")
    parser.add_argument("--only", choices=["ours", "monai"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps({"ours": ours, "monai": monai}[options.only](options.folder, options)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_run(Path(name) / "run", options)
        make_scan(Path(name) / "ct.nii.gz", options)
        voxels = round(options.size * SPACING[0] / 1.5) ** 2 * round(options.height * SPACING[2] / 1.5)
        print(f"{options.size} x {options.size} x {options.height}, {voxels / 1e6:.1f} M canonical voxels")
        sums = 4 * (options.classes + 1) * voxels / 2**20
        print(f"float32 sums of {options.classes} classes and the weight, whole volume: {sums:.0f} MB")
        for which in [options.only] if options.only else ["ours", "monai"]:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", which, "--folder", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            print(f"{which:6}", json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
