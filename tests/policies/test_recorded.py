"""A step that was written down is the pipeline's own, to the bit; what can't be written down goes through the pipeline's code."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowgrpo.core.keys import torch_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import DiffusersConfig, _recorded
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.policies.diffusers._trace import NotRecorded, Trace
from flowgrpo.policies.tiny.asked import prompt_of

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
KEYS = [("key", 0), ("key", 1)]


@pytest.fixture(scope="module")
def build(saved: Callable[[str], Path]) -> Callable[..., DiffusersPolicy]:
    """A policy over a tiny pipeline, its adapter moved away from zero."""

    def make(name: str, **options: Any) -> DiffusersPolicy:
        entry = tiny.pipelines()[name]
        chosen = {"lora": {"rank": 2, "alpha": 4}, "call": entry.call, **entry.options, **options}
        policy = DiffusersConfig(model=str(saved(name)), steps=entry.steps, **chosen).build(CPU, seed=0)
        nudge(policy, "first")
        return policy

    return make


def nudge(policy: DiffusersPolicy, key: str) -> None:
    with torch.no_grad():
        for i, parameter in enumerate(policy.trainable().values()):
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch_generator((key, i)))


def called(policy: DiffusersPolicy, states: Tensor, step: int, prompts: list[Prompt] = PROMPTS) -> Tensor:
    """By the pipeline's own code."""
    with policy._autocast():
        return policy.loop(prompts).called(states, step, policy._arguments(prompts, torch.Generator()))


def calls_of_the_pipeline(policy: DiffusersPolicy) -> list[int]:
    """Grows when the pipeline's own code runs."""
    tap, calls = policy.untaught.tap, []
    run = tap.run
    tap.run = lambda *args: calls.append(1) or run(*args)
    return calls


def warm(policy: DiffusersPolicy, prompts: list[Prompt] = PROMPTS) -> Tensor:
    """Two predictions, after which a call is written down; some states."""
    states = policy.start(prompts, KEYS[: len(prompts)])
    with torch.no_grad():
        for _ in range(2):
            policy.predict(states, prompts, 1)
    return torch.randn(states.shape, generator=torch_generator(("states",)))


def reasons(policy: DiffusersPolicy) -> set[str]:
    return set(policy.untaught.recordings.reasons.values())


def gradient(policy: DiffusersPolicy, prediction: Tensor) -> Tensor:
    found = torch.autograd.grad(prediction.square().sum(), list(policy.trainable().values()), materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sd3", {}),
        ("sd3", {"dtype": "bf16"}),
        ("sd3", {"guidance_gradient": "conditional"}),
        ("sd3", {"runtime": {"offload": True, "gradient_checkpointing": True}}),
        ("sd3_skip_layer", {}),
        ("flux", {}),
        ("sdxl", {}),
        ("wan", {}),
        ("wan22", {}),
        ("ltx2", {}),
        ("ltx_i2v", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_step_that_was_written_down_is_the_pipelines_and_so_is_its_gradient(build, name, options, tmp_path):
    policy = build(name, **options)
    prompts = PROMPTS
    if tiny.pipelines()[name].conditions:
        prompts = [prompt_of(tiny.pipelines()[name], tmp_path)] * 2
    states = warm(policy, prompts)
    assert reasons(policy) == {""}
    (programs,) = policy.untaught.recordings.known.values()
    assert len(programs[-1].lines) <= len(programs[0].lines)
    calls = calls_of_the_pipeline(policy)
    for step in range(policy.config.steps):
        found = policy.predict(states, prompts, step)
        assert not calls
        expected = called(policy, states, step, prompts)
        calls.clear()
        assert torch.equal(found, expected)
        torch.testing.assert_close(gradient(policy, found), gradient(policy, expected), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "why"),
    [("sd_pag", "changes its network"), ("z_image_truncation", "reads numbers"), ("flux2_klein_kv", "earlier step")],
)
def test_what_cant_be_written_down_goes_through_the_pipelines_code(build, name, why, tmp_path):
    policy = build(name)
    prompts = [prompt_of(tiny.pipelines()[name], tmp_path)] * 2
    states = warm(policy, prompts)
    (reason,) = reasons(policy)
    assert why in reason
    calls = calls_of_the_pipeline(policy)
    with torch.no_grad():
        policy.predict(states, prompts, 1)
    assert calls


def test_nothing_stale_is_used_when_prompts_guidance_size_or_adapters_change(build):
    call = {name: value for name, value in tiny.pipelines()["sd3"].call.items() if name not in ("height", "width")}
    policy = build("sd3", call={**call, "sizes": [[8, 8], [8, 4]]})
    square, narrow = (
        next(Prompt(i, "a red circle") for i in range(99) if policy.config.batch_key(Prompt(i, "")) == (8, width))
        for width in (8, 4)
    )
    seen: list[Tensor] = []

    def see(prompt: Prompt) -> None:
        prompts = [prompt] * 2
        states = warm(policy, prompts)
        with torch.no_grad():
            found = policy.predict(states, prompts, 1)
            assert torch.equal(found, called(policy, states, 1, prompts))
        assert not any(found.shape == other.shape and torch.equal(found, other) for other in seen)
        seen.append(found)

    see(square)
    see(Prompt(square.index, "a blue square"))
    see(Prompt(square.index, "a red circle", {"negative_prompt": "blue"}))
    see(narrow)
    policy.config.call["guidance_scale"] = 5.0
    see(square)
    nudge(policy, "second")
    see(square)
    with policy.reference():
        see(square)


def test_only_so_many_calls_are_kept_and_only_so_many_bytes(build, monkeypatch):
    policy = build("sd3")
    kept = policy.untaught.recordings.known
    monkeypatch.setattr(_recorded, "REMEMBERED", 3)
    for i in range(5):
        warm(policy, [Prompt(i, f"{i} circles")])
    assert len(kept) == 3
    monkeypatch.setattr(_recorded, "KEPT_BYTES", _recorded.held_by(next(reversed(kept.values()))) + 1)
    warm(policy, [Prompt(9, "9 circles")])
    assert len([programs for programs in kept.values() if programs]) == 1


@pytest.mark.parametrize("what", ["reads", "counts", "hides", "draws"])
def test_a_pipeline_that_does_what_is_not_seen_is_not_written_down(build, what):
    policy = build("sdxl")
    scheduler, times = policy.pipe.scheduler, []

    def scale(sample: Tensor, timestep: Tensor) -> Tensor:
        times.append(1)
        if what == "reads":
            return sample * (1.0 + float(sample.mean()))
        if what == "counts":
            return sample * len(times)
        if what == "hides":
            return sample + torch.from_dlpack(sample.detach()).mean()
        return sample + torch.randn_like(sample) * len(sample)

    vars(scheduler)["scale_model_input"] = scale
    states = warm(policy)
    if what == "draws":  # with a seed of its own, in each call
        assert reasons(policy) == {""}
        with torch.no_grad():
            assert torch.equal(policy.predict(states, PROMPTS, 1), called(policy, states, 1))
    else:
        (reason,) = reasons(policy)
        assert reason


class Doubling(nn.Module):
    def forward(self, x: Tensor, by: Tensor) -> Tensor:
        return 2.0 * x * by


def written_down(work: Callable[[Tensor, nn.Module], Tensor]) -> Any:
    state, network = torch.arange(4.0), Doubling()
    with torch.no_grad(), Trace(state, [network], [network]) as trace:
        return trace.program(work(state, network))


def write_into_a_constant(x: Tensor, network: nn.Module) -> Tensor:
    held = torch.full((2, 4), 7.0)
    row = held[1]
    row[1:3] = x[1:3]
    return network(held[0] + row, by=held)


def write_in_place(x: Tensor, network: nn.Module) -> Tensor:
    y = x + 1.0
    first, second = y.chunk(2)
    first.mul_(3.0)
    second += first
    return network(y, by=torch.ones(4))


def read_a_view(x: Tensor, network: nn.Module) -> Tensor:
    pairs = x.view(2, 2).T
    return network(pairs.reshape(4), by=torch.zeros_like(x) + 2.0) - pairs.flatten()


@pytest.mark.parametrize("work", [write_into_a_constant, write_in_place, read_a_view])
def test_views_and_writes_are_done_again_in_order(work):
    program = written_down(work)
    for _ in range(2):
        state = torch.tensor([5.0, -1.0, 2.0, 8.0])
        assert torch.equal(program(state), work(state.clone(), Doubling()))
        assert program.intact


def trained_outside(x: Tensor, network: nn.Module) -> Tensor:
    weight = nn.Parameter(torch.ones(4))
    return network(x, by=weight * 2.0)


def write_into_the_state(x: Tensor, network: nn.Module) -> Tensor:
    return network(x.mul_(2.0), by=torch.ones(4))


def change_the_graph(x: Tensor, network: nn.Module) -> Tensor:
    with torch.enable_grad():
        return network(x, by=torch.ones(4))


def forget_the_state(x: Tensor, network: nn.Module) -> Tensor:
    return torch.ones(4)


def give_an_object(x: Tensor, network: nn.Module) -> Tensor:
    return network(x, by=nullcontext())


@pytest.mark.parametrize("work", [trained_outside, write_into_the_state, change_the_graph, forget_the_state, give_an_object])
def test_what_could_be_wrong_is_refused(work):
    with pytest.raises(NotRecorded):
        written_down(work)


def test_a_constant_that_somebody_writes_into_makes_a_program_invalid():
    by = torch.ones(4096)
    state, network = torch.arange(4096.0), Doubling()
    with torch.no_grad(), Trace(state, [network], [network]) as trace:
        program = trace.program(network(state, by=by))
    assert program.intact
    by += 1.0
    assert not program.intact
    with pytest.raises(NotRecorded):
        trace.require_unchanged()


def test_no_network_works_while_a_call_is_written_down(build, tmp_path):
    policy = build("sd_controlnet")
    prompts = [prompt_of(tiny.pipelines()["sd_controlnet"], tmp_path)] * 2
    states, worked = warm(policy, prompts), []
    for network in (policy.pipe.unet, policy.pipe.controlnet):
        network.conv_in.register_forward_pre_hook(lambda *_: worked.append(1))
    policy.loop(prompts).record(states, policy._arguments(prompts, torch.Generator()))
    assert not worked
    with torch.no_grad():
        policy.predict(states, prompts, 1)
    assert len(worked) == 2
