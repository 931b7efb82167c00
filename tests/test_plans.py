"""Shapes and plans: what they promise for every geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.fixed import FixedSteps
from flowgrpo.sampling.plans.random import RandomWindow
from flowgrpo.sampling.plans.sliding import SlidingWindow
from flowgrpo.sampling.shape import Shape

kernels = st.lists(st.booleans(), min_size=1, max_size=12).map(lambda bits: [FlowSde() if b else Ode() for b in bits])


@given(kernels, st.integers(1, 6), st.booleans())
def test_chains(kernels, group_size, shared):
    shape = Shape.chains(kernels, group_size, shared)
    stochastic = [i for i, k in enumerate(kernels) if k.stochastic]
    forks = bool(stochastic) or not shared
    assert len(shape.leaves) == (group_size if forks else 1)
    assert len(shape.trained) == len(stochastic) * group_size
    prefix = (stochastic[0] if stochastic else len(kernels)) if shared else 0
    joint = prefix + 1 if shared and stochastic else prefix
    expected = joint + (len(kernels) - joint) * group_size if forks else len(kernels)
    assert shape.network_evaluations == expected
    keys = [(n.member, n.branch, n.step) for n in shape.nodes if n.kernel and n.kernel.stochastic]
    assert len(set(keys)) == len(keys)
    for node in shape.nodes:
        assert node.parent is None or shape.nodes[node.parent].step == node.step - 1
    assert sorted(leaf for r, n in enumerate(shape.nodes) if n.parent is None for leaf in shape.descendant_leaves[r]) == list(
        shape.leaves
    )


@given(st.integers(2, 30), st.integers(1, 29), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 500))
def test_a_sliding_window_is_never_empty_short_or_at_the_last_step(steps, size, every, stride, roll_back, update):
    plan = SlidingWindow(size=size, every=every, stride=stride, roll_back=roll_back)
    if plan.complaint(steps):
        assert size > steps - 1
        return
    window = plan.stochastic_steps(steps, update, np.random.default_rng(0))
    assert window == list(range(window[0], window[0] + size))
    assert window[0] >= 0 and window[-1] <= steps - 2


def test_a_sliding_window_moves_stays_or_rolls_back():
    rng = np.random.default_rng(0)
    starts = [SlidingWindow(size=2, every=3).stochastic_steps(5, u, rng)[0] for u in range(12)]
    assert starts == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    rolled = [SlidingWindow(size=2, every=1, roll_back=True).stochastic_steps(5, u, rng)[0] for u in range(5)]
    assert rolled == [0, 1, 2, 0, 1]


@given(st.integers(3, 20), st.integers(1, 4), st.integers(0, 10), st.integers(0, 9999))
def test_a_random_window_fits(steps, size, first, seed):
    plan = RandomWindow(size=size, first=first)
    if plan.complaint(steps) is None:
        window = plan.stochastic_steps(steps, 0, np.random.default_rng(seed))
        assert first <= window[0] and window[-1] <= steps - 2 and len(window) == size


def test_random_windows_reach_every_place():
    plan, rng = RandomWindow(size=2, last=4), np.random.default_rng(0)
    assert {plan.stochastic_steps(8, 0, rng)[0] for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("plan", "steps", "words"),
    [
        (AllSteps(), 1, "at least 2 steps"),
        (RandomWindow(size=4), 4, "does not fit"),
        (RandomWindow(last=9), 8, "not one of"),
        (SlidingWindow(size=9), 8, "does not fit"),
        (FixedSteps(steps=()), 8, "empty"),
        (FixedSteps(steps=(1, 9)), 8, "do not exist"),
    ],
)
def test_plans_that_cannot_work_say_why(plan, steps, words):
    assert words in plan.complaint(steps)
