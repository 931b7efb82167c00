"""Likelihoods against the exact evidence lower bound, the exact chain and the exact marginal, by enumeration of all masks.

`table[m]` [L] are the log-probs of a completion's ids where the positions in m are masked; L positions, K states.
"""

from dataclasses import replace
from itertools import product
from math import comb, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.policies.masked._posing import PosedLaw
from flowgrpo.sampling.canvas import canvas
from flowgrpo.sampling.likelihood.coupled import Coupled
from flowgrpo.sampling.likelihood.elbo import Elbo
from flowgrpo.sampling.likelihood.left_to_right import LeftToRight
from flowgrpo.sampling.likelihood.one_step import OneStep
from flowgrpo.sampling.likelihood.quadrature import Quadrature
from mdlm import CPU, PROMPTS, build

L = 5
MASKS = [np.array(m, bool) for m in product([0, 1], repeat=L)]
WHOLE, PROMPT = np.ones(L, bool), np.ones(3, bool)
ALL = [*(Elbo(draw=d) for d in ("uniform", "count", "stratified", "antithetic")), Quadrature(), LeftToRight(length=L), OneStep(),
       Coupled()]  # fmt: skip


def key(mask):
    return tuple(mask.tolist())


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return {key(m): -rng.exponential(1.0 + 2.0 * m.mean(), L) for m in MASKS}


def elbo(table):
    """Sum over m of 1 / (|m| C(L, |m|)) times the log-probs of the masked ids."""
    return sum(table[key(m)][m].sum() / (m.sum() * comb(L, m.sum())) for m in MASKS if m.any())


def contributions(found, table):
    """[K]: what each state adds to the log-prob."""
    return np.array([(w * table[key(m)]).sum() for m, w in zip(found.masked, found.weights, strict=True)])


class Script:
    """A generator of random numbers that gives what it is told: `time` for a single number, `places` for one a position."""

    def __init__(self, time, places):
        self.time, self.places = time, places

    def random(self, size=None):
        return self.time if size is None else self.places

    def uniform(self, low, high):
        return self.time


def scripted(likelihood, mask, time=0.0):
    """Masks where exactly these positions fall below every share."""
    return likelihood.masks(WHOLE, PROMPT, Script(time, np.where(mask, 0.0, 1.0)))


def bernoulli(mask, share):
    return share ** mask.sum() * (1.0 - share) ** (~mask).sum()


def nodes(count):
    x, w = np.polynomial.legendre.leggauss(count)
    return (x + 1.0) / 2.0, w / 2.0


def test_the_uniform_draw_is_unbiased_exactly(table):
    """Given t, the expected estimate is a polynomial in t of degree L - 1, which three Gauss nodes integrate exactly."""
    draw = Elbo(draw="uniform", states_drawn=1)
    times, weights = nodes(3)
    means = [sum(bernoulli(m, t) * contributions(scripted(draw, m, 1.0 - t), table).sum() for m in MASKS) for t in times]
    assert weights @ means == pytest.approx(elbo(table))


@pytest.mark.parametrize("draw", ["count", "stratified", "antithetic"])
@pytest.mark.parametrize("states", [1, 2, 3])
def test_count_draws_are_unbiased(draw, states, table):
    """The mean of 4000 draws is within 4.5 of its own standard errors."""
    rng, likelihood = np.random.default_rng(states), Elbo(draw=draw, states_drawn=states)
    found = np.array([contributions(likelihood.masks(WHOLE, PROMPT, rng), table).sum() for _ in range(4000)])
    assert abs(found.mean() - elbo(table)) < 4.5 * found.std() / len(found) ** 0.5


def test_count_draws_of_an_order_free_model_have_no_variance():
    rng, constant = np.random.default_rng(0), {key(m): np.full(L, -2.0) for m in MASKS}
    for draw in ("count", "stratified"):
        found = [contributions(Elbo(draw=draw).masks(WHOLE, PROMPT, rng), constant).sum() for _ in range(50)]
        assert found == pytest.approx([-2.0 * L] * 50)


def test_antithetic_masks_are_complements_within_the_answer():
    answer, rng = np.array([True, True, True, False, False]), np.random.default_rng(0)
    for _ in range(20):
        found = Elbo(draw="antithetic", states_drawn=2).masks(answer, PROMPT, rng)
        for a, b in (found.masked[:2], found.masked[2:]):
            assert (a ^ b == answer).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_quadrature_is_the_lower_bound_at_its_nodes_and_exact_from_three_on(count, table):
    """By node: w / t times the expected log-prob of the masked ids. N nodes are exact up to degree 2N - 1 >= L - 1."""
    times, _ = nodes(count)
    likelihood = Quadrature(nodes=count)
    found = sum(bernoulli(m, t) * contributions(scripted(likelihood, m), table)[k] for m in MASKS for k, t in enumerate(times))
    by_size = {k: np.mean([table[key(m)][m].sum() for m in MASKS if m.sum() == k]) for k in range(1, L + 1)}
    t, w = nodes(count)
    formula = sum(
        w[n] / t[n] * sum(comb(L, k) * t[n] ** k * (1 - t[n]) ** (L - k) * by_size[k] for k in by_size) for n in range(count)
    )
    assert found == pytest.approx(formula)
    if count == 3:
        assert found == pytest.approx(elbo(table))


def test_left_to_right_is_the_chain(table):
    found = LeftToRight(length=L).masks(WHOLE, PROMPT, np.random.default_rng(0))
    chain = [table[key(np.arange(L) >= i)][i] for i in range(L)]
    assert contributions(found, table).tolist() == pytest.approx(chain)


def test_one_step_scores_everything_at_once_and_hides_the_stated_share_of_the_prompt(table):
    rng, prompt = np.random.default_rng(0), np.array([False, False, True, True, True, True])
    found = [OneStep(prompt_mask=0.3).masks(WHOLE, prompt, rng) for _ in range(1000)]
    assert contributions(found[0], table).tolist() == pytest.approx([table[key(WHOLE)].sum()])
    hidden = np.stack([f.prompt[0] for f in found])
    assert not hidden[:, :2].any()
    assert hidden[:, 2:].mean() == pytest.approx(0.3, abs=4 * (0.21 / 4000) ** 0.5)
    assert not OneStep(prompt_mask=0.0).masks(WHOLE, prompt, rng).prompt.any()


def test_coupled_weights_add_up_to_three_halves():
    """Exactly, for any share; a half of it at the fully masked canvas."""
    for share in (0.2, 0.5, 0.7):
        means = sum(bernoulli(m, share) * scripted(Coupled(), m * (share > 0), share).weights for m in MASKS)
        assert means == pytest.approx(np.full((3, L), 0.5))
    found = scripted(Coupled(), np.array([True, False, True, False, False]), 0.5)
    assert found.masked.astype(int).tolist() == [[1] * 5, [1, 0, 1, 0, 0], [0, 1, 0, 1, 1]]


@given(st.sampled_from(ALL), st.integers(1, L), st.integers(0, 99))
def test_only_masked_ids_of_the_answer_have_weight(likelihood, count, seed):
    answer, prompt = np.arange(L) < count, np.array([False, True, True])
    found = likelihood.masks(answer, prompt, np.random.default_rng(seed))
    assert found.masked.shape == found.weights.shape == (likelihood.states, L) and found.prompt.shape == (likelihood.states, 3)
    assert (found.weights >= 0).all() and np.isfinite(found.weights).all()
    assert not found.weights[~found.masked].any() and not found.weights[:, ~answer].any()
    assert not found.prompt[:, ~prompt].any()


def test_levels_join_positions():
    """Two states of three positions, the third behind the end of the text (id 4)."""
    weights = torch.tensor([[[1.0, 0.0, 0.0], [2.0, 0.5, 0.0]]])
    prediction = torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    outcome = canvas(torch.tensor([[0, 1, 4, 4]]))
    log_p = prediction.log_softmax(-1)
    scored = torch.tensor([[True, True, False]])
    by_position = [float(log_p[0, 0, 0, 1] + 2.0 * log_p[0, 1, 0, 1]), float(0.5 * log_p[0, 1, 1, 4]), 0.0]
    expected = {"decision": by_position, "sum": [sum(by_position)], "mean": [sum(by_position) / 2]}
    for level, values in expected.items():
        law = PosedLaw(weights, level, scored)
        assert law.log_prob(outcome, prediction, outcome)[0].tolist() == pytest.approx(values)
        assert law.kl(outcome, prediction, prediction, outcome).abs().max() == 0.0
    assert PosedLaw(weights, "decision", scored).decisions(outcome, outcome).tolist() == [[1.0, 1.0, 0.0]]
    assert PosedLaw(weights, "sum", scored).decisions(outcome, outcome).tolist() == [[1.0]]


@pytest.fixture(scope="module")
def real(mdlm):
    """(policy, outcome [1, ROWS, N], its table)."""
    policy = build(mdlm, length=L)
    start = policy.start(PROMPTS[:1], [])
    outcome = start.clone()
    outcome[0, 0, -L:] = torch.tensor([1.0, 7.0, 2.0, 10.0, 3.0])
    ids = outcome[0, 0, -L:].long()
    found = {}
    for m in MASKS:
        state = outcome.clone()
        state[0, 0, -L:][torch.from_numpy(m)] = policy.vocabulary.mask
        with torch.no_grad():
            logits = policy.predict(state, PROMPTS[:1], 0)[0].double()
        found[key(m)] = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0].numpy()
    return policy, outcome, found


def marginal(table):
    """log p(y) over random orders, by recursion over which positions are set."""
    f = {key(np.ones(L, bool)): 0.0}
    for m in sorted(MASKS, key=lambda m: -m.sum())[1:]:
        ways = []
        for i in np.flatnonzero(~m):
            set_ = m.copy()
            set_[i] = True
            ways.append(f[key(set_)] + table[key(~m)][i] - log((~m).sum()))
        f[key(m)] = np.logaddexp.reduce(ways)
    return f[key(np.zeros(L, bool))]


def test_the_marginal_of_a_real_model_is_above_its_lower_bound(real):
    _, _, table = real
    assert elbo(table) < marginal(table) < 0.0


def test_posed_outcomes_are_scored_by_the_formula(real):
    policy, outcome, table = real
    for likelihood in [x.model_copy(update={"level": "sum"}) for x in ALL if not isinstance(x, OneStep)]:
        posing = build_posing(policy, likelihood)
        (posed,) = posing(outcome, PROMPTS[:1], [("key", likelihood.type)], [])
        with torch.no_grad():
            prediction = policy.predict(posed.states, PROMPTS[:1] * likelihood.states, 0)
        found = posed.law.log_prob(posed.states[posed.parent], prediction[posed.parent], outcome)
        masked = posed.states[:, 0, -L:] == policy.vocabulary.mask
        weights = posed.law.weights[0].numpy()
        expected = sum((w * table[key(m)]).sum() for m, w in zip(masked.numpy(), weights, strict=True))
        assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("likelihood", ALL)
def test_ids_that_are_given_are_seen_in_all_states_and_not_scored(real, likelihood):
    policy, outcome, _ = real
    begun = [replace(PROMPTS[0], begun=policy.tokenizer.decode([1, 7]))]
    (posed,) = build_posing(policy, likelihood.model_copy(update={"level": "mean"}))(outcome, begun, [("key",)], [("group",)])
    assert (posed.states[:, 0, -L:][:, :2] == torch.tensor([1.0, 7.0])).all()
    with torch.no_grad():
        prediction = policy.predict(posed.states, begun * likelihood.states, 0)[posed.parent]
    ids, weights = outcome[0, 0, -L:].long(), posed.law.weights[0]
    log_p = prediction[0].log_softmax(-1).gather(-1, ids.expand(likelihood.states, L)[..., None])[..., 0]
    expected = (weights * log_p)[:, 2:].sum() / (L - 2)
    found = posed.law.log_prob(posed.states[posed.parent], prediction, outcome)
    assert not weights[:, :2].any() and float(found) == pytest.approx(float(expected), rel=1e-5)


def test_a_group_that_is_masked_alike_has_its_masks_at_the_same_places(real):
    policy, outcome, _ = real
    keys, groups = [("a",), ("b",), ("c",)], [("group", 0), ("group", 0), ("group", 1)]

    def hidden(alike):
        likelihood = Elbo(draw="antithetic", states_drawn=2, alike=alike)
        (posed,) = build_posing(policy, likelihood)(outcome.repeat(3, 1, 1), PROMPTS[:1] * 3, keys, groups)
        return (posed.states[posed.parent][:, :, 0] == policy.vocabulary.mask).numpy()

    alike, apart = hidden(True), hidden(False)
    assert (alike[0] == alike[1]).all() and (alike[0] != alike[2]).any() and (apart[0] != apart[1]).any()


def build_posing(policy, likelihood):
    return type(policy)(policy.config.model_copy(update={"likelihood": likelihood}), CPU, 0).posing
