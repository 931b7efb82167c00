"""Training on finished samples that are noised anew: any choice for its slots trains or is refused, and it resumes exactly."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_slots import MORE, is_a_sentence

from conftest import REPLAYED
from flowgrpo.core.errors import UserError
from trainers import gradient, picture_trainer

METHODS = ["nft", "crd", "awm", "dgpo", "dpo", "raft"]
SMALL = ["rollout.prompts_per_update=1", "rollout.group_size=4", "optimizer.lr=1e-4"]
SLOTS = {
    "objective.surrogate": [
        *("clip", "cispo", "reinforce", "regression", "sigmoid", "nft", "contrastive", "group_preference", "weighted"),
        *("preference", "{type: preference, form: ipo}", "{type: preference, form: kto}", "{type: weighted, by: exponential}"),
    ],
    "objective.kl": ["{coefficient: 0.0}", "{coefficient: 0.1, unit: velocity}"],
    "objective.reduce": ["transition", "decision", "position", "step"],
    "objective.reference": ["start", "start", "ema"],
    "rollout.plan": ["{type: outcomes, kernel: ode}", "{type: outcomes, kernel: dpmpp_2m}", "{type: outcomes, kernel: cps}"],
    "policy.matching.levels": [
        *("{type: uniform, count: 2}", "{type: uniform, count: 4}", "{type: uniform, count: 4, grid: 8}"),
        *("{type: stratified, count: 2}", "{type: logit_normal, count: 2, grid: 6}", "{type: uniform, count: 2, first: 1}"),
        "{type: stratified, count: 2, grid: 8, first: 2, last: 5}",
    ],
    "policy.matching.noise": ["own", "shared"],
    "policy.matching.weight": ["one", "sigma", "sigma_squared"],
    "policy.matching.power": ["1.0", "0.25"],
    "old": ["null", "{rate: 0.1}"],
    "ema": ["null", "{decay: 0.9}", "{decay: 0.3, rate: 0.001}"],
    "advantage.baseline": ["own", "others"],
    "optimizer.epochs": ["1", "2"],
}


@st.composite
def combinations(draw):
    return [f"{slot}={draw(st.sampled_from(choices))}" for slot, choices in SLOTS.items()]


@settings(max_examples=8 + MORE)
@given(overrides=combinations())
def test_what_fits_trains_and_the_rest_is_refused_in_one_sentence(pipelines, overrides):
    try:
        trainer = picture_trainer(pipelines, *SMALL, *overrides, method="nft")
    except UserError as refusal:
        assert is_a_sentence(refusal)
        return
    metrics, _, scored = trainer.update()
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["ratio/first_log_abs_max"] <= REPLAYED
    assert metrics["grad_norm"] > 0 or not scored.advantage[scored.in_loss].any()


@pytest.mark.parametrize("method", METHODS)
def test_what_was_saved_goes_on_to_the_same_weights(pipelines, method):
    """The weights that make the samples, and the average that a KL is taken to, are in the checkpoint."""
    more = [*SMALL, "old={rate: 0.2}", "ema={decay: 0.9}"]
    whole, first, second = (picture_trainer(pipelines, *more, method=method) for _ in range(3))
    for _ in range(3):
        whole.update()
    first.update()
    tensors, facts = copy.deepcopy(first.state())
    second.load(tensors, facts)
    for _ in range(2):
        second.update()
    for kind in ("trainable", "old", "ema"):
        for name, tensor in whole.state()[0][kind].items():
            assert torch.equal(tensor, second.state()[0][kind][name]), (kind, name)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_update_is_the_sum_of_its_blocks(pipelines, method):
    """Nothing of a group's loss depends on another group, or on who has it."""
    more = [*SMALL, "rollout.prompts_per_update=2", "rollout.micro_batch=4"]
    trainer = picture_trainer(pipelines, *more, "ema={decay: 0.9}", method=method)
    blocks, scored = trainer.collect(trainer.clock())
    assert [len(block.slots) for block in blocks] == [1, 1]
    whole, loss = gradient(trainer, blocks, scored)
    parts = [gradient(trainer, [block], scored) for block in blocks]
    assert torch.equal(whole, parts[0][0] + parts[1][0]) and whole.any()
    assert loss == parts[0][1] + parts[1][1]


def test_a_sample_counts_once_however_many_levels_it_is_noised_to(pipelines):
    """The gradient of AWM before its first step is that of the mean over samples of A times the mean over levels of the squared
    error of the velocity."""
    levels = "policy.matching.levels={type: uniform, count: 2}"
    trainer = picture_trainer(pipelines, *SMALL, levels, "objective.kl.coefficient=0", "objective.reference=start", method="awm")
    blocks, scored = trainer.collect(trainer.clock())
    found, _ = gradient(trainer, blocks, scored)
    total, samples = 0.0, set()
    schedule = trainer.policy.schedule(blocks[0].rollout.prompts)
    for t in blocks[0].rollout.transitions:
        sigma, v = schedule.sigmas[t.step], trainer.policy.predict(t.states, t.prompts, t.step)
        error = (v - (t.states - t.next_states) / sigma).flatten(1).pow(2).mean(1)
        advantage = torch.tensor([scored.advantage[place] for place in t.places])
        total = total + (advantage * error / 2).sum()
        samples |= {*t.places}
    assert len(samples) == 4
    (total / 4).backward()
    expected = trainer.weights.taken_gradient()
    assert expected.norm() > 0 and (found - expected).norm() < 1e-3 * expected.norm()
