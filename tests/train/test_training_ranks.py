"""Two processes started by torchrun train one model."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from atlas.train.loop import train

SCRIPT = """
import json, os, signal, sys
from pathlib import Path

import torch
import torch.distributed as dist

import atlas
from atlas.errors import AtlasError
from atlas.model.loss import PartialLabelLoss
from atlas.spec.training import TrainingRecipe
from atlas.train.learner import Learner
from atlas.train.loop import train

folder, recipes, out = sys.argv[1:]
dist.init_process_group("gloo")
rank = dist.get_rank()
corpus, out, told = atlas.open(folder), Path(out), {}
seen, plain, forward = [], Learner._pass, PartialLabelLoss.forward


def remembered(self, batch, **keywords):
    seen.append((batch.case_id, batch.index.tolist()))
    learners.append(self)
    return plain(self, batch, **keywords)


def poisoned(self, logits, *arguments, **keywords):
    return forward(self, [level * torch.nan for level in logits], *arguments, **keywords)


Learner._pass, learners = remembered, []


def trained(name, recipe, **keywords):
    seen.clear()
    found = {}
    try:
        summary = train(TrainingRecipe.model_validate_json(json.dumps(recipe)), corpus, out / name, **keywords)
        found = {"step": summary.step, "stopped": summary.stopped}
    except AtlasError as error:
        found = {"error": str(error)}
    network = learners[-1].network
    flat = torch.cat([p.detach().flatten() for p in network.parameters()])
    found |= {"seen": list(seen), "gradient": [float(p.grad.sum()) for p in network.parameters()]}
    found |= {"weights": flat.double().sum().item(), "crc": hash(flat.numpy().tobytes())}
    told[name] = found


recipes = json.loads(recipes)
trained("plain", recipes["plain"], device="cpu")
trained("learned", recipes["learned"], device="cpu")


def other_is_stopped(learner):
    def update(self, step, batches, wish):
        if rank == 1 and step == 1:
            signal.raise_signal(signal.SIGTERM)
        return learner(self, step, batches, wish)

    return update


Learner.update, kept = other_is_stopped(Learner.update), Learner.update
trained("stopped", recipes["plain"], device="cpu")
Learner.update = kept
trained("stopped", recipes["plain"], device="cpu", resume=True)
told["resumed"] = told.pop("stopped")
if rank == 1:
    PartialLabelLoss.forward = poisoned
trained("poisoned", recipes["plain"], device="cpu")

everyone = [None] * 2
dist.all_gather_object(everyone, told)
if rank == 0:
    (out / "told.json").write_text(json.dumps(everyone))
dist.destroy_process_group()
"""

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONHASHSEED": "0"}


def run(*command):
    done = subprocess.run(
        [*TORCHRUN, *map(str, command)], env=ENVIRONMENT, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def losses(folder):
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["norm"]) for line in found if "loss" in line]


@pytest.fixture(scope="module")
def recipes(recipe_of):
    plain = recipe_of(optimiser__steps=3, optimiser__ema=0.5, optimiser__accumulate=2)
    # one class of two datasets, one patch a batch: now and then a rank has nothing to supervise
    learned = recipe_of(optimiser__steps=5, optimiser__batch=1, classes=["spleen"], embeddings={"kind": "learned"})
    return {"plain": plain, "learned": learned}


@pytest.fixture(scope="module")
def told(corpus_folder, recipes, tmp_path_factory):
    """What the two ranks saw and came to, and the folder of their runs."""
    out = tmp_path_factory.mktemp("ranks")
    script = out / "script.py"
    script.write_text(SCRIPT)
    run(script, corpus_folder, json.dumps({name: r.model_dump(mode="json") for name, r in recipes.items()}), out)
    return json.loads((out / "told.json").read_text()), out


class TestTwoRanks:
    @pytest.mark.parametrize("name", ["plain", "learned", "resumed"])
    def test_have_the_same_gradient_and_the_same_weights(self, told, name):
        first, second = (rank[name] for rank in told[0])
        assert first["gradient"] == second["gradient"]
        assert any(first["gradient"])
        assert first["crc"] == second["crc"]
        assert first["step"] == second["step"] == {"plain": 3, "learned": 5, "resumed": 3}[name]

    def test_have_patches_of_their_own(self, told):
        first, second = ([i for _, index in rank["plain"]["seen"] for i in index] for rank in told[0])
        assert (len(first), len(second)) == (12, 12)
        assert sorted(first + second) == list(range(24))

    def test_are_as_one_process_that_accumulates_as_much(self, told, corpus, recipes, tmp_path):
        recipe = recipes["plain"]
        optimiser = recipe.optimiser.model_copy(update={"accumulate": 4})
        train(recipe.model_copy(update={"optimiser": optimiser}), corpus, tmp_path / "run", device="cpu")
        together, alone = torch.tensor(losses(told[1] / "plain")), torch.tensor(losses(tmp_path / "run"))
        assert torch.allclose(together, alone, rtol=1e-4)

    def test_go_through_batches_without_any_class(self, told):
        cases = [[case for case, _ in rank["learned"]["seen"]] for rank in told[0]]
        nothing = [[case[0].startswith("one/") for case in rank] for rank in cases]
        assert any(one != other for one, other in zip(*nothing, strict=True))  # one had a class and the other none
        assert any(nothing[0] + nothing[1])

    def test_stop_together_and_go_on(self, told):
        log = (told[1] / "stopped" / "log.jsonl").read_text()
        assert "stopped by a signal to another rank after step 2" in log
        assert losses(told[1] / "stopped") == losses(told[1] / "plain")
        first, second = (load_file(told[1] / name / "model.safetensors") for name in ("plain", "stopped"))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_both_end_where_one_has_a_loss_that_is_not_finite(self, told):
        first, second = (rank["poisoned"] for rank in told[0])
        bad = sorted({case for cases, _ in second["seen"] for case in cases})
        assert first["error"] == second["error"]
        assert first["error"].startswith(f"step 1: the loss of {', '.join(bad)} is not a finite number")
        assert first["crc"] == second["crc"]


def test_the_command_line_under_torchrun(corpus_folder, recipes, told, tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(json.dumps(recipes["plain"].model_dump(mode="json")))
    done = run("-m", "atlas", "train", path, "--corpus", corpus_folder, "--out", tmp_path / "run", "--device", "cpu")
    assert done.stdout.count("3 steps in") == 1
    assert done.stderr.count("no validation") == 1
    assert losses(tmp_path / "run") == losses(told[1] / "plain")
