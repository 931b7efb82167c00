"""Learned values: what they are fitted on, when they are believed, and what credit is while they are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowgrpo.api.load import load_policy
from flowgrpo.api.rollout import rollout
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold_code
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.credit.gain import Gain
from flowgrpo.objective.credit.terminal import Terminal
from flowgrpo.sampling.completion.learned import LearnedValues
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.sampling.plans.fixed import FixedSteps
from flowgrpo.scoring.card import card
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.critic import Critic, Level
from flowgrpo.training.ridge import LEAST, Ridge
from flowgrpo.training.scored import Assessment, Group
from flowgrpo.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS, GROUP, PROMPTS = 4, 12, 6
PROMPT = Prompt(0, "p")
RECIPE = ["mini", "learned_value"]
SETTINGS = ["policy.steps=4", "rewards={it: {use: 'x:y'}}", "evaluation=null", f"rollout.group_size={GROUP}"]


class Unwatched:
    """A policy that shows nothing."""


class Watched:
    """A policy whose features are the states, each its own or in a wrong order."""

    def __init__(self, own=True):
        self.own = own

    def require_watchable(self):
        pass

    def start(self, prompts, keys):
        return torch.randn(len(keys), 3, generator=torch.Generator().manual_seed(0))

    def watch(self, states, prompts, step):
        return states, states if self.own else states.flip(0)


def config_of(*overrides):
    return load_config(RECIPE, [*SETTINGS, *overrides])


class World:
    """Groups whose members have a hidden quality; at level t the features tell it with a noise of `noise[t]`, and the reward is
    the quality. `sign` turns what the features mean."""

    def __init__(self, *overrides, noise=(9.0, 0.3, 0.1)):
        self.config, self.noise = config_of(*overrides), noise
        self.critic = Critic.of(self.config, Watched(), PROMPT)
        self.rng, self.update, self.sign = np.random.default_rng(0), 0, 1.0

    def draw(self):
        shapes = self.critic.shapes([self.config.shape()] * PROMPTS)
        return [self.group(shape) for shape in shapes]

    def group(self, shape):
        quality = self.rng.normal(size=GROUP)
        rewards = np.full(len(shape.nodes), np.nan)
        rewards[list(shape.outcomes)] = quality
        rows = [self.features(quality[shape.nodes[i].member], shape.nodes[i].step) for i in shape.watched]
        return Group(shape, {"it": rewards}, np.zeros(len(shape.nodes)), np.ones(len(shape.nodes)), np.stack(rows))

    def features(self, quality, step):
        return self.sign * np.append(quality + self.noise[step] * self.rng.normal(), self.rng.normal(size=4))

    def assess(self, groups):
        prompts = [Prompt(i, "p") for i in range(PROMPTS)]
        self.update += 1
        scored = Assessment.of(self.config)(prompts, groups, self.update, self.critic)
        self.critic.take_in()
        return scored

    def go(self, updates):
        return [self.assess(self.draw()) for _ in range(updates)][-1]


def test_a_state_is_watched_where_only_chance_leaves_it_and_costs_nothing():
    plan, draw = AllSteps(completion=LearnedValues()), Draw(STEPS, 2)
    shape, plain = plan.shape(draw), AllSteps().shape(draw)
    assert {shape.nodes[i].step for i in shape.watched} == {0, 1, 2} and shape.watched == shape.valued and not shape.scored
    assert shape.network_evaluations == plain.network_evaluations and shape.leaves == plain.leaves
    off = plan.completion.switched(shape, frozenset())
    assert not off.valued and off.watched == shape.watched
    late = plan.completion.switched(shape, frozenset({2}))
    assert {late.nodes[i].step for i in late.valued} == {0, 2}, "a start is a baseline only, so it needs no trust"
    window = FixedSteps(steps=(1, 2), completion=LearnedValues()).shape(draw)
    assert {window.nodes[i].step for i in window.watched} == {1, 2}


def test_a_prediction_knows_nothing_of_the_rewards_of_its_own_update():
    world = World()
    world.go(8)
    groups = world.draw()
    turned = [Group(g.shape, {"it": -7.0 * g.rewards["it"]}, g.log_probs, g.decisions, g.features) for g in groups]
    state = world.critic.state()
    seen = []
    for version in (groups, turned):
        world.critic.load(state, True)
        scored = world.assess(version)
        seen.append([scored.total[slot, list(group.shape.valued)] for slot, group in enumerate(groups)])
    np.testing.assert_array_equal(*seen)
    assert np.ptp(seen[0]) > 0.5


def test_values_are_off_until_they_are_known_to_be_good_and_credit_is_terminal_then():
    world = World()
    groups = world.draw()
    assert "nowhere" in world.critic.news and "the credit of every step is the final reward" in world.critic.news
    terminal = world.config.model_copy(update={"credit": Terminal()})
    expected = Assessment.of(terminal)([Prompt(i, "p") for i in range(PROMPTS)], groups, 0)
    np.testing.assert_array_equal(world.assess(groups).advantage, expected.advantage)
    world.draw()
    assert world.critic.news is None and world.critic.metrics()["value/used"] == 0.0


def test_levels_are_valued_one_by_one_as_their_correlation_allows():
    world = World()
    world.go(12)
    found = world.critic.metrics()
    assert found["value/correlation_0"] < 0.4 < 0.9 < found["value/correlation_1"] < found["value/correlation_2"]
    shape = world.draw()[0].shape
    assert {shape.nodes[i].step for i in shape.valued} == {0, 1, 2} and world.critic.trusted == {1, 2}
    assert world.critic.used and world.critic.metrics()["value/used"] == 1.0


def test_it_is_said_once_when_values_come_on_go_off_and_come_back():
    world, said = World(), []
    for update in range(80):
        world.sign = -1.0 if 20 <= update < 40 else 1.0
        groups = world.draw()
        said += [world.critic.news] if world.critic.news else []
        world.assess(groups)
    assert ["off" in sentence.split(":")[0] for sentence in said] == [True, False, True, False]
    assert "at levels [1, 2] they correlate by 0.5 or more" in said[1]


def test_a_steps_credit_leads_from_one_trusted_state_to_the_next_and_the_last_to_the_reward():
    world = World("credit=gain", noise=(9.0, 9.0, 0.1))
    world.go(12)
    groups = world.draw()
    scored = world.assess(groups)
    shape, total = groups[0].shape, scored.total[0]
    credit = Gain().assign(ScoredTree(shape, total)).value
    (first, second, third), start = shape.trajectories[0], shape.nodes[shape.trajectories[0][0]].parent
    leaf = shape.outcomes_below[third][0]
    assert world.critic.trusted == {2} and np.isnan(total[first])
    assert credit[first] == credit[second] - total[start] + total[start] == total[second] - total[start]
    assert credit[third] == total[leaf] - total[second]


def test_a_rule_that_needs_every_value_waits_for_all_levels():
    world = World("credit=turning_point", "selection=[turning_point]", noise=(0.1, 9.0, 0.1))
    scored = world.go(12)
    assert world.critic.trusted == {0, 2} and not world.critic.used and not scored.turning.any()
    assert "only, and credit 'turning_point' needs all" in world.critic._sentence(False)
    world.noise = (0.1, 0.1, 0.1)
    scored = world.go(30)
    assert world.critic.used and scored.turning.any()


def test_values_are_calibrated_so_that_the_reward_is_expected_to_be_its_value():
    rng = np.random.default_rng(0)
    level = Level.of(40, 1)

    def update():
        prompts = rng.normal(size=(30, 40))
        x = prompts[:, None] + rng.normal(size=(30, 8, 40))
        y = 5.0 + 2.0 * prompts[:, None, :1] + 0.3 * (x - prompts[:, None])[..., :1] + rng.normal(size=(30, 8, 1))
        return list(zip(x, y, strict=True))

    for _ in range(40):
        level.see(update())
    value, reward, apart = [], [], []
    for _ in range(10):
        groups = update()
        for found, (_, y) in zip(level.values([x for x, _ in groups]), groups, strict=True):
            value.append(found), reward.append(y), apart.append((found - found.mean(), y - y.mean()))
    inside = np.concatenate(apart, axis=1)
    assert (inside[0] * inside[1]).sum() / (inside[0] ** 2).sum() == pytest.approx(1.0, abs=0.15)
    slope = np.polyfit(np.concatenate(value).ravel(), np.concatenate(reward).ravel(), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1) and np.mean(value) == pytest.approx(np.mean(reward), abs=0.2)


def test_a_correlation_needs_samples_and_something_that_differs():
    rng, ridge = np.random.default_rng(0), Ridge.of(2, 1)
    x = rng.normal(size=(20, 2))
    ridge.see(x, x[:, :1], 20)
    ridge.see(x, x[:, :1], 20)
    assert not ridge.known and ridge.correlation == 0.0 and not ridge.value(x).any()
    for _ in range(3):
        ridge.see(x, x[:, :1], int(LEAST))
    assert ridge.correlation > 0.99 and np.allclose(ridge.value(x), x[:, :1], atol=0.1)
    flat = Level.of(2, 1)
    for _ in range(5):
        flat.see([(rng.normal(size=(40, 2)), np.full((40, 1), 0.1))] * 3)
    assert flat.within.known and flat.within.correlation == 0.0
    assert flat.values([x])[0] == pytest.approx(np.full((20, 1), 0.1))


def test_a_feature_that_only_rounding_moves_has_no_say():
    rng, ridge = np.random.default_rng(0), Ridge.of(2, 1)
    for _ in range(4):
        x = rng.normal(size=(100, 2)) * [1.0, 1e-9]
        ridge.see(x, x[:, 1:], 100)
    x[:, 0] = 0.0
    assert not ridge._prediction(x).any()


def test_the_state_of_a_critic_is_all_of_it():
    one, other = World(), World()
    one.go(6)
    other.critic.load({name: tensor.clone() for name, tensor in one.critic.state().items()}, one.critic.used)
    other.rng.bit_generator.state = one.rng.bit_generator.state
    np.testing.assert_array_equal(one.go(3).total, other.go(3).total)
    assert one.critic.metrics() == other.critic.metrics()


@card(reads="images", range=(0, 1), better="more", licence="none", source="here")
def bright(samples):
    return samples.images.mean((1, 2, 3))


def trainer():
    settings = ["rollout.prompts_per_update=4", "optimizer={steps_per_update: 1, lr: 1e-4}", "evaluation=null"]
    config = load_config(RECIPE, [*settings, f"rewards={{b: {{use: '{hold_code(bright, 'bright')}'}}}}"])
    prompts = load_prompts(config.rollout.prompts)
    return Trainer(config, config.policy.build(CPU, 0), prompts, Scorer(config.rewards), Processes.alone())


def test_a_run_learns_values_for_no_evaluation_more_and_goes_on_from_its_state():
    run = trainer()
    rows = [run.update()[0] for _ in range(5)]
    assert [row["value/used"] for row in rows] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert rows[-1]["value/correlation_1"] > 0.7
    assert {row["network_evaluations"] for row in rows} == {4 * 12 * 3} and rows[0]["ratio/first_log_abs_max"] == 0.0
    tensors, facts = run.state()
    other = trainer()
    other.load({kind: {name: t.detach().clone() for name, t in rows.items()} for kind, rows in tensors.items()}, facts)
    (first, _, scored), (second, _, again) = run.update(), other.update()
    np.testing.assert_array_equal(scored.advantage, again.advantage)
    assert {k: v for k, v in first.items() if "seconds" not in k} == {k: v for k, v in second.items() if "seconds" not in k}
    assert set(run.kinds) == set(tensors) and "critic" in tensors


def test_gates_and_several_rewards_are_valued_as_they_are_combined():
    rewards = "rewards={it: {use: 'x:y', weight: 2.0}, gate: {use: 'x:z', gate: true}, seen: {use: 'x:v', weight: 0.0}}"
    world = World(rewards, "advantage.aggregate=advantages")
    for _ in range(12):
        groups = world.draw()
        for group in groups:
            quality = group.rewards["it"] - np.nanmin(group.rewards["it"])
            gate = np.where(np.isnan(quality), np.nan, 1.0)
            group.rewards.update({"it": quality, "gate": gate, "seen": gate})
        scored = world.assess(groups)
    shape = groups[0].shape
    assert world.critic.used and np.isfinite(scored.total[0, list(shape.valued)]).all()
    assert np.isnan(scored.rewards["it"][0, list(shape.valued)]).all(), "a prediction is no reward"


def test_groups_of_other_widths_and_policies_that_show_nothing_are_refused():
    world = World()
    groups = world.draw()
    groups[1] = replace(groups[1], features=groups[1].features[:, :3])
    with pytest.raises(UserError, match="more features in one group than in another"):
        world.assess(groups)
    with pytest.raises(UserError, match="does not show what its network computes"):
        Critic.of(world.config, Unwatched(), PROMPT)
    assert Critic.of(load_config("mini/flow_grpo"), Unwatched(), PROMPT) is None
    with pytest.raises(UserError, match="which features of this network are of which state"):
        Critic.of(world.config, Watched(own=False), PROMPT)
    with pytest.raises(UserError, match="has nothing to value"):
        nothing = config_of("credit=terminal", "rollout.plan={type: fixed, steps: [1], completion: {type: learned, at: [0]}}")
        Critic.of(nothing, Watched(), PROMPT)
    with pytest.raises(UserError, match="completion 'learned' learns from the updates of a run"):
        rollout(load_policy("mini"), ["a red circle"], AllSteps(completion=LearnedValues()), group_size=2)
