"""How several rewards become one number."""

import math

import numpy as np
import pytest

from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.scoring.card import UNSTATED, Card
from flowgrpo.scoring.combine import sum_range, summands, weighted_sum

SCORES = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
HALF = np.array([[0.5, 0.0, 1.0], [1.0, 0.0, 0.5]])


def total(configs: dict[str, RewardConfig], **rewards: np.ndarray) -> np.ndarray:
    return weighted_sum(summands(rewards, configs), configs)


def reward(**fields) -> RewardConfig:
    return RewardConfig(use="scene:strict", **fields)


def test_rewards_are_summed_by_weight():
    assert total({"a": reward(weight=2.0), "b": reward(weight=-1.0)}, a=SCORES, b=HALF) == pytest.approx(2 * SCORES - HALF)


def test_a_normalised_reward_has_mean_0_and_spread_1_in_each_group_and_a_constant_one_is_0():
    found = total({"a": reward(normalise="group")}, a=SCORES)
    assert found[0] == pytest.approx(np.array([-1.0, 0.0, 1.0]) * np.sqrt(1.5))
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    assert total({"a": reward(normalise="group")}, a=np.full((1, 12), 0.1)).tolist() == [[0.0] * 12]


def test_scale_no_longer_decides_which_reward_is_heard():
    configs = {"a": reward(normalise="group"), "b": reward(normalise="group")}
    assert total(configs, a=1000 * SCORES, b=HALF) == pytest.approx(total(configs, a=SCORES, b=HALF))


def test_clipping_comes_after_normalising():
    found = total({"a": reward(normalise="group", clip=(-1.0, 1.0))}, a=SCORES)
    assert found[0] == pytest.approx([-1.0, 0.0, 1.0])


def test_a_gate_multiplies_the_sum():
    found = total({"a": reward(weight=2.0), "b": reward(), "open": reward(gate=True)}, a=SCORES, b=SCORES, open=HALF)
    assert found == pytest.approx(3 * SCORES * HALF)


def test_a_gate_refuses_what_a_closed_gate_would_help():
    with pytest.raises(UserError, match=r"'a' adds -2 to a sum that 'open' gates.*rewards.a.clip"):
        total({"a": reward(), "open": reward(gate=True)}, a=SCORES - 2, open=HALF)
    with pytest.raises(UserError, match="'open' adds -1"):
        total({"a": reward(), "open": reward(gate=True)}, a=SCORES, open=HALF - 1)
    assert total({"a": reward(clip=(0.0, 9.0)), "open": reward(gate=True)}, a=SCORES - 2, open=HALF).min() == 0.0


def test_states_that_were_not_scored_stay_so_and_change_nothing():
    holes = np.array([[np.nan, 0.0, 1.0, 2.0]])
    found = total({"a": reward(clip=(0.0, 1.5)), "open": reward(gate=True)}, a=holes, open=holes)
    assert np.isnan(found[0, 0]) and found[0, 1:] == pytest.approx([0.0, 1.0, 3.0])
    normalised = {"a": reward(normalise="group")}
    assert total(normalised, a=holes)[0, 1:] == pytest.approx(total(normalised, a=SCORES)[0])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rewards.soft.gate=true", "has no weight of its own"),
        ("rewards.soft={use: 'scene:soft', gate: true, normalise: group}", "can't be normalised"),
        ("rewards.soft.clip=[1, 0]", "low below high"),
        ("rewards={strict: {use: 'scene:strict', gate: true}}", "there is nothing to train on"),
        ("rewards.soft={use: 'scene:soft', url: 'http://127.0.0.1:1'}", "either 'use'"),
        ("rewards.soft={weight: 1}", "either 'use'"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused_when_the_config_is_read(override, said):
    with pytest.raises(UserError, match=said):
        load_config("mini/flow_grpo", [override])


def stated(low, high):
    return Card("texts", (low, high), "", "", "")


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ({"a": {"weight": 2.0}, "b": {"weight": -1.0}}, (-1.0, 2.0 - -3.0)),
        ({"a": {}, "b": {"weight": 0.0}}, (0.0, 1.0)),
        ({"a": {}, "b": {"clip": (-0.5, 0.5)}}, (-0.5, 1.5)),
        ({"a": {"normalise": "group"}}, (-math.inf, math.inf)),
        ({"a": {"weight": 0.0}, "b": {}, "c": {"gate": True}}, (-6.0, 2.0)),
        ({"a": {}, "unstated": {"weight": 0.0}}, (0.0, 1.0)),
        ({"a": {}, "unstated": {}}, None),
        ({"a": {}, "unstated": {"clip": (0.0, 1.0)}}, (0.0, 2.0)),
    ],
)
def test_the_range_of_a_sum_is_what_cards_say(rewards, expected):
    cards = {"a": stated(0.0, 1.0), "b": stated(-3.0, 1.0), "c": stated(0.0, 2.0), "unstated": UNSTATED}
    assert sum_range(cards, {label: RewardConfig(use="x:y", **options) for label, options in rewards.items()}) == expected
