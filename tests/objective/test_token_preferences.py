"""DPO whose ids count differently: TGDPO and cDPO, written out by hand."""

import math

import pytest
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds.constant import Constant
from flowgrpo.objective.surrogate.critical_tokens import CriticalTokens
from flowgrpo.objective.surrogate.token_guided import TokenGuided
from flowgrpo.policies.protocol import trained_by
from flowgrpo.training import learn
from trainers import text_trainer

NEW = [[-1.0, -2.0, -0.5], [-0.7, -1.1, -9.0], [-1.5, -0.4, -0.6]]
REFERENCE = [[-1.2, -1.9, -0.5], [-0.9, -1.0, -3.0], [-1.4, -0.8, -0.6]]
TEACHER = [[-0.8, -2.5, -0.1], [-1.0, -0.2, -4.0], [-1.6, -0.3, -0.6]]
CONTRAST = [[0.2, 0.9, 0.5], [0.4, 0.1, 0.7], [0.3, 0.8, 0.6]]
COUNTS = [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
"""Sample 0 is the best of the group and 1 the worst, whose last id is behind its end."""
VRPO = ["mini-mdlm", "vrpo"]


def batch():
    new = torch.tensor(NEW, requires_grad=True)
    ones = torch.ones(3, 1)
    scales = dict.fromkeys(("weight_CD", "tau_C1", "dt_C1", "g_C1"), ones)
    return new, LossInputs(
        log_prob_CD=new,
        log_prob_old_CD=new.detach(),
        advantage_C1=torch.tensor([[1.0], [-1.2], [0.2]]),
        decisions_CD=torch.tensor(COUNTS),
        log_prob_reference_CD=torch.tensor(REFERENCE),
        log_prob_teacher_CD=torch.tensor(TEACHER),
        contrast_CD=torch.tensor(CONTRAST),
        group_C=torch.zeros(3, dtype=torch.long),
        **scales,
    )


def worth(sample, weight):
    """The sum of weighted log-ratios of a sample's ids that count, and the weights."""
    weights = [weight(sample, i) * COUNTS[sample][i] for i in range(3)]
    return sum(w * (NEW[sample][i] - REFERENCE[sample][i]) for i, w in enumerate(weights)), weights


def guided(a, b):
    """TGDPO's weights of a sample that is preferred (sign 1) or not (-1)."""
    return lambda sign: lambda s, i: 1 + sign * a * b * (TEACHER[s][i] - REFERENCE[s][i])


@pytest.mark.parametrize("surrogate", [TokenGuided(strength=0.5, sharpness=0.4), CriticalTokens(sharpness=0.4)])
def test_the_loss_and_its_gradient_are_those_of_the_formula(surrogate):
    if isinstance(surrogate, TokenGuided):
        best, worst = guided(0.5, 0.4)(1), guided(0.5, 0.4)(-1)
    else:
        best, worst = (lambda s, i: 1.0), (lambda s, i: 1 - CONTRAST[s][i])
    (chosen, weights), (rejected, others) = worth(0, best), worth(1, worst)
    d = 0.4 * (chosen - rejected)
    new, inputs = batch()
    loss, held = surrogate.loss(inputs.log_ratio_CD, inputs, Constant(low=0.1, high=0.1))
    assert (
        loss.detach().flatten().tolist() == pytest.approx([2 / 0.4 * math.log(1 + math.exp(-d))] * 9, rel=1e-5) and not held.any()
    )
    (gradient,) = torch.autograd.grad(loss[:, 0].mean(), new)
    slope = -2 / (1 + math.exp(d))
    expected = [*(slope * w for w in weights), *(-slope * w for w in others), 0.0, 0.0, 0.0]
    assert gradient.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_teacher_that_is_the_policy_before_training_leaves_dpo():
    """Of TGDPO: with g = 0 all ids count alike."""
    _, inputs = batch()
    inputs.log_prob_teacher_CD.copy_(inputs.log_prob_reference_CD)
    loss, _ = TokenGuided(sharpness=0.4).loss(inputs.log_ratio_CD, inputs, Constant(low=0.1, high=0.1))
    d = 0.4 * (worth(0, lambda s, i: 1.0)[0] - worth(1, lambda s, i: 1.0)[0])
    assert float(loss.detach()[0, 0]) == pytest.approx(2 / 0.4 * math.log(1 + math.exp(-d)), rel=1e-5)


@pytest.mark.parametrize("rule", ["tgdpo", "cdpo"])
def test_a_run_asks_its_teacher_about_the_ids_of_whole_answers(rule, mdlm, monkeypatch):
    """What it is told, log p_teacher or softmax(2 log p_teacher - log p_reference), is found here from the predictions."""
    trainer = text_trainer(mdlm, "teacher.policy.guidance_scale=2", "optimizer.lr=1e-3", method="vrpo", rule=rule)
    seen, terms = [], learn.terms
    monkeypatch.setattr(learn, "terms", lambda inputs, objective: seen.append(inputs) or terms(inputs, objective))
    (metrics, blocks, _), (later, _, _) = trainer.update(), trainer.update()
    assert metrics["ratio/first_log_abs_max"] == 0 and metrics["grad_norm"] > 0 and later["grad_norm"] > 0
    t, inputs = blocks[0].rollout.transitions[0], seen[0]
    taught = trainer.learner.teacher.predict(t.states, t.prompts, t.step)[t.parent]
    assert inputs.kl_teacher_CD is None
    if rule == "tgdpo":
        assert inputs.contrast_CD is None
        assert torch.equal(inputs.log_prob_teacher_CD, t.law.log_prob(t.states[t.parent], taught, t.next_states))
        return
    assert inputs.log_prob_teacher_CD is None
    with torch.no_grad(), trainer.policy.reference():
        before = trained_by(trainer.policy).predict(t.states, t.prompts, t.step)[t.parent]
    positive, negative, ids = t.law.log_probs(taught), t.law.log_probs(before), t.law.choices(t.next_states)
    for sample, place in ((0, 0), (1, 2)):
        apart = (2 * positive[sample, place] - negative[sample, place]).exp().nan_to_num(0.0)
        expected = apart[ids[sample, place]] / apart.sum()
        assert float(inputs.contrast_CD[sample, place]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ([], r"objective\.surrogate 'token_guided' needs a teacher; set teacher\.checkpoint"),
        (["teacher.policy.guidance_scale=2", "policy.likelihood.level=sum"], "weighs ids one by one, and no decision"),
    ],
)
def test_what_can_not_be_is_refused(overrides, complaint):
    with pytest.raises(UserError, match=complaint):
        load_config([*VRPO, "tgdpo"], overrides)
