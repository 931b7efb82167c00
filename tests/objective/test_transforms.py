"""What training makes of rewards, against formulas written out by hand; and that reports keep the rewards as they are."""

import math

import numpy as np
import pytest

import flowgrpo as fg
from flowgrpo.config.recipes import RULES, read_recipe, shipped
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import NotFinite, UserError
from flowgrpo.objective.transform import Graded, Transform, transformed
from flowgrpo.objective.transform.budget import Budget
from flowgrpo.objective.transform.concise import Concise
from flowgrpo.objective.transform.consistency import Consistency
from flowgrpo.objective.transform.rarity import Rarity
from trainers import text_trainer


def graded(reward, **measured) -> Graded:
    return Graded(np.array(reward, float), {label: np.array(values, float) for label, values in measured.items()})


def test_a_rare_form_counts_g_over_f_times_at_first_and_once_in_the_end():
    """Ada-GRPO: R (1 + (G / F - 1) (1 + cos(pi u / T)) / 2)."""
    group = graded([1.0, 0.0, 1.0, 1.0], form=[0, 0, 0, 3])
    rarity = Rarity(form="form", over=10)
    for update, decay in ((0, 1.0), (5, 0.5), (10, 0.0), (99, 0.0)):
        (new,) = rarity.apply([group], update)
        common, rare = 1.0 + (4 / 3 - 1) * decay, 1.0 + (4 / 1 - 1) * decay
        assert new == pytest.approx([common, 0.0, common, rare])


def test_a_rare_form_of_a_negative_reward_is_refused():
    with pytest.raises(UserError, match="transform 'rarity' multiplies rewards, and one is -1"):
        Rarity(form="form").apply([graded([0.0, -1.0], form=[0, 1])], 0)


def test_a_budget_is_a_triangle_that_shrinks():
    budget = Budget(length="long", first=8, least=3, factor=0.5, every=10, weight=0.5)
    assert [budget.budget(update) for update in (0, 9, 10, 20, 500)] == [8, 8, 4, 3, 3]
    group = graded([1.0, 0.0, 0.0, 0.0, 0.0], long=[2, 4, 5, 6, 9])
    (new,) = budget.apply([group], 10)
    assert new == pytest.approx([1.5, 0.5, 0.5 * 0.75, 0.5 * 0.5, 0.0])


def test_answers_are_to_tell_much_and_as_much_as_the_others():
    """h = (H - min) / (max - min), s = 1 - the mean over the others of min(1, |H - H'| / gap)."""
    group = graded([1.0, 0.0, 0.0], bits=[2.0, 1.0, 0.0])
    (new,) = Consistency(entropy="bits", gap=1.5, helpful=0.5, stable=0.25).apply([group], 0)
    near, far = 1 / 1.5, 1.0
    stable = [1 - (near + far) / 2, 1 - near, 1 - (near + far) / 2]
    assert new == pytest.approx([1.0 + 0.5 + 0.25 * stable[0], 0.25 + 0.25 * stable[1], 0.25 * stable[2]])
    (alike,) = Consistency(entropy="bits").apply([graded([0.0, 0.0], bits=[3.0, 3.0])], 0)
    assert alike.tolist() == [0.5, 0.5]


def test_long_right_answers_count_less_in_the_most_accurate_groups_alone():
    """GRPO-lambda: R = 1 - a sigmoid((L - mean) / std) over right answers of the best ceil(share P) groups."""
    best, other, worst = (
        graded([1.0, 1.0, 0.1], long=[2, 6, 50]),
        graded([1.0, 0.0, 0.0], long=[2, 6, 50]),
        graded([0.0, 0.0, 0.0], long=[1, 2, 3]),
    )
    concise = Concise(length="long", share=0.2, penalty=0.6)
    kept, unseen, changed = concise.apply([worst, other, best], 0)
    assert kept.tolist() == worst.reward.tolist() and unseen.tolist() == other.reward.tolist()
    short, long = (1 - 0.6 / (1 + math.exp(-z)) for z in (-1.0, 1.0))
    assert changed == pytest.approx([short, long, 0.1])
    assert concise.apply([worst], 0)[0].tolist() == worst.reward.tolist(), "none is right"
    assert concise.apply([graded([1.0, 1.0], long=[4, 4])], 0)[0] == pytest.approx([0.7, 0.7])


def test_transforms_are_applied_one_after_the_other():
    group = graded([1.0, 1.0], form=[0, 1], long=[4, 8])
    chain = [Rarity(form="form", over=10), Budget(length="long", first=4, least=4, weight=0.5)]
    assert transformed(chain, [group], 0)[0] == pytest.approx([2.5, 2.0])
    assert transformed(chain[::-1], [group], 0)[0] == pytest.approx([3.0, 2.0])


@pytest.mark.parametrize(
    "transform", [Rarity(form="form"), Budget(length="long", first=4, least=4), Concise(length="long", share=1.0, right=0.5)]
)
def test_what_rewards_become_stays_within_the_ends_that_are_told(transform):
    rng = np.random.default_rng(0)
    groups = [graded(rng.random(6), form=rng.integers(0, 3, 6), long=rng.integers(1, 12, 6)) for _ in range(20)]
    low, high = transform.ends(0.0, 1.0, 6)
    new = np.stack(transform.apply(groups, 0))
    assert low <= new.min() and new.max() <= high


def test_a_run_whose_baseline_does_not_know_what_rewards_may_become_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "mini-mdlm trajectory ada_grpo"
    with pytest.raises(UserError, match="virtual_maximum is a sample that earns 1, and these rewards may be up to 8"):
        fg.train(fg.recipe(words, updates=1, advantage={"baseline": "virtual_maximum"}))
    assert not [*tmp_path.iterdir()]


class Wrong(Transform):
    answer: str

    def apply(self, groups, update):
        return {"nothing": None, "short": [np.zeros(1)], "nan": [np.array([0.0, np.nan])], "more": [np.zeros(2)] * 2}[self.answer]


@pytest.mark.parametrize("answer", ["nothing", "short", "more"])
def test_what_a_transform_of_a_user_returns_is_checked(answer):
    with pytest.raises(UserError, match="must return a list of arrays, a number for every sample of each group"):
        Wrong(answer=answer).applied([graded([0.0, 1.0])], 0)


def test_rewards_that_are_no_numbers_are_named():
    with pytest.raises(NotFinite, match="made rewards that are no finite numbers"):
        Wrong(answer="nan").applied([graded([0.0, 1.0])], 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["transforms=[{type: rarity, form: strickt}]"],
            "reads the reward 'strickt', and there is none",
        ),
        (["transforms=[{type: rarity, form: strict}]", "advantage.aggregate=advantages"], "set it to rewards"),
        (["transforms=[{type: rarity, form: strict}]", "rollout.plan.completion={steps: 1}"], "values states on their way"),
    ],
)
def test_what_does_not_fit_is_said_when_the_config_is_read(overrides, words):
    with pytest.raises(UserError, match=words):
        load_config("mini-mdlm trajectory", overrides)


def test_the_rewards_of_a_rule_measure_only_and_stand_beside_those_of_any_task():
    for rule in shipped(RULES):
        rewards = read_recipe([rule]).tree.get("rewards", {})
        assert all(reward["weight"] == 0.0 for reward in rewards.values()), rule
    own, other = (load_config(f"{words}") for words in ("mini-mdlm trajectory ada_grpo", "llada-8b diffu_grpo ada_grpo gsm8k"))
    assert {*own.rewards} == {"answer_form", "countdown", "strict"} and {*other.rewards} == {"answer_form", "correct", "form"}


def test_metrics_keep_the_reward_as_it_is_and_say_what_was_trained_on(mdlm):
    trainer = text_trainer(mdlm, "transforms=[{type: rarity, form: it}]", "rollout.prompts_per_update=1")
    metrics, _, scored = trainer.update()
    outcomes = list(scored.shapes[0].outcomes)
    raw, seen = scored.total[0, outcomes], scored.trained_on[0, outcomes]
    assert metrics["reward"] == metrics["reward/it"] == pytest.approx(raw.mean()) and raw.max() <= 1.0
    assert metrics["reward_trained_on"] == pytest.approx(seen.mean()) and seen.max() > 1.0
    plain = text_trainer(mdlm, "rollout.prompts_per_update=1")
    assert "reward_trained_on" not in plain.update()[0]
