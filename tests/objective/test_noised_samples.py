"""Objectives of finished samples that are noised anew, against their formulas written out by hand."""

import math

import pytest
import torch

from flowgrpo.objective.batch import LossInputs, Noised
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.surrogate.contrastive import Contrastive
from flowgrpo.objective.surrogate.group_preference import GroupPreference
from flowgrpo.objective.surrogate.nft import Nft
from flowgrpo.objective.surrogate.preference import Preference
from flowgrpo.objective.surrogate.weighted import Weighted
from flowgrpo.sampling.laws.matching import MatchingLaw

FREE = Constant(low=0.9, high=0.9)
UNIT = 1e-2
LOG_PROBS = [-1.02, -0.99, -1.01, -0.7, -0.72]
REFERENCE = [-1.0, -1.0, -1.0, -0.71, -0.71]
ADVANTAGES = [1.5, -1.0, -0.5, 0.8, -0.8]
GROUPS = [0, 0, 0, 1, 1]


def batch(log_prob=LOG_PROBS, advantage=ADVANTAGES, group=GROUPS, old=REFERENCE, **extra) -> LossInputs:
    """Transitions [C, 1] whose log-probs carry a gradient."""
    ones = torch.ones(len(advantage), 1)
    return LossInputs(
        log_prob_CD=torch.tensor(log_prob)[:, None].requires_grad_(),
        log_prob_old_CD=torch.tensor(old)[:, None],
        **dict.fromkeys(("weight_CD", "decisions_CD", "tau_C1", "dt_C1", "g_C1"), ones),
        advantage_C1=torch.tensor(advantage)[:, None],
        group_C=torch.tensor(group),
        **{"log_prob_reference_CD": torch.tensor(REFERENCE)[:, None], "unit": UNIT, **extra},
    )


def loss_of(surrogate, of: LossInputs, clip=FREE) -> tuple[list[float], list[float]]:
    """The loss of each transition, and the gradient of their mean."""
    loss, _ = surrogate.loss(of.log_ratio_CD, of, clip)
    (gradient,) = torch.autograd.grad(loss.mean(), of.log_prob_CD)
    return loss.flatten().tolist(), gradient.flatten().tolist()


def noised(prediction: torch.Tensor, old: torch.Tensor, sample: torch.Tensor) -> Noised:
    """Of a network that predicts the sample itself."""
    return Noised(prediction, old, lambda v: v - sample)


@pytest.mark.parametrize(("weight", "power"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.25), (0.3, 0.5)])
def test_the_log_prob_is_the_flow_matching_loss(weight, power):
    generator = torch.Generator().manual_seed(0)
    x0, noise, v = (torch.randn(3, 2, 4, generator=generator) for _ in range(3))
    sigma = torch.tensor([0.2, 0.5, 1.0])
    x = (1 - sigma)[:, None, None] * x0 + sigma[:, None, None] * noise
    law = MatchingLaw(torch.ones(3), -sigma, torch.full((3,), weight), torch.full((3,), power))
    expected = -weight * ((v - (noise - x0)) ** 2).mean((1, 2)) ** power / power
    assert torch.allclose(law.log_prob(x, v, x0)[:, 0], expected, atol=1e-5)
    assert torch.allclose(law.error(x, v, x0), x - sigma[:, None, None] * v - x0)
    assert torch.allclose(law.kl(x, v, noise, x0)[:, 0], 0.5 * ((v - noise) ** 2).mean((1, 2)))


def test_the_log_prob_of_a_noise_prediction_is_the_diffusion_loss():
    generator = torch.Generator().manual_seed(0)
    x0, noise, v = (torch.randn(2, 4, generator=generator) for _ in range(3))
    alpha, sigma = 0.6, 0.8
    law = MatchingLaw(torch.full((2,), 1 / alpha), torch.full((2,), -sigma / alpha), torch.ones(2), torch.ones(2))
    expected = -((v - noise) ** 2).mean(1)
    assert torch.allclose(law.log_prob(alpha * x0 + sigma * noise, v, x0)[:, 0], expected, atol=1e-5)


def test_a_power_divides_the_slope_by_the_size_of_the_error():
    """Of one number: m = e^2, -(m^p / p)' = -2 e m^(p - 1), and finite where the sample is met."""
    v = torch.tensor([[0.5], [-0.02], [0.0]], requires_grad=True)
    zeros, ones = torch.zeros(3, 1), torch.ones(3)
    law = MatchingLaw(ones, ones, ones, 0.25 * ones)
    (slope,) = torch.autograd.grad(law.log_prob(zeros, v, zeros).sum(), v)
    assert slope.flatten().tolist() == pytest.approx([-2 * 0.5**-0.5, 2 * 0.02**-0.5, 0.0], rel=1e-4)


def test_nft_by_hand():
    """One number a sample: x0_hat+ = 0.2 + 0.5 (0.5 - 0.2) = 0.35, x0_hat- = 0.05, r = 1/2 + 2 / (2 x 4)."""
    v = torch.tensor([[0.5]], requires_grad=True)
    of = batch([0.0], [2.0], [0], [0.0], noised=noised(v, torch.tensor([[0.2]]), torch.tensor([[1.0]])))
    loss, _ = Nft(beta=0.5, limit=4.0).loss(of.log_ratio_CD, of, FREE)
    assert loss.item() == pytest.approx(4.0 / 0.5 * (0.75 * 0.65 + 0.25 * 0.95))
    (slope,) = torch.autograd.grad(loss.sum(), v)
    assert slope.item() == pytest.approx(4.0 / 0.5 * (0.75 * 2 * -1 * 0.5 + 0.25 * 2 * -1 * -0.5))


def test_nft_and_crd_begin_in_the_direction_of_the_advantage():
    """At the old policy the gradient is A times that of the squared error over the absolute error, whatever beta is."""
    old, sample = torch.tensor([[0.3, -0.2], [0.1, 0.4]]), torch.tensor([[1.0, 0.0], [-0.5, 1.0]])
    error = old - sample
    expected = torch.tensor([[1.0], [-1.0]]) * error / error.abs().mean(1, keepdim=True)
    for surrogate in (Nft(beta=0.3), Nft(beta=1.0), Contrastive(beta=0.3), Contrastive(beta=2.0)):
        v = old.clone().requires_grad_()
        of = batch([0.0, 0.0], [1.0, -1.0], [0, 0], [0.0, 0.0], noised=noised(v, old, sample))
        (gradient,) = torch.autograd.grad(surrogate.loss(of.log_ratio_CD, of, FREE)[0].sum(), v)
        assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_the_optimum_of_nft_lies_where_good_samples_are(beta):
    """Samples of one noised state in two modes c = +1 and -1, which the old policy predicts at their mean y_o = 0.2 x 2 - 1: the
    optimum is y_o + (1 / beta) E[(2 r - 1)(c - y_o)] = y_o + (2 / beta) E[r] (E[r c] / E[r] - y_o).

    A spread of +-10 over the two numbers of a sample, which no prediction here follows, makes the absolute error the same for
    all, so that the loss is a square.
    """
    c = torch.tensor([1.0, -1.0, -1.0, -1.0, -1.0])[:, None]
    r = torch.tensor([0.9, 0.3, 0.3, 0.3, 0.3])[:, None]
    y_o = float(c.mean())
    limit = 5.0
    sample = c + torch.tensor([[10.0, -10.0]])
    optimum = y_o + (2 / beta) * float(r.mean()) * (float((r * c).mean() / r.mean()) - y_o)
    assert optimum == pytest.approx(y_o + float(((2 * r - 1) * (c - y_o)).mean()) / beta)
    y = torch.tensor(optimum, requires_grad=True)
    advantage = (2 * limit * (r - 0.5)).flatten().tolist()
    zeros = [0.0] * len(c)
    of = batch(zeros, advantage, [0] * len(c), zeros, noised=noised(y.expand_as(sample), torch.full_like(sample, y_o), sample))
    of = LossInputs(**{**vars(of), "log_prob_reference_CD": None})
    loss, _ = Nft(beta=beta, limit=limit).loss(of.log_ratio_CD, of, FREE)
    (slope,) = torch.autograd.grad(loss.mean(), y, create_graph=True)
    assert float((r * (c - y_o)).mean()) > 0 and optimum > y_o, "it moves to the mode that is worth more"
    assert abs(slope.item()) < 1e-5


def test_crd_by_hand():
    """Errors 0.5 and 2 now, 1 and 1 before: of one number the squared over the absolute error is the absolute error."""
    v, old, sample = torch.tensor([[0.5], [2.0]]), torch.tensor([[1.0], [1.0]]), torch.zeros(2, 1)
    of = batch([0.0, 0.0], [1.0, -2.0], [0, 0], [0.0, 0.0], noised=noised(v, old, sample))
    loss, _ = Contrastive(beta=2.0, limit=2.0).loss(of.log_ratio_CD, of, FREE)
    preferred, good = [0.5 + 0.25, -1.0 + 0.25], [0.75 - 0.375, 0.0 - 0.375]
    assert loss.flatten().tolist() == pytest.approx([(2 * p - r) ** 2 for p, r in zip(preferred, good, strict=True)])


def above(of: LossInputs) -> torch.Tensor:
    return (of.log_prob_CD - of.log_prob_reference_CD)[:, 0]


def test_the_gradient_of_dgpo_is_that_of_the_preference_between_halves():
    """-(2 / b) log s(b mean(A (log p - log p_ref))) for each group, of 3 and 2 of the 5 samples."""
    b = 1.0 / UNIT
    of = batch()
    A = of.advantage_C1[:, 0]
    won = [(A * above(of))[rows].mean() for rows in (slice(0, 3), slice(3, 5))]
    whole = sum(n / 5 * -2 / b * torch.nn.functional.logsigmoid(b * w) for n, w in zip((3, 2), won, strict=True))
    (expected,) = torch.autograd.grad(whole, of.log_prob_CD)
    _, gradient = loss_of(GroupPreference(sharpness=1.0), batch())
    assert gradient == pytest.approx(expected.flatten().tolist(), abs=1e-6) and len({*gradient}) == 5


def test_dgpo_lets_go_of_a_sample_that_has_left_the_clip_on_its_side():
    _, gradient = loss_of(GroupPreference(), batch([-0.9, -1.1, -1.1, -0.71, -0.71]), Constant(low=0.05, high=0.05))
    assert [slope == 0 for slope in gradient] == [True, True, True, False, False]
    _, gradient = loss_of(GroupPreference(), batch([-1.1, -0.9, -0.9, -0.71, -0.71]), Constant(low=0.05, high=0.05))
    assert all(gradient)


@pytest.mark.parametrize("form", ["dpo", "ipo"])
def test_preferences_of_the_best_over_the_worst(form):
    """The best is sample 0 of the first group and 3 of the second, the worst 1 and 4."""
    b, gains = 0.5 / UNIT, [p - q for p, q in zip(LOG_PROBS, REFERENCE, strict=True)]
    d = [gains[0] - gains[1]] * 3 + [gains[3] - gains[4]] * 2
    loss, gradient = loss_of(Preference(form=form, sharpness=0.5), batch())
    if form == "dpo":
        assert loss == pytest.approx([2 / b * math.log(1 + math.exp(-b * x)) for x in d], rel=1e-4)
        slope = [-2 / (1 + math.exp(b * x)) for x in d]
    else:
        assert loss == pytest.approx([b * (x - 0.5 / b) ** 2 for x in d], rel=1e-4)
        slope = [2 * b * (x - 0.5 / b) for x in d]
    shares = [3 / 5, -3 / 5, 0.0, 2 / 5, -2 / 5]
    assert gradient == pytest.approx([s * share for s, share in zip(slope, shares, strict=True)], abs=1e-4)


def test_kto_judges_each_sample_by_itself():
    b, gains = 1.0 / UNIT, [p - q for p, q in zip(LOG_PROBS, REFERENCE, strict=True)]
    z = [max(0.0, sum(gains[:3]) / 3)] * 3 + [max(0.0, sum(gains[3:]) / 2)] * 2
    loss, _ = loss_of(Preference(form="kto"), batch())
    signs = [math.copysign(1.0, a) for a in ADVANTAGES]
    expected = [4 / b * (1 - 1 / (1 + math.exp(-b * s * (p - q)))) for s, p, q in zip(signs, gains, z, strict=True)]
    assert loss == pytest.approx(expected, rel=1e-4)


def test_raft_takes_the_best_and_rwr_weighs_all():
    _, gradient = loss_of(Weighted(by="best"), batch())
    assert gradient == pytest.approx([-3 / 5, 0.0, 0.0, -2 / 5, 0.0])
    _, gradient = loss_of(Weighted(by="exponential", temperature=0.5), batch())
    worth = [math.exp(a / 0.5) for a in ADVANTAGES]
    means = [sum(worth[:3]) / 3] * 3 + [sum(worth[3:]) / 2] * 2
    assert gradient == pytest.approx([-w / m / 5 for w, m in zip(worth, means, strict=True)])


def test_of_several_best_each_counts_its_part():
    _, gradient = loss_of(Weighted(by="best"), batch(advantage=[1.0, 1.0, -1.0, 0.8, -0.8]))
    assert gradient == pytest.approx([-3 / 10, -3 / 10, 0.0, -2 / 5, 0.0])
