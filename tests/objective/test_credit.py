"""Credit rules on trees small enough to work out by hand, and what must hold on every tree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import trajectories
from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.credit._forks import fork_above
from flowgrpo.objective.credit._peers import peers
from flowgrpo.objective.credit.ancestors import Ancestors
from flowgrpo.objective.credit.blend import Blend
from flowgrpo.objective.credit.gae import Gae
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.segment import Segment, backed_up
from flowgrpo.objective.credit.serial import Serial
from flowgrpo.objective.credit.tempo import Tempo
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.objective.credit.turning_point import TurningPoint
from flowgrpo.objective.credit.value import Value, discounted
from flowgrpo.objective.turning import balanced, turning_points
from flowgrpo.sampling.completion.deterministic import Deterministic
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.branch import Branch
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.sampling.plans.fixed import FixedSteps
from flowgrpo.sampling.plans.random import RandomWindow
from flowgrpo.sampling.shape import Node, Shape

SDE = FlowSde()
RNG = np.random.default_rng(0)


def shape_of(plan, steps, group_size):
    assert plan.complaint(steps, group_size) is None
    return plan.shape(Draw(steps, group_size))


def scored(shape, leaf_rewards, log_probs=None):
    """A tree whose leaves have these rewards, in order."""
    rewards = np.full(len(shape.nodes), np.nan)
    rewards[list(shape.leaves)] = leaf_rewards
    return ScoredTree(shape, rewards, np.full(len(shape.nodes), np.nan) if log_probs is None else log_probs)


def random_tree(shape, seed):
    rng = np.random.default_rng(seed)
    log_probs = np.full(len(shape.nodes), np.nan)
    log_probs[list(shape.trained)] = rng.normal(size=len(shape.trained))
    return scored(shape, rng.integers(0, 5, len(shape.leaves)).astype(float), log_probs)


def one_trajectory(values):
    """A dense tree of one member whose states have these values, and its trained nodes in order."""
    shape = shape_of(AllSteps(completion=Deterministic()), len(values), 1)
    rewards = np.full(len(shape.nodes), np.nan)
    path = [0, *shape.trained]
    for node, value in zip(path, values, strict=True):
        rewards[shape.completions[node]] = value
    return ScoredTree(shape, rewards), path[1:]


FORKED = Shape(
    (
        Node(None, 0, 0),
        Node(0, 1, 0, 0, SDE, True),
        Node(0, 1, 0, 1, SDE, True),
        Node(1, 2, 0, 0, SDE, True),
        Node(1, 2, 0, 1, SDE, True),
        Node(2, 2, 0, 2, SDE, True),
    )
)


def test_terminal_credit_is_the_mean_of_the_leaves_below():
    credit = Terminal().assign(scored(FORKED, [1.0, 3.0, 7.0])).value
    assert credit[1:].tolist() == [2.0, 7.0, 1.0, 3.0, 7.0]
    assert credit[0] == pytest.approx(11 / 3)


def test_tempo_adds_what_a_fork_has_decided():
    credit = Tempo().assign(scored(FORKED, [1.0, 3.0, 7.0])).value
    assert credit[1:] == pytest.approx([2 + (2 - 11 / 3), 7 + (7 - 11 / 3), 1 - 1, 3 + 1, 7])
    assert Tempo(weight=0.0).assign(scored(FORKED, [1.0, 3.0, 7.0])).value[1:].tolist() == [2.0, 7.0, 1.0, 3.0, 7.0]


def test_an_outcome_is_compared_with_those_that_share_its_past_at_every_fork():
    """The third outcome shares nothing but the start with others; the root's outcomes are the group and count once."""
    tree = scored(FORKED, [1.0, 3.0, 7.0])
    outcomes = [((1 - 11 / 3) + (1 - 2)) / 2, ((3 - 11 / 3) + (3 - 2)) / 2, 7 - 11 / 3]
    expected = [(outcomes[0] + outcomes[1]) / 2, outcomes[2], *outcomes]
    assert Ancestors().assign(tree).value[1:] == pytest.approx(expected)
    weighted = Ancestors(weighted=True).assign(tree).value
    assert weighted[3] == pytest.approx((3 * (1 - 11 / 3) + 2 * (1 - 2)) / 5)


def test_a_segment_is_worth_what_it_adds_to_the_fork_above_it():
    """V of the root is the mean of its children's 2 and 7, not of the outcomes."""
    tree = scored(FORKED, [1.0, 3.0, 7.0])
    assert Segment().assign(tree).value[1:] == pytest.approx([-2.5, 2.5, -1.0, 1.0, 2.5])
    assert Segment(per="deviation").assign(tree).value[1:] == pytest.approx([-1.0, 1.0, -1.0, 1.0, 1.0])
    assert Segment(per="deviation").assign(scored(FORKED, [2.0, 2.0, 2.0])).value.tolist() == [0.0] * 6


@pytest.mark.parametrize("rule", [Tempo(), Ancestors(), Segment()], ids=lambda rule: type(rule).__name__)
def test_rules_for_trees_refuse_trajectories_and_see_completions_as_no_forks(rule):
    assert rule.complaint(shape_of(Branch(forks=(0, 1)), 4, 4)) is None
    assert rule.complaint(shape_of(Branch(forks=(1,), completion=Deterministic()), 4, 4)) is None
    for plan in (AllSteps(), AllSteps(shared_start=True), AllSteps(completion=Deterministic())):
        assert "the plan has none after the start" in rule.complaint(shape_of(plan, 4, 4))


@given(st.integers(0, 99), st.sampled_from([(0, 1), (0, 2), (1,), (1, 2)]))
def test_segments_of_a_path_add_up_to_the_outcome_less_the_value_of_the_first_fork(seed, forks):
    tree = random_tree(shape_of(Branch(forks=forks), 5, 4), seed)
    credit, above = Segment().assign(tree).value, fork_above(tree.shape)
    for leaf in tree.shape.outcomes:
        segments, first = {}, leaf
        for node in tree.shape.path(leaf):
            if above[node] is not None:
                segments[above[node]] = segments.get(above[node], credit[node])
                first = above[node]
        assert sum(segments.values()) == pytest.approx(tree.rewards[leaf] - backed_up(tree)[first])


def test_path_weights_follow_the_probability_of_the_path():
    log_probs = np.array([np.nan, 0.5, 0.1, np.log(3.0), 0.0, 0.0])
    credit = Terminal(path_weight=1.0).assign(scored(FORKED, [1.0, 3.0, 7.0], log_probs)).value
    assert credit[1] == pytest.approx((3 * 1 + 1 * 3) / 4)
    paths = np.array([3 * np.exp(0.5), np.exp(0.5), np.exp(0.1)])
    assert credit[0] == pytest.approx(paths @ [1.0, 3.0, 7.0] / paths.sum())
    assert credit[3:].tolist() == [1.0, 3.0, 7.0]


def test_terminal_credit_ignores_completions():
    tree, path = one_trajectory([0.0, 5.0, 2.0, 1.0])
    assert Terminal().assign(tree).value[path].tolist() == [1.0, 1.0, 1.0]


def test_gains_by_hand():
    tree, path = one_trajectory([1.0, 3.0, 2.0, 6.0])
    assert Gain().assign(tree).value[path].tolist() == [2.0, -1.0, 4.0]
    assert Gain(baseline=0.5).assign(tree).value[path].tolist() == [2.5, 0.5, 5.0]
    assert Gain(baseline=0.0).assign(tree).value[path].tolist() == [3.0, 2.0, 6.0]


def test_gae_is_the_final_reward_less_the_value_before_or_a_sum_of_gains_that_decays():
    tree, path = one_trajectory([1.0, 3.0, 2.0, 6.0])
    gains = np.array([2.0, -1.0, 4.0])
    assert Gae().assign(tree).value[path].tolist() == [5.0, 3.0, 4.0]
    assert Gae(decay=0.0).assign(tree).value[path].tolist() == gains.tolist()
    half = [gains[t:] @ 0.5 ** np.arange(3 - t) for t in range(3)]
    assert Gae(decay=0.5).assign(tree).value[path].tolist() == half
    forked = random_tree(shape_of(Branch(forks=(0, 1), completion=Deterministic()), 4, 4), 0)
    end, start = Terminal().assign(forked).value, [forked.shape.nodes[i].parent for i in forked.shape.trained]
    np.testing.assert_allclose(
        Gae().assign(forked).value[list(forked.shape.trained)], (end[list(forked.shape.trained)] - forked.values[start])
    )


def test_gae_skips_states_without_a_value():
    shape = shape_of(AllSteps(completion=Deterministic(every=2)), 5, 1)
    rewards = np.full(len(shape.nodes), np.nan)
    for node, value in zip((0, 2, 4), (1.0, 4.0, 2.0), strict=True):
        rewards[shape.completions[node]] = value
    for decay, expected in ((1.0, [1.0, 1.0, -2.0, -2.0]), (0.5, [2.0, 2.0, -2.0, -2.0]), (0.0, [3.0, 3.0, -2.0, -2.0])):
        assert Gae(decay=decay).assign(ScoredTree(shape, rewards)).value[list(shape.trained)].tolist() == expected


def test_gains_between_completed_states_are_shared_by_the_steps_between():
    shape = shape_of(AllSteps(completion=Deterministic(every=2)), 5, 1)
    rewards = np.full(len(shape.nodes), np.nan)
    for node, value in zip((0, 2, 4), (1.0, 4.0, 2.0), strict=True):
        rewards[shape.completions[node]] = value
    assert Gain().assign(ScoredTree(shape, rewards)).value[list(shape.trained)].tolist() == [3.0, 3.0, -2.0, -2.0]


def dense_group(steps, group, seed=0):
    shape = shape_of(AllSteps(completion=Deterministic()), steps, group)
    rewards = np.full(len(shape.nodes), np.nan)
    rewards[list(shape.leaves)] = np.random.default_rng(seed).normal(size=len(shape.leaves))
    return ScoredTree(shape, rewards)


def columns(tree, step):
    """Of each member at a step: its node, the value of the state before and of the one after."""
    nodes = [i for i in tree.shape.trained if tree.shape.nodes[i].step == step]
    return nodes, tree.values[[tree.shape.nodes[i].parent for i in nodes]], tree.values[nodes]


def test_the_fitted_baseline_is_the_line_through_the_other_members():
    tree = dense_group(4, 6)
    credit = Gain(baseline="fitted").assign(tree).value
    for step in (1, 2, 3):
        nodes, x, y = columns(tree, step)
        for i, node in enumerate(nodes):
            b, a = np.polyfit(np.delete(x, i), np.delete(y, i), 1)
            assert credit[node] == pytest.approx(y[i] - (a + b * x[i]))
        b, a = np.polyfit(x, y, 1)
        leverage = 1 / len(x) + (x - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
        assert credit[nodes] == pytest.approx((y - a - b * x) / (1 - leverage))


def test_from_one_state_the_fitted_baseline_is_the_mean_of_the_others():
    shape = shape_of(FixedSteps(steps=(1,), shared_start=True, completion=Deterministic()), 4, 3)
    tree = scored(shape, [1.0, 5.0, 9.0, 100.0][: len(shape.leaves)])
    nodes, _, y = columns(tree, 2)
    assert Gain(baseline="fitted").assign(tree).value[nodes] == pytest.approx([(3 * v - y.sum()) / 2 for v in y])


def test_new_values_that_are_equal_but_for_rounding_earn_nothing_however_far_the_old_ones_lie_apart():
    tree = dense_group(3, 5)
    nodes, *_ = columns(tree, 1)
    rewards = tree.rewards.copy()
    rewards[[tree.shape.completions[i] for i in nodes]] = 1.0 + 1e-7 * np.arange(5)
    starts = [tree.shape.completions[tree.shape.nodes[i].parent] for i in nodes]
    rewards[starts] = [0.0, 1e-3, 2e-3, 1e-3, 1e3]
    credit = Gain(baseline="fitted").assign(ScoredTree(tree.shape, rewards, rounding=1e-6)).value
    assert np.abs(credit[nodes]).max() < 1e-6


@pytest.mark.parametrize("rule", [Gain(baseline="fitted"), Blend()], ids=repr)
def test_with_two_others_there_is_no_slope_and_alone_a_member_is_compared_with_its_own_state(rule):
    tree = dense_group(3, 1)
    nodes, x, y = columns(tree, 1)
    assert rule.assign(tree).value[nodes] == pytest.approx(y - x)
    tree = dense_group(3, 3)
    nodes, x, y = columns(tree, 1)
    if rule != Blend():
        assert rule.assign(tree).value[nodes] == pytest.approx([y[i] - np.delete(y, i).mean() for i in range(3)])


@pytest.mark.parametrize("rule", [Gain(baseline="fitted"), Blend()], ids=repr)
def test_no_baseline_knows_what_came_of_the_own_transition(rule):
    """Whatever lies below a transition changes: its credit moves with V' and R alone, and that of its tied sibling not at all."""
    for plan in (
        AllSteps(completion=Deterministic()),
        Branch(forks=(0, 1), completion=Deterministic()),
        Comb(teeth=2, completion=Deterministic()),
    ):
        shape = shape_of(plan, 4, 8)
        tree = random_tree(shape, 1)
        before = rule.assign(tree).value
        for step in peers(shape):
            own = step.nodes[0]
            below = [leaf for leaf in shape.leaves if own in shape.path(leaf)]
            rewards = tree.rewards.copy()
            rewards[below] += 3.0
            after = rule.assign(ScoredTree(shape, rewards)).value
            assert after[own] - before[own] == pytest.approx(3.0)
            tied = [j for j, peer in zip(step.nodes[1:], step.mask[0, 1:], strict=True) if not peer]
            assert (after[tied] == before[tied]).all()


def test_siblings_are_peers_where_their_noise_is_their_own():
    def strangers(plan):
        return [int((~step.mask).sum()) - len(step.nodes) for step in peers(shape_of(plan, 3, 8))]

    assert strangers(AllSteps()) == [0, 0]
    assert strangers(Comb(teeth=4)) == [0, 0]
    assert strangers(Branch(forks=(0,))) == [8, 0]  # four pairs with a common part at the fork


def test_the_blend_weighs_terminal_credit_and_gains_by_what_varies_least_among_the_others():
    tree = dense_group(4, 6, seed=3)
    credit, terminal = Blend().assign(tree).value, Terminal().assign(tree).value
    for step in (1, 2, 3):
        nodes, x, y = columns(tree, step)
        for i, node in enumerate(nodes):
            t, d = np.delete(terminal[nodes], i), np.delete(y - x, i)
            grid = np.linspace(0, 1, 2001)
            w = grid[np.argmin([np.var(w * t + (1 - w) * d) for w in grid])] if np.ptp(d - t) > 1e-9 else 0.5
            own = w * (terminal[node] - t.mean()) + (1 - w) * (y[i] - x[i] - d.mean())
            assert credit[node] == pytest.approx(own, abs=5e-3)


def test_many_groups_of_one_shape_are_credited_at_once():
    trees = [dense_group(4, 5, seed) for seed in range(3)]
    many = ScoredTree(trees[0].shape, np.stack([tree.rewards for tree in trees]))
    for rule in (Terminal(), Gain(), Gain(baseline=0.3), Gain(baseline="fitted"), Blend()):
        np.testing.assert_allclose(rule.assign(many).value, np.stack([rule.assign(tree).value for tree in trees]))


def test_gains_on_a_tree_that_forks():
    plan = Branch(forks=(0,), completion=Deterministic())
    shape = shape_of(plan, 3, 2)
    tree = random_tree(shape, 3)
    gains = Gain().assign(tree).value
    for path in shape.trajectories:
        assert gains[list(path)].sum() == tree.values[path[-1]] - tree.values[0]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=8))
def test_gains_telescope_to_the_whole_gain(values):
    tree, path = one_trajectory([float(v) for v in values])
    assert Gain().assign(tree).value[path].sum() == values[-1] - values[0]


@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 99))
def test_the_fused_root_is_the_mean_of_the_leaves(steps, trees, seed):
    forks = tuple(range(0, steps - 1, 2))
    shape = shape_of(Branch(forks=forks), steps, trees * 2 ** len(forks))
    tree = random_tree(shape, seed)
    for root in set(shape.roots):
        leaves = [leaf for leaf in shape.leaves if shape.roots[leaf] == root]
        assert Terminal().assign(tree).value[root] == pytest.approx(tree.rewards[leaves].mean())
        fused = Terminal(path_weight=2.0).assign(tree).value[root]
        assert min(tree.rewards[leaves]) - 1e-9 <= fused <= max(tree.rewards[leaves]) + 1e-9


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 99))
def test_a_tree_without_forks_gives_plain_grpo(steps, group, seed):
    shape = shape_of(AllSteps(), steps, group)
    tree = random_tree(shape, seed)
    for path, leaf in zip(shape.trajectories, shape.leaves, strict=True):
        for rule in (Terminal(), Terminal(path_weight=1.0)):
            assert (rule.assign(tree).value[list(path)] == tree.rewards[leaf]).all()


@pytest.mark.parametrize(
    "rule",
    [Terminal(), Terminal(path_weight=1.0), Gain(), Gain(baseline="fitted"), Blend(), TurningPoint(), Value()],
    ids=repr,
)
@given(seed=st.integers(0, 99))
def test_permuting_siblings_permutes_credit(rule, seed):
    shape = shape_of(AllSteps(completion=Deterministic(steps=1)), 4, 3)
    tree = random_tree(shape, seed)
    members = [[i for i, node in enumerate(shape.nodes) if node.member == m] for m in range(3)]
    order = np.arange(len(shape.nodes))
    for target, source in zip(members, (members[2], members[0], members[1]), strict=True):
        order[target] = source
    permuted = ScoredTree(shape, tree.rewards[order], tree.log_probs[order])
    trained = list(shape.trained)
    before, after = rule.assign(tree), rule.assign(permuted)
    np.testing.assert_allclose(after.value[trained], before.value[order][trained])


def test_the_comb_credits_each_tooth_with_its_own_reward():
    shape = shape_of(Comb(teeth=2), 3, 2)
    credit = Terminal().assign(scored(shape, [1.0, 2.0, 3.0, 4.0])).value
    assert credit[list(shape.trained)].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert [len(path) for path in shape.trajectories] == [1] * 4


# values, turning points by definition 4.1, by definition 5.1
TURNS = [
    ([0.0, 1.0, 2.0, 3.0], [True, False, False], [True, False, False]),
    ([2.0, 1.0, 3.0, 4.0], [False, True, False], [False, True, False]),
    ([2.0, 1.0, 5.0, 4.0], [False, True, False], [False, False, False]),
    ([2.0, 3.0, 1.0, 0.0], [False, True, False], [False, True, False]),
    ([1.0, 0.0, 2.0, 1.0], [False, False, False], [False, False, False]),
    ([0.0, 0.0, 1.0, 2.0], [False, False, False], [False, False, False]),
]


@pytest.mark.parametrize(("values", "plain", "consistent"), TURNS)
def test_turning_points_by_hand(values, plain, consistent):
    assert turning_points(np.array(values), False).tolist() == plain
    assert turning_points(np.array(values), True).tolist() == consistent


def test_turning_points_get_the_long_term_reward_and_the_others_their_gain():
    tree, path = one_trajectory([2.0, 1.0, 3.0, 4.0])
    found = TurningPoint(balance=False).assign(tree)
    assert found.value[path].tolist() == [-1.0, 4.0 - 1.0, 1.0]
    assert found.turning[path].tolist() == [False, True, False]


def test_balancing_keeps_as_many_of_either_sign_the_largest_first():
    size = np.array([3.0, -1.0, 2.0, 5.0, -4.0, -2.0, 9.0])
    chosen = np.array([True, True, True, True, True, False, False])
    assert (balanced(size, chosen) & chosen).tolist() == [True, True, False, True, True, False, False]
    only = np.array([True, False, True, True, False, False, False])
    assert balanced(size, only).all()


def test_balanced_away_turning_points_fall_back_to_their_gain():
    shape = shape_of(AllSteps(completion=Deterministic()), 3, 3)
    rewards = np.full(len(shape.nodes), np.nan)
    for path, values in zip(shape.trajectories, ([2.0, 1.0, 4.0], [2.0, 1.0, 3.0], [2.0, 3.0, 1.0]), strict=True):
        start = shape.nodes[path[0]].parent
        for node, value in zip((start, *path), values, strict=True):
            rewards[shape.completions[node]] = value
    found = TurningPoint(consistent=False).assign(ScoredTree(shape, rewards))
    assert [found.turning[path[1]] for path in shape.trajectories] == [True, False, True]
    assert [found.value[path[1]] for path in shape.trajectories] == [3.0, 2.0, -2.0]


def test_discounted_value_by_hand():
    assert discounted(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]
    tree, path = one_trajectory([9.0, 1.0, 2.0, 4.0])
    found = Value(gamma=0.5, absolute=0.1, absolute_steps=2).assign(tree)
    assert found.value[path].tolist() == [3.0, 4.0, 4.0]
    assert found.scale[path] == pytest.approx(np.array([3.0, 4.0, 4.0]) / (11 / 3))
    assert found.offset[path] == pytest.approx([0.1 * 3 * 9 / 11, 0.1 * 4 * 12 / 11, 0.0])


def test_value_has_no_weights_where_the_mean_means_nothing():
    for values in ([0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 4.0, -1.0]):
        tree, path = one_trajectory(values)
        assert Value().assign(tree).scale[path].tolist() == [1.0, 1.0, 1.0]


def test_serial_credit_halves_with_every_right_exit_and_a_step_answers_for_all_exits_behind_it():
    """Exits 0.1, 1, 0, 1 are worth 0, 1, 0, 1/2: their mean is 3/8, their variance (9 + 25 + 9 + 1) / 256."""
    tree, path = one_trajectory([1.0, 0.1, 1.0, 0.0, 1.0])
    z = (np.array([0.0, 1.0, 0.0, 0.5]) - 0.375) / (44 / 256) ** 0.5
    expected = [z.sum(), z[1:].sum(), z[2:].sum(), z[3]]
    assert Serial().assign(tree).value[path] == pytest.approx(expected, abs=1e-12)
    assert Serial(right=2.0).assign(tree).value[path].tolist() == [0.0] * 4, "none is right, so nothing is said"


@pytest.mark.parametrize(
    ("rule", "plan", "words"),
    [
        (Gain(), AllSteps(), "levels [0]"),
        (Gain(), Comb(teeth=2), "levels [0, 1, 2]"),
        (Gain(), RandomWindow(size=2, first=1, last=2), "levels [1]"),
        (Gain(baseline="fitted"), AllSteps(), "levels [0]"),
        (Blend(), AllSteps(), "credit 'blend' needs the value"),
        (TurningPoint(), AllSteps(completion=Deterministic(every=2)), "every state"),
        (TurningPoint(), Branch(forks=(0, 1), completion=Deterministic()), "forks them on the way"),
        (Value(), AllSteps(), "completion"),
        (Serial(), AllSteps(), "every state"),
    ],
)
def test_rules_say_what_a_plan_lacks(rule, plan, words):
    assert words in rule.complaint(shape_of(plan, 4, 4))


@pytest.mark.parametrize(
    ("rule", "plan"),
    [
        (Terminal(), AllSteps()),
        (Gain(), Comb(teeth=2, completion=Deterministic())),
        (Gain(), Branch(forks=(0, 1), completion=Deterministic(steps=2))),
        (Gain(), FixedSteps(steps=(0, 2), completion=Deterministic())),
        (Gain(baseline="fitted"), Branch(forks=(0, 1), completion=Deterministic(every=2))),
        (Blend(), Branch(forks=(0, 1), completion=Deterministic(steps=1))),
        (Blend(), Comb(teeth=2, completion=Deterministic())),
        (TurningPoint(), AllSteps(completion=Deterministic(steps=1))),
        (Value(), Branch(forks=(0, 1), completion=Deterministic(steps=1))),
        (Serial(right=2.0), Branch(forks=(0, 1), completion=Deterministic(steps=1))),
    ],
)
def test_rules_work_on_every_plan_that_has_what_they_need(rule, plan):
    shape = shape_of(plan, 4, 4)
    assert rule.complaint(shape) is None
    assert np.isfinite(rule.assign(random_tree(shape, 0)).value[list(shape.trained)]).all()


def test_one_leaf_trees_have_credit_too():
    shape = trajectories([SDE, Ode()], 1, shared_start=False)
    assert Terminal().assign(scored(shape, [0.7])).value[1] == 0.7
