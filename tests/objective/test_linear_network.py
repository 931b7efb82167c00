"""Objectives of finished samples on a network of two numbers, v = a x + b, whose gradients and optima are known.

Samples are x0 = c + s z in modes c, noised to x = (1 - sigma) x0 + sigma e. z and e take the three values of a rule that has the
moments of a Gaussian up to the fifth, so that means over samples are those of the mixture of Gaussians, exactly. In float64.

The network misses v* = e - x0 by r = a x + b - v*; with one mode c that is r0 + r1 z + r2 e, and x is m + x1 z + sigma e, where

    m = (1 - sigma) c,   x1 = (1 - sigma) s,   r0 = a m + b + c,   r1 = (a (1 - sigma) + 1) s,   r2 = a sigma - 1
"""

import math
from itertools import product

import pytest
import torch

from flowgrpo.objective.batch import LossInputs, Noised
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.surrogate.clip import Clip
from flowgrpo.objective.surrogate.contrastive import Contrastive
from flowgrpo.objective.surrogate.group_preference import GroupPreference
from flowgrpo.objective.surrogate.nft import Nft
from flowgrpo.objective.surrogate.preference import Preference
from flowgrpo.objective.surrogate.weighted import Weighted

SIGMA, SPREAD = 0.6, 0.5
GAUSS = [math.sqrt(3.0), *[0.0] * 4, -math.sqrt(3.0)]
ONE, TWO = [0.4], [1.0, -1.0, -1.0]
"""One mode, and two of which the better has a third of the samples."""
FREE, UNIT = Constant(low=0.9, high=0.9), 1e-2
APART = 50.0
"""An error of +-50 that no prediction here follows makes the absolute error the same for all: `nft` and `crd` are squares."""


def numbers(values):
    return torch.tensor(values, dtype=torch.float64)


class Mixture:
    """Samples of these modes, [C], in one group."""

    def __init__(self, modes):
        self.c, self.z, self.e = numbers([*product(modes, GAUSS, GAUSS)]).T
        self.x0 = self.c + SPREAD * self.z
        self.x = (1 - SIGMA) * self.x0 + SIGMA * self.e
        self.target = self.e - self.x0

    def missed(self, network):
        a, b = network
        return a * self.x + b - self.target


def loss_of(surrogate, samples, advantage, network, old, clip=FREE, rows=slice(None)):
    """Of the group, at `network` = (a, b), with samples made by `old`, which is the reference too."""
    r, before = samples.missed(network)[rows], samples.missed(old)[rows]
    ones = torch.ones(len(r), 1, dtype=torch.float64)
    spread = numbers([[APART, -APART]])
    of = LossInputs(
        log_prob_CD=-(r**2)[:, None],
        log_prob_old_CD=-(before**2)[:, None],
        log_prob_reference_CD=-(before**2)[:, None],
        advantage_C1=advantage[rows, None],
        **dict.fromkeys(("weight_CD", "decisions_CD", "tau_C1", "dt_C1", "g_C1"), ones),
        group_C=torch.zeros(len(r), dtype=torch.long),
        noised=Noised(r[:, None], before[:, None], lambda missed: -SIGMA * missed + spread),
        unit=UNIT,
    )
    return surrogate.loss(of.log_ratio_CD, of, clip)[0].mean()


def slope(surrogate, samples, advantage, network, old=None, **more):
    """d loss / d (a, b)."""
    network = numbers(network).requires_grad_()
    loss = loss_of(surrogate, samples, advantage, network, network.detach() if old is None else numbers(old), **more)
    return torch.autograd.grad(loss, network)[0].tolist()


def fit(mean, variance):
    """The a and b that predict best, of samples with this mean and variance: a = Cov(v*, x) / Var(x)."""
    a = (SIGMA - (1 - SIGMA) * variance) / ((1 - SIGMA) ** 2 * variance + SIGMA**2)
    return [a, -mean - a * (1 - SIGMA) * mean]


def by_hand(network):
    """E[z r x] and E[z r] of one mode."""
    (a, b), (c,) = network, ONE
    m, x1 = (1 - SIGMA) * c, (1 - SIGMA) * SPREAD
    r0, r1 = a * m + b + c, (a * (1 - SIGMA) + 1) * SPREAD
    return [m * r1 + x1 * r0, r1]


def moments(shares):
    """Mean and variance of modes +1 and -1 in these shares."""
    good, bad = shares
    return good - bad, 1 - (good - bad) ** 2 + SPREAD**2


def good_and_bad(samples, good=2.0, bad=-1.0):
    return torch.where(samples.c > 0, good, bad).double()


NETWORKS = [[0.3, -0.2], [-0.9, 0.7]]


@pytest.mark.parametrize("network", NETWORKS)
def test_awm_climbs_the_covariance_of_advantage_and_error(network):
    """With A = z, at the old policy: 2 E[z r (x, 1)]."""
    samples = Mixture(ONE)
    assert slope(Clip(), samples, samples.z, network) == pytest.approx([2 * value for value in by_hand(network)], abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_crd_begins_as_awm_over_the_absolute_error(network):
    """2 sigma^2 E[z r (x, 1)] / 50."""
    samples = Mixture(ONE)
    expected = [2 * SIGMA**2 * value / APART for value in by_hand(network)]
    assert slope(Contrastive(beta=0.7), samples, samples.z, network) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("beta", [0.5, 1.0])
@pytest.mark.parametrize("old", NETWORKS)
def test_the_optimum_of_nft_on_a_gaussian(beta, old):
    """The old network plus d, with beta `limit` E[(x, 1) (x, 1)^T] d = -E[z r (x, 1)], r that of the old one."""
    samples, limit = Mixture(ONE), 5.0
    m, variance = (1 - SIGMA) * ONE[0], ((1 - SIGMA) * SPREAD) ** 2 + SIGMA**2
    second = numbers([[variance + m**2, m], [m, 1.0]])
    d = torch.linalg.solve(second, -numbers(by_hand(old))) / (beta * limit)
    optimum = (numbers(old) + d).tolist()
    assert slope(Nft(beta=beta, limit=limit), samples, samples.z, optimum, old) == pytest.approx([0.0, 0.0], abs=1e-8)
    assert d.abs().max() > 0.01


def test_nft_moves_to_the_good_samples_as_far_as_away_from_the_bad_ones():
    """Of an old network that fits all samples, the optimum is old + (2 / beta) E[r] (fit to the good - old), where a sample is
    good by its share r; that is old - (2 / beta) E[1 - r] (fit to the bad - old) too. Two modes, of which r takes 0.9 and 0.3."""
    samples, beta, limit = Mixture(TWO), 0.8, 5.0
    r = {1.0: 0.9, -1.0: 0.3}
    advantage = good_and_bad(samples, *(2 * limit * (share - 0.5) for share in r.values()))
    x, one = samples.x, torch.ones_like(samples.x)
    basis = torch.stack([x, one], 1)
    old = torch.linalg.lstsq(basis, samples.target[:, None]).solution[:, 0]
    assert old.tolist() == pytest.approx(fit(*moments((1 / 3, 2 / 3))), abs=1e-9)
    second = basis.T @ basis / len(x)

    def towards(weights):
        """(2 / beta) times the step of the fit to samples of these weights, in the metric of all."""
        missed = -samples.missed(old)
        return 2 / beta * torch.linalg.solve(second, (weights[:, None] * missed[:, None] * basis).mean(0))

    good = torch.where(samples.c > 0, r[1.0], r[-1.0]).double()
    torch.testing.assert_close(towards(good), -towards(1 - good), rtol=1e-9, atol=1e-12)
    optimum = (old + towards(good)).tolist()
    assert slope(Nft(beta=beta, limit=limit), samples, advantage, optimum, old.tolist()) == pytest.approx([0, 0], abs=1e-8)
    lie = slope(Nft(beta=beta, limit=limit), samples, advantage, (old + 0.5 * towards(good)).tolist(), old.tolist())
    assert max(map(abs, lie)) > 1e-3


@pytest.mark.parametrize("modes", [ONE, TWO])
def test_all_samples_alike_leave_the_training_of_the_model(modes):
    """The fit to the mixture."""
    samples = Mixture(modes)
    mean, variance = float(samples.x0.mean()), float(samples.x0.var(correction=0))
    assert (mean, variance) == pytest.approx((ONE[0], SPREAD**2) if modes == ONE else moments((1 / 3, 2 / 3)))
    alike = torch.zeros_like(samples.x)
    assert slope(Weighted(by="exponential"), samples, alike, fit(mean, variance)) == pytest.approx([0, 0], abs=1e-9)


def test_raft_fits_the_best_mode():
    samples = Mixture(TWO)
    assert slope(Weighted(by="best"), samples, good_and_bad(samples), fit(1.0, SPREAD**2)) == pytest.approx([0, 0], abs=1e-9)


def test_reward_weighted_regression_fits_the_mixture_that_the_rewards_tilt():
    """Shares 1 and 2 become e^(2 / T) and 2 e^(-1 / T)."""
    samples, temperature = Mixture(TWO), 1.5
    shares = [math.exp(2.0 / temperature), 2 * math.exp(-1.0 / temperature)]
    optimum = fit(*moments([share / sum(shares) for share in shares]))
    surrogate = Weighted(by="exponential", temperature=temperature)
    assert slope(surrogate, samples, good_and_bad(samples), optimum) == pytest.approx([0, 0], abs=1e-9)
    assert max(map(abs, slope(surrogate, samples, good_and_bad(samples), fit(*moments((1 / 3, 2 / 3)))))) > 0.1


@pytest.mark.parametrize("network", NETWORKS)
def test_the_gradient_of_dgpo_is_a_sum_over_pairs(network):
    """With A = (R - mean) / std of n rewards, S = b mean(A (l - l_ref)) is b / (n^2 std) times the sum over pairs of
    (R_i - R_j) (d_i - d_j), d = l - l_ref; the gradient is -(2 / b) s(-S) that of S."""
    samples, old, rows = Mixture(TWO), [0.1, 0.1], slice(0, None, 9)
    reward = (samples.x0 + 0.3 * samples.e)[rows]
    std, n, b = float(reward.std(correction=0)), len(reward), 2.0 / UNIT
    advantage = torch.zeros_like(samples.x)
    advantage[rows] = (reward - reward.mean()) / std
    at = numbers(network).requires_grad_()
    d = samples.missed(numbers(old))[rows] ** 2 - samples.missed(at)[rows] ** 2
    pairs = sum((reward[i] - reward[j]) * (d[i] - d[j]) for i in range(n) for j in range(i))
    S = b / (n**2 * std) * pairs
    (expected,) = torch.autograd.grad(-2 / b * torch.sigmoid(-S.detach()) * S, at)
    wide = Constant(low=0.99, high=1e9)
    found = slope(GroupPreference(sharpness=2.0), samples, advantage, network, old, clip=wide, rows=rows)
    assert found == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-5) and n == 12


@pytest.mark.parametrize("form", ["dpo", "ipo", "kto"])
def test_preferences_pull_the_best_and_push_the_worst(form):
    """Two samples: the log-prob of each has the slope -2 r (x, 1)."""
    samples, network, old, rows = Mixture(TWO), [0.05, -0.02], [0.06, 0.0], slice(2, 80, 71)
    x, r, before = samples.x[rows], samples.missed(numbers(network))[rows], samples.missed(numbers(old))[rows]
    b, gains = 0.2 / UNIT, before**2 - r**2
    slopes = [[-2 * float(r[i] * x[i]), -2 * float(r[i])] for i in range(2)]
    d = float(gains[0] - gains[1])

    def sigmoid(y):
        return 1 / (1 + math.exp(-y))

    if form == "kto":
        z = float(gains.mean())
        y = [sign * b * (float(gain) - z) for sign, gain in zip((1, -1), gains, strict=True)]
        pulls = [-2 * sign * sigmoid(at) * sigmoid(-at) for sign, at in zip((1, -1), y, strict=True)]
        assert z > 0 and max(map(abs, y)) < 3
    else:
        pull = -2 * sigmoid(-b * d) if form == "dpo" else 2 * b * (d - 0.5 / b)
        pulls = [pull, -pull]
        assert 0.1 < abs(b * d) < 3
    expected = [sum(pull * one[k] for pull, one in zip(pulls, slopes, strict=True)) for k in range(2)]
    surrogate = Preference(form=form, sharpness=0.2)
    found = slope(surrogate, samples, good_and_bad(samples, 1.0, -1.0), network, old, rows=rows)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9) and len(x) == 2 and samples.c[rows].tolist() == [1.0, -1.0]
