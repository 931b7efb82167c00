"""Recorded steps side by side: each row is what it is alone but for rounding, and what can't be joined is refused."""

import pytest
import torch
from torch import nn

from conftest import CALLS
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig

CPU = torch.device("cpu")
STEPS = 4
ROUNDING = 1e-5
"""Relative; another step's time, or another prompt, changes a prediction by 1e-3 and more."""


def built(folder, call, **settings):
    lora = AttentionLora(rank=2, targets=("to_q", "to_k", "to_v"))
    policy = DiffusersConfig(model=str(folder), steps=STEPS, call=call, lora=lora, **settings).build(CPU, seed=0)
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(parameter.data, std=0.1, generator=torch.Generator().manual_seed(0))
    return policy


def asked_of(policy, batches=((0, 2), (2, 3), (3, 1), (1, 2))):
    """(states, prompts, step) of so many samples each; no two prompts or states are the same."""
    asked = []
    for step, samples in batches:
        prompts = [Prompt(i, f"{step * 10 + i} red circles") for i in range(samples)]
        asked.append((policy.start(prompts, [(step, i) for i in range(samples)]), prompts, step))
    return asked


def given_to(policy):
    """The keyword arguments of all calls of the networks from now on."""
    calls = []
    for module in policy.modules.values():
        module.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


def gradients(policy, predictions):
    return torch.autograd.grad(sum(p.square().mean() for p in predictions), list(policy.trainable().values()))


@pytest.mark.parametrize(("name", "evaluations"), [("sd3", 1), ("flux", 1), ("wan", 2)])
def test_each_row_is_what_it_is_alone(pipelines, name, evaluations):
    policy = built(pipelines[name], CALLS[name])
    asked = asked_of(policy)
    policy.predict_together(asked)
    calls = given_to(policy)
    together = policy.predict_together(asked)
    assert len(calls) == evaluations, "one for each side of guidance that is evaluated apart"
    alone = [policy.predict(*one) for one in asked]
    for one, other in zip(together, alone, strict=True):
        assert (one - other).norm() <= ROUNDING * other.norm()
    for one, other in zip(gradients(policy, together), gradients(policy, alone), strict=True):
        assert (one - other).norm() <= 10 * ROUNDING * other.norm()


def test_each_row_has_the_time_of_its_step_block_by_block(pipelines):
    policy = built(pipelines["sd3"], CALLS["sd3"])
    asked = asked_of(policy, ((0, 2), (3, 1)))
    policy.predict_together(asked)
    times = policy.pipe.scheduler.timesteps
    calls = given_to(policy)
    policy.predict_together(asked)
    assert CALLS["sd3"]["guidance_scale"] > 1.0
    assert calls[0]["timestep"].tolist() == 2 * [*2 * [float(times[0])], float(times[3])]
    texts = calls[0]["encoder_hidden_states"]
    calls.clear()
    for one in asked:
        policy.predict(*one)
    first, second = (call["encoder_hidden_states"] for call in calls)
    assert torch.equal(texts, torch.cat([first[:2], second[:1], first[2:], second[1:]]))


def test_experts_of_other_steps_are_evaluated_apart(saved):
    policy = built(saved("wan22"), tiny.pipelines()["wan22"].call)
    asked = asked_of(policy)
    policy.predict_together(asked)
    calls = given_to(policy)
    together = policy.predict_together(asked)
    assert len(calls) == 2 * 2
    for one, other in zip(together, asked, strict=True):
        alone = policy.predict(*other)
        assert (one - alone).norm() <= ROUNDING * alone.norm()


def test_what_was_seen_before_makes_no_difference(pipelines):
    """A resumed run has seen less."""
    found = []
    for seen in (0, 1, 3):
        policy = built(pipelines["sd3"], CALLS["sd3"])
        asked = asked_of(policy)
        for _ in range(seen):
            policy.predict(*asked[1])
        found.append(torch.cat(policy.predict_together(asked)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sd15", "a step differs from the next in more than what has a row for each sample"),
        ("z_image", "it goes another way for another number of samples"),
    ],
)
def test_pipelines_whose_steps_cannot_be_joined_are_refused(saved, name, reason):
    policy = built(saved(name), tiny.pipelines()[name].call)
    with pytest.raises(UserError, match=f"can't join steps: {reason}; set optimizer.join_steps to false"):
        policy.predict_together(asked_of(policy))


def test_a_network_that_takes_one_time_for_all_is_refused(pipelines):
    policy = built(pipelines["flux"], CALLS["flux"])
    transformer = policy.pipe.transformer
    embed = transformer.time_text_embed.forward
    transformer.time_text_embed.forward = lambda time, *others: embed(time[:1].expand(len(time)), *others)
    with pytest.raises(UserError, match="the network says something else of a sample beside one of another step"):
        policy.predict_together(asked_of(policy))
