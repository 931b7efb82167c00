"""What a rollout has evaluated need not be evaluated again while the weights stay: the same weights come out, bit for bit.

Two prompts of eight samples, three steps of which the first two are random.
"""

import pytest
import torch

from flowgrpo.config.bill import memory_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from trainers import picture_trainer, roll_out_here, text_trainer, with_rollers

COMMON = ["rollout.plan=all", "rollout.micro_batch=8"]
HALF = [*COMMON, "policy.guidance_gradient=conditional", "optimizer.steps_per_update=2"]
FORKS = ["rollout.plan={type: comb, at: [0, 1], teeth: 2}", "rollout.group_size=2"]
AGAINST = {
    "plain": (16, []),
    "KL, twice, waiting in main memory": (16, ["objective.kl.coefficient=0.1", "optimizer.epochs=2", "rollout.keep=host"]),
    "forks": (2, FORKS),
}
"""States of an update's first optimizer step that need not be evaluated on both sides of guidance."""
GRAPHS = {
    "plain": (64, []),
    "KL, twice": (64, ["objective.kl.coefficient=0.1", "optimizer.epochs=2"]),
    "computed again, in bf16": (64, ["policy.runtime.gradient_checkpointing=2", "policy.dtype=bf16"]),
    "half the gradient": (32, ["policy.guidance_gradient=conditional"]),
    "all weights": (64, ["policy.lora=null"]),
    "all weights, KL": (64, ["policy.lora=null", "objective.kl.coefficient=0.1"]),
    "KL to the average": (64, ["objective.kl.coefficient=0.1", "objective.reference=ema", "ema.decay=0.5"]),
    "forks": (8, FORKS),
}
"""Rows that the update need not evaluate; guidance makes two of a state, one of which is not evaluated anyway where it has no
gradient."""


def rows_evaluated(layer):
    """Of each evaluation from now on."""
    rows = []
    layer.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


def updated(trainer, layer):
    """Rows in each of three updates, what its metrics say of it, and the weights."""
    rows, counts, said = rows_evaluated(layer(trainer.policy)), [], []
    for _ in range(3):
        metrics, *_ = trainer.update()
        said.append({key: metrics[key] for key in ("loss", "grad_norm", "ratio/first_log_abs_max", "reward")})
        counts.append(sum(rows))
        rows.clear()
    return counts, said, {name: weight.detach().clone() for name, weight in trainer.policy.trainable().items()}


def last_of_pictures(policy):
    return policy.pipe.transformer.proj_out


def require_same(made, layer, saved):
    """But for rows: so many fewer from the second update on. The first evaluates all, for the on-policy check."""
    (every, said, weights), (fewer, also_said, others) = (updated(trainer, layer) for trainer in made)
    assert said == also_said
    assert all(torch.equal(weight, others[key]) for key, weight in weights.items())
    assert [a - b for a, b in zip(every, fewer, strict=True)] == [0, saved, saved]


def evaluating_both(trainer):
    trainer.policy.predict_both = lambda *asked: (trainer.policy.predict(*asked), None)
    return trainer


@pytest.mark.parametrize("name", AGAINST)
def test_what_guidance_moves_away_from_is_evaluated_once(pipelines, name):
    states, options = AGAINST[name]
    trainer, other = (picture_trainer(pipelines, *HALF, *options) for _ in range(2))
    require_same([evaluating_both(trainer), other], last_of_pictures, states)


def test_of_thinned_batches_it_is_that_of_the_whole_ones(pipelines):
    """The rest is rounded as in a smaller batch."""
    trainer, other = (picture_trainer(pipelines, *HALF, "selection=[{type: best_worst, keep: 2}]") for _ in range(2))
    (every, _, weights), (fewer, _, others) = (updated(one, last_of_pictures) for one in (evaluating_both(trainer), other))
    assert all(torch.allclose(weight, others[key], atol=1e-4) for key, weight in weights.items())
    assert [a - b for a, b in zip(every, fewer, strict=True)] == [0, 4, 4]


def test_what_other_processes_rolled_out_is_evaluated(pipelines, monkeypatch):
    roll_out_here(monkeypatch.setattr)
    blocks, _ = collected(with_rollers(picture_trainer(pipelines, *HALF)))
    assert all(t.against is None for block in blocks for t in block.rollout.transitions)


def test_of_samples_that_old_weights_made_nothing_is_kept(pipelines):
    blocks, _ = collected(picture_trainer(pipelines, *HALF, "old={start: 0.5}"))
    assert all(t.against is None for block in blocks for t in block.rollout.transitions)


def collected(trainer):
    return trainer.collect(trainer.clock())


@pytest.mark.parametrize("name", GRAPHS)
def test_the_rollouts_graph_is_that_of_the_update(pipelines, name):
    rows, options = GRAPHS[name]
    made = [picture_trainer(pipelines, *COMMON, *options, f"rollout.keep={keep}") for keep in ("device", "graph")]
    require_same(made, last_of_pictures, rows)


@pytest.mark.parametrize(("method", "rows"), [("trajectory", 2 * (1 + 8)), ("diffu_grpo", 2 * 8)])
def test_the_rollouts_graph_of_a_language_model_is_that_of_the_update(mdlm, method, rows):
    """The first of two states is the same for a group; whole outcomes are scored at one state each."""
    options = ["optimizer.epochs=1", "rollout.micro_batch=16", "advantage.std=none"]
    made = [
        text_trainer(mdlm, *options, f"rollout.keep={keep}", method=method, reward=spread_out) for keep in ("device", "graph")
    ]
    require_same(made, lambda policy: policy.model.lm_head, rows)


def spread_out(samples):
    """No two samples of a group earn the same."""
    return [float(i) for i, _ in enumerate(samples.texts)]


ANEW = {
    "steps_per_update: 2": ["optimizer.steps_per_update=2"],
    "join_steps": ["optimizer.join_steps=true"],
    "selection": ["selection=[{type: best_worst, keep: 2}]"],
    "old": ["old={start: 0.5}"],
    "fleet.rollout": ["fleet.rollout=1"],
    "distributed.type: shard": ["distributed.type=shard"],
    "distributed.context": ["distributed.context=2"],
    "completion: learned": ["rollout.plan={type: all, completion: {type: learned}}"],
}


@pytest.mark.parametrize("name", ANEW)
def test_no_graph_is_kept_that_would_be_of_something_else(name):
    options = ["optimizer.steps_per_update=1", "rollout.keep=graph"]
    with pytest.raises(UserError, match=rf"rollout.keep: graph .* with [a-z_.]*{name} that is something else: set rollout.keep"):
        load_config("mini/flow_grpo", [*options, *ANEW[name]])


@pytest.mark.parametrize("recipe", ["mini/flow_grpo_fast", "mini-mdlm/trajectory"])
def test_graphs_that_are_kept_are_in_the_plan(recipe):
    """As many as all trained states of an update have."""
    options = ["optimizer.steps_per_update=1", "optimizer.epochs=1"]
    anew, kept = (memory_of(load_config(recipe, [*options, f"rollout.keep={keep}"])) for keep in ("device", "graph"))
    for phase in ("rollout", "update"):
        assert {name: size for name, size in kept[phase].items() if name != "graphs"} == anew[phase]
        assert kept[phase]["graphs"] >= 0.9 * anew["update"]["activations"]
