"""What guidance moves away from, without a gradient, is evaluated once as long as the weights stay: the same weights come out."""

import pytest
import torch

from trainers import picture_trainer, roll_out_here, with_rollers

SMALL = ["policy.guidance_gradient=conditional", "optimizer.steps_per_update=2", "rollout.plan=all", "rollout.micro_batch=8"]
STATES = {
    "plain": (16, []),
    "KL, twice, waiting in main memory": (16, ["objective.kl.coefficient=0.1", "optimizer.epochs=2", "rollout.keep=host"]),
    "forks": (2, ["rollout.plan={type: comb, at: [0, 1], teeth: 2}", "rollout.group_size=2"]),
}
"""Trained states of an update's first optimizer step that need not be evaluated on both sides."""


def rows_without_a_graph(trainer):
    """Of each evaluation from now on."""
    rows = []

    def called(module, args):
        if not torch.is_grad_enabled():
            rows.append(len(args[0]))

    trainer.policy.pipe.transformer.proj_out.register_forward_pre_hook(called)
    return rows


def updated(trainer, evaluates):
    """Rows without a graph in each of three updates, their metrics, and the weights."""
    if evaluates:
        trainer.policy.predict_both = lambda *asked: (trainer.policy.predict(*asked), None)
    rows, counts, metrics = rows_without_a_graph(trainer), [], []
    for _ in range(3):
        metrics.append(trainer.update()[0])
        counts.append(sum(rows))
        rows.clear()
    return counts, metrics, {name: weight.detach().clone() for name, weight in trainer.policy.trainable().items()}


@pytest.mark.parametrize("name", STATES)
def test_the_weights_are_those_of_evaluating_them_again(pipelines, name):
    """The first update evaluates them again, for the on-policy check."""
    states, options = STATES[name]
    made = [picture_trainer(pipelines, *SMALL, *options) for _ in range(2)]
    (fewer, kept, weights), (every, evaluated, others) = updated(made[0], False), updated(made[1], True)
    assert all(torch.equal(weight, others[key]) for key, weight in weights.items())
    assert [row["loss"] for row in kept] == [row["loss"] for row in evaluated]
    assert [a - b for a, b in zip(every, fewer, strict=True)] == [0, states, states]


def test_what_other_processes_rolled_out_is_evaluated(pipelines, monkeypatch):
    roll_out_here(monkeypatch.setattr)
    trainer = with_rollers(picture_trainer(pipelines, *SMALL))
    blocks, _ = trainer.collect(trainer.clock())
    assert all(t.against is None for block in blocks for t in block.rollout.transitions)


def test_old_weights_make_samples_of_which_nothing_is_kept(pipelines):
    trainer = picture_trainer(pipelines, *SMALL, "old={start: 0.5}")
    blocks, _ = trainer.collect(trainer.clock())
    assert all(t.against is None for block in blocks for t in block.rollout.transitions)


def test_of_thinned_batches_they_are_those_of_the_whole_ones(pipelines):
    """What is evaluated again is rounded as in a smaller batch."""
    made = [picture_trainer(pipelines, *SMALL, "selection=[{type: best_worst, keep: 2}]") for _ in range(2)]
    (fewer, _, weights), (every, _, others) = updated(made[0], False), updated(made[1], True)
    assert all(torch.allclose(weight, others[key], atol=1e-4) for key, weight in weights.items())
    assert [a - b for a, b in zip(every, fewer, strict=True)] == [0, 4, 4]
