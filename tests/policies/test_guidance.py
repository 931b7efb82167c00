"""`guidance_gradient: conditional`: predictions that guidance moves away from, found out by a probe, keep no graph."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import torch_generator
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._guidance import Call, Halves
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.sampling.kernels.ddim import Ddim
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.rollout import rollout

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
KEYS = [("key", 0), ("key", 1)]
AWAY = {
    "sd3": [[[0]]] * 4,
    "sd15": [[[0]]] * 4,
    "sd15_rescale": [[[0]]] * 4,
    "wan": [[[], [0]]] * 4,
    "qwenimage": [[[], [0]]] * 4,
    "qwenimage21": [[[], [0]]] * 4,
    "z_image": [[[1]]] * 4,
    "lumina": [[[1]]] * 4,
    "lumina2_truncation": [[[], [0]], [[], [0]], [[]], [[]]],
    "sd3_skip_layer": [[[0]], [[0], [0]], [[0], [0]], [[0]]],
}
"""Of each step's calls, the blocks that the pipeline's own code subtracts."""


@pytest.fixture(scope="module")
def build(saved: Callable[[str], Path]) -> Callable[..., DiffusersPolicy]:
    """A policy over a tiny pipeline, its adapter moved away from zero."""

    def make(name: str, gradient: str, **options: Any) -> DiffusersPolicy:
        entry = tiny.pipelines()[name]
        chosen: dict[str, Any] = {"call": entry.call, **entry.options, **options}
        config = DiffusersConfig(model=str(saved(name)), steps=entry.steps, guidance_gradient=gradient, **chosen)
        policy = config.build(CPU, seed=0)
        with torch.no_grad():
            for i, parameter in enumerate(policy.trainable().values()):
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch_generator(("nudge", i)))
        return policy

    return make


def gradient(policy: DiffusersPolicy, states: Tensor, step: int, against: Tensor | None = None) -> Tensor:
    """Of a random linear function of the prediction, in all trained weights."""
    v = policy.predict(states, PROMPTS, step) if against is None else policy.predict_from(states, PROMPTS, step, against)
    found = torch.autograd.grad(
        (v * torch.randn(v.shape, generator=torch_generator(("direction",)))).sum(),
        list(policy.trainable().values()),
        materialize_grads=True,
    )
    return torch.cat([g.flatten() for g in found])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", AWAY)
def test_the_prediction_stays_and_the_gradient_of_what_is_moved_away_from_goes(build, name):
    full, conditional = build(name, "full"), build(name, "conditional")
    x = full.start(PROMPTS, KEYS)
    assert torch.equal(conditional.start(PROMPTS, KEYS), x)
    for step, away in enumerate(AWAY[name]):
        with torch.no_grad():
            assert relative(conditional.predict(x, PROMPTS, step), full.predict(x, PROMPTS, step)) < 5e-6
        assert [sorted(call.away) for call in conditional.untaught.guidance.steps[step]] == away
        error = relative(gradient(conditional, x, step), gradient(full, x, step))
        assert error > 0.1 if any(away) else error == 0.0


@pytest.mark.parametrize("name", AWAY)
def test_first_log_ratio_is_exactly_zero(build, name):
    policy = build(name, "conditional")
    steps = tiny.pipelines()[name].steps
    shape = AllSteps(kernel=Ddim(eta=1.0)).shape(Draw(steps, 2))
    block = rollout(policy, PROMPTS, [shape] * len(PROMPTS), (0, 0), 4, keep_predictions=False)
    for t in block.transitions:
        v = policy.predict(t.states, t.prompts, t.step)
        assert v.requires_grad
        assert torch.equal(t.law.log_prob(t.states[t.parent], v[t.parent], t.next_states).detach(), t.log_prob)


def detach_first_half(module: Any, args: Any, output: Any) -> Any:
    unconditional, conditional = output[0].chunk(2)
    return (torch.cat([unconditional.detach(), conditional]),)


def detach_every_second() -> Callable[..., Any]:
    calls = []

    def hook(module: Any, args: Any, output: Any) -> Any:
        calls.append(1)
        return output if len(calls) % 2 else (output[0].detach(),)

    return hook


@pytest.mark.parametrize(("name", "hook"), [("sd3", detach_first_half), ("wan", detach_every_second())])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_gradient_is_that_of_detaching_by_hand(build, name, hook, dtype):
    full, conditional = build(name, "full", dtype=dtype), build(name, "conditional", dtype=dtype)
    x = full.start(PROMPTS, KEYS)
    by_hand = full.pipe.transformer.register_forward_hook(hook)
    expected = [gradient(full, x, step) for step in range(4)]
    by_hand.remove()
    for step in range(4):
        assert relative(gradient(conditional, x, step), expected[step]) < (1e-6 if name == "sd3" else 2e-7)


@contextmanager
def kept(total: list[int]) -> Iterator[None]:
    """Adds the bytes of what autograd saves, weights left out."""

    def pack(x: Tensor) -> Tensor:
        total.append(0 if isinstance(x, torch.nn.Parameter) else x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield


@pytest.mark.parametrize("name", ["sd3", "wan", "qwenimage", "z_image"])
def test_half_of_the_rows_keep_a_graph(build, name):
    sizes = []
    for choice in ("full", "conditional"):
        policy = build(name, choice)
        x = policy.start(PROMPTS, KEYS)
        total: list[int] = []
        with kept(total):
            policy.predict(x, PROMPTS, 0)
        sizes.append(sum(total))
    assert 0.45 < sizes[1] / sizes[0] < 0.55


REFUSED = {
    "sd_pag": r"can't evaluate .* apart",
    "sd3_pag": r"can't evaluate .* apart",
    "omnigen": r"says something else .* apart",
    "flux": r"no step .* second prediction",
}
"""Perturbed-attention guidance cuts the rows of every call in three; tokens of OmniGen's rows are padded together; guidance is
an input."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_go_without_a_graph_is_refused_each_time(build, name):
    policy = build(name, "conditional")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{REFUSED[name]}.*; set policy.guidance_gradient to full"):
            policy.start(PROMPTS, KEYS)
    assert policy.untaught.guidance.role is None


def test_a_call_without_guidance_is_refused(build):
    policy = build("sd3", "conditional", call={**tiny.pipelines()["sd3"].call, "guidance_scale": 1.0})
    with pytest.raises(UserError, match=r"no step .* second prediction"):
        policy.start(PROMPTS, KEYS)


def test_rows_that_were_not_seen_with_one_sample_are_refused():
    def network(x: Tensor) -> Tensor:
        return x

    with pytest.raises(UserError, match="more often"):
        Halves([], samples=2)(network, (torch.zeros(4, 3),), {})
    with pytest.raises(UserError, match="which rows"):
        Halves([Call(2, frozenset({0}), {})], samples=2)(network, (torch.zeros(4, 3),), {})


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", AWAY)
def test_what_guidance_moves_away_from_can_be_given(build, name, dtype):
    policy = build(name, "conditional", dtype=dtype)
    x = policy.start(PROMPTS, KEYS)
    for step, away in enumerate(AWAY[name]):
        with torch.no_grad():
            prediction, against = policy.predict_both(x, PROMPTS, step)
        assert torch.equal(prediction, policy.predict(x, PROMPTS, step))
        if not any(away):
            assert against is None
            continue
        assert against is not None and against.shape[:2] == (len(PROMPTS), sum(map(len, away)))
        assert torch.equal(policy.predict_from(x, PROMPTS, step, against), prediction)
        assert torch.equal(gradient(policy, x, step, against), gradient(policy, x, step))
        assert not torch.equal(policy.predict_from(x, PROMPTS, step, against + 1.0), prediction)


def test_with_the_whole_gradient_nothing_can_be_given(build):
    policy = build("sd3", "full")
    assert policy.predict_both(policy.start(PROMPTS, KEYS), PROMPTS, 0)[1] is None
