"""Patches per CPU-second and per second: this stream beside other libraries, on the same volumes.

    pip install nnunetv2 monai torchio h5py          # the peers, here or in another environment
    python benchmarks/stream.py                      # a peer that is not installed is skipped, and named
    python benchmarks/stream.py --python PYTHON      # an interpreter that has the peers
    python benchmarks/stream.py --patches 8 --rounds 1 --only nnU-Net atlas    # a trial

Volumes: three of 280 x 260 x 260 voxels with noise and 28 overlapping structures, and the real scans beside the
checkout. Every contestant runs in a process of its own, its files in the page cache; they take turns. The host's cost
is counted up to what crosses to the device: the packed batch, or a peer's tensors. The peers' files are made
once, kept below --work, and not timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from stream_measure import CONTESTANTS
from stream_peers import NNUNET
from stream_readers import READERS, UNPACKED
from stream_volumes import CASES, REAL, REAL_CASES, SHAPE, STRUCTURES

HERE = Path(__file__).resolve().parent
MODULES = "import sys, importlib.util as u; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))"
ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
ENVIRONMENT |= {
    f"nnUNet_{name}": "." for name in ("raw", "preprocessed", "results")
}  # else it warns that they are not set


def run(python, script, *words):
    """Run a script of this folder in a fresh process; what it printed last."""
    command = [python, str(HERE / script), *map(str, words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return (done.stdout.splitlines() or [""])[-1]


def once(folder, what, make):
    """Make a folder unless it was finished before."""
    marker = folder.with_name(folder.name + ".complete")
    if not marker.exists():
        print(f"({what})", file=sys.stderr, flush=True)
        make()
        marker.touch()
    return folder


def generated_volumes(work):
    """Folder of the generated volumes, made if need be."""
    return volumes(work, "generated")


def volumes(work, kind):
    place = work / kind
    return once(place, f"{kind} volumes", lambda: run(sys.executable, "stream_volumes.py", kind, place))


def into_page_cache(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.read_bytes()


class Contest:
    """Contestants on one set of volumes."""

    def __init__(self, place, patch, python):
        self.place, self.patch, self.python = place, patch, python

    def interpreter(self, name):
        """Peers may have one of their own."""
        return sys.executable if name in READERS else self.python

    def files(self, name):
        """Folder that a contestant reads; peers that read the same files share it."""
        if name in READERS and "atlas" in READERS[name].needs:
            return self.place / "corpus.zarr"
        prepare = CONTESTANTS[name].prepare.__name__
        return self.place / f"{prepare}-{self.patch}"

    def prepare(self, name):
        """Make what a contestant reads, once, and have it in the page cache."""
        folder = self.files(name)
        words = ("prepare", name, self.place / "volumes", folder, self.patch)
        if folder.name != "corpus.zarr":
            once(folder, f"files for {name}", lambda: run(self.interpreter(name), "stream_measure.py", *words))
        into_page_cache(folder)

    def read(self, name, seconds, patches):
        """What a round took."""
        words = ("read", name, self.place / "volumes", self.files(name), self.patch, seconds, patches)
        return json.loads(run(self.interpreter(name), "stream_measure.py", *words))

    def megabytes(self, name):
        """Of a case: its voxels, and everything."""
        cases = len(list((self.place / "volumes").iterdir()))
        if self.files(name).name == "corpus.zarr":
            folder = self.place / "corpus.zarr/cases"
            voxels = [path for kind in ("ct", "labels") for path in folder.glob(f"*/*/{kind}")]
        else:
            folder = self.files(name)
            voxels = list(folder.glob(CONTESTANTS[name].voxels))
        return sum(map(size, voxels)) / cases / 1e6, size(folder) / cases / 1e6


def size(path):
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def contestants(wanted, python):
    """Names that can run; says which cannot."""
    chosen = [name for name in CONTESTANTS if not wanted or any(word.lower() in name.lower() for word in wanted)]
    able = []
    for name in chosen:
        interpreter = sys.executable if name in READERS else python
        command = [interpreter, "-c", MODULES, *CONTESTANTS[name].needs]
        missing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        if missing:
            print(f"skipped: {name}: {interpreter} has no {', '.join(missing)} (pip install {' '.join(missing)})")
        else:
            able.append(name)
    return able


def compare(title, contest, names, options):
    """Everyone in turn, then a table; what is unpacked comes apart."""
    for name in names:
        contest.prepare(name)
    runs = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            runs[name].append(contest.read(name, options.seconds, options.patches))
    for heading, kept in (
        (title, [n for n in names if n != UNPACKED]),
        (f"{title}; unpacked on the CPU as well", [n for n in names if n == UNPACKED]),
    ):
        if kept:
            table(heading, contest, {name: runs[name] for name in kept}, runs.get(NNUNET))


def table(title, contest, runs, base):
    print(f"\n### {title}\n")
    print(
        "| | a patch holds | patches per CPU s (best) | patches per s (best) | times nnU-Net | MB a case | peak MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rounds in runs.items():
        by_cpu, by_wall = rates(rounds, "cpu"), rates(rounds, "wall")
        times = f"{statistics.median(by_cpu) / statistics.median(rates(base, 'cpu')):.2f}" if base else ""
        voxels, files = contest.megabytes(name)
        stored = f"{voxels:.1f}" if files - voxels < 0.1 else f"{voxels:.1f} + {files - voxels:.1f}"
        peak = max(found["peak"] for found in rounds) / 2**20
        row = [name, CONTESTANTS[name].carries, shown(by_cpu), shown(by_wall), times, stored, f"{peak:.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)


def rates(rounds, unit):
    return [found["patches"] / max(found[unit], 1e-3) for found in rounds]


def shown(values):
    digits = 0 if max(values) >= 20 else 2
    return f"{statistics.median(values):,.{digits}f} ({max(values):,.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="contestants with any of these words in their name")
    parser.add_argument("--volumes", choices=["generated", "real"], help="one set of volumes")
    parser.add_argument("--patch", type=int, default=96, help="voxels along each axis")
    parser.add_argument("--seconds", type=float, default=5, help="that each reads, each round")
    parser.add_argument("--patches", type=int, default=1_000_000, help="at most so many, each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--work", type=Path, default=HERE.parent / "build/benchmark-stream", help="where files are kept"
    )
    report(parser.parse_args())


def report(options):
    names = contestants(options.only, options.python)
    sets = {
        "generated": f"{CASES} volumes of {' x '.join(map(str, SHAPE))}, {STRUCTURES} overlapping structures",
        "real": f"{len(REAL_CASES)} real scans",
    }
    for kind, text in sets.items():
        if options.volumes not in {None, kind}:
            continue
        if kind == "real" and not REAL.is_dir():
            print(f"skipped: the real scans are not at {REAL}; licences forbid to ship them")
            continue
        place = volumes(options.work.resolve(), kind)
        compare(f"{text}; patches of {options.patch}^3", Contest(place, options.patch, options.python), names, options)


if __name__ == "__main__":
    main()
