"""Activations in main memory: the same gradients to the bit, weights stay where they are, and what can't be had is refused."""

import pytest
import torch
from torch import nn

from conftest import CALLS
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import LoraAdapter, _offloaded
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig, Runtime
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.sampling.kernels.orders import LowConfidence

CPU = torch.device("cpu")
PROMPTS = [Prompt(i, text) for i, text in enumerate(["red", "blue", "star", "cup"])]


@pytest.fixture
def waiting(monkeypatch):
    """What went to main memory."""
    copies, take = [], _offloaded._Host.take
    monkeypatch.setattr(_offloaded, "LEAST", 256)

    def noted(host, tensor):
        taken = take(host, tensor)
        if isinstance(taken, _offloaded._Waiting):
            copies.append(taken.copy)
        return taken

    monkeypatch.setattr(_offloaded._Host, "take", noted)
    return copies


def diffusers_policy(pipelines, name, offload, again, lora=True, **settings):
    runtime = Runtime(offload_activations=offload, gradient_checkpointing=again)
    lora = AttentionLora(rank=2, targets=("to_q", "to_k", "to_v")) if lora else None
    model = {"model": str(pipelines[name]), "steps": 4, "call": CALLS[name], "lora": lora, "runtime": runtime}
    return DiffusersConfig(**{**model, **settings}).build(CPU, seed=0)


def masked_policy(mdlm, offload, again):
    lora = LoraAdapter(rank=2, targets=("q_proj", "v_proj"))
    sizes = {"steps": 3, "prompt_length": 8, "length": 6, "lora": lora, "sampler": LowConfidence()}
    options = {"offload_activations": offload, "gradient_checkpointing": again}
    return MaskedConfig(model=str(mdlm), **sizes, **options).build(CPU, seed=0)


def gradients(policy, evaluations=3):
    """Of the same states again and again: by the pipeline's own call, and as it was recorded."""
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(parameter.data, std=0.1, generator=torch.Generator().manual_seed(0))
    states, found = policy.start(PROMPTS, [("key", i) for i in range(len(PROMPTS))]), []
    for _ in range(evaluations):
        prediction = policy.predict(states, PROMPTS, 1)
        prediction.float().square().mean().backward()
        found.append([prediction.detach(), *(p.grad.clone() for p in policy.trainable().values())])
    return found


def assert_same(plain, offloaded):
    for one, other in zip(plain, offloaded, strict=True):
        assert all(map(torch.equal, one, other)) and all(grad.any() for grad in one[1:])


@pytest.mark.parametrize("again", [False, True, 2])
@pytest.mark.parametrize("name", ["sd3", "wan"])
def test_gradients_of_pipelines_are_the_same_bit_for_bit(pipelines, name, again, waiting):
    plain = gradients(diffusers_policy(pipelines, name, False, again))
    assert not waiting
    assert_same(plain, gradients(diffusers_policy(pipelines, name, True, again)))
    assert waiting


@pytest.mark.parametrize("again", [False, True])
def test_gradients_of_masked_models_are_too(mdlm, again, waiting):
    plain = gradients(masked_policy(mdlm, False, again))
    assert not waiting
    assert_same(plain, gradients(masked_policy(mdlm, True, again)))
    assert waiting


@pytest.mark.parametrize("settings", [{"lora": False}, {"dtype": "bf16"}, {"guidance_gradient": "conditional"}])
def test_so_are_those_of_all_weights_of_16_bits_and_of_one_side_of_guidance(pipelines, settings, waiting):
    plain, offloaded = (gradients(diffusers_policy(pipelines, "sd3", on, False, **settings), 2) for on in (False, True))
    for one, other in zip(plain, offloaded, strict=True):
        assert all(map(torch.equal, one, other))
    assert waiting


def test_less_waits_where_blocks_are_computed_again(pipelines, waiting):
    counts = []
    for again in (False, True):
        waiting.clear()
        gradients(diffusers_policy(pipelines, "sd3", True, again), 1)
        counts.append(sum(copy.nbytes for copy in waiting))
    assert counts[1] < 0.5 * counts[0]


def test_nothing_waits_without_a_graph(pipelines, waiting):
    policy = diffusers_policy(pipelines, "sd3", True, False)
    with torch.no_grad():
        policy.predict(policy.start(PROMPTS, [("key", i) for i in range(len(PROMPTS))]), PROMPTS, 0)
    assert not waiting


def test_weights_and_what_is_small_stay_and_a_copy_is_whole():
    network = nn.Linear(64, 64)
    host = _offloaded._Host(network)
    row = torch.randn(1, 64)
    for stays in (network.weight, network.weight.detach().t(), row, row.expand(64, 64)):
        assert host.take(stays) is stays
    given = torch.randn(64, 32).t()
    expected, taken = given.clone(), host.take(given)
    given.zero_()
    back = _offloaded._back(taken)
    assert torch.equal(back, expected) and back.stride() == given.stride()


def test_a_plan_that_computes_its_steps_again_is_refused():
    with pytest.raises(UserError, match=r"offload_activations keeps activations, and a plan that goes back .* set it to false"):
        load_config("mini draft", ["policy.runtime.offload_activations=true"])
