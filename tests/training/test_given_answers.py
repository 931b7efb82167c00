"""The likelihood of answers that prompt rows give, beside a reward or alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.advantage import Scopes, Stream, advantages
from flowgrpo.objective.auxiliary.answers import Answers
from flowgrpo.objective.baseline.anchor import Anchor
from flowgrpo.objective.baseline.virtual_maximum import VirtualMaximum
from flowgrpo.sampling.canvas import TOKENS, canvas
from flowgrpo.training.required import require_read
from trainers import text_trainer

ONE_STEP = "objective.auxiliary=[{type: answers, coefficient: 0.5, likelihood: {type: one_step, prompt_mask: 0.0}}]"


def by_hand(trainer) -> torch.Tensor:
    """The mean over prompts of the mean of -log p(id | all masked) over the ids up to the first end of text."""
    policy, losses = trainer.policy, []
    for prompt in trainer.order.prompts:
        ids = policy.tokenizer(prompt.metadata["answer"], add_special_tokens=False)["input_ids"]
        ids += [policy.vocabulary.eos] * (len(ids) < policy.config.length)
        log_p = policy.predict(policy.start([prompt], []), [prompt], 0)[0].log_softmax(-1)
        losses.append(-log_p[range(len(ids)), ids].mean())
    return torch.stack(losses).mean()


def test_the_loss_is_the_mean_of_minus_log_p_and_its_gradient_alone_moves_the_weights(mdlm, monkeypatch):
    trainer, seen = text_trainer(mdlm, ONE_STEP, "rewards.it.weight=0", rule="expo"), {}
    step = trainer.weights.step
    monkeypatch.setattr(
        trainer.weights,
        "step",
        lambda update: seen.update({n: p.grad.clone() for n, p in trainer.weights.parameters.items()}) or step(update),
    )
    expected = by_hand(trainer)
    wanted = torch.autograd.grad(0.5 * expected, list(trainer.weights.parameters.values()))
    metrics, _, scored = trainer.update()
    assert metrics["given"] == pytest.approx(expected.item(), rel=1e-5) and not scored.advantage.any()
    for found, gradient in zip(seen.values(), wanted, strict=True):
        assert torch.allclose(found, gradient, atol=1e-6)


def test_a_given_answer_is_scored_whole_where_those_of_its_group_have_a_given_beginning(mdlm):
    trainer = text_trainer(mdlm, ONE_STEP, "rewards.it.weight=0", "rollout.context={type: prefix, good: 0, cut: .}", rule="expo")
    expected = by_hand(trainer).item()
    metrics, blocks, _ = trainer.update()
    assert metrics["given"] == pytest.approx(expected, rel=1e-5)
    assert any(prompt.begun for block in blocks for prompt in block.rollout.prompts)


def test_given_answers_become_likelier(mdlm):
    more = ["rewards.it.weight=0", "optimizer.lr=1e-2", "optimizer.max_grad_norm=1", "optimizer.eps=1e-8"]
    trainer = text_trainer(mdlm, ONE_STEP, *more, rule="expo")
    rows = [trainer.update()[0]["given"] for _ in range(8)]
    assert rows[-1] < 0.7 * rows[0]


def test_an_answer_ends_with_the_end_of_text_where_there_is_room(mdlm):
    policy, prompts = text_trainer(mdlm).policy, text_trainer(mdlm).order.prompts
    states = policy.answers(prompts, ["77", "1234"])
    assert states.shape == canvas(states[:, TOKENS]).shape
    texts = policy.decode(states, prompts).texts
    assert texts == ["77", "1234"]
    assert (states[0, TOKENS, -2:] == policy.vocabulary.eos).all()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "the prompt row 2 has no text under 'answer'"),
        ({"answer": " "}, "the prompt row 2 has no text under 'answer'"),
        ({"answer": "12345"}, r"the answer of the prompt in row 2 has 5 ids, and policy\.length is 4"),
    ],
)
def test_a_row_that_gives_no_answer_is_named_before_training(mdlm, row, words):
    trainer = text_trainer(mdlm, rule="expo")
    prompts = [trainer.order.prompts[0], replace(trainer.order.prompts[1], metadata=row)]
    with pytest.raises(UserError, match=words):
        require_read(trainer.config, prompts)
        type(trainer)(trainer.config, trainer.policy, prompts, trainer.collector.beside.scorer, trainer.processes)


@pytest.mark.parametrize(
    ("words", "overrides", "refusal"),
    [
        ("mini flow_grpo", ["advantage.zero_variance=keep"], "given texts, which can't be outcomes of this policy"),
        ("mini-mdlm trajectory", [], "drop leaves out those whose rewards are equal; set it to keep"),
        ("mini-mdlm trajectory expo", ["objective.auxiliary=[{type: answers, likelihood: trajectory}]"], "scores recorded steps"),
    ],
)
def test_what_does_not_fit_is_said_when_the_config_is_read(words, overrides, refusal):
    asked = [] if "expo" in words else ["objective.auxiliary=[answers]"]
    with pytest.raises(UserError, match=refusal):
        load_config(words, [*asked, *overrides])


def test_by_advantage_an_answer_counts_as_the_best_sample_of_its_group():
    """GRAO: rewards 0, 0, 0.5 and the answer's 1 have the mean 3/8, and the population deviation of all four."""
    config = AdvantageConfig(baseline=VirtualMaximum(value=1.0), eps=0.0)
    rewards, deviation = np.array([0.0, 0.0, 0.5]), np.std([0.0, 0.0, 0.5, 1.0])
    assert Answers(by="advantage").weight(rewards, config) == pytest.approx((1 - 3 / 8) / deviation)
    assert Answers(by="advantage").weight(np.ones(3), config) == 0.0, "all are as good"
    assert Answers(by="advantage").weight(rewards, config.model_copy(update={"std": "none"})) == pytest.approx(5 / 8)
    assert Answers().weight(rewards, config) == 1.0


def test_the_whole_loss_of_grao_is_that_of_the_paper_over_1_plus_lambda():
    """mean A_i L_i + beta A_y L_y + lambda mean A_i (L_i - L_y), where the A of G samples and the answer add up to 0."""
    rng, beta, pull, size = np.random.default_rng(0), 0.5, 0.6, 8
    rewards, likelihoods, given = rng.random(size), rng.normal(size=size), 0.7
    advantage = (np.append(rewards, 1.0) - np.append(rewards, 1.0).mean()) / np.append(rewards, 1.0).std()
    own, answer = advantage[:-1], advantage[-1]
    paper = (own * likelihoods).mean() + beta * answer * given + pull * (own * (likelihoods - given)).mean()
    (term,) = load_config("mini-mdlm trajectory grao").objective.auxiliary
    ours = (own * likelihoods).mean() + term.coefficient * answer * given
    assert ours == pytest.approx(paper / (1 + pull))


def test_an_anchor_joins_groups_of_which_no_sample_is_right():
    """Beside 0, 0 and 0.6 the answer earns 1: mean 0.4, deviation sqrt(0.18). Where a sample is right nobody joins."""
    config = AdvantageConfig(baseline=Anchor(), eps=0.0)
    failed, right = np.array([0.0, 0.0, 0.6]), np.array([0.0, 0.0, 1.0 - 1e-9])
    groups = np.repeat([0, 1], 3)
    scopes = Scopes(groups, np.arange(6), np.ones(6, int))
    values, _ = advantages({"it": Stream.of(np.append(failed, right))}, {"it": 1.0}, scopes, config)
    alone = (right - right.mean()) / right.std()
    assert values == pytest.approx([*((failed - 0.4) / 0.18**0.5), *alone])
    answers = Answers(by="advantage")
    assert answers.weight(failed, config) == pytest.approx(0.6 / 0.18**0.5) and answers.weight(right, config) == 0.0
    assert answers.weight(failed, AdvantageConfig(baseline=Anchor(right=0.5))) == 0.0


def test_a_shaped_likelihood_is_p_over_p_plus_g_and_its_gradient_fades():
    p = torch.tensor([[0.01, 0.5, 1.0]], dtype=torch.float64)
    log_p = p.log().requires_grad_()
    loss = Answers(shaping=0.1).loss(SimpleNamespace(log_prob_CD=log_p))
    assert loss[0].tolist() == pytest.approx([-0.01 / 0.11, -0.5 / 0.6, -1 / 1.1])
    loss.sum().backward()
    assert log_p.grad[0].tolist() == pytest.approx([-0.1 * 0.01 / 0.11**2, -0.1 * 0.5 / 0.6**2, -0.1 / 1.1**2])


def test_only_prompts_without_a_right_sample_are_trained_on_their_answer(mdlm):
    """The answer's loss is the mean over its ids of -p / (p + 0.1), on an empty canvas."""

    def right(*prompts):
        return lambda samples: [float(prompt in prompts) for prompt in samples.prompts]

    first = text_trainer(mdlm, rule="da_grpo_anchors", reward=right("7:"))
    policy, prompt = first.policy, first.order.prompts[0]
    ids = [*policy.tokenizer("77", add_special_tokens=False)["input_ids"], policy.vocabulary.eos]
    p = policy.predict(policy.start([prompt], []), [prompt], 0)[0].detach().softmax(-1)[range(3), ids]
    metrics, _, scored = first.update()
    assert metrics["given"] == pytest.approx(-float((p / (p + 0.1)).mean()), rel=1e-5) and metrics["optimizer_steps"] == 1
    slot = scored.prompts.index(0)
    assert scored.in_loss[slot].any() and not scored.in_loss[1 - slot].any(), "beside the answer the failed are worth training"
    everyone = text_trainer(mdlm, rule="da_grpo_anchors", reward=right("7:", "1+2=:"))
    metrics, _, _ = everyone.update()
    assert metrics["given"] == 0.0 and metrics["optimizer_steps"] == 0


def test_by_advantage_needs_to_know_what_an_answer_earns():
    with pytest.raises(UserError, match=r"by advantage compares an answer with its group; set advantage\.mean=group"):
        load_config("mini-mdlm trajectory expo", ["objective.auxiliary=[{type: answers, by: advantage}]"])
