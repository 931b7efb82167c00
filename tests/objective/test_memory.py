"""Baselines that know earlier updates, against their formulas written out by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flowgrpo.core.errors import UserError
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.advantage import Scopes, Stream, expected, remembered
from flowgrpo.objective.baseline.history import History
from flowgrpo.objective.baseline.own import Own
from flowgrpo.objective.baseline.tracker import Tracker
from flowgrpo.objective.baseline.virtual_maximum import VirtualMaximum
from flowgrpo.objective.memory import Memory


def visit(values, memory, config, prompts=(0,), streams=("total",), moved=None):
    """(advantages, in loss, memory) of an update whose groups, of as many transitions each, have this credit."""
    rows = np.array(values, float)
    groups = np.repeat(np.arange(len(prompts)), len(rows) // len(prompts))
    credit = {label: Stream.of(rows) for label in streams}
    scopes = Scopes(groups, np.arange(len(rows)), np.ones(len(rows), int))
    return remembered(credit, dict.fromkeys(streams, 1.0), scopes, list(prompts), memory, config, moved)


HISTORY = AdvantageConfig(baseline="history", mean="group", std="group", eps=0.0)
TRACKER = AdvantageConfig(baseline="tracker", mean="group", std="none")
VISITS = [[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


def test_the_first_visit_is_compared_as_in_grpo():
    values, kept, _ = visit(VISITS[1], Memory(), HISTORY)
    new = np.array(VISITS[1])
    assert values == pytest.approx((new - new.mean()) / new.std()) and kept.all()


def test_history_is_the_smaller_of_two_mixtures_of_this_visit_and_all():
    """DCPO's smooth standardisation, at every one of four visits."""
    memory = Memory()
    for i, rewards in enumerate(VISITS, 1):
        values, kept, memory = visit(rewards, memory, HISTORY)
        so_far, new = np.concatenate(VISITS[:i]), np.array(rewards)
        own = (new - new.mean()) / new.std() if new.std() else np.zeros(4)
        total = (new - so_far.mean()) / so_far.std()
        late, early = ((i - 1) * own + total) / i, (own + (i - 1) * total) / i
        assert values == pytest.approx([min(pair, key=abs) for pair in zip(late, early, strict=True)]) and kept.all()


def test_the_variance_of_all_visits_is_that_of_their_samples():
    record = None
    for rewards in VISITS:
        record = History().visited(record, np.array(rewards), ddof=0)
    assert record == pytest.approx((4, np.mean(VISITS), np.var(VISITS)))


def test_samples_that_all_failed_say_so_once_others_have_not():
    _, _, memory = visit(VISITS[0], Memory(), HISTORY)
    values, kept, memory = visit([0.0] * 4, memory, HISTORY)
    assert kept.all() and (values < 0).all() and values == pytest.approx([(0 - 0.25) / math.sqrt(3 / 16) / 2] * 4)
    values, kept, _ = visit([0.3] * 4, Memory(), HISTORY)
    assert not kept.any() and not values.any()


def test_equal_credit_stays_equal_but_for_rounding():
    memory = Memory()
    for _ in range(3):
        values, kept, memory = visit([0.1 + 0.2, 0.3, 0.3, 0.3], memory, HISTORY)
        assert not values.any() and not kept.any()


def test_the_tracker_takes_off_what_it_expected_before_the_visit():
    memory, a, b = Memory(), 0.5, 0.5
    for reward in (1.0, 0.0, 1.0, 1.0):
        values, kept, memory = visit([reward], memory, TRACKER)
        assert values == pytest.approx([reward - a / (a + b)]) and kept.all()
        a, b = 0.9 * a + reward, 0.9 * b + 1 - reward
    assert expected(memory, HISTORY) == {} and memory.of("total")[0] == pytest.approx((a, b))
    assert expected(memory, TRACKER) == pytest.approx({0: a / (a + b)})


def test_a_visit_of_several_samples_counts_once_with_their_mean():
    tracker = Tracker(keep=0.5)
    assert tracker.visited(tracker.aged((1.0, 2.0), 9.0), np.array([1.0, 0.0, 0.0, 0.0]), 0) == pytest.approx((0.75, 1.75))


def test_the_tracker_forgets_by_how_far_the_policy_has_moved():
    """k = 2^(-D / 0.06) within 0.875 and 0.96; v, which is a share, does not change by it."""
    config = TRACKER.model_copy(update={"baseline": Tracker(keep=(0.875, 0.96))})
    before = Memory({"total": {0: (3.0, 1.0)}})
    for moved, k in ((0.0, 0.96), (0.006, 2**-0.1), (0.01, 2 ** (-1 / 6)), (1.0, 0.875)):
        values, _, after = visit([0.0], before, config, moved={0: moved})
        assert values == pytest.approx([-0.75]) and after.of("total")[0] == pytest.approx((3 * k, k + 1))
    _, _, first = visit([1.0], Memory(), config, moved={})
    assert first.of("total")[0] == pytest.approx((0.96 * 0.5 + 1, 0.96 * 0.5))


def test_with_std_global_what_the_tracker_leaves_has_mean_0_and_deviation_1_over_the_update():
    memory = Memory({"total": {4: (3.0, 1.0), 6: (1.0, 3.0)}})
    config = AdvantageConfig(baseline="tracker", mean="group", std="global", eps=0.0)
    values, kept, _ = visit([1.0, 0.0, 1.0], memory, config, prompts=(4, 5, 6))
    left = np.array([1 - 0.75, 0 - 0.5, 1 - 0.25])
    assert values == pytest.approx((left - left.mean()) / left.std()) and kept.all()
    values, kept, _ = visit([0.5, 0.5], Memory(), config, prompts=(1, 2))
    assert not values.any() and not kept.any()


def test_a_range_of_rewards_is_taken_to_0_and_1():
    config = AdvantageConfig(baseline={"type": "tracker", "low": -10.0, "high": 30.0}, mean="group", std="none", clip=None)
    values, _, memory = visit([20.0], Memory(), config)
    assert values == pytest.approx([20.0 - 10.0]) and memory.of("total")[0] == pytest.approx((0.9 * 0.5 + 0.75, 0.9 * 0.5 + 0.25))


@pytest.mark.parametrize("credit", [1.5, -0.5])
def test_credit_outside_of_the_range_is_named(credit):
    with pytest.raises(UserError, match=rf"credit is {credit:g}, outside \[0, 1\]; set advantage.baseline.low"):
        visit([credit, 0.5], Memory(), TRACKER)


def test_a_range_that_nobody_has_set_must_hold_the_rewards():
    assert Tracker().range_complaint(0.0, 1.0) is None and Tracker(high=9.0).range_complaint(-100.0, 100.0) is None
    assert "these may be in [-100, 100]; set advantage.baseline.low" in Tracker().range_complaint(-100.0, 100.0)
    assert VirtualMaximum(value=2.0).range_complaint(0.0, 9.0) is None and Own().range_complaint(0.0, 9.0) is None
    assert "these rewards may be up to 9; set advantage.baseline.value" in VirtualMaximum().range_complaint(-3.0, 9.0)


def test_prompts_and_rewards_are_remembered_apart_and_nothing_changes_in_place():
    begin = Memory()
    _, _, first = visit([1.0, 1.0, 0.0, 1.0], begin, TRACKER, prompts=(3, 9), streams=("a", "b"))
    assert begin == Memory() and first.of("a") == first.of("b") and [*first.of("a")] == [3, 9]
    _, _, second = visit([0.0, 0.0], first, TRACKER, prompts=(9,), streams=("a", "b"))
    assert second.of("a")[3] == first.of("a")[3] and second.of("a")[9] != first.of("a")[9]
    kept = replace(second, whose="tracker")
    assert Memory.loaded(json.loads(json.dumps(kept.state())), "tracker") == kept
    assert Memory.loaded(kept.state(), "history") == Memory(whose="history") == Memory.loaded({}, "history")


class Lost(Tracker):
    def visited(self, before, values, ddof):
        return (float("nan"), 1.0)


class Short(Tracker):
    def compared(self, values, before, after, least, ddof, scaled):
        return values[1:]


class Rich(Tracker):
    def expected(self, record):
        return 2.0


def test_what_a_baseline_of_ones_own_expects_must_be_a_share():
    mine = TRACKER.model_copy(update={"baseline": Rich(type="mine")})
    with pytest.raises(UserError, match=r"'mine': expected must return a number in \[0, 1\], and returned 2"):
        expected(Memory({"total": {0: (1.0, 1.0)}}), mine)


@pytest.mark.parametrize(("kind", "says"), [(Lost, "tuple of finite numbers"), (Short, "an array of 2 finite numbers")])
def test_a_baseline_of_ones_own_must_return_finite_numbers(kind, says):
    with pytest.raises(UserError, match=says):
        visit([0.0, 1.0], Memory(), TRACKER.model_copy(update={"baseline": kind(type="mine")}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": "history", "std": "global"}, "'history' knows prompts: set mean to group, and std to group"),
        ({"baseline": "tracker", "std": "group"}, "'tracker' knows prompts: set mean to group, and std to none or global"),
        ({"baseline": "tracker", "mean": "root", "std": "none"}, "set mean to group"),
        ({"baseline": {"type": "tracker", "keep": [0.9, 0.8]}, "std": "none"}, r"keep = \[0.9, 0.8\] must be one number, or"),
        ({"baseline": {"type": "tracker", "low": 1.0}, "std": "none"}, "low = 1 must be below high = 1"),
    ],
)
def test_scopes_that_are_not_a_prompt_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        AdvantageConfig(**options)
