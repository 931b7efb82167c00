"""What becomes of advantages, and who counts, against formulas written out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import NotFinite, UserError
from flowgrpo.objective.credit import ScoredTree
from flowgrpo.objective.modifier import Modifier
from flowgrpo.objective.modifier.novelty import Novelty
from flowgrpo.objective.modifier.semantic_entropy import SemanticEntropy
from flowgrpo.objective.selection.distinct import Distinct
from flowgrpo.objective.selection.spread import Spread
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.branch import Branch
from flowgrpo.sampling.shape import Shape

RNG = np.random.default_rng(0)


def lines(rewards, log_probs=None, decisions=None, texts=()):
    """Samples of two steps each, side by side; log-probs and decisions are [samples, 2]."""
    shape = Shape.chains([(FlowSde(), 1), (FlowSde(), 2)], len(rewards), shared_start=False)
    columns = []
    for table in (log_probs, decisions):
        nodes = np.full(len(shape.nodes), np.nan)
        if table is not None:
            for leaf, row in zip(shape.leaves, table, strict=True):
                nodes[shape.path(leaf)[1::-1]] = row
        columns.append(nodes)
    values = np.full(len(shape.nodes), np.nan)
    values[list(shape.leaves)] = rewards
    return ScoredTree(shape, values, columns[0], 1e-9, columns[1], texts)


def by_sample(tree, values):
    """[samples, 2] of [nodes]."""
    return np.array([values[tree.shape.path(leaf)[1::-1]] for leaf in tree.shape.leaves])


def spread_over(tree, values):
    """[nodes] of one number a sample."""
    nodes = np.zeros(len(tree.shape.nodes))
    for leaf, value in zip(tree.shape.leaves, values, strict=True):
        nodes[tree.shape.path(leaf)] = value
    return nodes


def test_novelty_gives_more_to_good_samples_that_were_less_probable_than_others():
    """XRPO: s = -1, -2, -3 for each decision, whatever their number; e = exp(1), 1, exp(-1)."""
    log_probs, decisions = [[-1.0, -1.0], [-4.0, -2.0], [-3.0, -9.0]], [[1, 1], [2, 1], [1, 3]]
    tree = lines([1.0, 1.0, 0.0], log_probs, decisions)
    advantage = spread_over(tree, [1.0, 2.0, 3.0])
    found = by_sample(tree, Novelty(rate=0.5, most=0.2).modify(tree, advantage))
    e = math.exp(-1)
    assert found == pytest.approx(np.array([[1, 1], [2, 2], [3 + min(0.5 * (1 - e), 0.6)] * 2]))
    capped = by_sample(tree, Novelty(rate=50.0, most=0.2).modify(tree, advantage))
    assert capped[2] == pytest.approx([3.6, 3.6])
    assert Novelty(rate=50.0).modify(tree, -advantage) == pytest.approx(-advantage)


def test_novelty_of_what_samples_share_is_their_mean():
    shape = Branch(forks=(0,), kernel=FlowSde()).shape(Draw(3, 2))
    nodes = len(shape.nodes)
    rewards = np.where([i in shape.outcomes for i in range(nodes)], 1.0, np.nan)
    log_probs = np.where([node.trained for node in shape.nodes], -1.0, np.nan)
    log_probs[shape.path(shape.outcomes[1])[1]] = -3.0
    tree = ScoredTree(shape, rewards, log_probs, 1e-9, np.ones(nodes))
    found = Novelty(rate=1.0, most=9.0).modify(tree, np.ones(nodes))
    ratios = [math.exp(0.5), math.exp(-0.5)]
    for node in shape.trained:
        own = np.mean([ratios[shape.outcomes.index(leaf)] for leaf in shape.outcomes_below[node]])
        assert found[node] == pytest.approx(1 + max(1 - own, 0))


@pytest.mark.parametrize(
    ("texts", "entropy"),
    [
        (["a", "a", "a", "a"], 0.0),
        (["a", "b", "c", " d "], 1.0),
        (["a", " a", "b", "b\n"], math.log(2) / math.log(4)),
        (["a", "a", "a", "b"], -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)),
    ],
)
def test_the_more_answers_differ_the_less_a_prompt_counts(texts, entropy):
    tree = lines([0.0] * 4, texts=texts)
    advantage = spread_over(tree, [1.0, -1.0, 2.0, -2.0])
    assert SemanticEntropy(weight=0.5).modify(tree, advantage) == pytest.approx(advantage * (1 - 0.5 * entropy))


def test_an_answer_may_be_a_part_of_a_text():
    tree = lines([0.0] * 4, texts=["1 + 2 = 3", "so it is 3.", "none", "3 or rather 4"])
    advantage = spread_over(tree, [1.0] * 4)
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(4)
    for answer in (r"(\d+)", r"\d+"):
        found = SemanticEntropy(weight=1.0, answer=answer).modify(tree, advantage)
        assert found == pytest.approx(advantage * (1 - entropy))
    with pytest.raises(ValueError, match="is no regular expression"):
        SemanticEntropy(answer="(")


def test_a_sample_alone_stays_as_it_is():
    tree = lines([0.0], texts=["a"])
    assert SemanticEntropy(weight=1.0).modify(tree, np.ones(3)).tolist() == [1.0] * 3


def test_samples_without_a_partner_that_is_far_enough_are_masked():
    """Rewards 0, 4, 5, 9, mean 4.5, deviation 3.2: with half of that all have a partner, with 1.5 of it (4.8) 4 has only 9."""
    tree = lines([0.0, 4.0, 5.0, 9.0])
    for share, kept in ((0.5, [1, 1, 1, 1]), (1.4, [1, 1, 1, 1]), (1.6, [1, 0, 0, 1]), (3.0, [0, 0, 0, 0])):
        chosen = by_sample(tree, Distinct(share=share).choose(tree, np.ones(12), 0, RNG))
        assert chosen.tolist() == [[bool(k)] * 2 for k in kept]
    equal = lines([0.3, 0.1 + 0.2, 0.3])
    assert not Distinct().choose(equal, np.ones(9), 0, RNG).any()


def test_a_baseline_s_company_is_a_partner_too():
    """Three that failed alike beside one that earns 1: mean 1/4, deviation sqrt(3)/4. Of 0 and 0.9 beside 1, deviation 0.45, only
    the first is 2.1 deviations away from anyone across the mean."""
    failed = replace(lines([0.0] * 3), company=np.array([1.0]))
    assert Distinct(share=2.3).choose(failed, np.ones(9), 0, RNG)[list(failed.shape.outcomes)].all()
    assert not Distinct(share=2.4).choose(failed, np.ones(9), 0, RNG).any()
    near = replace(lines([0.0, 0.9]), company=np.array([1.0]))
    assert by_sample(near, Distinct(share=2.1).choose(near, np.ones(6), 0, RNG)).tolist() == [[True] * 2, [False] * 2]


def test_a_group_is_kept_whole_or_not_at_all_by_the_deviation_of_its_rewards():
    for rewards, kept in (([0.0, 0.1], True), ([0.0, 0.09], False), ([1.0, 1.0], False)):
        tree = lines(rewards)
        assert Spread().choose(tree, np.ones(6), 0, RNG).tolist() == [kept] * 6


class Broken(Modifier):
    def modify(self, tree, advantage):
        return advantage * np.nan


class Short(Modifier):
    def modify(self, tree, advantage):
        return advantage[1:]


def test_a_modifier_of_ones_own_must_return_a_finite_number_for_every_node():
    tree = lines([0.0, 1.0])
    with pytest.raises(NotFinite, match="gave an advantage that is not a finite number"):
        Broken(type="mine").modified(tree, np.ones(6))
    with pytest.raises(UserError, match="modifier 'mine' must return an array of 6 numbers"):
        Short(type="mine").modified(tree, np.ones(6))


@pytest.mark.parametrize(
    ("recipe", "modifier", "says"),
    [
        ("mini flow_grpo", "novelty", "novelty needs the probability of ids; that of a Gaussian step is a density"),
        ("mini flow_grpo", "semantic_entropy", "semantic_entropy reads texts, and this policy makes"),
        ("mini-amused trajectory", "semantic_entropy", "semantic_entropy reads texts, and this policy makes images"),
    ],
)
def test_what_a_modifier_can_not_read_is_refused(recipe, modifier, says):
    with pytest.raises(UserError, match=says):
        load_config(recipe, [f"advantage.modifiers=[{modifier}]"])


def test_a_selection_by_entropy_is_refused_for_latents():
    with pytest.raises(UserError, match="a selection by entropy needs ids; a Gaussian step is as undecided as its noise"):
        load_config("mini flow_grpo", ["selection=[{type: largest, by: entropy}]"])
