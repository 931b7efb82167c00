"""Which prompts an update has, and what is known of them: refilled, drawn by priority, remembered; the same in two processes and
after a checkpoint."""

import json

import numpy as np
import pytest
import torch

from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompt_sampler.priority import Priority
from flowgrpo.data.prompts import Prompt, PromptOrder
from flowgrpo.sampling.canvas import TOKENS
from trainers import in_two_processes, picture_trainer, text_trainer

TEXTS = [f"{i}+{i}=:" for i in range(10)]
FEW = ["rollout.group_size=4", "rollout.micro_batch=8", "optimizer.lr=1e-3"]
REFILL = [*FEW, "rollout.refill=2", "rollout.prompts_per_update=4", "optimizer.steps_per_update=2", "optimizer.eps=1e-8"]
REMEMBERED = {
    "history": ["advantage={baseline: history, mean: group, std: group}"],
    "tracker": ["advantage={baseline: tracker, mean: group, std: global}", "rollout.prompt_sampler=priority"],
    "by movement": ["advantage={baseline: {type: tracker, keep: [0.875, 0.96]}, mean: group, std: global}", "policy.steps=4"],
    "one sample a prompt": ["advantage={baseline: tracker, mean: group, std: none}", "rollout.group_size=1"],
}
KINDS = {kind: [*FEW, "rollout.prompts_per_update=3", *options] for kind, options in REMEMBERED.items()}
KINDS["refill"] = REFILL
KINDS["phases"] = [*FEW, "rollout.allocate=interval", "rollout.phases=2", "rollout.plan.shared_start=false"]


def deaf(*numbers):
    """A reward in [0, 1] that is the same for all samples of these prompts."""

    def reward(samples):
        rows = zip(samples.prompts, samples.texts, strict=True)
        return [0.0 if int(prompt[0]) in numbers else sum(map(ord, text)) % 101 / 100 for prompt, text in rows]

    return reward


def test_groups_that_teach_nothing_make_way_for_others_and_their_evaluations_count(mdlm):
    deaf_to = deaf(*range(0, 10, 2))
    plain = text_trainer(mdlm, *REFILL, "rollout.refill=0", reward=deaf_to, prompts=TEXTS)
    metrics, _, scored = plain.update()
    assert len(scored.prompts) == 4 and metrics["advantage/zero_variance_groups"] > 0
    trainer = text_trainer(mdlm, *REFILL, reward=deaf_to, prompts=TEXTS)
    more, blocks, filled = trainer.update()
    assert filled.prompts[:4] == scored.prompts and len({*filled.prompts}) == len(filled.prompts) > 4
    teaching = np.flatnonzero(filled.in_loss.any(1))
    assert len(teaching) == 4 and {filled.prompts[slot] % 2 for slot in teaching} == {1}
    per_group = metrics["network_evaluations"] / 4
    assert more["network_evaluations"] == per_group * len(filled.prompts)
    assert more["added_groups"] == len(filled.prompts) - 4 and "added_groups" not in metrics
    assert more["advantage/zero_variance_groups"] == pytest.approx(1 - 4 / len(filled.prompts))
    assert more["ratio/first_log_abs_max"] <= 1e-6 and more["optimizer_steps"] == 2
    assert sorted(slot for block in blocks for slot in block.slots) == [*range(len(filled.prompts))]
    first, second = trainer.config.optimizer.minibatches(4, len(filled.prompts) - 4)
    assert all({*block.slots} <= {*first} or {*block.slots} <= {*second} for block in blocks)


def test_a_refill_ends_at_its_limit_and_where_no_prompt_is_left(mdlm):
    trainer = text_trainer(mdlm, *REFILL, "rollout.refill=0.75", reward=deaf(*range(10)), prompts=TEXTS)
    metrics, _, scored = trainer.update()
    assert len(scored.prompts) == 7 and metrics["optimizer_steps"] == 0
    trainer = text_trainer(mdlm, *REFILL, "rollout.refill=9", reward=deaf(*range(10)), prompts=TEXTS)
    _, _, scored = trainer.update()
    assert sorted(scored.prompts) == [*range(10)]


def test_where_all_groups_teach_nothing_is_added(pipelines):
    one, other = (picture_trainer(pipelines, *FEW, more, prompts=TEXTS) for more in ("rollout.refill=0", "rollout.refill=2"))
    for _ in range(2):
        (first, _, scored), (second, _, _) = one.update(), other.update()
        assert len(scored.prompts) == 2
        assert second.pop("added_groups") == 0
        assert {key: first[key] for key in first if "seconds" not in key}.items() <= second.items()


@pytest.mark.parametrize("scored_as", ["steps", "wholes"])
def test_in_phases_samples_go_where_this_update_s_rewards_differ_and_evaluations_stay(scored_as, mdlm):
    """Two samples each, then two rounds of what is left: six of eight, for two prompts. Only answers to 1+1 differ."""
    options = ["rollout.allocate=interval", "rollout.plan.shared_start=false", "rollout.group_size=8", "optimizer.lr=1e-3"]
    if scored_as == "wholes":
        options += ["rollout.plan={type: outcomes, kernel: random_order}", "policy.likelihood=one_step"]
    trainer = text_trainer(mdlm, *options, "rollout.phases=3", reward=deaf(0), prompts=TEXTS[:2])
    plain = text_trainer(mdlm, *options, reward=deaf(0), prompts=TEXTS[:2])
    (metrics, blocks, scored), (other, whole, _) = trainer.update(), plain.update()
    bill = bill_of(trainer.config)["network_evaluations_per_update"]
    assert metrics["network_evaluations"] == other["network_evaluations"] == bill
    assert metrics["ratio/first_log_abs_max"] == 0.0 and metrics["grad_norm"] > 0
    sizes = {prompt: len(shape.outcomes) for prompt, shape in zip(scored.prompts, scored.shapes, strict=True)}
    assert sum(sizes.values()) == 16 and sizes[1] > 8 > sizes[0] >= 2

    def texts(blocks):
        said = {}
        for block in blocks:
            finals = block.rollout.finals
            decoded = trainer.policy.decode(finals, [Prompt(0, "")] * len(finals)).texts
            rows = iter(block.rollout.samples.texts)
            assert block.rollout.samples.texts == decoded
            for slot, prompt, shape in zip(block.slots, block.rollout.prompts, block.rollout.shapes, strict=True):
                for leaf in shape.leaves:
                    said[prompt.index, shape.nodes[leaf].member] = next(rows), slot, leaf
        return said

    said, alone = texts(blocks), texts(whole)
    assert {*said} == {(prompt, member) for prompt, size in sizes.items() for member in range(size)}
    assert all(said[place][0] == alone[place][0] for place in {*said} & {*alone}), "a sample is the same in any phase"
    for (prompt, _), (text, slot, leaf) in said.items():
        earned = 0.0 if prompt == 0 else sum(map(ord, text)) % 101 / 100
        assert scored.total[slot, leaf] == pytest.approx(earned)
    for block in blocks:
        for t in block.rollout.transitions:
            for (group, node), state in zip(t.places, t.next_states, strict=True):
                shape = block.rollout.shapes[group]
                if node in shape.leaves:
                    row = sum(len(before.leaves) for before in block.rollout.shapes[:group]) + shape.leaves.index(node)
                    assert torch.equal(state, block.rollout.finals[row])


def test_the_bill_says_what_a_refill_may_cost():
    bill = bill_of(load_config("mini flow_grpo dapo"))
    assert bill["network_evaluations_refilled_at_most"] == 2 * bill["network_evaluations_per_update"]
    plain = bill_of(load_config("mini flow_grpo"))
    assert "network_evaluations_refilled_at_most" not in plain and plain["memory_bytes"] != bill["memory_bytes"]


def known(trainer, scored):
    """What makes a run the run that it is."""
    weights = {name: weight.tolist() for name, weight in trainer.weights.parameters.items()}
    return scored.prompts, weights, json.loads(json.dumps(trainer.state()[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_the_prompts_the_weights_and_the_memory_of_one(kind, mdlm):
    def work(processes):
        trainer = text_trainer(mdlm, *KINDS[kind], reward=deaf(1, 2, 3), prompts=TEXTS, processes=processes)
        updates = [trainer.update() for _ in range(2)]
        return [{key: value for key, value in metrics.items() if "seconds" not in key} for metrics, _, _ in updates], known(
            trainer, updates[-1][2]
        )

    alone, both = work(None), in_two_processes(work)
    assert both[0] == both[1] == alone


@pytest.mark.parametrize("kind", KINDS)
def test_a_trainer_that_is_loaded_goes_on_as_the_one_that_was_saved(kind, mdlm):
    first = text_trainer(mdlm, *KINDS[kind], reward=deaf(1, 2, 3), prompts=TEXTS)
    first.update()
    tensors, facts = first.state()
    tensors = {kind: {name: tensor.clone() for name, tensor in rows.items()} for kind, rows in tensors.items()}
    facts = json.loads(json.dumps(facts))
    second = text_trainer(mdlm, *KINDS[kind], reward=deaf(1, 2, 3), prompts=TEXTS)
    second.load(tensors, facts)
    (one, _, scored), (other, _, again) = first.update(), second.update()
    assert {key: value for key, value in one.items() if "seconds" not in key}.items() <= other.items()
    assert scored.prompts == again.prompts and scored.memory == again.memory


def test_the_policy_has_moved_by_the_mean_change_of_the_log_probs_of_a_prompt_s_last_answer(mdlm):
    """Each id on an empty canvas. Another answer waits for the next visit; the evaluations count."""
    options = [*FEW, "rollout.prompts_per_update=2", *REMEMBERED["by movement"], "optimizer.lr=1e-2"]
    trainer = text_trainer(mdlm, *options, reward=deaf(1))
    policy, seen, visited = trainer.policy, [], []

    def log_probs(prompt, ids):
        count = ids.index(policy.vocabulary.eos) + 1 if policy.vocabulary.eos in ids else len(ids)
        log_p = policy.predict(policy.start([prompt], []), [prompt], 0)[0].detach().log_softmax(-1)
        return log_p[range(count), ids[:count]]

    assessment = trainer.assessment
    trainer.assessment = lambda *given: seen.append(given[-1]) or visited.append(now()) or assessment(*given)

    def now():
        return {
            prompt.index: float((log_probs(prompt, ids) - then).abs().mean())
            for prompt in trainer.order.prompts
            for ids, then in kept.get(prompt.index, [])
        }

    kept = {}
    for number in range(3):
        before = {name: weight.detach().clone() for name, weight in trainer.weights.parameters.items()}
        metrics, blocks, _ = trainer.update()
        after = {name: weight.detach().clone() for name, weight in trainer.weights.parameters.items()}
        assert seen[-1] == pytest.approx(visited[-1], rel=1e-4) and len(seen[-1]) == (2 if number else 0)
        assert not number or min(seen[-1].values()) > 0
        bill = bill_of(trainer.config)["network_evaluations_per_update"]
        assert metrics["network_evaluations"] == bill - (0 if number else 2)
        for name, weight in trainer.weights.parameters.items():
            weight.data.copy_(before[name])
        for block in blocks:
            for row, prompt in enumerate(block.rollout.prompts):
                ids = block.rollout.finals[4 * row, TOKENS, -policy.config.length :].long().tolist()
                kept[prompt.index] = [(ids, log_probs(prompt, ids))]
        for name, weight in trainer.weights.parameters.items():
            weight.data.copy_(after[name])


def test_what_a_rollout_tells_counts_once_the_update_is_whole(pipelines):
    """So a run that is stopped between a rollout and the first optimizer step does not count that rollout twice."""
    trainer = picture_trainer(pipelines, *FEW, *REMEMBERED["tracker"], "rollout.plan.completion={type: learned}")
    trainer.update()
    before, critic = json.dumps(trainer.state()[1]), trainer.critic.state()
    trainer.collect(trainer.clock())
    assert json.dumps(trainer.state()[1]) == before
    assert all(torch.equal(critic[name], value) for name, value in trainer.critic.state().items())
    trainer.update()
    assert json.dumps(trainer.state()[1]) != before and [*trainer.memory.of("total")] == [*trainer.allocation.prompts]


def test_priority_draws_prompts_by_sqrt_of_v_1_minus_v():
    values = np.array([0.0, 1.0, 0.5, np.nan, 0.1])
    expected = np.array([0.05, 0.05, 0.55, 0.55, 0.3 + 0.05])
    assert Priority().weights(values) == pytest.approx(expected)
    drawn = np.concatenate([Priority().draw(1, update, 0, values) for update in range(4000)])
    assert np.bincount(drawn) / 4000 == pytest.approx(expected / expected.sum(), abs=0.03)
    assert [*Priority().draw(3, 7, 0, values)] == [*Priority().draw(3, 7, 0, values)]


def test_priority_knows_prompts_by_their_index():
    rows = [Prompt(index, "p") for index in (40, 41, 42)]
    order = PromptOrder(rows, 1, 0, Priority(least=1e-9))
    assert {order(update, {40: 0.0, 41: 0.5, 42: 1.0})[0].index for update in range(50)} == {41}


def test_a_sampler_of_ones_own_must_return_different_prompts():
    class Twice(Priority):
        def draw(self, count, update, seed, values):
            return np.zeros(count, int)

    with pytest.raises(UserError, match="must return an array of 2 different whole numbers from 0 to 2"):
        PromptOrder([Prompt(i, "p") for i in range(3)], 2, 0, Twice(type="x"))(0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["rollout.refill=1", "advantage.baseline=virtual_maximum"], "refill and advantage.baseline: virtual_maximum are two"),
        (["rollout.refill=1", *REMEMBERED["history"]], "refill and advantage.baseline: history are two answers"),
        (["rollout.refill=1", "rollout.allocate=adaptive"], "refill and rollout.allocate: adaptive are two answers"),
        (["selection=[{type: spread}]", *REMEMBERED["tracker"]], "tracker and selection: spread are two answers"),
        (["selection=[{type: spread}]", "rollout.refill=1"], "refill and selection: spread are two answers"),
        (["rollout.refill=1", "advantage.zero_variance=keep"], "keep counts groups that rollout.refill"),
        (["rollout.refill=1", "objective.reduce=step"], "step counts groups that rollout.refill"),
        (
            [*REMEMBERED["by movement"][:1], "rollout.wordings=wordings", "rollout.plan.shared_start=false"],
            "so prompts must be asked the same each time; take out rollout.context or rollout.wordings",
        ),
        (["policy.window=true", *REMEMBERED["by movement"][:1]], "can't be given texts; set keep to one number"),
        (["rollout.phases=2"], "in how many rounds samples are allocated by intervals; set rollout.allocate=interval"),
        (["rollout.phases=2", "rollout.allocate=interval"], "pay for a shared start in every round; set rollout.plan"),
        (
            [*KINDS["phases"], "rollout.plan.completion={steps: null}"],
            "joins trees whose states are not valued on their way; set rollout.plan.completion=null",
        ),
        (["rollout.group_size=1"], "group of 1 has nothing to compare with, but for what advantage.baseline: tracker"),
        (["rollout.group_size=1", *REMEMBERED["history"]], "group of 1 has nothing to compare with"),
        (["rollout.prompt_sampler=priority"], "priority reads what prompts are worth; set advantage.baseline to tracker"),
        (["rollout.prompt_sampler=priority", *REMEMBERED["history"]], "set advantage.baseline to tracker"),
        (
            [*REMEMBERED["one sample a prompt"], "rewards.countdown.normalise=group"],
            "countdown.normalise: group makes the score of a sample that is alone in its group 0",
        ),
        ([*REMEMBERED["one sample a prompt"], "rollout.allocate=adaptive"], "a group of 1 has none to spare"),
        ([*REMEMBERED["one sample a prompt"], "objective.surrogate=preference"], "so rollout.group_size must be at least 2"),
        (
            ["rollout.allocate=interval", "objective.surrogate=preference"],
            "whose size is not known with rollout.allocate: interval",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(options, says):
    with pytest.raises(UserError, match=says):
        load_config("mini-mdlm trajectory", options)
