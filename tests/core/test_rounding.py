"""Rewards that are equal but for rounding are equal, wherever a spread is divided by."""

import numpy as np
import pytest

from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig, SentinelConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import sign_flip_p
from flowgrpo.core.rounding import LEAST, rounding, sign
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.records import Record
from flowgrpo.data.samples import Samples
from flowgrpo.evaluation.benchmarks.comparison import difference, prompt_gains
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.advantage import Scopes, Stream, advantages
from flowgrpo.objective.turning import turning_points
from flowgrpo.sampling.plans import Draw
from flowgrpo.scoring.combine import summands
from flowgrpo.scoring.scorer import probe
from flowgrpo.training.scored import Assessment, Group
from flowgrpo.training.sentinels import Sentinels

LEVELS = [21.3, -21.3, 0.27, 1e4, -1e-3, 0.0]


def wobbling(level, count=8):
    """float32 numbers next to each other."""
    near = np.float32(level)
    steps = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    return np.resize(np.array(steps, float), count)


def of_one_group(values, **options):
    ones = np.zeros(len(values), int)
    return advantages({"r": Stream.of(values)}, {"r": 1.0}, Scopes(ones, ones, ones), AdvantageConfig(**options))


def test_rounding_is_relative_and_by_row():
    assert rounding(np.array([0.0, 1.0])) == pytest.approx(1.9e-6, rel=0.01) and rounding(np.zeros(3)) == LEAST
    assert rounding(np.array([[1.0, -4.0], [np.nan, 2.0]]), axis=1) == pytest.approx([7.6e-6, 3.8e-6], rel=0.01)
    assert sign(np.array([1e-7, -1e-7, 1.0, -1.0]), 1e-6).tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("level", LEVELS)
def test_a_normalised_reward_is_0_where_its_group_is_equal(level):
    config = {"a": RewardConfig(use="x:y", normalise="group")}
    assert summands({"a": wobbling(level)[None]}, config)["a"].tolist() == [[0.0] * 8]
    clear = level + max(abs(level), 1.0) * np.array([[0.0, 1e-4]])
    assert summands({"a": clear}, config)["a"][0] == pytest.approx([-1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4])
def test_an_equal_group_has_no_advantage(level, eps):
    values, kept = of_one_group(wobbling(level), eps=eps)
    assert not kept.any() and not values.any()
    values, kept = of_one_group(wobbling(level), eps=eps, zero_variance="keep")
    assert kept.all() and not values.any()
    values, kept = of_one_group(level + max(abs(level), 1.0) * np.array([0.0, 1e-3]), eps=0.0)
    assert kept.all() and values == pytest.approx([-1.0, 1.0], abs=1e-6)


def test_a_reward_that_is_equal_adds_nothing_to_another_that_is_not():
    scopes = Scopes(*np.zeros((3, 4), int))
    streams = {"equal": Stream.of(wobbling(21.3, 4)), "other": Stream.of(np.array([0.0, 1.0, 0.0, 1.0]))}
    values, _ = advantages(streams, {"equal": 5.0, "other": 1.0}, scopes, AdvantageConfig(eps=0.0))
    assert values.tolist() == [-1.0, 1.0, -1.0, 1.0]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["advantage.aggregate=advantages"],
        ["advantage.eps=0", "advantage.std=global", "advantage.zero_variance=keep"],
        ["credit=gain", "rollout.plan.completion={steps: null}", "advantage={mean: group_step, std: group_step, eps: 0}"],
        ["credit=turning_point", "rollout.plan.completion={steps: null}", "advantage.eps=0"],
        ["credit=mdpo", "rollout.plan.completion={steps: null}", "advantage={mean: group_step, std: group_step, eps: 0}"],
        ["rewards.soft.normalise=group", "rewards.soft.weight=100"],
        ["rewards.soft.weight=-1", "rewards.strict.weight=1", "advantage.eps=0"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("level", [21.3, -300.0])
def test_no_method_trains_on_rounding(overrides, level):
    config = load_config("mini/flow_grpo", ["rewards.soft.weight=0.5", *overrides])
    shape = config.rollout.plan.shape(Draw(config.policy.steps, 4))
    count = len(shape.nodes)
    rng = np.random.default_rng(0)
    groups = [
        Group(
            shape,
            {
                label: np.where(np.isin(range(count), shape.leaves), rng.permutation(wobbling(level, count)), np.nan)
                for label in config.rewards
            },
            np.zeros(count),
            np.ones(count),
        )
        for _ in range(3)
    ]
    scored = Assessment.of(config)([Prompt(i, "p") for i in range(3)], groups, 0)
    assert np.abs(scored.advantage).max() < 1e-3 and not scored.turning.any()
    assert scored.metrics()["advantage/zero_variance_groups"] == 1.0


def test_a_change_by_rounding_has_no_sign():
    assert not turning_points(wobbling(21.3), False, float(rounding(wobbling(21.3)))).any()


def test_a_constant_reward_is_found_out_before_training():
    def scorer(samples):
        return {"r": wobbling(21.3, len(samples))}

    scorer.weights = {"r": 1.0}
    with pytest.raises(UserError, match="a constant reward trains nothing"):
        probe(scorer, Samples(["p"], [{}], [0], ["text"]))


def test_sentinels_do_not_hear_rounding():
    rewards = {"trained": RewardConfig(use="x:y"), "still": RewardConfig(use="x:y", weight=0)}
    watch = Sentinels(SentinelConfig(panel=("still",), drift={"still": 0.1}, window=3), rewards)
    for update, value in enumerate([*[21.3 + 2e-6] * 3, *[21.3] * 3]):
        watch.see({"update": update, "reward": 0.0, "optimizer_steps": 1, "reward/trained": float(update), "reward/still": value})
    assert not watch.raised
    watch = Sentinels(SentinelConfig(drift={"still": 0.1}, window=3), rewards)
    for update, value in enumerate([0.0, 0.0, 0.0, 1e-10, 1e-10, 1e-10]):
        watch.see({"update": update, "reward": 0.0, "optimizer_steps": 1, "reward/trained": 1.0, "reward/still": value})
    assert not watch.raised


def test_checkpoints_that_score_the_same_but_for_rounding_do_not_differ():
    prompts = [Prompt(i, "p") for i in range(20)]
    row = {"prompt": "p"}
    base, other = ([Record(i, 0, 0, row, {}, {"r": 21.3 + 1e-3 * i + shift}) for i in range(20)] for shift in (0.0, 1.9e-6))
    found = difference("c", "r", prompt_gains(prompts, 1, "r", base, other))
    assert (found.mean, found.p, found.better, found.word) == (0.0, 1.0, 0, "no difference shown")


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_a_p_value_has_no_unit(scale):
    values = np.array([0.3, -0.1, 0.2, 0.4, 0.1, 0.25])
    assert sign_flip_p(scale * values) == sign_flip_p(values)
