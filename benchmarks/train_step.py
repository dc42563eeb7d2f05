"""A training step of the universal model: patches per second, peak memory, and where the time goes.

    python benchmarks/train_step.py                                                                      # a GPU
    python benchmarks/train_step.py --device cpu --precision fp32 --patch 64 --batch 1 --classes 4 --steps 1   # a trial

Swin UNETR 48 and the U-Net of `pipelines/universal_unet.yaml`, from a corpus of generated volumes on, as `atlas train`
does it: stream, autocast, head of the supervised classes, loss, backward, clipping, AdamW. Shares are those of a second
run in which the device is waited for after every part; backward is one part, for it cannot be cut. With `--compile`,
the backbone is compiled.
"""

import argparse
import platform
import time
from pathlib import Path

import torch
from stream import generated_volumes

import atlas

BACKBONES = {
    "Swin UNETR 48": {"kind": "swin_unetr"},
    "U-Net": {"kind": "unet", "features": [32, 64, 128, 256, 320, 320]},
}
HERE = Path(__file__).resolve().parent.parent
WARM = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Step:
    """Everything that a step needs, and how long each part of it takes."""

    def __init__(self, backbone, corpus, options):
        from pydantic import TypeAdapter

        from atlas.model.backbones import build_backbone
        from atlas.model.class_vectors import LearnedVectors
        from atlas.model.loss import PartialLabelLoss
        from atlas.model.network import UniversalNetwork
        from atlas.spec.training import BackboneSpec, OptimiserSpec
        from atlas.train.schedule import optimiser_of

        self.device, self.dtype = torch.device(options.device), DTYPES[options.precision]
        classes = corpus.taxonomy.names[: options.classes]
        spec = TypeAdapter(BackboneSpec).validate_python(BACKBONES[backbone])
        self.network = UniversalNetwork(build_backbone(spec), LearnedVectors(classes)).to(self.device).train()
        if options.compile:
            self.network.backbone.compile()
        self.loss = PartialLabelLoss(classes)
        self.optimiser = optimiser_of(self.network, OptimiserSpec(steps=1))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "fp16")
        self.stream = atlas.stream(
            corpus, batch_size=options.batch, patch_size=options.patch, device=options.device, classes=classes, seed=0
        )
        self.parts, self.pairs = {}, 0

    def run(self, *, apart):
        """One step; `apart`: wait for the device after each part."""
        self._last = time.perf_counter()
        batch = next(self.stream)
        self._done("waiting for patches", apart=apart)
        available = torch.from_numpy(batch.available_on_host)
        self.pairs += int(available.sum())
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features = self.network.backbone(batch.image)
            self._done("backbone", apart=apart)
            found = self.network.heads[0](features.deep, features.decoder, self.network.vectors(), available)
            self._done("head", apart=apart)
        result = self.loss([found.logits], batch.mask, available, batch.unknown, pairs=available.nonzero())
        self._done("loss", apart=apart)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(result.total).backward()
        self._done("backward", apart=apart)
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._done("optimiser", apart=apart)

    def _done(self, part, *, apart):
        if apart:
            wait_for(self.device)
            now = time.perf_counter()
            self.parts[part] = self.parts.get(part, 0.0) + now - self._last
            self._last = now


def measured(backbone, corpus, options):
    """A row of the table."""
    step = Step(backbone, corpus, options)
    for _ in range(min(WARM, options.steps)):
        step.run(apart=False)
    wait_for(step.device)
    step.pairs = 0
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(options.steps):
        step.run(apart=False)
    wait_for(step.device)
    seconds = (time.perf_counter() - start) / options.steps
    memory = torch.cuda.max_memory_allocated() / 2**30 if step.device.type == "cuda" else float("nan")
    pairs = step.pairs / options.steps
    for _ in range(options.steps):
        step.run(apart=True)
    step.stream.close()
    total = sum(step.parts.values())
    shares = ", ".join(f"{part} {100 * part_seconds / total:.0f} %" for part, part_seconds in step.parts.items())
    return (
        f"{backbone:14} {options.batch / seconds:8.2f} patches/s  {1000 * seconds:8.0f} ms a step  {memory:6.1f} GiB  "
        f"{pairs:5.1f} pairs a step  | {shares}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, default=HERE / "build/benchmark-stream", help="where files are kept")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()} CPU"
    print(
        f"{where}, torch {torch.__version__}; {options.patch}^3, batch {options.batch}, {options.classes} classes, "
        f"{options.precision}{', compiled' if options.compile else ''}"
    )
    corpus = atlas.open(generated_volumes(options.work.resolve()) / "corpus.zarr")
    for backbone in options.backbones:
        print(measured(backbone, corpus, options), flush=True)


if __name__ == "__main__":
    main()
