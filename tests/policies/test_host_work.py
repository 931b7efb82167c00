"""What is done once is not done at every step: nothing in `predict` looks for the device, or waits for it."""

import copy

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.hooks import group_offloading

from conftest import CALLS
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._once import KEPT, Draws, Schedules
from flowgrpo.policies.diffusers._tap import Span, Tap, own_randomness

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
READS = ("cpu", "item", "tolist", "numpy", "__bool__", "__int__")
"""Of a tensor on a GPU, these wait until all work before them is done."""


@pytest.fixture(params=["sd3", "flux", "wan"])
def policy(request, pipelines):
    name = request.param
    return DiffusersConfig(model=str(pipelines[name]), steps=4, call=CALLS[name]).build(CPU, seed=0)


def counted(monkeypatch, owner, name):
    calls, original = [], vars(owner)[name] if name in vars(owner) else getattr(owner, name)

    def counting(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_predict_neither_walks_over_modules_nor_reads_a_tensor(policy, monkeypatch):
    states = policy.start(PROMPTS, [("a",), ("b",)])
    first, _ = (policy.predict(states, PROMPTS, 1) for _ in range(2))
    walks = counted(monkeypatch, group_offloading, "_get_group_onload_device")
    reads = [counted(monkeypatch, torch.Tensor, name) for name in READS]
    again = policy.predict(states, PROMPTS, 1)
    called = policy.loop(PROMPTS).called(states, 1, policy._arguments(PROMPTS, torch.Generator()))
    monkeypatch.undo()
    assert not walks and not any(reads), [calls for calls in reads if calls]
    assert torch.equal(first, again) and torch.equal(first, called)


def test_only_the_policys_own_pipeline_is_spared_the_walk_and_only_inside(pipelines):
    pipe = DiffusionPipeline.from_pretrained(pipelines["wan"])
    other, tap, seen = copy.copy(pipe), Tap(pipe), []
    other.register_modules(transformer=copy.deepcopy(pipe.transformer).to("meta"), text_encoder=None, vae=None)
    with tap._device_known():
        pipe.transformer.to("meta")
        seen += [pipe._execution_device, other._execution_device]
    assert [device.type for device in seen] == ["cpu", "meta"]
    assert "_execution_device" not in vars(type(pipe))


def test_random_numbers_without_a_generator_are_the_same_each_time_and_leave_the_others_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with own_randomness():
        first = torch.rand(3)
    with pytest.raises(ValueError), own_randomness():
        assert torch.equal(torch.rand(3), first)
        raise ValueError
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), first)


def test_what_new_generators_draw_is_drawn_once_and_is_the_same():
    draws, made = Draws(), []

    def draw(shape, generator=None, device=None, dtype=None):
        made.append(shape)
        return torch.randn(shape, generator=generator, dtype=dtype)

    drawn = draws.shadow(draw)
    for _ in range(2):
        one, other = torch.Generator(), torch.Generator()
        first = drawn((2, 3), one, dtype=torch.float64)
        assert torch.equal(first, torch.randn(2, 3, generator=other, dtype=torch.float64))
        assert torch.equal(drawn((2, 3), generator=one), torch.randn(2, 3, generator=other))
        first.zero_()
    assert len(made) == 3
    assert torch.equal(drawn((4,), torch.Generator().manual_seed(3)), torch.randn(4, generator=torch.Generator().manual_seed(3)))
    for size in range(9):
        drawn((size,), torch.Generator())
    assert len(draws.known) == KEPT


@pytest.mark.parametrize(
    ("scheduler", "given"),
    [
        (FlowMatchEulerDiscreteScheduler(shift=3.0), {"sigmas": [1.0, 0.6, 0.3]}),
        (PNDMScheduler(), {"num_inference_steps": 7}),
        (UniPCMultistepScheduler(), {"num_inference_steps": 5}),
        (EulerDiscreteScheduler(), {"num_inference_steps": 4}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_schedule_is_computed_once_and_leaves_the_scheduler_as_if_it_were_computed_again(scheduler, given):
    plain, calls = copy.deepcopy(scheduler), []
    compute = scheduler.set_timesteps
    set_once = Schedules().shadow(scheduler, lambda **arguments: calls.append(0) or compute(**arguments))
    for _ in range(3):
        set_once(**given)
        plain.set_timesteps(**given)
        scheduled, again = ({name: value for name, value in vars(one).items() if one} for one in (scheduler, plain))
        assert scheduled.keys() == again.keys()
        assert all(same(scheduled[name], again[name]) for name in scheduled)
        for one in (scheduler, plain):
            one._step_index = 2
            one.timesteps.add_(1)
            for name in {"ets", "model_outputs", "timestep_list"} & vars(one).keys():
                vars(one)[name].append("what a step leaves there")
    assert len(calls) == 2
    set_once(**given)
    assert len(calls) == 2
    scheduler.register_to_config(num_train_timesteps=500)
    set_once(**given)
    assert len(calls) == 3


def same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else str(one) == str(other)


def test_the_part_of_the_timesteps_is_found_by_place_and_by_value(pipelines):
    pipe = DiffusionPipeline.from_pretrained(pipelines["flux"])
    tap = Tap(pipe)
    pipe.scheduler.timesteps = torch.tensor([900.0, 700.0, 600.0, 400.0])
    tap.timesteps_are_set = True
    steps = pipe.scheduler.timesteps
    assert tap._span(steps) == tap._span(steps.clone()) == Span(0, 4)
    assert tap._span(steps[2:]) == Span(2, 2) == tap._span(steps[2:].clone())
    assert tap._span(steps[2:3]) == Span(2, 1)
    assert tap._span(steps[::2]) is tap._span(steps.flip(0)) is tap._span(steps.double()) is None
