"""Advantages and losses against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from flowgrpo.core.errors import UserError
from flowgrpo.objective import AdvantageConfig, KLConfig, ObjectiveConfig
from flowgrpo.objective.advantage import Scopes, Stream, advantages
from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.loss import step_weights, terms
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.laws.gaussian import GaussianLaw
from flowgrpo.sampling.levels import Schedule

SIGMAS = (1.0, 0.75, 0.4, 0.0)
GROUP = np.array([0, 0, 1, 1])
STEP = np.array([1, 1, 1, 1])


SCOPES = Scopes(GROUP, GROUP, STEP)


def one(values, scopes=SCOPES, **options):
    return advantages({"r": Stream.of(np.array(values, float))}, {"r": 1.0}, scopes, AdvantageConfig(**options))


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
    assert not one([3.0, 3.0, 1.0, 1.0])[1].any()


def test_a_set_of_one_has_nothing_to_compare_with():
    alone = Scopes(GROUP, np.arange(4), STEP)
    values, kept = one([0.0, 1.0, 2.0, 6.0], alone, mean="root", std="root", ddof=1, eps=0.0)
    assert values.tolist() == [0.0] * 4 and not kept.any()
    values, _ = one([0.0, 1.0, 2.0, 6.0], alone, mean="root", std="root", ddof=1, zero_variance="keep")
    assert values.tolist() == [0.0] * 4


def test_leave_one_out_takes_off_the_mean_of_the_others():
    values, _ = one([0.0, 1.0, 2.0, 6.0], baseline="others", std="none", clip=None)
    assert values.tolist() == [-1.0, 1.0, -4.0, 4.0]
    values, kept = one([1.0, 1.0, 2.0, 6.0], baseline="others", std="none", clip=None)
    assert values.tolist() == [0.0, 0.0, -4.0, 4.0] and kept.tolist() == [False, False, True, True]
    alone = Scopes(GROUP, np.arange(4), STEP)
    assert (
        one([0.0, 1.0, 2.0, 6.0], alone, baseline="others", mean="root", std="none", zero_variance="keep")[0].tolist()
        == [0.0] * 4
    )


def test_a_virtual_maximum_makes_a_group_that_failed_say_so():
    """NGRPO: -1 / sqrt(G + 1) for each of G zeros with the unbiased deviation; all of the best reward say nothing."""
    eight = Scopes(np.repeat([0, 1], 8), np.arange(16), np.ones(16, int))
    values, kept = one([0.0] * 8 + [1.0] * 8, eight, baseline="virtual_maximum", ddof=1, eps=0.0)
    assert values == pytest.approx([-1 / 3] * 8 + [0.0] * 8) and kept.tolist() == [True] * 8 + [False] * 8
    values, _ = one([0.0, 1.0, 0.2, 0.6], baseline="virtual_maximum", ddof=1, eps=0.0)
    company = np.array([0.0, 1.0, 1.0])
    assert values[:2] == pytest.approx((company[:2] - company.mean()) / company.std(ddof=1))


def test_a_virtual_maximum_below_a_sample_s_credit_is_refused():
    with pytest.raises(UserError, match="above value = 1; set advantage"):
        one([20.0, 21.5, 19.0, 18.0], baseline="virtual_maximum")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": "others", "mean": "none"}, "baseline 'others' needs a mean to take off"),
        ({"baseline": "virtual_maximum", "std": "global"}, "set std to none or to mean's 'group'"),
    ],
)
def test_a_baseline_that_would_be_ignored_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        AdvantageConfig(**options)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("group", [-3, -1, 1, 3, 0, 0, 0, 0]),
        ("group_step", [-2, -2, 2, 2, 0, 0, 0, 0]),
        ("root", [-1, 1, -1, 1, 0, 0, 0, 0]),
        ("root_step", [0] * 8),
        ("global", [-3, -1, 1, 3, 0, 0, 0, 0]),
    ],
)
def test_scopes_compare_what_they_say(scope, expected):
    scopes = Scopes(np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2), np.tile([1, 2], 4))
    values, kept = one([0.0, 2.0, 4.0, 6.0, 3.0, 3.0, 3.0, 3.0], scopes, mean=scope, std="none", clip=None)
    assert values.tolist() == expected
    assert kept.tolist() == [value != 0 for value in expected]


def test_without_a_mean_credit_that_is_centred_already_stays_as_it_is():
    values, kept = one([-1.0, 2.0, 0.0, 0.0], mean="none", std="none")
    assert values.tolist() == [-1.0, 2.0, 0.0, 0.0] and kept.tolist() == [True, True, False, False]
    values, kept = one([-1.0, 3.0, 2.0, 2.0], mean="none", eps=0.0)
    assert values.tolist() == [-0.5, 1.5, 0.0, 0.0] and kept.all()


TWO_STEPS = Scopes(np.zeros(4, int), np.array([0, 1, 0, 1]), np.array([1, 1, 2, 2]))
DECIDES_IN_THE_FIRST = [5.0, 7.0, 0.001, -0.001]


def test_a_deviation_per_step_blows_up_a_step_that_decides_nothing_and_one_for_the_group_does_not():
    by_step, _ = one(DECIDES_IN_THE_FIRST, TWO_STEPS, mean="group_step", std="group_step", eps=0.0)
    assert by_step == pytest.approx([-1.0, 1.0, 1.0, -1.0])
    by_group, _ = one(DECIDES_IN_THE_FIRST, TWO_STEPS, mean="group_step", std="group", eps=0.0)
    assert by_group == pytest.approx(np.array([-1.0, 1.0, 0.001, -0.001]) * math.sqrt(2), rel=1e-5)


def test_one_deviation_for_all_steps_is_of_what_the_mean_has_left():
    """Steps that earn differently much in the mean are no deviation of their members."""
    shifted, _ = one([5.0, 7.0, -20.0, -22.0], TWO_STEPS, mean="group_step", std="group", eps=0.0)
    assert shifted == pytest.approx([-1.0, 1.0, 1.0, -1.0])
    flat, kept = one([5.0, 5.0, -20.0, -20.0], TWO_STEPS, mean="group_step", std="group", eps=0.0, zero_variance="keep")
    assert flat.tolist() == [0.0] * 4 and kept.all()


def test_scale_and_offset_apply_after_normalising():
    stream = Stream(np.array([0.0, 2.0, 0.0, 2.0]), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.0, 0.0, -0.5]))
    values, _ = advantages({"r": stream}, {"r": 2.0}, SCOPES, AdvantageConfig(eps=0.0))
    assert values.tolist() == [-1.0, 4.0, -5.0, 5.0]  # 2 (1 x -1 + 0.5), 2 (2 x 1), 2 (3 x -1) and 2 (4 - 0.5) clipped


def test_rewards_normalise_apart_and_sum_by_weight():
    easy, hard = np.array([0.0, 100.0, 0.0, 100.0]), np.array([1.0, 0.0, 1.0, 0.0])
    streams, weights = {"easy": Stream.of(easy), "hard": Stream.of(hard)}, {"easy": 1.0, "hard": 2.0}
    values, _ = advantages(streams, weights, SCOPES, AdvantageConfig(eps=0.0))
    assert values.tolist() == [1, -1, 1, -1]


def inputs(log_prob, advantage, **extra):
    count = len(advantage)
    log_prob = torch.tensor(log_prob, requires_grad=True)
    return LossInputs(
        log_prob_CD=log_prob,
        log_prob_old_CD=torch.zeros(count),
        advantage_C1=torch.tensor(advantage),
        weight_CD=torch.ones(count),
        decisions_CD=torch.ones(count),
        tau_C1=torch.full((count,), 0.5),
        dt_C1=torch.full((count,), 0.1),
        g_C1=torch.full((count,), -0.2),
        **extra,
    )


def test_on_policy_gradient_is_minus_the_advantage():
    batch = inputs([0.0, 0.0], [2.0, -3.0])
    found = terms(batch, ObjectiveConfig(clip=1e-4))
    found.loss.sum().backward()
    assert batch.log_prob_CD.grad.tolist() == [-2.0, 3.0]
    assert found.loss.tolist() == [-2.0, 3.0]


def test_guard_removes_the_bias_scales_by_tau_and_divides_by_dt():
    batch = inputs([0.3], [1.0], kl_old_CD=torch.tensor([0.1]))
    found = terms(batch, ObjectiveConfig(ratio="guard", clip=0.5))
    assert float(found.log_ratio) == pytest.approx(0.4 * 0.5)
    assert found.loss.item() == pytest.approx(-math.exp(0.2) / 0.1)


@pytest.mark.parametrize(("unit", "factor"), [("nats", 1.0), ("nats_dt", 0.1), ("velocity", 2 * 0.25 / 0.04)])
def test_kl_units(unit, factor):
    batch = inputs([0.0], [0.0], kl_reference_CD=torch.tensor([0.7]))
    found = terms(batch, ObjectiveConfig(kl=KLConfig(coefficient=2.0, unit=unit)))
    assert found.loss.item() == pytest.approx(2.0 * 0.7 * factor)


def test_steps_weigh_by_their_noise_or_by_it_over_the_sensitivity_of_their_mean():
    tau, g = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([-0.1, -0.8, -0.3])
    assert step_weights(tau, g, ObjectiveConfig(weight="noise")).tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert step_weights(tau, g, ObjectiveConfig(weight="sensitivity")).tolist() == pytest.approx([2.0, 0.5, 2.0])
    assert step_weights(tau, g, ObjectiveConfig()).tolist() == [1, 1, 1]


def test_the_sensitivity_weight_is_the_published_one():
    """Flash-GRPO: 1 / (sqrt(-dt) / s + s sqrt(-dt) (1 - sigma) / (2 sigma)) with tau = s sqrt(-dt)."""
    schedule = Schedule(tuple(1 - x for x in SIGMAS), SIGMAS, tuple(1000 * x for x in SIGMAS[:-1]), "velocity")
    moves = [Move(FlowSde(noise_level=0.7), i, i + 1) for i in range(1, 3)]
    law = GaussianLaw.of(moves, schedule, torch.device("cpu"))
    found = step_weights(law.tau, law.g, ObjectiveConfig(weight="sensitivity"))
    for weight, i in zip(found, (1, 2), strict=True):
        sigma, dt = SIGMAS[i], SIGMAS[i] - SIGMAS[i + 1]
        s = 0.7 * (sigma / (1 - sigma)) ** 0.5
        assert float(weight) == pytest.approx(1 / (dt**0.5 / s + s * dt**0.5 * (1 - sigma) / (2 * sigma)), rel=1e-5)
