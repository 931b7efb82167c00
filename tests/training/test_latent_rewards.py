"""Rewards on latents: what they are given, what is decoded for them, and where they can't be used."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import flowgrpo as fg
from flowgrpo.api.load import load_policy
from flowgrpo.api.rollout import rollout
from flowgrpo.api.score import score
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.held import hold_code
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Latents, Samples, Undecoded
from flowgrpo.evaluation.sheet.stream import Judge
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.rewards import latent_scene, scene
from flowgrpo.scoring.card import card
from flowgrpo.scoring.catalogue import climb
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.collect import Rollouts, scored_trees

ROW = {"prompt": "a red circle", "include": [{"class": "circle", "count": 1, "color": "red"}]}
PROMPTS = [Prompt(i, "a red circle", ROW) for i in range(2)]
stated = {"range": (-1e3, 1e3), "better": "so", "licence": "none", "source": "here"}


@card(reads="latents", noisy=True, **stated)
def level(samples):
    return samples.latents.states.mean((1, 2, 3)) + 100.0 * samples.latents.sigma


@card(reads="latents", **stated)
def finished(samples):
    return samples.latents.states.mean((1, 2, 3))


@card(reads="latents", **stated)
def peeping(samples):
    return samples.images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def policy():
    return load_policy("mini")


@pytest.fixture
def decodes(monkeypatch):
    """The numbers of states that were decoded."""
    counted, decode = [], DiffusersPolicy.decode
    monkeypatch.setattr(DiffusersPolicy, "decode", lambda self, states, p: counted.append(len(states)) or decode(self, states, p))
    return counted


def scorer_of(*rewards, **weights):
    """Of rewards by their names."""
    return Scorer({r.__name__: RewardConfig(use=hold_code(r, r.__name__), weight=weights.get(r.__name__, 1.0)) for r in rewards})


def config(*overrides):
    plan = "rollout.plan={type: all, kernel: {type: flow_sde, noise_level: 0.9}, completion: {type: latents}}"
    given = ["calibration=null", "rollout.prompts_per_update=2", "rollout.group_size=2", "updates=1", plan]
    return load_config(["mini", "dense_grpo", "latent_scenes"], [*given, *overrides])


def test_nothing_is_decoded_for_a_reward_on_latents_and_once_for_whoever_looks(policy, decodes):
    tree = rollout(policy, PROMPTS, group_size=2)
    scores = score(tree.samples, {"level": level, "finished": finished})
    assert scores["level"].shape == (4,) and not decodes
    assert tree.samples.images.shape == tree.samples.images.shape == (4, 3, 32, 32)
    assert sum(decodes) == 4


def test_the_latents_of_a_rollout_and_of_the_own_sampler_are_those_that_its_pictures_are_decoded_from(policy):
    for samples in (rollout(policy, PROMPTS, group_size=2).samples, policy.generate(PROMPTS * 2, [0, 1, 2, 3], 3, latents=True)):
        latents = samples.latents
        assert latents.sigma.tolist() == [0.0] * 4 and latents.alpha.tolist() == [1.0] * 4
        torch.testing.assert_close(policy.decode(latents.states, PROMPTS * 2).images, samples.images)


def test_a_state_on_its_way_is_worth_what_the_reward_says_of_it_at_its_level(policy, decodes):
    made, scorer, seen = config(), scorer_of(level), []
    shapes = [made.shape()] * 2
    rollouts = Rollouts.of(made, policy)
    block = rollouts(PROMPTS, shapes, (0, "way"))
    trees, evaluations = scored_trees(rollouts, scorer, {"level": RewardConfig(use="level")}, PROMPTS, shapes, (0, "way"))
    levels, latents = policy.schedule(PROMPTS).sigmas, block.valued.latents
    for i, (group, node) in enumerate((g, n) for g, shape in enumerate(shapes) for n in shape.valued):
        sigma = levels[shapes[group].nodes[node].step]
        seen.append(sigma)
        assert latents.sigma[i].item() == pytest.approx(sigma) and latents.alpha[i].item() == pytest.approx(1.0 - sigma)
        assert trees[group].values[node] == pytest.approx(latents.states[i].mean().item() + 100.0 * sigma, rel=1e-5)
    assert set(seen) == set(levels[:2]) and evaluations == 2 * 2 * 3 and not decodes


def test_a_rollout_in_python_has_the_states_on_their_way_and_gives_them_the_credit_of_a_run(policy):
    """Prompts of two blocks are not mixed up."""
    made, plan = config(), fg.plans.AllSteps(kernel={"type": "flow_sde", "noise_level": 0.9}, completion="latents")
    prompts = [*PROMPTS, Prompt(7, "a blue square", ROW)]
    tree = rollout(policy, prompts, plan, group_size=2, micro_batch=4)
    assert len(tree.blocks) > 1 and len(tree.samples) == 6
    levels = len(set(tree.on_the_way.latents.sigma.tolist()))
    assert len(set(tree.on_the_way.group)) == 3 * levels and set(map(tree.on_the_way.group.count, tree.on_the_way.group)) == {2}
    scores, passing = (score(samples, {"level": level}) for samples in (tree.samples, tree.on_the_way))
    whole = fg.Advantage(mean="none", std="none", clip=None)
    scored = tree.assess(scores, fg.credits.Gain(), whole, on_the_way=passing)
    trees, _ = scored_trees(
        Rollouts.of(made, policy), scorer_of(level), {"level": RewardConfig(use="level")}, prompts, [made.shape()] * 3, (0, 0)
    )
    for row, other in enumerate(trees):
        trained = list(other.shape.trained)
        np.testing.assert_allclose(scored.advantage[row, trained], fg.credits.Gain().credited(other).value[trained], rtol=1e-4)
    with pytest.raises(UserError, match=r"'level' has no rewards of the states on their way; pass on_the_way"):
        tree.assess(scores, fg.credits.Gain())
    with pytest.raises(UserError, match="'level' has 3 rewards, and the tree has 12 states on their way"):
        tree.assess(scores, on_the_way={"level": np.zeros(3)})
    with pytest.raises(UserError, match="'other' has rewards of the states on their way, and none of the samples"):
        tree.assess(scores, on_the_way={"other": np.zeros(12), **passing})


def test_credit_that_a_tree_has_no_values_for_is_refused_in_python_too(policy):
    tree = rollout(policy, PROMPTS, group_size=2)
    with pytest.raises(UserError, match="credit 'gain' needs"):
        tree.assess({"level": np.zeros(4)}, fg.credits.Gain())


def test_a_reward_without_a_weight_scores_samples_only_and_changes_nothing(policy):
    made = config()
    shapes, rollouts = [made.shape()] * 2, Rollouts.of(made, policy)
    scorer = scorer_of(level, finished, finished=0.0)
    both = {"level": RewardConfig(use="x"), "finished": RewardConfig(use="y", weight=0.0)}
    trees, _ = scored_trees(rollouts, scorer, both, PROMPTS, shapes, (0, "way"))
    alone, _ = scored_trees(rollouts, scorer_of(level), {"level": both["level"]}, PROMPTS, shapes, (0, "way"))
    for one, other in zip(trees, alone, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.parametrize(("reward", "sentence"), [(finished, "can't: it must read latents"), (scene.soft, "give it weight 0")])
def test_states_are_not_scored_by_a_reward_that_can_not_read_noise(reward, sentence):
    with pytest.raises(UserError, match=sentence):
        scorer_of(reward).require_noisy()
    scorer_of(level, reward, **{reward.__name__: 0.0}).require_noisy()


def latents(*sigma):
    count = len(sigma)
    states = Latents(torch.zeros(count, 8, 8, 8), 1.0 - torch.tensor(sigma), torch.tensor(sigma))
    return Samples(["p"] * count, [ROW] * count, [0] * count, None, states)


def test_wrong_uses_are_refused():
    pictures = Samples(["p"], [ROW], [0], torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="finished latents, and was asked about noisy ones"):
        scorer_of(finished)(latents(0.0, 0.5))
    with pytest.raises(UserError, match=r"reads samples\.images, but these samples are latents"):
        scorer_of(peeping)(latents(0.0))
    with pytest.raises(UserError, match="images whose latents are not known"):
        score(pictures, {"level": level})
    with pytest.raises(UserError, match="reads latents, but files hold images or videos or texts"):
        Judge({"level": RewardConfig(use=hold_code(level, "level"))})
    with pytest.raises(UserError, match="reads latents, but policy 'x' makes texts"):
        scorer_of(level).require(["texts"], "policy 'x' makes")
    with pytest.raises(UserError, match="noisy=True has reads='latents'"):
        card(reads="images", noisy=True, **stated)


def test_latents_that_a_reward_changes_are_noticed():
    def spoiling(samples):
        samples.latents.states.add_(1.0)
        return [0.0] * len(samples)

    card(reads="latents", **stated)(spoiling)
    with pytest.raises(UserError, match=r"work on samples\.latents\.states\.clone"):
        scorer_of(spoiling)(latents(0.0))


def test_samples_that_are_not_decoded_stay_so_when_they_are_taken_and_joined():
    made = []
    outputs = Undecoded(lambda: made.append(1) or torch.arange(4.0).reshape(2, 1, 1, 2).expand(2, 3, 1, 2))
    samples = replace(latents(0.0, 0.0), outputs=outputs)
    joined = Samples.concatenate([samples.take([1]), samples])
    assert not made and len(joined) == 3 and joined.latents.sigma.tolist() == [0.0] * 3
    assert joined.images[:, 0, 0, 0].tolist() == [2.0, 0.0, 2.0] and made == [1]


def test_the_judge_climbs_its_ladder_and_refuses_latents_and_rows_that_it_does_not_know():
    assert climb("latent_scene:soft").right and climb("latent_scene:strict").right
    with pytest.raises(UserError, match="knows the latents of mini-sd3"):
        latent_scene.soft(replace(latents(0.0), states=Latents(torch.zeros(1, 4, 8, 8), torch.ones(1), torch.zeros(1))))
    with pytest.raises(UserError, match="flow matching"):
        latent_scene.soft(replace(latents(0.0), states=Latents(torch.zeros(1, 8, 8, 8), torch.ones(1), torch.ones(1))))
    with pytest.raises(UserError, match="must hold 'include'"):
        latent_scene.soft(replace(latents(0.0), metadata=[{"include": [{"class": "cat", "count": 1}]}]))
