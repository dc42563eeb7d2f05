"""Whole trainings of a few seconds: what they write, and that going on is the same as never having stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atlas.errors import CorpusError, SpecError, TrainingError
from atlas.model.loss import PartialLabelLoss
from atlas.train.evaluation import validate
from atlas.train.extend import Distillation
from atlas.train.loop import train
from atlas.train.run import load_run
from atlas.train.start import fresh_start

HERE = Path(__file__).parent


def lines(run, key="loss"):
    """Lines of the log that have an entry."""
    found = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in found if key in line]


def losses(run):
    return [(line["step"], line["loss"], line["norm"], line["lr"]) for line in lines(run)]


def weights(run):
    return load_file(run / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stop_after(step, number=signal.SIGTERM):
    """A progress that sends this process a signal when a step is done."""

    def told(where):
        if where.step == step and where.figures:
            signal.raise_signal(number)

    return told


@pytest.fixture(scope="module")
def learnt(corpus, recipe_of, tmp_path_factory):
    """A run that has learned, its recipe and its summary."""
    run = tmp_path_factory.mktemp("learnt") / "run"
    recipe = recipe_of(
        classes=["liver", "spleen"],
        data__split=["train"],
        data__augmentation=None,
        optimiser__steps=60,
        optimiser__lr=0.01,
        optimiser__ema=0.8,
        validation={"every": 25, "split": ["val"], "overlap": 0},
    )
    return run, recipe, train(recipe, corpus, run, device="cpu")


class TestRun:
    def test_the_fixture_has_the_splits_it_says(self, corpus):
        splits = {"train": ["one/a", "one/b", "two/a", "two/b"], "val": ["one/c", "two/c"], "test": ["two/d"]}
        assert corpus.cases.groupby("split")["case_id"].apply(sorted).to_dict() == splits

    def test_it_learns(self, learnt):
        run, _, summary = learnt
        steps = losses(run)
        assert [step for step, *_ in steps] == list(range(1, 61))
        assert sum(loss for _, loss, *_ in steps[-10:]) < 0.8 * sum(loss for _, loss, *_ in steps[:10])
        assert (summary.step, summary.steps, summary.stopped) == (60, 60, None)
        assert summary.best_score > 0.3

    def test_a_line_a_step_says_how_it_went(self, learnt):
        run, recipe, _ = learnt
        for line in lines(run):
            assert set(line) == {"step", "loss", "dice", "bce", "lr", "norm", "seconds", "rate", "waiting"}
            assert 0 <= line["waiting"] <= 1
            assert line["rate"] == pytest.approx(recipe.optimiser.batch / line["seconds"], rel=1e-3)
            assert line["loss"] == pytest.approx(1 - line["dice"] + line["bce"], rel=1e-5)
        every = lines(run, "classes")
        assert [line["step"] for line in every] == [25, 50, 60]
        assert set(every[-1]["classes"]) == {"liver", "spleen"}
        assert every[-1]["classes"]["liver"] > every[0]["classes"]["liver"]

    def test_tensorboard_has_the_same_figures(self, learnt):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = EventAccumulator(str(learnt[0] / "tensorboard"))
        board.Reload()
        assert [e.value for e in board.Scalars("loss")] == pytest.approx([loss for _, loss, *_ in losses(learnt[0])])
        assert [e.step for e in board.Scalars("validation")] == [25, 50, 60]
        assert [e.step for e in board.Scalars("classes/liver")] == [25, 50, 60]

    def test_the_weights_to_predict_with_are_the_averaged_ones_that_did_best(self, learnt, corpus):
        run, _, summary = learnt
        judged = lines(run, "validation")
        assert [line["step"] for line in judged] == [25, 50, 60]
        best = max(judged, key=lambda line: line["validation"])
        assert (summary.best_step, summary.best_score) == (best["step"], best["validation"])
        trained = load_run(run)
        again = validate.validate(trained.network, corpus, ["one/c", "two/c"], trained.description)
        assert again == pytest.approx(summary.best_score)
        state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
        assert not equal(state["network"], {n[7:]: t for n, t in state["average"].items() if n != "n_averaged"})

    def test_it_describes_itself(self, learnt, corpus):
        run, recipe, _ = learnt
        description = load_run(run).description
        assert description.recipe == recipe
        assert description.classes == ("liver", "spleen")
        assert (description.corpus.cases, description.corpus.location) == (4, corpus.location)

    def test_a_run_that_is_done_is_not_changed_by_going_on(self, learnt, corpus):
        run, recipe, summary = learnt
        before = (weights(run), (run / "log.jsonl").read_text())
        again = train(recipe, corpus, run, resume=True, device="cpu")
        assert (again.step, again.best_step, again.best_score) == (60, summary.best_step, summary.best_score)
        assert equal(weights(run), before[0])
        assert (run / "log.jsonl").read_text() == before[1]

    def test_without_cases_to_validate_on_the_last_weights_are_kept(self, corpus, recipe_of, tmp_path):
        told = []
        summary = train(recipe_of(optimiser__steps=2), corpus, tmp_path / "run", device="cpu", progress=told.append)
        assert (summary.best_step, summary.best_score) == (None, None)
        assert "no case of this corpus has the split 'nowhere'" in told[0].note
        assert [line["note"] for line in lines(tmp_path / "run", "note")] == [told[0].note]
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
        assert equal(weights(tmp_path / "run"), state["network"])

    def test_as_many_cases_are_validated_as_are_asked_for(self, corpus, recipe_of, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(validate, "validate", lambda *given: seen.append(given[2]) or 0.25)
        recipe = recipe_of(optimiser__steps=2, validation={"every": 1, "split": ["train", "val"], "cases": 3})
        summary = train(recipe, corpus, tmp_path / "run", device="cpu")
        assert seen == [["one/a", "one/c", "two/c"]] * 2  # of one/a one/b one/c two/a two/b two/c
        assert (summary.best_step, summary.best_score) == (1, 0.25)  # the second is no better

    def test_it_is_the_average_that_is_judged_and_kept(self, corpus, recipe_of, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(validate, "validate", lambda network, *_: seen.append(network.state_dict()) or 0.5)
        recipe = recipe_of(optimiser__steps=2, optimiser__ema=0.5, validation={"every": 2, "split": ["val"]})
        train(recipe, corpus, tmp_path / "run", device="cpu")
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
        average = {n.removeprefix("module."): t for n, t in state["average"].items() if n != "n_averaged"}
        assert equal(weights(tmp_path / "run"), average)
        assert equal(seen[0], average)
        assert not equal(state["network"], average)

    def test_the_callers_generator_is_left_alone(self, corpus, recipe_of, tmp_path):
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        train(recipe_of(optimiser__steps=1), corpus, tmp_path / "run", device="cpu")
        assert torch.equal(torch.rand(3), expected)


VARIANTS = {
    "plain": {},
    "averaged": {"optimiser__ema": 0.7, "optimiser__accumulate": 2, "optimiser__warmup": 2},
    "deep supervision": {"model__deep_supervision": 1},
    "learned": {"embeddings": {"kind": "learned"}, "loss": {"class_weights": {"liver": 2}}},
    "one-hot": {"embeddings": {"kind": "one-hot"}, "seed": 2**63 - 1, "data__augmentation": {"rotation": [1, -9, 9]}},
}


class TestGoingOn:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_three_steps_and_three_are_six(self, corpus, recipe_of, tmp_path, name, monkeypatch):
        recipe = recipe_of(**VARIANTS[name])
        train(recipe, corpus, tmp_path / "once", device="cpu")
        summary = train(recipe, corpus, tmp_path / "twice", device="cpu", progress=stop_after(3))
        assert (summary.step, summary.stopped) == (3, "SIGTERM")
        assert len(losses(tmp_path / "twice")) == 3
        torch.manual_seed(hash(name) % 1000)  # whatever the generator of the new process is like
        summary = train(recipe, corpus, tmp_path / "twice", resume=True, device="cpu")
        assert (summary.step, summary.stopped) == (6, None)
        assert losses(tmp_path / "twice") == losses(tmp_path / "once")
        assert equal(weights(tmp_path / "twice"), weights(tmp_path / "once"))
        ends = [torch.load(tmp_path / run / "checkpoints" / "last.pt", weights_only=True) for run in ("once", "twice")]
        for part in ("network", "average"):
            assert ends[0][part] is ends[1][part] is None or equal(ends[0][part], ends[1][part])

    def test_dropout_goes_on_as_well(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of()

        def begin():
            start = fresh_start(recipe, corpus)
            backbone = start.network.backbone
            backbone.register_forward_hook(
                lambda module, _, f: f._replace(decoder=torch.nn.functional.dropout(f.decoder, 0.3, module.training))
            )
            return start

        train(recipe, corpus, tmp_path / "once", device="cpu", start=begin())
        train(recipe, corpus, tmp_path / "twice", device="cpu", start=begin(), progress=stop_after(2))
        train(recipe, corpus, tmp_path / "twice", device="cpu", start=begin(), resume=True)
        train(recipe, corpus, tmp_path / "without", device="cpu")
        assert losses(tmp_path / "twice") == losses(tmp_path / "once") != losses(tmp_path / "without")

    def test_what_a_killed_process_had_logged_comes_once(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(validation={"every": 2, "split": ["val"]}, optimiser__steps=5)
        train(recipe, corpus, tmp_path / "once", device="cpu")

        def killed(where):
            if where.step == 5 and where.figures:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(recipe, corpus, tmp_path / "killed", device="cpu", progress=killed)
        assert [step for step, *_ in losses(tmp_path / "killed")] == [1, 2, 3, 4, 5]
        with (tmp_path / "killed" / "log.jsonl").open("a") as file:
            file.write('{"step": 5, "lo')  # killed while it wrote
        train(recipe, corpus, tmp_path / "killed", resume=True, device="cpu")
        assert losses(tmp_path / "killed") == losses(tmp_path / "once")
        assert [line["step"] for line in lines(tmp_path / "killed", "validation")] == [2, 4, 5]

    def test_a_validation_that_was_logged_but_not_saved_comes_once(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(validation={"every": 2, "split": ["val"]}, optimiser__steps=2)

        def killed(where):
            if where.note.startswith("validation"):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train(recipe, corpus, tmp_path / "run", device="cpu", progress=killed)
        train(recipe, corpus, tmp_path / "run", resume=True, device="cpu")
        assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [2]

    def test_validation_that_was_cut_short_is_done_again(self, corpus, recipe_of, tmp_path, monkeypatch):
        recipe = recipe_of(validation={"every": 2, "split": ["val"]}, optimiser__steps=4)

        def broken(*_):
            raise CorpusError("the disk is gone")

        with monkeypatch.context() as patch:
            patch.setattr(validate, "validate", broken)
            with pytest.raises(CorpusError, match="the disk is gone"):
                train(recipe, corpus, tmp_path / "run", device="cpu")
        summary = train(recipe, corpus, tmp_path / "run", resume=True, device="cpu")
        assert [line["step"] for line in lines(tmp_path / "run", "validation")] == [2, 4]
        assert [step for step, *_ in losses(tmp_path / "run")] == [1, 2, 3, 4]
        assert summary.best_step in {2, 4}

    def test_resume_begins_where_there_is_nothing(self, corpus, recipe_of, tmp_path):
        assert train(recipe_of(optimiser__steps=1), corpus, tmp_path / "run", resume=True, device="cpu").step == 1

    def test_a_run_that_was_described_and_no_more_is_begun(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(optimiser__steps=2)
        train(recipe, corpus, tmp_path / "once", device="cpu")
        train(recipe, corpus, tmp_path / "run", device="cpu")
        for path in [*(tmp_path / "run" / "checkpoints").iterdir(), tmp_path / "run" / "model.safetensors"]:
            path.unlink()
        train(recipe, corpus, tmp_path / "run", resume=True, device="cpu")
        assert equal(weights(tmp_path / "run"), weights(tmp_path / "once"))


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_handlers_are_given_back(self, corpus, recipe_of, tmp_path, number):
        before = signal.getsignal(number)
        summary = train(recipe_of(), corpus, tmp_path / "run", device="cpu", progress=stop_after(1, number))
        assert (summary.step, summary.stopped) == (1, number.name)
        assert signal.getsignal(number) is before

    def test_a_second_interrupt_does_not_wait(self, corpus, recipe_of, tmp_path):
        def told(where):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(recipe_of(), corpus, tmp_path / "run", device="cpu", progress=told)

    @pytest.mark.slow
    def test_a_process_that_is_sent_sigterm_saves_ends_well_and_goes_on(
        self, corpus, corpus_folder, recipe_of, tmp_path
    ):
        recipe = recipe_of(optimiser__steps=120, data__augmentation=None, optimiser__batch=1)
        path = tmp_path / "toy.yaml"
        path.write_text(json.dumps(recipe.model_dump(mode="json")))  # JSON is YAML
        command = [sys.executable, "-m", "atlas", "train", str(path), "--corpus", str(corpus_folder), "--device", "cpu"]
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums are made in as many parts

        process = subprocess.Popen(
            [*command, "--out", str(tmp_path / "run")], env=environment, text=True, stdout=-1, stderr=-1
        )
        log = tmp_path / "run" / "log.jsonl"
        while process.poll() is None and not (log.exists() and '"loss"' in log.read_text()):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=100)
        assert process.returncode == 0, error
        done = len(losses(tmp_path / "run"))
        assert 1 <= done < 120
        assert f"stopped at step {done} of 120 by SIGTERM; the same command with --resume goes on" in out
        train(recipe, corpus, tmp_path / "run", resume=True, device="cpu")
        train(recipe, corpus, tmp_path / "once", device="cpu")
        assert [step for step, *_ in losses(tmp_path / "run")] == list(range(1, 121))
        assert equal(weights(tmp_path / "run"), weights(tmp_path / "once"))


class TestNotFinite:
    @pytest.fixture
    def spoiled(self, monkeypatch):
        """Lets the loss of the samples of one case be NaN from a step on."""

        def spoil(case_id, from_pass):
            from atlas.train.learner import Learner

            passes = []
            forward = PartialLabelLoss.forward

            def remembered(self, batch, **keywords):
                passes.append(batch.case_id)
                return plain(self, batch, **keywords)

            def broken(self, logits, mask, available, unknown=None, *, pairs=None):
                bad = [i for i, case in enumerate(passes[-1]) if case == case_id and len(passes) > from_pass]
                hit = torch.isin(pairs[:, 0], torch.tensor(bad, dtype=torch.int64))
                poisoned = [level * torch.where(hit, torch.nan, 1.0)[:, None, None, None] for level in logits]
                return forward(self, poisoned, mask, available, unknown, pairs=pairs)

            plain = Learner._pass
            monkeypatch.setattr(Learner, "_pass", remembered)
            monkeypatch.setattr(PartialLabelLoss, "forward", broken)
            return passes

        return spoil

    def test_the_step_and_the_cases_are_named_and_the_checkpoint_stays(self, corpus, recipe_of, tmp_path, spoiled):
        recipe = recipe_of(optimiser__steps=30, optimiser__accumulate=2, validation__every=4, optimiser__ema=0.5)
        passes = spoiled("two/a", from_pass=8)
        with pytest.raises(TrainingError) as error:
            train(recipe, corpus, tmp_path / "run", device="cpu")
        step = len(losses(tmp_path / "run"))
        assert step >= 4
        assert any("two/a" in cases for cases in passes[-2:])
        assert str(error.value).startswith(f"step {step + 1}: the loss of two/a is not a finite number;")
        assert "the last checkpoint is kept" in str(error.value)
        state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
        assert state["step"] == step // 4 * 4
        assert all(torch.isfinite(tensor).all() for tensor in state["network"].values())

    def test_a_gradient_that_is_not_finite_stops_as_well(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(optimiser__clip=None)
        start = fresh_start(recipe, corpus)
        before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
        start.network.heads[0].text.weight.register_hook(lambda gradient: gradient * torch.inf)
        with pytest.raises(TrainingError, match=r"step 1: the gradient of (one|two)/\w(, (one|two)/\w)* together is"):
            train(recipe, corpus, tmp_path / "run", device="cpu", start=start)
        assert equal(before, start.network.state_dict())


class TestPartial:
    def test_batches_without_any_class_change_nothing_but_the_decay(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(
            classes=["spleen"], data={"split": None, "patch": 16, "where": None}, optimiser__batch=1, optimiser__steps=8
        )
        train(recipe, corpus, tmp_path / "run", device="cpu")
        empty = [line for line in lines(tmp_path / "run") if line["dice"] is None]
        assert empty
        assert len(empty) < 8
        assert all(line["loss"] == line["norm"] == 0 for line in empty)

    def test_accumulated_passes_are_as_one_batch_of_pairs_of_the_same_number(self, corpus, recipe_of, tmp_path):
        # one class in every case: each sample has one pair, so that the mean of means is the mean
        only = {"split": None, "patch": 16, "datasets": ["two"], "augmentation": None}
        for name, batch, accumulate in (("whole", 4, 1), ("parts", 2, 2)):
            recipe = recipe_of(data=only, optimiser__batch=batch, optimiser__accumulate=accumulate, optimiser__steps=3)
            train(recipe, corpus, tmp_path / name, device="cpu")
        whole, parts = (torch.tensor([line[1:] for line in losses(tmp_path / name)]) for name in ("whole", "parts"))
        assert torch.allclose(whole, parts, rtol=1e-3)

    def test_unlabelled_classes_do_not_matter(self, corpus, recipe_of, tmp_path):
        """A network that is trained on one dataset has the same loss whatever other classes it has."""
        only = {"split": None, "patch": 16, "datasets": ["two"]}
        first = recipe_of(data=only, classes=["spleen"], optimiser__steps=1)
        train(first, corpus, tmp_path / "one", device="cpu")
        with pytest.raises(SpecError, match="liver available in none of the 4 cases"):
            train(recipe_of(data=only, classes=["spleen", "liver"]), corpus, tmp_path / "two", device="cpu")


class TestStart:
    def test_frozen_parts_stay_bit_for_bit_and_in_evaluation_mode(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(optimiser__weight_decay=0.1)
        start = fresh_start(recipe, corpus)
        start.network.backbone.requires_grad_(requires_grad=False)
        norm = torch.nn.BatchNorm3d(1)
        norm.requires_grad_(requires_grad=False)
        start.network.backbone.add_module("extra", norm)
        start.network.backbone.register_forward_pre_hook(lambda module, image: norm(image[0]))
        before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
        train(recipe, corpus, tmp_path / "run", device="cpu", start=start)
        changed = {n.split(".")[0] for n, t in start.network.state_dict().items() if not torch.equal(t, before[n])}
        assert changed == {"heads"}

    def test_a_teacher_is_listened_to(self, corpus, recipe_of, tmp_path):
        recipe = recipe_of(optimiser__steps=2)
        train(recipe, corpus, tmp_path / "alone", device="cpu")
        for name in ("taught", "again"):
            teacher = fresh_start(recipe_of(seed=7), corpus).network
            start = fresh_start(recipe, corpus)
            start = type(start)(start.description, start.network, start.embeddings, Distillation(teacher, 0.5))
            train(recipe, corpus, tmp_path / name, device="cpu", start=start)
        assert losses(tmp_path / "taught") == losses(tmp_path / "again")
        assert losses(tmp_path / "taught")[0][1] > losses(tmp_path / "alone")[0][1]

    def test_the_seed_says_the_first_weights(self, corpus, recipe_of):
        first, same, other = (fresh_start(recipe_of(seed=seed), corpus).network.state_dict() for seed in (1, 1, 2))
        assert equal(first, same)
        assert not equal(first, other)
