"""Finished samples that are noised anew, on real pipelines with random weights."""

import copy

import numpy as np
import pytest
import torch

from conftest import CALLS, REPLAYED
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import Noise
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.matching import Matching
from flowgrpo.sampling.noising.logit_normal import LogitNormal
from flowgrpo.sampling.noising.stratified import Stratified
from flowgrpo.sampling.noising.uniform import Uniform
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.outcomes import Outcomes
from flowgrpo.training.rollout import rollout
from trainers import picture_trainer

CPU = torch.device("cpu")
PROMPTS = [Prompt(0, "a red circle"), Prompt(1, "a blue square")]
KEYS = [("it", 0), ("it", 1), ("it", 2)]
GROUPS = [("group", 0), ("group", 0), ("group", 1)]
SHAPE = Outcomes(kernel=Ode()).shape(Draw(4, 3))


KINDS = {
    "sd3": "flow matching",
    "flux": "packed latents",
    "wan": "clips",
    "wan22": "two experts",
    "ltx": "packed latents of clips",
    "sd15": "diffusion that preserves the variance",
    "sdxl": "states at another scale than the network's",
    "sana_sprint": "another noise schedule, at another scale",
}


def build(saved, name, **matching):
    config = DiffusersConfig(
        model=str(saved(name)),
        steps=4,
        call=tiny.pipelines()[name].call,
        lora=AttentionLora(rank=2, targets=("to_q", "to_k", "to_v")),
        matching=Matching(**{"levels": Uniform(count=3), **matching}),
    )
    return config.build(CPU, seed=0)


def posed_of(policy, outcomes):
    return list(policy.posing(outcomes, [PROMPTS[0], PROMPTS[0], PROMPTS[1]], KEYS, GROUPS))


@pytest.mark.parametrize("name", [name for name in KINDS if name != "sana_sprint"])
def test_samples_are_noised_as_their_own_scheduler_does(saved, name):
    """By `scale_noise` or `add_noise` of diffusers."""
    policy = build(saved, name)
    outcomes = torch.randn(3, *policy.start(PROMPTS[:1], KEYS[:1]).shape[1:], generator=torch.Generator().manual_seed(1))
    seen = 0
    for posed in posed_of(policy, outcomes):
        policy.start(PROMPTS[:1], KEYS[:1])
        scheduler = copy.deepcopy(policy.pipe.scheduler)
        noises = torch.stack([Noise((*KEYS[row], "noise", posed.step, 0)).draw(outcomes.shape[1:]) for row in posed.rows])
        scheduler._begin_index = None
        at = {"timesteps" if "add_noise" in dir(scheduler) else "timestep": scheduler.timesteps[posed.step].repeat(len(noises))}
        noised = scheduler.add_noise if "add_noise" in dir(scheduler) else scheduler.scale_noise
        expected = noised(outcomes[posed.rows], noise=noises, **at)
        torch.testing.assert_close(posed.states, expected, rtol=1e-5, atol=1e-5)
        seen += len(posed.rows)
    assert seen == 9


@pytest.mark.parametrize("name", KINDS)
def test_rollouts_without_noise_train_and_begin_on_policy(saved, name):
    """Three levels of each sample, and log-ratio 0."""
    policy = build(saved, name)
    block = rollout(policy, PROMPTS, [SHAPE] * 2, (0, 0), 6, keep_predictions=True)
    assert block.network_evaluations == 2 * 3 * (4 + 3)
    counted = np.zeros((2, len(SHAPE.nodes)))
    for t in block.transitions:
        v = policy.posing.predict(t.states, t.prompts, t.step)
        log_prob = t.law.log_prob(t.states, v, t.next_states)
        torch.testing.assert_close(log_prob.detach(), t.log_prob, rtol=REPLAYED, atol=REPLAYED)
        log_prob.mean().backward()
        for place in t.places:
            counted[place] += t.share
    assert np.isclose(counted[:, list(SHAPE.trained)], 1.0).all()
    assert any(p.grad is not None and p.grad.abs().any() for p in policy.trainable().values())


def test_of_two_experts_each_learns_at_the_levels_that_are_its_own(saved):
    policy = build(saved, "wan22", levels=Uniform(count=4))
    block = rollout(policy, PROMPTS, [SHAPE] * 2, (0, 0), 6, keep_predictions=True)
    first, second = policy.modules.values()
    taught = {}
    for t in block.transitions:
        t.law.log_prob(t.states, policy.posing.predict(t.states, t.prompts, t.step), t.next_states).mean().backward()
        learns = [any(p.grad is not None and p.grad.any() for p in expert.parameters()) for expert in (first, second)]
        boundary = policy.pipe.config.boundary_ratio * policy.pipe.scheduler.config.num_train_timesteps
        early = policy.schedule(PROMPTS).timesteps[t.step] >= boundary
        assert learns == [early, not early]
        taught[t.step] = early
        for parameter in policy.trainable().values():
            parameter.grad = None
    assert len(taught) == 4 and len({*taught.values()}) == 2


def test_a_group_shares_its_levels_and_where_asked_its_noise(saved):
    policy = build(saved, "sd3", noise="shared")
    zeros = torch.zeros(3, *policy.start(PROMPTS[:1], KEYS[:1]).shape[1:])
    levels = {0: set(), 2: set()}
    for posed in posed_of(policy, zeros):
        assert (0 in posed.rows) == (1 in posed.rows)
        for row in posed.rows:
            levels.setdefault(row, set()).add(posed.step)
        if 0 in posed.rows:
            assert torch.equal(posed.states[posed.rows.index(0)], posed.states[posed.rows.index(1)])
    assert levels[0] == levels[1] and len(levels[0]) == len(levels[2]) == 3


def test_what_is_drawn_for_a_sample_does_not_depend_on_what_is_beside_it(saved):
    policy = build(saved, "sd3")
    outcomes = torch.randn(3, *policy.start(PROMPTS[:1], KEYS[:1]).shape[1:], generator=torch.Generator().manual_seed(1))
    alone = {posed.step: posed.states for posed in policy.posing(outcomes[2:], PROMPTS[1:], KEYS[2:], GROUPS[2:])}
    beside = {posed.step: posed.states[posed.rows.index(2)] for posed in posed_of(policy, outcomes) if 2 in posed.rows}
    assert alone.keys() == beside.keys() and all(torch.equal(alone[step][0], beside[step]) for step in alone)


def test_a_finer_grid_has_levels_that_the_rollout_has_not(saved):
    """12 levels beside trajectories of 4 steps; the network is told the level that the sample was noised to."""
    fine = build(saved, "sd3", levels=Stratified(count=4, grid=12))
    block = rollout(fine, PROMPTS, [SHAPE] * 2, (0, 0), 6, keep_predictions=False)
    assert {t.step for t in block.transitions} - {0, 1, 2, 3}
    twelve = DiffusersConfig(model=str(saved("sd3")), steps=12, call=CALLS["sd3"], lora=fine.config.lora).build(CPU, seed=0)
    assert fine.posing.schedule(PROMPTS) == twelve.schedule(PROMPTS)
    t = block.transitions[-1]
    with torch.no_grad():
        assert torch.equal(fine.posing.predict(t.states, t.prompts, t.step), twelve.predict(t.states, t.prompts, t.step))


def test_how_levels_are_drawn():
    sigmas, rng = np.linspace(1.0, 0.05, 20), np.random.default_rng(0)
    assert sorted(Uniform(count=20).drawn(sigmas, rng)) == list(range(20))
    for _ in range(20):
        drawn = Stratified(count=4).drawn(sigmas, rng)
        assert [place // 5 for place in drawn] == [0, 1, 2, 3]
    for levels in (Uniform(count=3, first=2, last=4), Stratified(count=3, first=2, last=4)):
        assert all(sorted(levels.drawn(sigmas, rng)) == [2, 3, 4] for _ in range(20))
    assert {place for _ in range(60) for place in LogitNormal(count=2, first=15).drawn(sigmas, rng)} <= {*range(15, 20)}
    many = sigmas[LogitNormal(count=4000, mean=-1.0, std=0.5).drawn(sigmas, rng)]
    assert np.median(many) == pytest.approx(1 / (1 + np.e), abs=0.03)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.surrogate=nft"], "set policy.matching"),
        (["rollout.plan={type: all, kernel: ode}"], "is deterministic"),
        (["rollout.plan={type: outcomes, kernel: ode}"], "set policy.matching to train samples"),
        (["policy.matching={}"], "set rollout.plan.type to outcomes"),
        (["METHOD", "policy.matching.levels.count=9"], "count = 9 levels can't be drawn from 4"),
        (["METHOD", "policy.matching.levels.last=4"], r"first = 0 .. last = 4 must be a range in 0 .. 3, the levels of 4 steps"),
        (["METHOD", "policy.matching.levels={type: uniform, count: 2, first: 3}"], "count = 2 levels can't be drawn from 1"),
        (["METHOD", "rollout.plan.shared_start=true"], "set shared_start to false"),
        (["METHOD", "objective.weight=sensitivity"], "reads the noise of a step"),
        (["METHOD", "objective.kl={coefficient: 1e-3, unit: nats}"], "take another"),
        (["METHOD", "objective.surrogate=contrastive", "rollout.micro_batch=8"], "set rollout.micro_batch=12 or more"),
    ],
)
def test_what_does_not_fit_is_said(overrides, says):
    method = "nft" if "METHOD" in overrides else "flow_grpo"
    with pytest.raises(UserError, match=says):
        load_config(["mini", method], [word for word in overrides if word != "METHOD"])


def test_the_weights_that_make_samples_follow_the_trained_ones(pipelines):
    trainer = picture_trainer(pipelines, "optimizer.lr=1e-3", "old={start: 0.25, rate: 0.25, wait: 1, most: 0.6}", method="nft")
    expected = {name: p.detach().clone() for name, p in trainer.weights.parameters.items()}
    for decay in (0.25, 0.5, 0.6):
        metrics, _, _ = trainer.update()
        for name, parameter in trainer.weights.parameters.items():
            expected[name] = decay * expected[name] + (1.0 - decay) * parameter.detach()
    for name, average in trainer.weights.old.average.items():
        torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-7)
    assert metrics["ratio/first_log_abs_max"] > 0, "the samples are not the trained weights' own any more"
