"""States of different steps in one evaluation of an update: the same gradient but for rounding, whoever shares the prompts."""

from dataclasses import replace

import pytest
import torch

from flowgrpo.config.bill import memory_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from trainers import gradient, picture_trainer

FEW = ["rollout.group_size=2", "rollout.plan=all", "policy.steps=4"]


def evaluations(trainer):
    """Rows of each evaluation with a graph from now on."""
    rows = []

    def called(module, args, kwargs):
        if torch.is_grad_enabled():
            rows.append(len(kwargs["timestep"]))

    trainer.policy.pipe.transformer.register_forward_pre_hook(called, with_kwargs=True)
    return rows


@pytest.mark.parametrize("more", [[], ["objective.kl.coefficient=0.1", "optimizer.epochs=2", "rollout.keep=host"]])
def test_steps_are_evaluated_together_up_to_a_batch(pipelines, more):
    """Three trained steps of two states; four states fit, and guidance makes two rows of each."""
    found = []
    for join in ("false", "true"):
        options = [*FEW, "rollout.prompts_per_update=1", "rollout.micro_batch=4", *more, f"optimizer.join_steps={join}"]
        trainer = picture_trainer(pipelines, *options, prompts=["7:"])
        metrics, *_ = trainer.update()
        rows = evaluations(trainer)
        trainer.update()
        found.append((rows, metrics))
    (one_by_one, plain), (together, joined) = found
    epochs = 2 if more else 1
    assert one_by_one == epochs * [4, 4, 4] and together == epochs * [8, 4]
    assert plain["ratio/first_log_abs_max"] <= 1e-6 and joined["ratio/first_log_abs_max"] <= 1e-5
    for key in ("loss", "grad_norm", "kl"):
        assert joined[key] == pytest.approx(plain[key], rel=1e-3, abs=1e-6)


def test_a_block_adds_the_same_whatever_was_evaluated_before_it(pipelines):
    """So it does not matter which process has it, or whether the run was resumed."""
    found = []
    for order in (1, -1):
        trainer = picture_trainer(pipelines, *FEW, "rollout.micro_batch=2", "optimizer.join_steps=true")
        trainer.learner.rollouts = replace(trainer.learner.rollouts, config=at_once(trainer, 4))
        blocks, scored = trainer.collect(trainer.clock())
        assert len(blocks) == 2
        found.append(gradient(trainer, blocks[::order], scored)[0])
    assert torch.equal(*found) and found[0].any()


def at_once(trainer, states):
    """A rollout whose blocks are one prompt, and whose updates evaluate more at once."""
    return trainer.config.rollout.model_copy(update={"micro_batch": states})


def test_a_batch_may_be_full():
    plain, joined = (
        memory_of(load_config("sd3.5-medium/flow_grpo", ["rollout.micro_batch=20", "rollout.group_size=12", *more]))
        for more in ([], ["optimizer.join_steps=true"])
    )
    ratio = joined["update"]["activations"] / plain["update"]["activations"]
    assert ratio == pytest.approx(20 / 12, rel=1e-6)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("mini draft", "the gradient of the rewards goes from step to step"),
        ("mini nft", "policy.matching trains finished samples, which have no steps"),
        ("mini-mdlm trajectory", "policy 'masked' evaluates the states of one step at a time"),
        ("mini-amused/trajectory", "policy 'amused' evaluates the states of one step at a time"),
    ],
)
def test_what_has_no_steps_to_join_is_refused(recipe, reason):
    with pytest.raises(UserError, match=f"optimizer.join_steps: {reason}; set it to false"):
        load_config(recipe, ["optimizer.join_steps=true"])


def test_one_side_of_guidance_without_a_graph_is_refused():
    with pytest.raises(UserError, match="guidance_gradient 'conditional' is found out step by step; set it to false"):
        load_config("mini/flow_grpo", ["optimizer.join_steps=true", "policy.guidance_gradient=conditional"])
