"""Masked models learn from finished answers: the gradient of an update, with a lower bound of the likelihood for the log-prob."""

import pytest
import torch

from flowgrpo.policies.protocol import trained_by
from trainers import gradient, text_trainer

GROUPS, G, SHARP = 2, 4, 0.2


def ranks(samples):
    return [float(i % G) for i in range(len(samples.texts))]


def update(mdlm, *more):
    """(trainer, gradient of its first update, its only batch of answers, their advantages [C])."""
    trainer = text_trainer(mdlm, f"rollout.group_size={G}", "advantage.std=group", *more, method="vrpo", reward=ranks)
    blocks, scored = trainer.collect(trainer.clock())
    found, _ = gradient(trainer, blocks, scored)
    (t,) = blocks[0].rollout.transitions
    advantage = torch.tensor([scored.advantage[place] for place in t.places])
    assert len(t.places) == GROUPS * G and t.law.weights.shape[1] == 2
    return trainer, found, t, advantage


def bound(trainer, t):
    """[C]: sums of the log-probs of masked ids over complementary masks, each by its weight."""
    prediction = trained_by(trainer.policy).predict(t.states, t.prompts, t.step)[t.parent]
    ids = t.next_states[:, 0, -prediction.shape[2] :].long()
    log_p = prediction.log_softmax(-1).gather(-1, ids[:, None, :, None].expand(*prediction.shape[:3], 1))[..., 0]
    return (t.law.weights * log_p).sum((1, 2))


def expected(trainer, loss):
    loss.backward()
    return trainer.weights.taken_gradient()


@pytest.mark.parametrize("by", ["advantage", "best", "exponential"])
def test_the_masked_likelihood_is_weighted_by_what_an_answer_is_worth(mdlm, by):
    surrogate = "reinforce" if by == "advantage" else f"{{type: weighted, by: {by}}}"
    trainer, found, t, advantage = update(mdlm, f"objective.surrogate={surrogate}")
    if by == "advantage":
        weight = advantage
    elif by == "best":
        weight = torch.tensor([float(G) if advantage[i] > 1 else 0.0 for i in range(len(advantage))])
        assert int((weight > 0).sum()) == GROUPS
    else:
        weight = advantage.exp() / advantage.exp().view(GROUPS, G).mean(1).repeat_interleave(G)
    wanted = expected(trainer, -(weight * bound(trainer, t)).mean())
    assert wanted.norm() > 0 and (found - wanted).norm() < 1e-4 * wanted.norm()


def test_dpo_on_lower_bounds_under_masks_that_a_group_shares(mdlm):
    trainer, found, t, advantage = update(mdlm, f"objective.surrogate.sharpness={SHARP}")
    with torch.no_grad(), trainer.policy.reference():
        before = bound(trainer, t)
    above = (bound(trainer, t) - before).view(GROUPS, G)
    best, worst = advantage.view(GROUPS, G).argmax(1), advantage.view(GROUPS, G).argmin(1)
    d = above[range(GROUPS), best] - above[range(GROUPS), worst]
    assert (SHARP * d).abs().min() > 0.01
    wanted = expected(trainer, (-2 / SHARP * torch.nn.functional.logsigmoid(SHARP * d)).mean())
    assert wanted.norm() > 0 and (found - wanted).norm() < 1e-4 * wanted.norm()
    hidden = (t.states[t.parent][:, :, 0] == trainer.policy.vocabulary.mask).view(GROUPS, G, 2, -1)
    assert (hidden == hidden[:, :1]).all(), "the same masks for a whole group"
    answer = hidden[..., -t.law.weights.shape[2] :]
    assert (answer.sum(2) == 1).all(), "two masks that are complements"
