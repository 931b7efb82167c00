"""Advantages and losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from flowgrpo.credit import ScoredTree
from flowgrpo.credit.terminal import Terminal
from flowgrpo.objective import AdvantageConfig, KLConfig, ObjectiveConfig
from flowgrpo.objective.advantage import advantages, zero_variance_groups
from flowgrpo.objective.loss import LossInputs, clipped_surrogate, noise_weights, terms
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.shape import Node, Shape

GROUP = np.array([0, 0, 1, 1])
STEP = np.array([1, 1, 1, 1])


def one(values, **options):
    return advantages({"r": np.array(values, float)}, {"r": 1.0}, GROUP, STEP, AdvantageConfig(**options))


def test_group_mean_and_std():
    values, kept = one([0.0, 1.0, 2.0, 6.0], eps=0.0)
    assert values.tolist() == [-1, 1, -1, 1] and kept.all()


def test_unbiased_std():
    values, _ = one([0.0, 1.0, 2.0, 6.0], eps=0.0, ddof=1)
    assert values == pytest.approx(np.array([-1, 1, -1, 1]) / math.sqrt(2))


def test_global_std_is_of_the_whole_update():
    values, _ = one([0.0, 1.0, 2.0, 6.0], eps=0.0, std="global")
    assert values == pytest.approx(np.array([-0.5, 0.5, -2, 2]) / np.std([0, 1, 2, 6]))


def test_floor_eps_clip_and_no_std():
    assert one([0.0, 1e-6, 0.0, 1.0], std="group", eps=0.0, floor=0.1)[0][:2] == pytest.approx([-5e-6, 5e-6])
    assert one([0.0, 1.0, 0.0, 1.0], eps=0.5)[0][1] == pytest.approx(0.5)
    assert one([0.0, 30.0, 0.0, 1.0], std="none", clip=5.0)[0].tolist() == [-5, 5, -0.5, 0.5]


def test_groups_without_variance_leave_the_loss_and_the_statistics():
    values, kept = one([3.0, 3.0, 0.0, 1.0], eps=0.0, std="global")
    assert kept.tolist() == [False, False, True, True]
    assert values.tolist() == [0, 0, -1, 1]
    assert one([3.0, 3.0, 0.0, 1.0], zero_variance="keep")[1].all()
    assert zero_variance_groups({"r": np.array([3.0, 3.0, 0.0, 1.0])}, {"r": 1.0}, GROUP) == 0.5
    assert not one([3.0, 3.0, 1.0, 1.0])[1].any()


def test_steps_normalise_apart():
    step = np.array([1, 2, 1, 2])
    group = np.zeros(4, int)
    config = AdvantageConfig(mean="group_step", std="group_step", eps=0.0)
    values, _ = advantages({"r": np.array([0.0, 10.0, 2.0, 30.0])}, {"r": 1.0}, group, step, config)
    assert values.tolist() == [-1, -1, 1, 1]


def test_rewards_sum_before_or_after_normalising():
    credit = {"easy": np.array([0.0, 100.0, 0.0, 100.0]), "hard": np.array([1.0, 0.0, 1.0, 0.0])}
    weights = {"easy": 1.0, "hard": 2.0}
    before, _ = advantages(credit, weights, GROUP, STEP, AdvantageConfig(eps=0.0))
    after, _ = advantages(credit, weights, GROUP, STEP, AdvantageConfig(eps=0.0, aggregate="advantages"))
    assert before.tolist() == [-1, 1, -1, 1]
    assert after.tolist() == [1, -1, 1, -1]


def test_terminal_credit_is_the_mean_of_the_leaves_below():
    kernel = FlowSde()
    nodes = (
        Node(None, 0, 0),
        Node(0, 1, 0, 0, kernel, True),
        Node(0, 1, 1, 0, kernel, True),
        Node(1, 2, 0, 0, kernel, True),
        Node(1, 2, 1, 0, kernel, True),
        Node(2, 2, 2, 0, kernel, True),
    )
    rewards = np.array([np.nan, np.nan, np.nan, 1.0, 3.0, 7.0])
    credit = Terminal().assign(ScoredTree(Shape(nodes), rewards))
    assert credit[1:].tolist() == [2.0, 7.0, 1.0, 3.0, 7.0]
    assert credit[0] == pytest.approx(11 / 3)


def inputs(log_prob, advantage, **extra):
    count = len(advantage)
    log_prob = torch.tensor(log_prob, requires_grad=True)
    fixed = {"log_prob_old": torch.zeros(count), "weight": torch.ones(count), "tau": torch.full((count,), 0.5)}
    return LossInputs(
        log_prob=log_prob,
        advantage=torch.tensor(advantage),
        dt=torch.full((count,), 0.1),
        g=torch.full((count,), -0.2),
        **{**fixed, **extra},
    )


def test_clipped_surrogate_in_its_four_corners():
    log_ratio = torch.log(torch.tensor([1.2, 1.2, 0.8, 0.8]))
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, clipped = clipped_surrogate(log_ratio, advantage, 0.1, 0.15)
    assert loss.tolist() == pytest.approx([-1.15, 1.2, -0.8, 0.9])
    assert clipped.tolist() == [True, False, False, True]


def test_tiny_clip_ranges_still_clip_in_float32():
    log_ratio = torch.tensor([1.5e-6, 2.5e-6])
    _, clipped = clipped_surrogate(log_ratio, torch.ones(2), 2e-6, 2e-6)
    assert clipped.tolist() == [False, True]


def test_on_policy_gradient_is_minus_the_advantage():
    batch = inputs([0.0, 0.0], [2.0, -3.0])
    found = terms(batch, ObjectiveConfig(clip=1e-4))
    found.loss.sum().backward()
    assert batch.log_prob.grad.tolist() == [-2.0, 3.0]
    assert found.loss.tolist() == [-2.0, 3.0]


def test_guard_removes_the_bias_scales_by_tau_and_divides_by_dt():
    batch = inputs([0.3], [1.0], kl_old=torch.tensor([0.1]))
    found = terms(batch, ObjectiveConfig(ratio="guard", clip=0.5))
    assert float(found.log_ratio) == pytest.approx(0.4 * 0.5)
    assert float(found.loss) == pytest.approx(-math.exp(0.2) / 0.1)


@pytest.mark.parametrize(("unit", "factor"), [("nats", 1.0), ("nats_dt", 0.1), ("velocity", 2 * 0.25 / 0.04)])
def test_kl_units(unit, factor):
    batch = inputs([0.0], [0.0], kl_reference=torch.tensor([0.7]))
    found = terms(batch, ObjectiveConfig(kl=KLConfig(coefficient=2.0, unit=unit)))
    assert float(found.loss) == pytest.approx(2.0 * 0.7 * factor)


def test_noise_weights_have_mean_one():
    tau = torch.tensor([0.2, 0.4, 0.6])
    assert float(noise_weights(tau, ObjectiveConfig(weight="noise"), 0.4).mean()) == pytest.approx(1.0)
    assert noise_weights(tau, ObjectiveConfig(), 0.4).tolist() == [1, 1, 1]
