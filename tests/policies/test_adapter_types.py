"""Adapters compute in bf16 as the network around them does, and are trained in float32."""

from functools import partial

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from conftest import trajectories
from flowgrpo.core.keys import torch_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.runs.checkpoint import load_state, save_state
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.training.rollout import rollout
from trainers import picture_trainer, text_trainer

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
ATTENTION = ("to_q", "to_k", "to_v")
TARGETS = {"sd3": ATTENTION, "flux": ATTENTION, "wan": (*ATTENTION, "patch_embedding"), "sdxl": (*ATTENTION, "conv1")}
"""With layers that are convolutions, of pictures and of clips."""
SPACING = 2.0**-8
"""Of neighbours in bf16, relative: they are at least half as far apart."""


def nudged(policy):
    """B is 0 at first, and then A would get no gradient."""
    with torch.no_grad():
        for i, parameter in enumerate(policy.trainable().values()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch_generator(("nudge", i)))
    return policy


def built(saved, name, dtype="bf16"):
    lora = {"rank": 4, "targets": TARGETS[name]}
    call = tiny.pipelines()[name].call
    return nudged(DiffusersConfig(model=str(saved(name)), steps=4, call=call, dtype=dtype, lora=lora).build(CPU, seed=0))


def factors(*modules):
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, LoraLayer)]
    return [factor for layer in layers for factor in (*layer.lora_A.values(), *layer.lora_B.values())]


class Seen:
    """What the factors of adapters are given and answer, and whether autocast was on."""

    def __init__(self, *modules):
        self.types, self.casts, self.kinds = set(), set(), set()
        for factor in factors(*modules):
            factor.register_forward_hook(self)

    def __call__(self, factor, given, answer):
        self.types |= {given[0].dtype, answer.dtype}
        self.casts.add(torch.is_autocast_enabled(CPU.type))
        self.kinds.add(type(factor))


@pytest.mark.parametrize("name", TARGETS)
def test_adapters_compute_in_bf16_without_autocast_and_the_first_log_ratio_is_0(saved, name):
    policy = built(saved, name)
    seen = Seen(*policy.modules.values())
    block = rollout(policy, PROMPTS, [trajectories([FlowSde(noise_level=0.5)] * 4, 2, False)] * 2, (0, 0), 4, False)
    for t in block.transitions:
        prediction = policy.predict(t.states, t.prompts, t.step)[t.parent]
        log_prob = t.law.log_prob(t.states[t.parent], prediction, t.next_states)
        assert torch.equal(log_prob.detach(), t.log_prob)
        log_prob.mean().backward()
    assert seen.types == {torch.bfloat16} and seen.casts == {False}
    assert len(seen.kinds) == (2 if name in ("wan", "sdxl") else 1)
    for parameter in policy.trainable().values():
        assert parameter.dtype == parameter.grad.dtype == torch.float32 and parameter.grad.any()


def gradient(policy, states):
    """Of a linear function of a prediction, one parameter after the other."""
    prediction = policy.predict(states, PROMPTS, 1).float()
    direction = torch.randn(prediction.shape, generator=torch_generator(("direction",)))
    found = torch.autograd.grad((prediction * direction).mean(), list(policy.trainable().values()))
    return torch.cat([part.flatten() for part in found])


def by_autocast(policy):
    """With peft's own layers, whose adapters take float32, and casts around them."""
    for module in policy.modules.values():
        for layer in module.modules():
            if isinstance(layer, LoraLayer):
                layer.cast_input_dtype_enabled = True
    for factor in factors(*policy.modules.values()):
        del factor.forward
    policy._autocast = partial(torch.autocast, CPU.type, torch.bfloat16)
    return policy


@pytest.mark.parametrize("name", TARGETS)
def test_the_gradient_is_that_of_autocast_but_for_rounding(saved, name):
    """To float32, with the same stored weights, both are as close."""
    exact, cast, own = built(saved, name, "fp32"), by_autocast(built(saved, name)), built(saved, name)
    for module in exact.modules.values():
        for key, parameter in module.named_parameters():
            parameter.data = parameter.data if "lora_" in key else parameter.data.bfloat16().float()
    states = own.start(PROMPTS, [("a",), ("b",)])
    truth, theirs, ours = (gradient(policy, states) for policy in (exact, cast, own))
    assert 0.0 < (ours - truth).norm() < 2.0 * (theirs - truth).norm() < truth.norm()


def test_in_float32_they_are_pefts_own_layers_bit_for_bit(saved):
    policy = built(saved, "sd3", "fp32")
    states = policy.start(PROMPTS, [("a",), ("b",)])
    ours = gradient(policy, states)
    for factor in factors(*policy.modules.values()):
        del factor.forward
    assert torch.equal(gradient(policy, states), ours)


def test_a_language_models_adapters_compute_as_its_layers_do(mdlm):
    config = {"prompt_length": 5, "length": 6, "steps": 3, "sampler": {"type": "low_confidence", "temperature": 0.0}}
    lora = {"rank": 4, "targets": ("q_proj", "v_proj")}
    policy = nudged(MaskedConfig(model=str(mdlm), dtype="bf16", lora=lora, **config).build(CPU, 0))
    seen, prompts = Seen(policy.model), [Prompt(0, "1+2=:")]
    policy.predict(policy.start(prompts, []), prompts, 0).masked_fill(policy.adapter.forbidden, 0.0).sum().backward()
    assert seen.types == {torch.bfloat16} and seen.casts == {False}
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in policy.trainable().values())


TRAINERS = {
    "sd3": (picture_trainer, "pipelines", "policy.lora.rank=2"),
    "texts": (text_trainer, "mdlm", "policy.lora={rank: 2, targets: [q_proj, v_proj]}"),
}
RATE = 1e-6
"""Far less than bf16 tells apart at adapters of 0.05."""


@pytest.fixture(params=TRAINERS)
def trainer(request):
    """Makes trainers in bf16 of one kind, all alike."""
    make, model, lora = TRAINERS[request.param]
    return partial(make, request.getfixturevalue(model), lora, "policy.dtype=bf16", f"optimizer.lr={RATE}", "ema={decay: 0.5}")


def test_weights_move_by_steps_that_bf16_does_not_have(trainer):
    """AdamW's first step is lr x g / |g|. Weights of 16 bits would all stay where they are."""
    trained = trainer()
    before = {name: weight.detach().clone() for name, weight in trained.weights.parameters.items()}
    trained.update()
    was, now = (torch.cat([weight.detach().flatten() for weight in x.values()]) for x in (before, trained.weights.parameters))
    moved, large = now != was, was.abs() > 4.0 * RATE / SPACING
    assert moved.float().mean() > 0.5 and large.float().mean() > 0.9
    assert torch.allclose((now - was)[moved].abs(), torch.tensor(RATE), rtol=0.0, atol=2e-7)
    sixteen = was.bfloat16()
    assert torch.equal((sixteen + (now - was).bfloat16())[large], sixteen[large])
    assert (now.bfloat16() != sixteen)[large].float().mean() < 0.1


def test_a_run_in_bf16_goes_on_from_its_checkpoint_to_the_same_bits(trainer, tmp_path):
    first, second = trainer(), trainer()
    first.update()
    save_state(tmp_path / "checkpoint-000001" / "state", *first.state())
    second.load(*load_state(tmp_path / "checkpoint-000001", second.kinds))
    for one in (first, second):
        one.update()
    (ours, facts), (theirs, other_facts) = first.state(), second.state()
    assert facts == other_facts and {*ours} == {"trainable", "optimizer", "ema"}
    for kind, tensors in ours.items():
        assert all(torch.equal(value, theirs[kind][name]) and value.dtype == torch.float32 for name, value in tensors.items())


def test_what_is_exported_are_the_weights_in_float32(saved, tmp_path):
    policy = built(saved, "sd3")
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += SPACING / 64.0 * parameter
    policy.export()(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    kept = load_file(file)
    lora, scale = policy.config.lora, policy.config.lora.alpha / policy.config.lora.rank
    assert lora and all(value.dtype == torch.float32 for value in kept.values())
    for name, parameter in policy.trainable().items():
        value = parameter * (scale if ".lora_B." in name else 1.0)
        assert torch.equal(kept[name.replace(".default", "")], value)
