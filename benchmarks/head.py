"""Forward and backward pass of the head, against the published formulation of the same function.

    python benchmarks/head.py [--device cpu] [--sizes 96 128] [--classes 32 117] [--supervised 2 all]

The published formulation computes all classes always: the shared feature is repeated for each class and three grouped
convolutions follow. Only the supervised classes then take part in the loss; here as there it is the mean of the
squares. Features are those of a Swin UNETR 48 (768 and 48 channels). Every figure is that of a fresh process. Memory is
the high-water mark above the inputs and parameters, with the gradients of both features, after a small first pass;
time is taken in another process, in which memory is not handed back at once, after a pass of full size.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

DEEP, DECODER, EMBEDDING, STRIDE = 768, 48, 512, 32
HERE = Path(__file__).resolve()
MIB = 2**20


# The published formulation --------------------------------------------------------------------------------------


def published(head, deep, decoder, embeddings):
    """Logits (B, K, D, H, W): the formula as published, with the parameters of our head."""
    import torch

    functional = torch.nn.functional
    classes = len(embeddings)
    text = torch.relu(head.text(embeddings))[:, :, None, None, None]
    image, shared = head.image(deep), head.shared(decoder)
    found = []
    for sample in range(len(deep)):
        both = torch.cat([image[sample : sample + 1].repeat(classes, 1, 1, 1, 1), text], 1)
        numbers = head.controller(both).flatten(1)
        *weights, b1, b2, b3 = torch.split(numbers, (64, 64, 8, 8, 8, 1), dim=1)
        w1, w2, w3 = (w.reshape(-1, 8, 1, 1, 1) for w in weights)
        x = shared[sample : sample + 1].repeat(1, classes, 1, 1, 1)
        x = torch.relu(functional.conv3d(x, w1, b1.reshape(-1), groups=classes))
        x = torch.relu(functional.conv3d(x, w2, b2.reshape(-1), groups=classes))
        found.append(functional.conv3d(x, w3, b3.reshape(-1), groups=classes))
    return torch.cat(found)


# In a fresh process ---------------------------------------------------------------------------------------------


class Peak:
    """Most bytes held while it runs, above those at its start."""

    def __init__(self, device):
        self.device = device

    def __enter__(self):
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            self.before = self.most = resident()
            self.over = threading.Event()
            self.watch = threading.Thread(target=self._watch)
            self.watch.start()
        return self

    def _watch(self):
        while not self.over.wait(0.002):
            self.most = max(self.most, resident())

    def __exit__(self, *_):
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self.before
        else:
            self.over.set()
            self.watch.join()
            self.bytes = max(self.most, resident()) - self.before


def resident():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def inputs(size, batch, classes, device):
    import torch

    low = max(size // STRIDE, 1)
    deep = torch.randn(batch, DEEP, low, low, low, device=device).requires_grad_()
    decoder = torch.randn(batch, DECODER, size, size, size, device=device).requires_grad_()
    return deep, decoder, torch.randn(classes, EMBEDDING, device=device)


def step(head, form, given, available):
    """One forward and backward pass; the value of the loss."""
    if form == "published":
        logits = published(head, *given)
        wanted = logits if available is None else logits[available]
    else:
        wanted = head(*given, available).logits
    loss = wanted.square().mean()
    loss.backward()
    return float(loss.detach())


def measure(options):
    import torch

    from atlas.model.head import UniversalHead

    form, size, classes, supervised = options.hold
    size, classes = int(size), int(classes)
    torch.manual_seed(0)
    head = UniversalHead(DEEP, DECODER, EMBEDDING).to(options.device)
    available = None
    if supervised != "all":
        available = torch.zeros(options.batch, classes, dtype=torch.bool)
        available[:, : int(supervised)] = True
    step(head, form, inputs(STRIDE, options.batch, classes, options.device), available)
    given = inputs(size, options.batch, classes, options.device)
    head.zero_grad(set_to_none=True)
    with Peak(options.device) as peak:
        loss = step(head, form, given, available)
    seconds = []
    for _ in range(options.repeats):
        clear = [*head.parameters(), *given[:2]]
        for tensor in clear:
            tensor.grad = None
        start = time.perf_counter()
        step(head, form, given, available)  # ends with a wait for the device
        seconds.append(time.perf_counter() - start)
    gradient = float(given[1].grad.norm())
    print(json.dumps({"seconds": min(seconds), "bytes": peak.bytes, "loss": loss, "gradient": gradient}))


# The table ------------------------------------------------------------------------------------------------------


AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""Large blocks go back to the system at once, so that what is resident is what is held."""


def fresh(options, *case):
    """Time and memory of one case, each out of a process of its own; None if there is not enough memory."""
    held, timed = one(options, AT_ONCE, 1, case), one(options, {}, options.repeats, case)
    return held and timed and {**held, "seconds": timed["seconds"]}


def one(options, environment, repeats, case):
    numbers = [f"--device={options.device}", f"--batch={options.batch}", f"--repeats={repeats}"]
    given = os.environ | environment
    command = [sys.executable, str(HERE), *numbers, "--hold", *map(str, case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    if done.returncode:
        sys.stderr.write(done.stderr[-1000:])
        return None
    return json.loads(done.stdout.splitlines()[-1])


def report(options):
    columns = ["patch", "classes", "supervised", "published s", "here s", "times faster"]
    columns += ["published MiB", "here MiB", "times less", "of it logits MiB"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for size in options.sizes:
        for classes in options.classes:
            for supervised in options.supervised:
                print(f"| {' | '.join(row(options, size, classes, supervised))} |", flush=True)


def row(options, size, classes, supervised):
    plain, ours = (fresh(options, form, size, classes, supervised) for form in ("published", "here"))
    first = [f"{size}^3 x {options.batch}", str(classes), supervised]
    pairs = options.batch * (classes if supervised == "all" else int(supervised))
    logits = f"{pairs * size**3 * 4 / MIB:.0f}"
    if ours is None:
        return [*first, *["failed"] * 6, logits]
    if plain is None:  # out of memory
        return [*first, "failed", f"{ours['seconds']:.3f}", "", "failed", f"{ours['bytes'] / MIB:.0f}", "", logits]
    for name in ("loss", "gradient"):
        if abs(ours[name] - plain[name]) > 1e-3 * abs(plain[name]):
            raise SystemExit(f"not the same function: {name} {plain[name]} and {ours[name]}")
    found = [*first]
    for name, unit, form in (("seconds", 1, ".3f"), ("bytes", MIB, ".0f")):
        ratio = plain[name] / max(ours[name], 1e-9)
        found += [f"{plain[name] / unit:{form}}", f"{ours[name] / unit:{form}}", f"{ratio:.1f}"]
    return [*found, logits]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128])
    parser.add_argument("--classes", type=int, nargs="+", default=[32, 117])
    parser.add_argument("--supervised", nargs="+", default=["2", "all"], help="classes with labels: a number or `all`")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="passes; the fastest counts")
    parser.add_argument("--hold", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        measure(options)
    else:
        report(options)


if __name__ == "__main__":
    main()
