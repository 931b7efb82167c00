"""Ratios, bounds and surrogates against their formulas written out by hand."""

import math

import pytest
import torch

from flowgrpo.objective import ObjectiveConfig
from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.bounds.entropy import Entropy
from flowgrpo.objective.bounds.probability import Probability
from flowgrpo.objective.loss import shares, terms
from flowgrpo.objective.ratio.joint import Joint
from flowgrpo.objective.surrogate.cispo import Cispo
from flowgrpo.objective.surrogate.clip import Clip
from flowgrpo.objective.surrogate.geometric import Geometric
from flowgrpo.objective.surrogate.kl_mask import KlMask
from flowgrpo.objective.surrogate.mixture import Mixture
from flowgrpo.objective.surrogate.regression import Regression
from flowgrpo.objective.surrogate.reinforce import Reinforce
from flowgrpo.objective.surrogate.sigmoid import Sigmoid
from flowgrpo.sampling.kernels import GaussianKernel
from flowgrpo.sampling.kernels._unmasking import UnmaskingKernel
from flowgrpo.sampling.laws.unmasking import categorical_entropy

CLIP = Constant(low=0.1, high=0.15)
SURROGATES = [Clip(), KlMask(), Sigmoid(), Cispo(), Reinforce(), Regression(), Geometric(), Mixture(), Mixture(by="entropy")]


def batch(log_ratio, advantage, **extra) -> LossInputs:
    """Transitions whose decisions have these log-ratios, [C, D], and advantages [C]."""
    log_ratio_CD = torch.tensor(log_ratio).reshape(len(advantage), -1).requires_grad_()
    ones = torch.ones(len(advantage), 1)
    known = {"kl_old_CD": torch.zeros_like(log_ratio_CD), "decisions_CD": torch.ones_like(log_ratio_CD)}
    return LossInputs(
        **{
            **{"log_prob_CD": log_ratio_CD, "log_prob_old_CD": torch.zeros_like(log_ratio_CD)},
            **{"advantage_C1": torch.tensor(advantage)[:, None], "weight_CD": ones, "tau_C1": ones, "dt_C1": ones, "g_C1": ones},
            **{"entropy_CD": torch.full_like(log_ratio_CD, 0.25), **known, **extra},
        }
    )


def loss_of(surrogate, of: LossInputs, clip=CLIP) -> tuple[list[float], list[float], list[bool]]:
    """(loss, gradient of the log-ratios, held back), flat."""
    loss, held = surrogate.loss(of.log_ratio_CD, of, clip)
    (gradient,) = torch.autograd.grad(loss.sum(), of.log_prob_CD)
    return loss.flatten().tolist(), gradient.flatten().tolist(), held.flatten().tolist()


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda surrogate: type(surrogate).__name__)
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(surrogate):
    """With decisions that share a loss, the mean of their gradients is meant."""
    of = batch([[0.0, 0.0], [0.0, 0.0]], [2.0, -3.0])
    _, gradient, held = loss_of(surrogate, of)
    assert gradient == pytest.approx([-2.0, -2.0, 3.0, 3.0]) and not any(held)


def test_the_clip_in_its_four_corners():
    log_ratio = [math.log(r) for r in (1.2, 1.2, 0.8, 0.8)]
    loss, gradient, held = loss_of(Clip(), batch(log_ratio, [1.0, -1.0, 1.0, -1.0]))
    assert loss == pytest.approx([-1.15, 1.2, -0.8, 0.9])
    assert held == [True, False, False, True] == [slope == 0 for slope in gradient]


def test_tiny_clip_ranges_still_clip_in_float32():
    _, _, held = loss_of(Clip(), batch([1.5e-6, 2.5e-6], [1.0, 1.0]), Constant(low=2e-6, high=2e-6))
    assert held == [False, True]


def test_the_kl_mask_stops_only_what_moves_further_away():
    kl = torch.tensor([2e-5, 2e-5, 2e-5, 2e-5, 1e-6])[:, None]
    log_ratio, advantage = [0.1, 0.1, -0.1, -0.1, 0.1], [1.0, -1.0, 1.0, -1.0, 1.0]
    loss, gradient, held = loss_of(KlMask(limit=1e-5), batch(log_ratio, advantage, kl_old_CD=kl))
    assert held == [True, False, False, True, False] == [slope == 0 for slope in gradient]
    assert loss == pytest.approx([-a * math.exp(x) for a, x in zip(advantage, log_ratio, strict=True)])


@pytest.mark.parametrize("unit", [1.0, 5e-4])
def test_the_sigmoid_gate_weighs_gradients_by_4_p_1_minus_p_r_in_the_policy_s_unit(unit):
    """SAPO: -A (4 / t) sigmoid(t (r - 1)), t by the sign of A."""
    log_ratio, advantage = [0.5, -0.5, 1.5, 2.0], [1.0, -1.0, -2.0, 1.0]
    loss, gradient, held = loss_of(Sigmoid(), batch([unit * x for x in log_ratio], advantage, unit=unit))
    for i, (x, a) in enumerate(zip(log_ratio, advantage, strict=True)):
        t, r = (1.0 if a > 0 else 1.05), math.exp(x)
        p = 1 / (1 + math.exp(-t * (r - 1)))
        assert loss[i] == pytest.approx(-a * unit * 4 / t * p, rel=1e-4)
        assert gradient[i] == pytest.approx(-a * 4 * p * (1 - p) * r, rel=1e-3)
        assert held[i] == (4 * p * (1 - p) * r < 0.5)
    assert held == [False, False, True, True]


def test_cispo_caps_the_weight_and_keeps_the_gradient():
    log_ratio = [math.log(r) for r in (1.4, 0.5, 1.05)]
    _, gradient, held = loss_of(Cispo(), batch(log_ratio, [2.0, 2.0, -1.0]))
    assert gradient == pytest.approx([-2 * 1.15, -2 * 0.5, 1.05]) and held == [True, False, False]


def test_reinforce_knows_no_old_policy():
    _, gradient, held = loss_of(Reinforce(), batch([0.7, -0.7], [2.0, -1.0]))
    assert gradient == [-2.0, 1.0] and not any(held)


def test_regression_ends_where_the_log_ratio_is_the_advantage_in_units_of_its_scale():
    advantage = [1.0, -2.0]
    there = batch([0.25 * a for a in advantage], advantage)
    loss, gradient, _ = loss_of(Regression(scale=0.25), there)
    assert loss == pytest.approx([0.0, 0.0]) and gradient == pytest.approx([0.0, 0.0])
    loss, gradient, held = loss_of(Regression(scale=0.25), batch([0.5, 0.5], advantage))
    assert loss == pytest.approx([0.125 * (1 - 2) ** 2, 0.125 * (-2 - 2) ** 2])
    assert gradient == pytest.approx([-(1 - 2.0), -(-2 - 2.0)]) and held == [True, False]


def test_the_joint_ratio_is_the_geometric_mean_and_every_decision_has_a_gradient_of_its_own():
    """GSPO in its form by token, over decisions that count only: the third does not."""
    of = batch([[0.1, 0.3, 9.0]], [1.0], decisions_CD=torch.tensor([[1.0, 1.0, 0.0]]))
    joint = Joint().log_ratio(of)
    assert joint.flatten().tolist() == pytest.approx([0.2] * 3)
    (gradient,) = torch.autograd.grad(joint.exp().sum(), of.log_prob_CD)
    assert gradient.flatten().tolist() == pytest.approx([math.exp(0.2)] * 3)
    found = terms(of, ObjectiveConfig(ratio="joint", clip=[0.1, 0.15]))
    assert found.clipped.all() and found.loss.flatten().tolist() == pytest.approx([-1.15] * 3)


def test_the_geometric_surrogate_clips_each_log_ratio_on_the_side_that_the_advantage_pulls_to():
    """GMPO: (prod of clipped r)^(1 / n)."""
    log_ratio = [[0.6, -0.9, 0.1], [0.6, -0.9, 0.1]]
    loss, gradient, held = loss_of(Geometric(farthest=0.4), batch(log_ratio, [1.0, -1.0]))
    up, down = math.exp((0.4 - 0.9 + 0.1) / 3), math.exp((0.6 - 0.4 + 0.1) / 3)
    assert loss == pytest.approx([-up] * 3 + [down] * 3)
    assert gradient == pytest.approx([0.0, -up, -up, down, 0.0, down]) and held == [True, False, False, False, True, False]


@pytest.mark.parametrize(("by", "own"), [("average", 0.5), ("entropy", 0.25)])
def test_the_mixture_clips_each_ratio_in_its_own_band(by, own):
    """DHPO: decisions 1.1 and 1.3 within 1.15, their geometric mean within 1.02."""
    of = batch([[math.log(1.1), math.log(1.3)]], [1.0])
    loss, gradient, held = loss_of(Mixture(band=[0.02, 0.02], by=by), of)
    assert loss == pytest.approx([-(own * 1.1 + (1 - own) * 1.02), -(own * 1.15 + (1 - own) * 1.02)])
    assert gradient == pytest.approx([-own * 1.1, 0.0]) and held == [False, True]


def test_bounds_by_probability_move_every_id_by_as_much():
    """DCPO: (r - 1) r q = high at the upper bound, and (1 - r) r q = low at the lower where q >= 4 low."""
    q = torch.tensor([[0.9, 0.7, 0.1, 0.001]])
    low, high = Probability().of(batch([[0.0] * 4], [1.0], log_prob_old_CD=q.log()))
    r = high.exp()
    assert ((r - 1) * r * q)[0, :3].tolist() == pytest.approx([0.2] * 3, rel=1e-4) and float(r[0, 3]) == pytest.approx(10.0)
    r = low.exp()
    assert ((1 - r) * r * q)[0, :2].tolist() == pytest.approx([0.16] * 2, rel=1e-4)
    assert r[0, 2:].tolist() == pytest.approx([0.5, 0.5])


def test_bounds_by_entropy_are_wider_where_the_model_was_undecided():
    of = batch([[0.0, 0.0]] * 2, [1.0] * 2, entropy_CD=torch.tensor([[0.0, 0.0], [1.0, 0.5]]))
    low, high = (bound.exp().flatten().tolist() for bound in Entropy(low=0.2, high=0.4).of(of))
    assert low == pytest.approx([1 - 0.2 * 0.5, 1 - 0.2 * 1.25]) and high == pytest.approx([1 + 0.4 * 0.5, 1 + 0.4 * 1.25])


def test_entropy_is_1_where_all_ids_are_alike_likely_and_0_where_one_is_certain():
    logits = torch.tensor([[0.0] * 4, [0.0, 0.0, -math.inf, -math.inf], [0.0, *[-math.inf] * 3]])
    assert categorical_entropy(logits.log_softmax(-1)).tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_positions_count_alike_in_short_and_in_long_answers():
    """Dr. GRPO divides by what all transitions have, where a mean by transition makes the ids of short answers weigh more."""
    decisions = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert shares(decisions, torch.ones(2), ObjectiveConfig(reduce="position"))[:, 0].tolist() == [0.25, 0.25]
    assert shares(decisions, torch.ones(2), ObjectiveConfig(reduce="transition"))[:, 0].tolist() == [1.0, 0.25]


def fits(kernels, posed=False, **options) -> str | None:
    return ObjectiveConfig(**options).complaint(kernels, posed)


@pytest.mark.parametrize(
    "options",
    [{"ratio": "joint"}, {"surrogate": "geometric"}, {"surrogate": "mixture"}, {"clip": "probability"}, {"clip": "entropy"}],
    ids=lambda options: "".join(options.values()),
)
def test_what_reads_ids_is_refused_for_gaussian_steps(options):
    assert fits(UnmaskingKernel, **options) is None
    (name, value) = next(iter(options.items()))
    assert fits(GaussianKernel, **options).startswith(f"objective.{name}: {value} needs transitions of several ids")


def test_a_threshold_means_as_much_for_latents_as_for_ids():
    assert 1e-4 / GaussianKernel.log_ratio_unit == pytest.approx(0.2 / UnmaskingKernel.log_ratio_unit)


def test_the_old_names_of_the_kl_mask_still_work():
    with pytest.warns(FutureWarning, match="trust and kl_limit are now surrogate"):
        config = ObjectiveConfig.model_validate({"trust": "kl", "kl_limit": 3e-5})
    assert config.surrogate == KlMask(limit=3e-5)
    with pytest.warns(FutureWarning):
        assert ObjectiveConfig.model_validate({"trust": "clip", "kl_limit": 3e-5}) == ObjectiveConfig()
        over_a_base = {"surrogate": {"type": "kl_mask", "limit": 1e-5}}
        assert ObjectiveConfig.model_validate({**over_a_base, "kl_limit": 3e-5}).surrogate == KlMask(limit=3e-5)
        assert ObjectiveConfig.model_validate({"surrogate": "kl_mask", "kl_limit": 3e-5}).surrogate == KlMask(limit=3e-5)
        assert ObjectiveConfig.model_validate({**over_a_base, "trust": "clip"}).surrogate == Clip()
        assert ObjectiveConfig.model_validate({"surrogate": "sigmoid", "kl_limit": 3e-5}).surrogate == Sigmoid()
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="was clip or kl, not foo; set surrogate"):
        ObjectiveConfig.model_validate({"trust": "foo"})


@pytest.mark.parametrize("clip", [[0.1], [0.1, 0.2, 0.3], []])
def test_bounds_with_another_number_of_sides_are_refused(clip):
    with pytest.raises(ValueError, match="one number for both sides, \\[low, high\\] or bounds by name"):
        ObjectiveConfig.model_validate({"clip": clip})


@pytest.mark.parametrize("clip", [0.2, [0.2, 0.3], {"type": "constant", "low": 0.2, "high": 0.3}, "probability"])
def test_a_clip_that_was_written_is_read_again(clip):
    config = ObjectiveConfig.model_validate({"clip": clip})
    assert ObjectiveConfig.model_validate(config.model_dump(mode="json")) == config
    assert isinstance(config.clip, Probability if clip == "probability" else Constant)
