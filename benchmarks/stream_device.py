"""From the corpus to masks on a GPU: patches per second, bytes over the bus, and how long a training step waits.

    python benchmarks/stream_device.py
    python benchmarks/stream_device.py --device cpu --features 12 --sizes 64 --seconds 1 --steps 1    # a trial

Volumes are the generated ones of `benchmarks/stream.py`. The step is that of a Swin UNETR (MONAI) in bfloat16 with 32
classes and the loss of those that are available; its time on one and the same batch is measured in turn with its time
on the stream.
"""

import argparse
import itertools
import platform
import statistics
import time
from pathlib import Path

import torch
from stream import generated_volumes

import atlas

MASKS, WARM = 32, 3


def name_of(device):
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches_of(corpus, size, patch, device):
    """Endless batches with 32 masks on the device."""
    classes = {"classes": corpus.taxonomy.names[:MASKS]} if device else {}
    return iter(atlas.stream(corpus, batch_size=size, patch_size=patch, device=device, seed=0, **classes))


def crossing(corpus, size, patch):
    """Bytes a patch that cross to the device."""
    batch = next(batches_of(corpus, size, patch, None))
    return batch.nbytes / size


# Streaming alone --------------------------------------------------------------------------------------------------


def streaming(corpus, device, options):
    rows = []
    for patch, size in itertools.product(options.sizes, options.batches):
        batches = batches_of(corpus, size, patch, device)
        for _ in range(WARM):
            next(batches)
        wait_for(device)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < options.seconds:
            count += len(next(batches))
        wait_for(device)
        rate, bytes_ = count / (time.perf_counter() - start), crossing(corpus, size, patch)
        rows.append([f"{patch}^3", str(size), f"{rate:,.0f}", f"{bytes_ / 1e6:.2f}", f"{rate * bytes_ / 1e9:.2f}"])
    table(f"Stream to {MASKS} masks", ["patch", "batch", "patches per s", "MB a patch", "GB per s"], rows)


# Beside a training step -------------------------------------------------------------------------------------------


def training_step(device, features):
    """A function that trains on a batch."""
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(0)
    network = SwinUNETR(in_channels=1, out_channels=MASKS, feature_size=features).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step(batch):
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(batch.image)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.float(), batch.mask.float(), reduction="none"
        )
        known = batch.available[:, :, None, None, None].expand_as(batch.mask)
        if batch.unknown is not None:
            known = known & ~batch.unknown
        loss = (loss * known).sum() / known.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def seconds_a_step(step, batches, device, steps):
    """Of whole steps, the device running behind as it does in training; and of waiting, measured apart.

    For the second the device is let to finish before the next batch is asked for and after it is there, so that
    nothing but the batch is counted; reading goes on in the meantime, as it does behind any step.
    """
    for _ in range(WARM):
        step(next(batches))
    wait_for(device)
    start = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    wait_for(device)
    whole, waited = time.perf_counter() - start, 0.0
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches)
        wait_for(device)
        waited += time.perf_counter() - start
        step(batch)
        wait_for(device)
    return whole / steps, waited / steps


def training(corpus, device, options):
    rows = []
    for patch, size in itertools.product(options.sizes[:1], options.train_batches):
        step, stream = training_step(device, options.features), batches_of(corpus, size, patch, device)
        constant = itertools.repeat(next(stream))
        found = {"constant": [], "stream": []}
        for _ in range(options.rounds):
            found["constant"].append(seconds_a_step(step, constant, device, options.steps))
            found["stream"].append(seconds_a_step(step, stream, device, options.steps))
        same, streamed, waited = (
            statistics.median(values[part] for values in found[name])
            for name, part in (("constant", 0), ("stream", 0), ("stream", 1))
        )
        times = [f"{1000 * same:.1f}", f"{1000 * streamed:.1f}", f"{1000 * waited:.2f}"]
        shares = [f"{100 * waited / (same + waited):.2f} %", f"{100 * (streamed / same - 1):+.2f} %"]
        rows.append([f"{patch}^3", str(size), *times, *shares])
    columns = ["patch", "batch", "same batch, ms", "stream, ms", "waiting, ms", "share of waiting", "longer by"]
    table(f"Swin UNETR, {options.features} features, bfloat16: a training step", columns, rows)


def table(title, columns, rows):
    """Print a Markdown table."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128], help="patches, voxels along each axis")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--train-batches", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--features", type=int, default=48, help="of the Swin UNETR")
    parser.add_argument("--seconds", type=float, default=10, help="of streaming, each row")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["streaming", "training"])
    work = Path(__file__).resolve().parent.parent / "build/benchmark-stream"
    parser.add_argument("--work", type=Path, default=work, help="where files are kept")
    options = parser.parse_args()
    device = torch.device(options.device)
    corpus = atlas.open(str(generated_volumes(options.work.resolve()) / "corpus.zarr"))
    print(name_of(device))
    if options.only != "training":
        streaming(corpus, device, options)
    if options.only != "streaming":
        training(corpus, device, options)


if __name__ == "__main__":
    main()
