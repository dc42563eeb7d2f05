"""Two processes started by torchrun, which are told nothing about each other, share a run out."""

import json
import os
import subprocess
import sys

import atlas

SCRIPT = """
import json, os, sys, zlib

import atlas
import torch.distributed as dist


def patches(batch):
    content = [(ct.numpy().tobytes(), codes.numpy().tobytes()) for ct, codes in zip(batch.ct, batch.codes)]
    return [[int(i), zlib.crc32(b"".join(c))] for i, c in zip(batch.index, content)]


def main(folder, out):
    options = {"patch_size": (12, 16, 20), "device": None, "seed": 21, "where": "len(present) between 1 and 5"}
    corpus = atlas.open(folder)
    early = atlas.stream(corpus, batch_size=3, **options)  # by what torchrun says in the environment
    dist.init_process_group("gloo")
    for name in ("RANK", "WORLD_SIZE"):
        del os.environ[name]
    stream = atlas.stream(corpus, batch_size=3, **options)  # by the process group
    mine = {
        "rank": [early.rank, stream.rank, dist.get_rank()],
        "world_size": [early.world_size, stream.world_size],
        "patches": [patch for _ in range(4) for patch in patches(next(stream))],
        "state": stream.state_dict(),
    }
    stream.close()
    everyone = [None] * dist.get_world_size() if mine["rank"][-1] == 0 else None
    dist.gather_object(mine, everyone)
    if everyone:
        with open(out, "w") as file:
            json.dump(everyone, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


def test_two_processes_of_torchrun_share_the_patches_out(corpus, corpus_folder, tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(SCRIPT)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*run, str(script), str(corpus_folder), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    ranks = json.loads(out.read_text())
    assert [rank["rank"] for rank in ranks] == [[0, 0, 0], [1, 1, 1]]
    assert [rank["world_size"] for rank in ranks] == [[2, 2], [2, 2]]
    here = {"__name__": "here"}
    exec(SCRIPT, here)
    options = {"patch_size": (12, 16, 20), "device": None, "seed": 21, "where": "len(present) between 1 and 5"}
    with atlas.stream(corpus, batch_size=24, **options) as stream:
        expected = here["patches"](next(stream))
        assert [rank["state"] for rank in ranks] == [stream.state_dict()] * 2
    first, second = (rank["patches"] for rank in ranks)
    assert [number for number, _ in first] == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]
    assert sorted(first + second) == expected
    assert len({checksum for _, checksum in expected}) == 24
