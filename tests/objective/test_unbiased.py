"""The expected gradient of every scheme on a linear-Gaussian toy with a quadratic reward, against its closed form.

Four steps, x' = w_t x + tau_t xi where a step is stochastic (the last never is), x' = o_t x where it is not, reward -(x_4 - m)^2.
The gradient is that by w_t, and a scheme's estimate of it credit x (x' - w_t x) x / tau_t^2, the mean over its transitions at t.
With K what the rest of the way multiplies x' by, and E x, E x^2 of the states that the step leaves,

    d/dw_t E r = -2 K (K w_t E x^2 - m E x).

Noise on the rest of the way only adds a constant to the reward's expectation. So terminal credit, whose rest is sampled, and
gains, whose rest is deterministic, aim at different numbers: K = w_{t+1} .. o_3 and K = o_{t+1} .. o_3.
"""

from dataclasses import replace
from functools import cache
from math import gamma, prod, sqrt

import numpy as np
import pytest

from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.advantage import Scopes, Stream, advantages
from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.credit._peers import Peers, peers
from flowgrpo.objective.credit.blend import Blend, _weight
from flowgrpo.objective.credit.gae import Gae
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.objective.credit.value import Value
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.completion.learned import LearnedValues
from flowgrpo.sampling.plans import Draw, Spread
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.branch import Branch
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.sampling.plans.random import RandomWindow
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.critic import Level

STEPS, GROUP, SAMPLES = 4, 8, 1_000_000
W, ODE, TAU = (0.9, 1.1, 0.8), (1.2, 0.6, 1.4, 0.8), (0.8, 0.5, 0.6)
MEAN, TARGET = 0.5, 2.0
EXACT = Deterministic()
SPREAD = Spread(np.array([1.0, 0.5, 0.3, np.nan]))


def deterministic(start: int, end: int) -> float:
    """A jump over several steps adds up what they would multiply, as one Euler step does."""
    return ODE[start] if end == start + 1 else 1.0 + sum(o - 1.0 for o in ODE[start:end])


def rollouts(shape: Shape, groups: int, rng: np.random.Generator) -> tuple[np.ndarray, ScoredTree]:
    """([groups, N] states, their trees)."""
    states, common = np.empty((groups, len(shape.nodes))), {}
    for i, node in enumerate(shape.nodes):
        noise = rng.normal(size=groups)
        if node.parent is None:
            states[:, i] = MEAN + noise
            continue
        before, start = states[:, node.parent], shape.nodes[node.parent].step
        if node.correlation:
            shared = common.setdefault(node.parent, rng.normal(size=groups))
            noise = sqrt(node.correlation) * shared + sqrt(1.0 - node.correlation) * noise
        stochastic = node.kernel.stochastic
        states[:, i] = W[start] * before + TAU[start] * noise if stochastic else deterministic(start, node.step) * before
    rewards = np.full(states.shape, np.nan)
    leaves = list(shape.leaves)
    rewards[:, leaves] = -((states[:, leaves] - TARGET) ** 2)
    return states, ScoredTree(shape, rewards)


def gradients(shape: Shape, states: np.ndarray, credit: np.ndarray) -> dict[int, np.ndarray]:
    """By step t: [groups] estimates of the gradient by w_t."""
    sums = {}
    for t in sorted({shape.nodes[i].step - 1 for i in shape.trained}):
        nodes = [i for i in shape.trained if shape.nodes[i].step == t + 1]
        x = states[:, [shape.nodes[i].parent for i in nodes]]
        sums[t] = (credit[:, nodes] * (states[:, nodes] - W[t] * x) * x).mean(1) / TAU[t] ** 2
    return sums


def less_the_others(shape: Shape, credit: np.ndarray, of_one_state: bool = False) -> np.ndarray:
    """Credit less the mean of the others at a step, or of those that leave the same state."""
    centred = np.full(credit.shape, np.nan)
    for step in peers(shape):
        parent = np.array([shape.nodes[i].parent for i in step.nodes])
        others = Peers(step.nodes, step.mask & (parent[:, None] == parent)) if of_one_state else step
        centred[:, step.nodes] = credit[:, step.nodes] - others.mean(credit[:, step.nodes])
    return centred


def estimates(plan, credit, samples=SAMPLES, groups=2500) -> dict[int, tuple[float, float]]:
    """By step: (mean, standard error) of the gradient. `credit` maps trees to [groups, N]; each lot of groups draws a shape."""
    rows: dict[int, list[np.ndarray]] = {}
    for lot in range(samples // GROUP // groups):
        shape = plan.shape(Draw(STEPS, GROUP, rng=np.random.default_rng(lot), spread=SPREAD))
        states, tree = rollouts(shape, groups, np.random.default_rng((lot, 1)))
        for t, row in gradients(shape, states, credit(tree)).items():
            rows.setdefault(t, []).append(row)
    found = {t: np.concatenate(row) for t, row in rows.items()}
    assert found.keys() == {*range(STEPS - 1)}
    return {t: (row.mean(), row.std() / sqrt(len(row))) for t, row in found.items()}


def expected(t: int, rest: float, way: tuple[float, ...] = W) -> float:
    """d/dw_t E r with K = `rest`, from states that were reached by steps of `way`: W or ODE."""
    first, second = MEAN, MEAN**2 + 1.0
    for s in range(t):
        first, second = way[s] * first, way[s] ** 2 * second + (TAU[s] ** 2 if way is W else 0.0)
    return -2.0 * rest * (rest * W[t] * second - TARGET * first)


def sampled(t: int) -> float:
    """K of the stochastic sampler."""
    return prod((*W, ODE[3])[t + 1 :])


def exact(t: int) -> float:
    """K of an exact completion."""
    return prod(ODE[t + 1 :])


def one_step(t: int) -> float:
    """K of a completion in one step."""
    return deterministic(t + 1, STEPS)


def agrees(found: tuple[float, float], right: float) -> bool:
    mean, error = found
    return error < 0.05 and abs(mean - right) < 4.0 * error


def rule(credit):
    return lambda tree: credit.assign(tree).value


def centred(credit, of_one_state=False):
    return lambda tree: less_the_others(tree.shape, credit.assign(tree).value, of_one_state)


DENSE, FORKED = AllSteps(completion=EXACT), Branch(forks=(1,), split_scale=1.0, completion=EXACT)
# plan, credit of a tree, K, how the states are reached
SCHEMES = {
    "terminal": (AllSteps(), rule(Terminal()), sampled, W),
    "leave-one-out": (AllSteps(), centred(Terminal()), sampled, W),
    "gain": (DENSE, rule(Gain()), exact, W),
    "gain, leave-one-out": (DENSE, centred(Gain()), exact, W),
    "gain, b = 0.7": (DENSE, centred(Gain(baseline=0.7)), exact, W),
    "gain, fitted": (DENSE, rule(Gain(baseline="fitted")), exact, W),
    "a random step": (RandomWindow(size=1), centred(Terminal()), exact, ODE),
    "a random step, fitted": (RandomWindow(size=1, completion=EXACT), rule(Gain(baseline="fitted")), exact, ODE),
    "a random step, shared start": (RandomWindow(size=1, shared_start=True), centred(Terminal()), exact, ODE),
    "comb, siblings": (Comb(teeth=4), centred(Terminal(), of_one_state=True), exact, ODE),
    "comb, fitted": (Comb(teeth=4, completion=EXACT), rule(Gain(baseline="fitted")), exact, ODE),
    "comb, allocated": (Comb(teeth=4, allocate="adaptive"), centred(Terminal(), of_one_state=True), exact, ODE),
    "comb, allocated, fitted": (Comb(teeth=4, allocate="adaptive", completion=EXACT), rule(Gain(baseline="fitted")), exact, ODE),
    "gae, decay 1": (DENSE, centred(Gae()), sampled, W),
    "gae, decay 0": (DENSE, centred(Gae(decay=0.0)), exact, W),
    "branch": (FORKED, centred(Terminal()), sampled, W),
    "branch, fitted": (FORKED, rule(Gain(baseline="fitted")), exact, W),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_expected_gradient_is_the_analytic_one(scheme):
    plan, credit, rest, way = SCHEMES[scheme]
    for t, found in estimates(plan, credit).items():
        assert agrees(found, expected(t, rest(t), way))


def test_the_blend_aims_at_the_mix_of_both_by_its_mean_weight():
    """Its weights do not depend on a transition's own draw, so they go into the expectation by their mean alone."""
    weights: dict[int, list[float]] = {t: [] for t in range(STEPS - 1)}

    def credit(tree):
        terminal, gain = Terminal().assign(tree).value, Gain().assign(tree).value
        for t, step in enumerate(peers(tree.shape)):
            weights[t].append(_weight(step, terminal[:, step.nodes], gain[:, step.nodes], 0.0).mean())
        return Blend().assign(tree).value

    for t, found in estimates(DENSE, credit).items():
        w = float(np.mean(weights[t]))
        assert 0.01 < w < 0.99
        assert agrees(found, w * expected(t, sampled(t)) + (1.0 - w) * expected(t, exact(t)))


def test_discounted_values_aim_at_the_sum_of_what_their_states_are_worth():
    def credit(tree):
        rows = [Value(gamma=1.0, absolute=0.0).assign(replace(tree, rewards=row)) for row in tree.rewards]
        assert all((row.scale[list(tree.shape.trained)] == 1.0).all() for row in rows)
        return less_the_others(tree.shape, np.stack([row.value for row in rows]))

    for t, (mean, error) in estimates(DENSE, credit, samples=16_000, groups=500).items():
        right = sum(expected(t, prod(W[t + 1 : u + 1]) * exact(u)) for u in range(t, STEPS - 1))
        assert abs(mean - right) < 4.0 * error < 2.0


# What is biased, and by how much.


def test_values_of_one_step_predictions_are_right_for_a_sampler_that_jumps():
    plan = AllSteps(completion=Deterministic(steps=1))
    found = estimates(plan, rule(Gain(baseline="fitted")))
    for t in range(STEPS - 1):
        assert agrees(found[t], expected(t, one_step(t)))
    bias = [found[t][0] - expected(t, exact(t)) for t in range(STEPS - 1)]
    assert bias == pytest.approx([expected(t, one_step(t)) - expected(t, exact(t)) for t in range(STEPS - 1)], abs=0.1)
    assert abs(bias[0]) > 10.0 * found[0][1] and abs(bias[1]) > 10.0 * found[1][1]


LEARNED = AllSteps(completion=LearnedValues())


def rows_of(shape: Shape, t: int) -> list[int]:
    return [i for i in shape.watched if shape.nodes[i].step == t]


def critic(shape: Shape, features) -> dict[int, Level]:
    """By level what 6 updates told of the rewards of states with these features [..., F]."""
    levels = {t: Level.of(features(np.zeros(1)).shape[-1], 1) for t in range(STEPS - 1)}
    for update in range(6):
        states, tree = rollouts(shape, 1000, np.random.default_rng((update, 2)))
        final = Terminal().assign(tree).value
        for t, level in levels.items():
            nodes = rows_of(shape, t)
            below = final[:, [shape.outcomes_below[i][0] for i in nodes]]
            level.see(list(zip(features(states[:, nodes]), below[..., None], strict=True)))
    return levels


@cache
def of_learned(features, groups=2500, lots=14) -> dict[str, dict[int, tuple[float, float]]]:
    """By credit and step: (mean, standard error) of the gradient, with values that are learned from these features."""
    shape = LEARNED.shape(Draw(STEPS, GROUP))
    levels, found = critic(shape, features), {}
    for lot in range(lots):
        states, tree = rollouts(shape, groups, np.random.default_rng((lot, 3)))
        for t, level in levels.items():
            nodes = rows_of(shape, t)
            tree.rewards[:, nodes] = np.stack(level.values(list(features(states[:, nodes]))))[..., 0]
        for name, rule in {"gain": Gain(), "gae": Gae()}.items():
            for t, row in gradients(shape, states, less_the_others(shape, rule.assign(tree).value)).items():
                found.setdefault(name, {}).setdefault(t, []).append(row)
    columns = {name: {t: np.concatenate(rows) for t, rows in steps.items()} for name, steps in found.items()}
    return {name: {t: (x.mean(), x.std() / sqrt(len(x))) for t, x in steps.items()} for name, steps in columns.items()}


def linear(x):
    return x[..., None]


def quadratic(x):
    return np.stack([x, x * x], axis=-1)


def test_learned_values_as_a_baseline_are_unbiased_whatever_they_do_not_see():
    """And a baseline that sees more leaves less noise."""
    blind, seeing = of_learned(linear)["gae"], of_learned(quadratic)["gae"]
    for t in range(STEPS - 1):
        assert agrees(blind[t], expected(t, sampled(t))) and agrees(seeing[t], expected(t, sampled(t)))
    assert all(seeing[t][1] < 0.8 * blind[t][1] for t in (1, 2))


def test_gains_of_learned_values_miss_what_the_features_do_not_see():
    """V of all features that matter gives the analytic gradient. With x alone V(x') has one slope b for all x', that of the
    regression of the reward on x', and the gradient is b E x instead, but for the last step, whose value is the reward."""
    blind, seeing = of_learned(linear)["gain"], of_learned(quadratic)["gain"]
    for t in range(STEPS - 1):
        right, last = expected(t, sampled(t)), t == STEPS - 2
        assert abs(seeing[t][0] - right) < 4.0 * seeing[t][1] + 0.02 * abs(right)
        assert agrees(blind[t], right if last else slope(t + 1) * state_mean(t))
    assert [slope(t + 1) * state_mean(t) for t in range(2)] == pytest.approx([1.19, 0.97], abs=0.01)
    assert [expected(t, sampled(t)) for t in range(2)] == pytest.approx([0.29, -0.34], abs=0.01)


def state_mean(t: int) -> float:
    return MEAN * prod(W[:t])


def slope(t: int) -> float:
    """Cov(reward, x_t) / Var(x_t): of -(K x + noise - m)^2 with Gaussian x, -2 K (K E x - m)."""
    k = sampled(t - 1)
    return -2.0 * k * (k * state_mean(t) - TARGET)


def test_a_group_mean_that_holds_the_own_reward_shrinks_the_gradient_by_one_over_its_size():
    rng = np.random.default_rng(0)
    shape = AllSteps().shape(Draw(STEPS, GROUP))
    _, tree = rollouts(shape, 100, rng)
    trained = list(shape.trained)
    credit = Terminal().assign(tree).value
    step = np.tile([shape.nodes[i].step for i in trained], 100)
    scopes = Scopes(np.repeat(range(100), len(trained)), np.zeros(len(step), int), step)
    config = AdvantageConfig(mean="group_step", std="none", clip=None)
    found, _ = advantages({"r": Stream.of(credit[:, trained].ravel())}, {"r": 1.0}, scopes, config)
    np.testing.assert_allclose(found, (1.0 - 1.0 / GROUP) * less_the_others(shape, credit)[:, trained].ravel())


def test_a_groups_own_deviation_gives_every_prompt_a_gradient_of_one_size():
    """For reward k xi the gradient is k. Divided by the group's deviation it is E s of G normal numbers, whatever k is."""
    groups, noise = 3000, np.random.default_rng(0).normal(size=(3000, GROUP))
    scopes = Scopes(np.repeat(range(groups), GROUP), np.zeros(groups * GROUP, int), np.zeros(groups * GROUP, int))
    size = sqrt(2.0 / GROUP) * gamma(GROUP / 2) / gamma((GROUP - 1) / 2)
    assert size == pytest.approx(0.9027, abs=1e-4)
    for k in (0.1, 3.0):
        config = AdvantageConfig(std="group", eps=0.0, clip=None)
        found, _ = advantages({"r": Stream.of(k * noise.ravel())}, {"r": 1.0}, scopes, config)
        rows = (found.reshape(noise.shape) * noise).mean(1)
        assert abs(rows.mean() - size) < 4.0 * rows.std() / sqrt(groups)


def test_a_baseline_of_siblings_with_common_noise_takes_the_correlations_share_off():
    def credit(tree):
        value = Terminal().assign(tree).value
        for step in peers(tree.shape):
            pairs = value[:, step.nodes].reshape(len(value), -1, 2)
            value[:, step.nodes] = (pairs - pairs[..., ::-1]).reshape(len(value), -1)
        return value

    mean, error = estimates(FORKED, credit)[1]
    right = expected(1, sampled(1))
    assert abs(mean - (1.0 - FORKED.correlation) * right) < 4.0 * error < abs(mean - right)
