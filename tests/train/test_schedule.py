import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import SpecError
from atlas.model.backbones import build_backbone
from atlas.model.class_vectors import LearnedVectors
from atlas.model.network import UniversalNetwork
from atlas.spec.training import OptimiserSpec, UNetSpec
from atlas.train.schedule import check_schedule, learning_rate, optimiser_of, set_learning_rate


def spec(**entries):
    return OptimiserSpec.model_validate({"steps": 100, "lr": 0.5, **entries})


class TestLearningRate:
    def test_rises_in_a_straight_line_then_falls_as_a_cosine(self):
        found = [learning_rate(step, spec(warmup=20)) for step in range(100)]
        assert found[:20] == pytest.approx([0.5 * (i + 1) / 20 for i in range(20)])
        assert found[20] == 0.5
        assert found[60] == pytest.approx(0.25)
        assert found[99] == pytest.approx(0.25 * (1 - math.cos(math.pi / 80)))

    def test_is_that_of_torch(self):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimiser = torch.optim.SGD([weight], lr=0.5)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=100)
        for step in range(100):
            assert learning_rate(step, spec()) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
            optimiser.step()
            schedule.step()

    @given(st.integers(1, 500), st.data())
    def test_is_above_0_and_at_most_the_one_asked_for(self, steps, data):
        warmup = data.draw(st.integers(0, steps - 1))
        chosen = spec(steps=steps, warmup=warmup)
        check_schedule(chosen)
        rates = [learning_rate(step, chosen) for step in range(steps)]
        assert all(0 < rate <= 0.5 for rate in rates)
        assert max(rates) == 0.5
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)

    @pytest.mark.parametrize("warmup", [100, 101])
    def test_a_warm_up_that_does_not_end_is_refused(self, warmup):
        with pytest.raises(SpecError, match=rf"optimiser\.warmup {warmup}: fewer than optimiser\.steps, 100"):
            check_schedule(spec(warmup=warmup))


class TestOptimiser:
    def network(self):
        backbone = build_backbone(UNetSpec(kind="unet", features=(8, 16, 32)))
        return UniversalNetwork(backbone, LearnedVectors(["a", "b", "c"]), heads=(2, 1))

    def test_each_parameter_has_its_rate_and_its_decay(self):
        """By a step with gradients of 1: AdamW then moves every number by the rate, after the decay."""
        network = self.network()
        optimiser = optimiser_of(network, spec(weight_decay=0.1, head_rate=0.25))
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        set_learning_rate(optimiser, 0.2)
        optimiser.step()
        slow = ("text", "image", "controller")
        for name, parameter in network.named_parameters():
            rate = 0.2 * (0.25 if name.startswith("heads.") and name.split(".")[2] in slow else 1)
            decay = 1 - rate * 0.1 if parameter.ndim > 1 else 1
            torch.testing.assert_close(parameter.detach(), before[name] * decay - rate, rtol=1e-5, atol=1e-6)

    def test_what_does_not_change_is_left_out(self):
        network = self.network()
        network.backbone.requires_grad_(requires_grad=False)
        every = sum(len(group["params"]) for group in optimiser_of(network, spec()).param_groups)
        assert every == 1 + sum(1 for _ in network.heads.parameters())  # and the learned vectors
