"""Shapes and plans: what they promise for every geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import trajectories
from flowgrpo.sampling.completion import levels
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.branch import Branch
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.sampling.plans.fixed import FixedSteps
from flowgrpo.sampling.plans.random import RandomWindow
from flowgrpo.sampling.plans.sliding import SlidingWindow

kernels = st.lists(st.booleans(), min_size=1, max_size=12).map(lambda bits: [FlowSde() if b else Ode() for b in bits])


@given(kernels, st.integers(1, 6), st.booleans())
def test_chains(kernels, group_size, shared):
    shape = trajectories(kernels, group_size, shared)
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
    assert sorted(leaf for r, n in enumerate(shape.nodes) if n.parent is None for leaf in shape.outcomes_below[r]) == list(
        shape.leaves
    )


@given(st.integers(2, 30), st.integers(1, 29), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 500))
def test_a_sliding_window_is_never_empty_short_or_at_the_last_step(steps, size, every, stride, roll_back, update):
    plan = SlidingWindow(size=size, every=every, stride=stride, roll_back=roll_back)
    if plan.complaint(steps, 4):
        assert size > steps - 1
        return
    window = plan.stochastic_steps(Draw(steps, 1, update))
    assert window == list(range(window[0], window[0] + size))
    assert window[0] >= 0 and window[-1] <= steps - 2


def starts(plan, steps, updates):
    return [plan.stochastic_steps(Draw(steps, 1, u))[0] for u in range(updates)]


def test_how_long_windows_last():
    assert starts(SlidingWindow(size=2, every=3), 5, 12) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert starts(SlidingWindow(size=2, every=1, roll_back=True), 5, 5) == [0, 1, 2, 0, 1]
    assert starts(SlidingWindow(size=2, every=1, stride=2), 6, 4) == [0, 2, 3, 3]
    assert starts(SlidingWindow(size=2, pace="frozen", every=1), 5, 4) == [0, 0, 0, 0]
    assert starts(SlidingWindow(size=2, pace="decay", every=3, least=1), 5, 8) == [0, 0, 0, 1, 1, 2, 2, 2]
    decaying = SlidingWindow(size=2, pace="exp_decay", every=4, rate=np.log(2), knee=1)
    assert starts(decaying, 6, 14) == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 4


plans = st.sampled_from(
    [
        AllSteps(),
        AllSteps(shared_start=True),
        FixedSteps(steps=(1, 3), shared_start=True),
        RandomWindow(size=2, tail={}),
        SlidingWindow(size=2, every=1, tail={"fraction": 0.5}),
        Branch(forks=(0, 2)),
        Branch(forks=(1, 3), window=SlidingWindow(size=2)),
        Branch(forks=(2,), fan_out=4),
        Comb(teeth=2),
        Comb(teeth=4, at=(0, 2)),
        Comb(teeth=2, allocate="adaptive"),
        RandomWindow(size=1, per="prompt"),
    ]
)
completions = st.sampled_from(
    [
        None,
        Deterministic(),
        Deterministic(steps=1),
        Deterministic(steps=2, kernel=DpmPp2m()),
        Deterministic(every=2),
        Deterministic(at=(0, 3)),
    ]
)


@given(plans, completions, st.integers(5, 9), st.integers(1, 2), st.integers(0, 20))
def test_every_plan_keeps_the_promises_of_a_shape(plan, completion, steps, factor, update):
    plan = plan.model_copy(update={"completion": completion})
    assert plan.complaint(steps, 4 * factor) is None
    shape = plan.shape(Draw(steps, 4 * factor, update, np.random.default_rng(update)))
    for i, node in enumerate(shape.nodes):
        parent = None if node.parent is None else shape.nodes[node.parent]
        assert (parent is None) == (node.step == 0) == (node.kernel is None)
        assert parent is None or (node.parent < i and parent.step < node.step)
        assert not node.trained or (node.kernel.stochastic and not node.completing and parent.step == node.step - 1)
        assert not node.completing or not node.kernel.stochastic
        assert not (parent and parent.completing) or node.completing
    assert all(shape.nodes[leaf].step == steps for leaf in shape.leaves)
    assert shape.trained and set(shape.trained) == {i for path in shape.trajectories for i in path}
    drawn = [(n.member, n.branch, n.step) for n in shape.nodes if n.kernel is None or n.kernel.stochastic]
    assert len(set(drawn)) == len(drawn)
    plain = plan.model_copy(update={"completion": None}).shape(Draw(steps, 4 * factor, update, np.random.default_rng(update)))
    assert shape.nodes[: len(plain.nodes)] == plain.nodes and shape.outcomes == plain.outcomes
    if completion and completion.every == 1 and completion.at is None:
        assert None not in shape.completions
    if completion and completion.steps == 1:
        assert shape.network_evaluations == plain.network_evaluations


def evaluations(plan, steps, group_size):
    return plan.shape(Draw(steps, group_size)).network_evaluations


def test_network_evaluations_are_those_of_theory():
    assert evaluations(Branch(forks=(0, 3, 6, 9)), 20, 16) == 203
    assert evaluations(Comb(teeth=6), 10, 6) == 279
    assert evaluations(AllSteps(completion=Deterministic()), 10, 1) == 55
    assert evaluations(AllSteps(completion=Deterministic(steps=1)), 10, 1) == 10
    assert evaluations(AllSteps(completion=Deterministic(steps=2)), 10, 1) == 10 + 9
    window = SlidingWindow(size=4, every=1, shared_start=True)
    late = window.shape(Draw(25, 12, 5))
    assert late.network_evaluations == 6 + 12 * (25 - 6)  # steps 0 .. 5 once, the first stochastic state being shared too
    flash = SlidingWindow(size=4, every=1, shared_start=True, tail={"fraction": 0.4}).shape(Draw(25, 12, 5))
    assert flash.network_evaluations == 6 + 12 * (3 + 7)  # ceil(0.4 x 16) steps after the window


def test_completions_reuse_what_the_plan_does_anyway():
    shape = FixedSteps(steps=(2,), completion=Deterministic()).shape(Draw(5, 1))
    assert shape.network_evaluations == 5 + 2  # only the state before the stochastic step branches off
    assert shape.completions[0] == shape.completions[1] == shape.completions[2] != shape.completions[3]


@given(st.integers(1, 40), st.integers(0, 39), st.one_of(st.none(), st.integers(1, 50)))
def test_levels_of_a_completion_rise_to_the_end(end, start, count):
    if start < end:
        found = levels(start, end, count)
        assert found[-1] == end and len(found) == min(count or end - start, end - start)
        assert all(a < b for a, b in zip([start, *found], found, strict=False))


@given(st.integers(3, 20), st.integers(1, 4), st.integers(0, 10), st.integers(0, 9999))
def test_a_random_window_fits(steps, size, first, seed):
    plan = RandomWindow(size=size, first=first)
    if plan.complaint(steps, 4) is None:
        window = plan.stochastic_steps(Draw(steps, 1, 0, np.random.default_rng(seed)))
        assert first <= window[0] and window[-1] <= steps - 2 and len(window) == size


def test_random_windows_reach_every_place():
    plan, rng = RandomWindow(size=2, last=4), np.random.default_rng(0)
    assert {plan.stochastic_steps(Draw(8, 1, 0, rng))[0] for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("plan", "steps", "words"),
    [
        (AllSteps(tail={"kernel": "flow_sde"}), 4, "tail must be deterministic"),
        (Branch(forks=()), 8, "empty"),
        (Branch(forks=(0, 7)), 8, "out of 0 .. 6"),
        (Branch(forks=(0, 1, 2)), 8, "multiple of that"),
        (Branch(forks=(0,), shared_start=True), 8, "shared_start has no meaning"),
        (Branch(forks=(0,), window=SlidingWindow(size=8)), 8, "does not fit"),
        (Comb(teeth=3), 8, "multiple of teeth"),
        (Comb(teeth=1), 8, "at least 2"),
        (Comb(teeth=2, at=(7,)), 8, "out of 0 .. 6"),
        (Comb(teeth=2, shared_start=True), 8, "shared_start has no meaning"),
        (AllSteps(), 1, "at least 2 steps"),
        (RandomWindow(size=4), 4, "does not fit"),
        (RandomWindow(last=9), 8, "not one of"),
        (SlidingWindow(size=9), 8, "does not fit"),
        (FixedSteps(steps=()), 8, "empty"),
        (FixedSteps(steps=(1, 9)), 8, "do not exist"),
    ],
)
def test_plans_that_cannot_work_say_why(plan, steps, words):
    assert words in plan.complaint(steps, 4)
