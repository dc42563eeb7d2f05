"""One contestant in a process of its own: make its files, or read patches and print what that took.

python benchmarks/stream_measure.py prepare NAME VOLUMES FOLDER PATCH
python benchmarks/stream_measure.py read NAME VOLUMES FOLDER PATCH SECONDS PATCHES     # prints JSON

CPU seconds are user and system time of the process, its children and theirs, in the steady state: workers have
started, every case was read, what is compiled on first use is compiled.
"""

import json
import os
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

from stream_peers import PEERS
from stream_readers import READERS

WARM = 24
"""Patches before the clock starts, at least."""
TICKS = os.sysconf("SC_CLK_TCK")
CONTESTANTS = READERS | PEERS


def cpu_seconds():
    """Of this process, of children that have ended, and of descendants that live (to a hundredth of a second)."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    return total + sum(sum(fields[11:15]) / TICKS for fields in descendants())


def descendants():
    """Fields of /proc/PID/stat, from the third on, of every process below this one."""
    by_parent = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # it has just ended
        by_parent.setdefault(int(numbers[0]), []).append((int(path.parent.name), [state, *map(int, numbers)]))
    wanted = [os.getpid()]
    while wanted:
        for child, fields in by_parent.get(wanted.pop(), []):
            wanted.append(child)
            yield fields


def peak_bytes():
    """High-water mark of this program's memory; that of getrusage includes whoever started it."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def taken(batches, seconds, patches):
    """Read for so long, or so many patches, and say what it took."""
    seen = 0
    while seen < min(WARM, patches):
        seen += next(batches)
    count, cpu, start = 0, cpu_seconds(), time.perf_counter()
    while count < patches and time.perf_counter() - start < seconds:
        count += next(batches)
    wall = time.perf_counter() - start
    return {"patches": count, "wall": wall, "cpu": cpu_seconds() - cpu, "peak": peak_bytes()}


def main(action, name, volumes, folder, patch, seconds=0.0, patches=0):
    warnings.simplefilter("ignore")
    contestant, volumes, folder = CONTESTANTS[name], Path(volumes), Path(folder)
    if action == "prepare":
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        contestant.prepare(volumes, folder, int(patch))
        return
    import torch

    torch.set_num_threads(1)  # as in a worker of a DataLoader
    print(json.dumps(taken(iter(contestant.batches(volumes, folder, int(patch))), float(seconds), int(patches))))


if __name__ == "__main__":
    main(*sys.argv[1:])
