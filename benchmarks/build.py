"""What building a case costs: beside other preprocessing, and against voxels, cases, workers and structures.

    python benchmarks/build.py                     # everything but --large; installs the peers for itself
    python benchmarks/build.py --no-peers --large  # nothing to install

Every figure comes from a process of its own that first imports what it needs, then starts the clock. The cases
are generated (a body of simple solids with noise, as `atlas demo` uses) and kept below --work for the next run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

from contestants import CONTESTANTS
from generated import ORGANS, PIXEL, SIDE, SLICE, STRUCTURES, THIN_SLICE, fresh, pair

from atlas.build.cluster import ALLOCATOR

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
PEERS = ("monai", "torchio", "nnunetv2")


def measured(name, folder, *arguments, python=sys.executable):
    """Run a contestant in a fresh process."""
    command = [python, str(HERE / "contestants.py"), name, str(folder), *map(str, arguments)]
    environment = {**os.environ, "ATLAS_PATH": str(folder / "specifications"), "PYTHONWARNINGS": "ignore"}
    if name == "atlas":  # as in a worker of a build
        environment |= {key: str(value) for key, value in ALLOCATOR.items()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def case_folder(work, kind, slices, thickness=SLICE):
    """Folder of a generated case; made in a process of its own, which leaves this one small."""
    folder = work / f"{kind}-{slices}-{thickness:g}mm"
    if not (folder / "complete").exists():
        print(f"(generating {kind}, {SIDE} x {SIDE} x {slices})", file=sys.stderr, flush=True)
        wanted = [str(fresh(folder)), kind, str(slices), str(thickness)]
        subprocess.run([sys.executable, str(HERE / "generated.py"), *wanted], check=True)
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
    """CPU seconds make the line: other work on the machine bends them less than wall seconds."""
    voxels, cpu, rows = [], [], []
    for slices in counts:
        runs = [measured("atlas", case_folder(work, "organs", slices)) for _ in range(repeats)]
        voxels.append(SIDE * SIDE * slices / 1e6)
        cpu.append(statistics.median(run["cpu"] for run in runs))
        wall = statistics.median(run["wall"] for run in runs)
        peak = gib([run["peak"] for run in runs])
        rows.append([str(slices), f"{wall:.2f}", f"{cpu[-1]:.2f}", f"{1000 * cpu[-1] / voxels[-1]:.1f}", peak])
    columns = ["slices", "wall s", "CPU s", "CPU ms per million voxels", "peak GiB"]
    table("Against the number of voxels", columns, rows)
    slope, start = statistics.linear_regression(voxels, cpu)
    correlation = statistics.correlation(voxels, cpu)
    print(f"\nLine: {start:.2f} s + {1000 * slope:.1f} ms per million voxels; correlation {correlation:.4f}")


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
    parser.add_argument("--cases", type=int, nargs="+", default=[4, 32], help="numbers of cases that are built")
    parser.add_argument("--work", type=Path, default=CHECKOUT / "build/benchmark", help="where cases are kept")
    report(parser.parse_args())


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
