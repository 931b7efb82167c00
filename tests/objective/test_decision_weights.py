"""How much ids count, against formulas written out by hand, and that an update trains with it."""

import math

import pytest
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.objective.decision_weight import Chosen, DecisionWeight, product
from flowgrpo.objective.decision_weight.certain import Certain
from flowgrpo.objective.decision_weight.conflict import Conflict
from flowgrpo.objective.decision_weight.divergence import Divergence
from trainers import text_trainer


def chosen(position, ids, advantage, sample=None, p=None) -> Chosen:
    log_p = None if p is None else torch.tensor(p).log()
    sample = range(len(ids)) if sample is None else sample
    return Chosen(torch.tensor(position), torch.tensor(ids), torch.tensor(advantage), torch.tensor(list(sample)), log_p)


def test_ids_that_better_and_worse_samples_share_count_twice_for_the_better_and_nothing_for_the_worse():
    """GTPO. Position 0 has id 3 in both; position 1 has id 5 in the better ones only, position 2 the id 3 in the worse only."""
    of = chosen([0, 1, 0, 2, 1, 0], [3, 5, 3, 3, 5, 3], [1.0, 1.0, -0.5, -0.5, 2.0, 0.0])
    assert Conflict().weigh(of).tolist() == [2, 1, 0, 1, 1, 1]
    assert Conflict(positive=1.5, negative=0.5).weigh(of).tolist() == [1.5, 1, 0.5, 1, 1, 1]


def test_a_sample_of_which_the_model_was_unsure_does_not_count():
    sure, unsure = [0.9, 0.1, 0.0], [0.5, 0.25, 0.25]
    entropy = [-sum(q * math.log(q) for q in p if q) for p in (sure, unsure)]
    of = chosen([0, 1, 0, 1, 2], [0] * 5, [1.0] * 5, [7, 7, 8, 8, -1], [sure, unsure, unsure, unsure, unsure])
    between = (sum(entropy) / 2 + entropy[1]) / 2
    assert Certain(limit=between).weigh(of).tolist() == [1, 1, 0, 0, 1], "what several samples share stays"
    assert Certain(limit=2.0).weigh(of).tolist() == [1] * 5
    assert Certain(limit=0.1).weigh(of).tolist() == [1] * 5, "all are unsure"


def test_positions_weigh_more_where_the_samples_part():
    """TW-GRPO: 1 + (a - 1) minmax(D), D = mean over samples of sum over ids of exp(d) - d - 1, d = mean log p - log p."""
    a, b, c = [0.8, 0.2, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]
    of = chosen([0, 0, 1, 1, 2, 2], [0] * 6, [1.0, -1.0] * 3, p=[a, b, a, a, a, c])

    def apart(p, q):
        mean = [(math.log(x) + math.log(y)) / 2 for x, y in zip(p[:2], q[:2], strict=True)]
        terms = [math.exp(m - math.log(x)) - (m - math.log(x)) - 1 for r in (p, q) for m, x in zip(mean, r[:2], strict=True)]
        return sum(terms) / 2

    share = apart(a, c) / apart(a, b)
    assert Divergence(most=1.5).weigh(of).tolist() == pytest.approx([1.5, 1.5, 1, 1, 1 + 0.5 * share, 1 + 0.5 * share])
    same = chosen([0, 0, 1, 1], [0] * 4, [1.0] * 4, p=[a] * 4)
    assert Divergence().weigh(same).tolist() == [1.0] * 4


class Wrong(DecisionWeight):
    def weigh(self, chosen):
        return torch.ones(1)


def test_weights_are_multiplied_and_those_of_a_user_are_checked():
    of = chosen([0, 0], [3, 3], [1.0, -1.0])
    assert product([Conflict(), Conflict(positive=3.0, negative=1.0)], of).tolist() == [6, 0]
    with pytest.raises(UserError, match="must return 2 numbers, one for each id"):
        product([Wrong()], of)


@pytest.mark.parametrize("words", ["mini flow_grpo", "mini-mdlm gdpo"])
def test_what_makes_no_decision_of_an_id_is_refused(words):
    level = ["policy.likelihood.level=mean"] if "gdpo" in words else []
    with pytest.raises(UserError, match="decision_weights 'conflict' weighs ids one by one"):
        load_config(words, ["objective.decision_weights=[conflict]", *level])


@pytest.mark.parametrize("likelihood", ["trajectory", "one_step"])
def test_the_weights_of_an_update_are_those_of_its_groups(mdlm, likelihood, monkeypatch):
    """Of every id that counts: by its group's ids at the same position, and by its own advantage."""
    seen = []
    accumulate = "flowgrpo.training.learn.Learner.accumulate"
    monkeypatch.setattr(accumulate, lambda self, block, *rest: seen.append((block, rest[0])))
    monkeypatch.setattr("flowgrpo.training.learn.Learner._step", lambda *rest: None)
    plan = ["rollout.plan={type: outcomes, kernel: random_order}", "policy.likelihood=one_step"]
    trainer = text_trainer(mdlm, "objective.decision_weights=[conflict]", *(plan if likelihood == "one_step" else []))
    trainer.update()
    weights = []
    for block, advantage in seen:
        rows = [
            (slot, int(column), int(t.law.choices(t.next_states)[row, column]), advantage[slot, t.places[row][1]], float(weight))
            for t in block.batches
            for row, column in t.decisions.nonzero().tolist()
            for slot, weight in [(block.slots[t.places[row][0]], t.weight[row, column])]
        ]
        for slot, column, token, value, weight in rows:
            alike = [row[3] for row in rows if row[:3] == (slot, column, token)]
            both = min(alike) < 0 < max(alike)
            assert weight == (1.0 if not both or not value else 2.0 if value > 0 else 0.0)
            weights.append(weight)
    assert {0.0, 1.0, 2.0} == {*weights}
