"""Which transitions are trained."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.credit.turning_point import TurningPoint as TurningPointCredit
from flowgrpo.objective.selection.best_worst import BestWorst
from flowgrpo.objective.selection.depth import Depth
from flowgrpo.objective.selection.largest import Largest
from flowgrpo.objective.selection.most_varied import MostVaried, most_varied
from flowgrpo.objective.selection.step_fraction import StepFraction
from flowgrpo.objective.selection.turning_point import TurningPoint
from flowgrpo.objective.selection.width import Width
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.branch import Branch


def shape_of(plan, steps, group_size):
    return plan.shape(Draw(steps, group_size))


def choose(rule, shape, advantage=None, update=0, seed=0):
    advantage = np.zeros(len(shape.nodes)) if advantage is None else advantage
    chosen = rule.choose(ScoredTree(shape, np.zeros(len(shape.nodes))), advantage, update, np.random.default_rng(seed))
    return [i for i in shape.trained if chosen[i]]


@given(st.integers(3, 12), st.floats(0.05, 1.0), st.integers(0, 99))
def test_a_fraction_of_every_trajectory(steps, fraction, seed):
    shape = shape_of(AllSteps(), steps, 3)
    chosen = set(choose(StepFraction(fraction=fraction), shape, seed=seed))
    for path in shape.trajectories:
        assert len(chosen & set(path)) == max(1, int(fraction * (steps - 1)))


def test_the_fraction_is_drawn_anew():
    shape = shape_of(AllSteps(), 10, 1)
    assert len({tuple(choose(StepFraction(fraction=0.3), shape, seed=seed)) for seed in range(20)}) > 10


def test_best_and_worst_trajectories():
    shape = shape_of(AllSteps(), 3, 6)
    advantage = np.zeros(len(shape.nodes))
    for path, value in zip(shape.trajectories, [0.3, -2.0, 1.0, 0.1, 2.0, -0.5], strict=True):
        advantage[list(path)] = value
    chosen = choose(BestWorst(keep=4), shape, advantage)
    assert sorted({shape.nodes[i].member for i in chosen}) == [1, 2, 4, 5] and len(chosen) == 8
    assert "only 6" in BestWorst(keep=8).complaint(shape)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=8), st.data())
def test_the_most_varied_samples_have_the_largest_variance_of_all_subsets(values, data):
    count = data.draw(st.integers(1, len(values)))
    chosen = most_varied(np.array(values, float), count)
    best = max(np.var(subset) for subset in combinations(values, count))
    assert len({*chosen.tolist()}) == count and np.var(np.array(values)[chosen]) == pytest.approx(best)


def test_of_equal_choices_the_most_varied_one_is_even():
    assert sorted(most_varied(np.array([0.0, 0.0, 1.0, 1.0]), 2).tolist()) in ([0, 2], [0, 3], [1, 2], [1, 3])


def test_the_share_of_samples_and_of_transitions_rises_with_training():
    shape = shape_of(AllSteps(), 3, 4)
    tree = ScoredTree(shape, np.arange(len(shape.nodes), dtype=float))
    members = {update: [] for update in (0, 50, 200)}
    for update in members:
        chosen = MostVaried(share={"first": 0.5, "last": 1.0}).choose(tree, np.zeros(0), update, np.random.default_rng(0))
        members[update] = sorted({shape.nodes[i].member for i in shape.trained if chosen[i]})
    assert members[0] == [0, 3] and len(members[50]) == 3 and members[200] == [0, 1, 2, 3]
    advantage = np.zeros(len(shape.nodes))
    advantage[list(shape.trained)] = [0.1, -3.0, 2.0, 0.0, 0.5, 0.5, -0.2, 1.0]
    chosen = choose(Largest(share={"first": 0.25, "last": 1.0}), shape, advantage)
    assert chosen == [shape.trained[1], shape.trained[2]]
    assert choose(Largest(), shape, advantage, update=100) == list(shape.trained)
    entropy = np.zeros(len(shape.nodes))
    entropy[list(shape.trained)] = [1.0, 0.1, 0.1, 0.5, 0.9, 0.8, 0.0, 0.5]  # |A| H: 0.1, 0.3, 0.2, 0, 0.45, 0.4, 0, 0.5
    tree = ScoredTree(shape, np.zeros(len(shape.nodes)), entropy=entropy)
    by_entropy = Largest(by="entropy", share={"first": 0.25, "last": 1.0}).choose(tree, advantage, 0, np.random.default_rng(0))
    assert [i for i in shape.trained if by_entropy[i]] == [shape.trained[4], shape.trained[7]]


def test_width_keeps_the_best_child_of_the_last_forks():
    shape = shape_of(Branch(forks=(0, 2)), 5, 4)
    advantage = np.zeros(len(shape.nodes))
    for path, value in zip(shape.trajectories, [0.1, 0.2, 3.0, -1.0], strict=True):
        advantage[list(path[2:])] = value
    before_last_forks = {i for i in shape.trained if shape.nodes[i].step <= 2}
    best = {i for member in (1, 2) for i in shape.trajectories[member][2:]}
    assert set(choose(Width(), shape, advantage)) == before_last_forks | best
    extremes = {*shape.trajectories[2][2:], *shape.trajectories[3][2:]}
    assert set(choose(Width(keep="extremes", fraction=0.25), shape, advantage)) == before_last_forks | extremes
    assert "none" in Width().complaint(shape_of(AllSteps(), 4, 2))


@pytest.mark.parametrize(("first", "last", "expected"), [(6, 4, [6, 6, 5, 5, 4, 4, 4]), (4, 6, [4, 4, 5, 5, 6, 6, 6])])
def test_the_depth_window_slides_either_way(first, last, expected):
    shape = shape_of(AllSteps(), 12, 1)
    rule = Depth(size=2, first=first, last=last, every=2)
    for update, begin in enumerate(expected):
        left_out = {shape.nodes[i].step - 1 for i in shape.trained} - {
            shape.nodes[i].step - 1 for i in choose(rule, shape, update=update)
        }
        assert left_out == {begin, begin + 1}
    assert "nothing to train" in Depth(size=30, first=0, last=0).complaint(shape)


def test_turning_points_alone_are_trained_and_they_are_those_of_the_credit_rule():
    shape = shape_of(AllSteps(completion=Deterministic()), 4, 3)
    rewards = np.full(len(shape.nodes), np.nan)
    for path, values in zip(shape.trajectories, ([2.0, 1.0, 3.0, 4.0], [2.0, 1.0, 5.0, 4.0], [1.0, 1.0, 1.0, 1.0]), strict=True):
        for node, value in zip((shape.nodes[path[0]].parent, *path), values, strict=True):
            rewards[shape.completions[node]] = value
    for consistent, expected in ((True, [(0, 2)]), (False, [(0, 2), (1, 2)])):
        tree = ScoredTree(shape, rewards)
        chosen = TurningPoint(consistent=consistent).choose(tree, np.zeros(len(rewards)), 0, np.random.default_rng(0))
        assert sorted((shape.nodes[i].member, shape.nodes[i].step) for i in np.flatnonzero(chosen)) == expected
        assert (chosen == TurningPointCredit(consistent=consistent, balance=False).assign(tree).turning).all()


def test_turning_points_need_the_value_of_every_state_of_trajectories_without_forks():
    assert "selection 'turning_point' needs the value of every state" in TurningPoint().complaint(shape_of(AllSteps(), 4, 2))
    forked = shape_of(Branch(forks=(0, 1), completion=Deterministic()), 4, 4)
    assert "the plan forks them on the way" in TurningPoint().complaint(forked)
