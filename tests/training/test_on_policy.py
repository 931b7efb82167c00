"""The on-policy check: rounding passes, everything else is told with its cause."""

from math import sqrt

import pytest
import torch

from conftest import assert_replayed
from flowgrpo.core.errors import UserError
from flowgrpo.policies import tiny
from flowgrpo.policies._dtypes import DTYPES, unit_roundoff
from flowgrpo.policies.tiny.asked import config_of, prompt_of
from flowgrpo.sampling.kernels.ddim import Ddim
from flowgrpo.sampling.laws.gaussian import GaussianLaw
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.on_policy import DRAWS, ROUNDINGS, OnPolicyCheck, tolerance
from flowgrpo.training.rollout import rollout

CPU = torch.device("cpu")


def built(folder, name, **options):
    entry = tiny.pipelines()[name]
    entry.build().save_pretrained(folder / name)
    config = config_of(entry, folder / name).model_copy(update=options)
    return config.build(CPU, seed=0), prompt_of(entry, folder)


def rolled(policy, prompt):
    shape = AllSteps(kernel=Ddim(eta=1.0)).shape(Draw(policy.config.steps, 4))
    return rollout(policy, [prompt], [shape], (0, 0), 4, keep_predictions=False).transitions


def ratios(policy, t):
    with torch.no_grad():
        v = policy.predict(t.states, t.prompts, t.step)[t.parent]
    return v, t.law.log_prob(t.states[t.parent], v, t.next_states) - t.log_prob


@pytest.mark.parametrize("unit", [unit_roundoff(dtype) for dtype in DTYPES.values()])
def test_the_tolerance_is_what_one_rounding_does_to_a_gaussian(unit):
    dimensions, tau, g = 4096, 0.3, -0.2
    torch.manual_seed(0)
    x, v, noise = torch.randn(3, 1, dimensions)
    one, zero = torch.ones(1), torch.zeros(1)
    law = GaussianLaw(one, one * g, one * tau, one, one, one, zero, zero)
    allowed = float(tolerance(law, x, v, law.mean(x, v) + tau * noise, unit)) / ROUNDINGS
    rms = float(v.square().mean().sqrt())
    deviation = unit * abs(g) * rms / (tau * sqrt(dimensions))
    bias = (unit * g * rms / tau) ** 2 / 2
    floor = unit_roundoff(torch.float32)
    assert deviation / 10 + bias < allowed < 4 * deviation + bias + 5 * floor
    assert DRAWS == 4  # the largest of four normal draws is below four standard deviations


@pytest.mark.parametrize("name", ["sd3", "hunyuan_video", "wan", "sd15"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_a_batch_of_another_size_is_rounding(tmp_path, name, dtype):
    policy, prompt = built(tmp_path, name, dtype=dtype)
    check = OnPolicyCheck(policy)
    for t in rolled(policy, prompt):
        assert_replayed(ratios(policy, t)[1], torch.zeros_like(t.log_prob))
        thin = t.take([1])
        check.see(thin, *ratios(policy, thin))
    check()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_moved_weights_are_not(tmp_path, dtype):
    policy, prompt = built(tmp_path, "sd3", dtype=dtype)
    transitions = rolled(policy, prompt)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    check = OnPolicyCheck(policy)
    for t in transitions:
        check.see(t, *ratios(policy, t))
    with pytest.raises(UserError, match=r"not those of the rollout any more; no weight was changed"):
        check()


class Draws:
    def __call__(self, predict, states, prompts, step):
        return predict(states, prompts, step) * (1 + 0.1 * torch.rand(()))


class Graded:
    def __call__(self, predict, states, prompts, step):
        return predict(states, prompts, step) * (1.1 if torch.is_grad_enabled() else 1.0)


class Remembers:
    last = 0

    def __call__(self, predict, states, prompts, step):
        before, self.last = self.last, step
        return predict(states, prompts, step) * (1.0 if before == step else 1.1)


class Neighbours:
    def __call__(self, predict, states, prompts, step):
        return predict(states, prompts, step) * (1 + 0.1 * len(states))


@pytest.mark.parametrize(
    ("fault", "told"),
    [(Draws, "draws random numbers"), (Graded, "keeps a graph"), (Remembers, "remembers the step"), (Neighbours, "beside it")],
)
def test_the_cause_is_named(tmp_path, monkeypatch, fault, told):
    policy, prompt = built(tmp_path, "sd3")
    transitions = rolled(policy, prompt)
    predict, faulty = policy.predict, fault()
    monkeypatch.setattr(policy, "predict", lambda states, prompts, step: faulty(predict, states, prompts, step))
    check = OnPolicyCheck(policy)
    t = transitions[1]
    with torch.enable_grad():
        v = policy.predict(t.states, t.prompts, t.step)[t.parent].detach()
    check.see(t, v, t.law.log_prob(t.states[t.parent], v, t.next_states) - t.log_prob)
    with pytest.raises(UserError, match=told):
        check()
