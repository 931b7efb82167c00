"""What earlier updates told of rewards decides where the next one looks, and every step and prompt still counts the same."""

import numpy as np
import pytest

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.comb import Comb
from flowgrpo.training.allocation import MEMORY, Allocation, narrowed, sizes, widest_first
from flowgrpo.training.scored import Assessment, Group

RECIPE = "mini/tempflow_grpo"
SMALL = ["policy.steps=4", "rollout.prompts_per_update=2", "rewards.soft.weight=0", "rewards.strict.weight=1"]


def scored_of(config, shapes, rewards, prompts=(0, 1)):
    """Groups of these shapes, whose leaves have these rewards; `prompts` are their indices."""
    groups = []
    for shape, values in zip(shapes, rewards, strict=True):
        nodes = np.full(len(shape.nodes), np.nan)
        nodes[list(shape.leaves)] = values
        labels = dict.fromkeys(config.rewards, nodes)
        groups.append(Group(shape, labels, np.zeros(len(nodes)), np.ones(len(nodes))))
    return Assessment.of(config)([Prompt(i, "p") for i in prompts], groups, 0)


def test_the_deviation_of_a_step_is_that_among_the_teeth_of_a_state():
    config = load_config(RECIPE, [*SMALL, "rollout.group_size=4", "rollout.plan.teeth=2"])
    shape = config.shape()
    step = np.array([shape.nodes[shape.path(leaf)[0]].branch for leaf in shape.leaves])
    first = [shape.nodes[next(i for i in shape.path(leaf) if shape.nodes[i].trained)].step for leaf in shape.leaves]
    rewards = np.where(np.array(first) == 1, step, 0.0)  # the two teeth at step 0 get 1 and 2, all others 0
    allocation = Allocation(config)
    allocation.see(scored_of(config, [shape, shape], [rewards, 3.0 * rewards], [7, 9]))
    assert allocation.spread.steps == pytest.approx([np.sqrt((0.5 + 4.5) / 2), 0.0, 0.0, np.nan], nan_ok=True)
    assert allocation.spread.prompts[9] == pytest.approx(3.0 * allocation.spread.prompts[7])
    allocation.see(scored_of(config, [shape, shape], [0.0 * rewards] * 2, [7, 8]))
    assert allocation.spread.steps[0] == pytest.approx(np.sqrt(MEMORY * 2.5)) and allocation.spread.prompts[8] == 0.0


def test_prompts_get_samples_by_their_deviation_and_the_sum_stays():
    assert sizes(np.array([3.0, 1.0, 0.0]), 6, 1, 0.5) == [2 + 9, 2 + 3, 2]
    assert sizes(np.zeros(3), 6, 1, 0.5) == [6, 6, 6]
    assert sizes(np.array([1.0, 1.0, 4.0]), 12, 6, 0.5) == [12, 6, 18]
    drawn = [sizes(np.array([1.0, 2.0, 4.0]), 5, 1, offset) for offset in (np.arange(700) + 0.5) / 700]
    assert {sum(row) for row in drawn} == {15}
    assert np.mean(drawn, axis=0) == pytest.approx(2 + 9 * np.array([1, 2, 4]) / 7, abs=0.01)


def test_by_intervals_each_sample_goes_where_the_mean_is_least_known():
    """XRPO by hand: half widths t(0.975, n - 1) s / sqrt(n) of two prompts, and the bonus 0.1 mean(s) sqrt(log(1 + N) / n)."""
    width = {2: 12.7062 / 2**0.5, 3: 4.3027 / 3**0.5, 4: 3.1824 / 2, 5: 2.7764 / 5**0.5, 6: 2.5706 / 6**0.5}
    counts, deviations = [2, 2], [0.5, 0.1]
    while sum(counts) < 8:
        bonus = [0.03 * (np.log(1 + sum(counts)) / n) ** 0.5 for n in counts]
        worth = [s * (width[n] - width[n + 1]) + b for s, n, b in zip(deviations, counts, bonus, strict=True)]
        counts[int(np.argmax(worth))] += 1
    assert widest_first(np.array(deviations), 4, 1) == counts and counts[0] > counts[1]
    assert widest_first(np.zeros(3), 6, 1) == [6, 6, 6] and widest_first(np.array([1.0, 0.0]), 8, 4) == [12, 4]
    assert narrowed(np.array(deviations), np.array([2, 2]), 1, 4) == counts
    many = widest_first(np.array([0.0, 1.0, 1.0, 3.0]), 12, 1)
    assert sum(many) == 48 and many[0] == min(many) > 2 and many[3] == max(many)


@pytest.mark.parametrize("allocate", ["adaptive", "interval"])
def test_what_earlier_updates_saw_moves_samples_and_evaluations_stay(allocate):
    config = load_config("mini flow_grpo", [*SMALL, f"rollout.allocate={allocate}", "rollout.group_size=6"])
    allocation = Allocation(config)
    first = allocation.shapes(0, [0, 1])
    assert [len(shape.outcomes) for shape in first] == [6, 6]
    allocation.see(scored_of(config, first, [np.arange(6), np.zeros(6)]))
    second = allocation.shapes(1, [0, 1])
    assert len(second[0].outcomes) > 6
    assert sum(shape.network_evaluations for shape in second) == sum(shape.network_evaluations for shape in first)


def test_a_phase_goes_by_the_deviations_of_this_update_so_far():
    """XRPO: 2 each, 8 more in two rounds; the deviation is the unbiased one of all samples so far."""
    options = [*SMALL, "rollout.allocate=interval", "rollout.phases=3", "rollout.group_size=6"]
    config = load_config("mini flow_grpo", options)
    allocation, rewards = Allocation(config), [np.array([0.0, 1.0]), np.array([0.0, 0.1])]
    shapes, counts = allocation.shapes(0, [0, 1]), [2, 2]
    assert [len(shape.outcomes) for shape in shapes] == counts
    for phase in (1, 2):
        scored = scored_of(config, shapes, rewards)
        more = allocation.further([0, 1], shapes, (scored.trained_on, scored.rounding), 0, phase)
        expected = narrowed(np.array([row.std(ddof=1) for row in rewards]), np.array(counts), 1, 4)
        added = [len(shape.outcomes) if shape else 0 for shape in more]
        assert added == [after - before for after, before in zip(expected, counts, strict=True)] and sum(added) == 4
        for shape, before, size in zip(more, counts, added, strict=True):
            assert not shape or sorted({node.member for node in shape.nodes}) == [*range(before, before + size)]
        shapes = [shape.beside(other) if other else shape for shape, other in zip(shapes, more, strict=True)]
        rewards = [np.append(row, [0.5] * size) for row, size in zip(rewards, added, strict=True)]
        counts = expected
    assert sum(shape.network_evaluations for shape in shapes) == 2 * config.rollout.group_size * config.policy.steps


def test_with_reduce_step_every_step_counts_the_same_and_every_prompt_in_it():
    config = load_config(RECIPE, SMALL)
    shapes = [Comb(teeth=2).shape(Draw(4, 2)), Comb(teeth=2, at=(0,)).shape(Draw(4, 6))]
    rewards = [np.arange(len(shape.leaves)) for shape in shapes]
    scored = scored_of(config, shapes, rewards)
    votes, count = scored.votes([0, 1], "step")
    share = votes / count
    assert share.sum() == pytest.approx(1.0)
    at = {step: [i for i in shapes[0].trained if shapes[0].nodes[i].step == step + 1] for step in range(3)}
    assert share[0, at[0]].sum() == pytest.approx(1 / 6) and share[1].sum() == pytest.approx(1 / 6)
    assert share[0, at[1]].sum() == share[0, at[2]].sum() == pytest.approx(1 / 3)
    alone, _ = scored.votes([1], "step")
    assert not alone[0].any() and len(set(alone[1][alone[1] > 0])) == 1


def test_where_all_steps_have_as_many_transitions_reduce_step_is_reduce_transition():
    config = load_config(RECIPE, SMALL)
    shapes = config.shapes(0, {0: 12, 1: 12})
    scored = scored_of(config, shapes, [np.arange(len(shape.leaves)) for shape in shapes])
    (votes, count), (weights, number) = scored.votes([0, 1], "transition"), scored.votes([0, 1], "step")
    assert weights / number == pytest.approx(votes / count)


def test_a_plan_drawn_for_each_prompt_draws_by_its_index_and_costs_the_same():
    config = load_config("mini/flow_grpo_fast", ["policy.steps=6", "rollout.plan.per=prompt"])
    groups = dict.fromkeys(range(40), 12)
    shapes = config.shapes(3, groups)
    steps = [{shape.nodes[i].step for i in shape.trained} for shape in shapes]
    assert all(len(step) == 1 for step in steps) and len(set.union(*steps)) == 5
    assert config.shapes(3, {7: 12}) == [shapes[7]]
    assert len({config.shapes(update, {7: 12})[0] for update in range(20)}) == 5
    assert len({shape.network_evaluations for shape in shapes}) == 1


def test_only_one_of_prompts_and_steps_is_allocated():
    with pytest.raises(UserError, match="can't both move samples"):
        load_config(RECIPE, ["rollout.allocate=adaptive", "rollout.plan.allocate=adaptive"])
