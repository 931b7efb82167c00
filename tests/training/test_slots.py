"""Any choice for every slot of an objective either trains, or is refused in one sentence when the config is read."""

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import REPLAYED
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from trainers import in_two_processes, picture_trainer, text_trainer

MORE = int(os.environ.get("SLOT_EXAMPLES", "0"))
"""So many more combinations are trained; CONTRIBUTING says when."""
SCOPES = ["group", "group_step", "root", "root_step", "global"]
TERMINAL, EXACT = (
    ["terminal"],
    ["gain", "{type: gain, baseline: fitted}", "blend", "gae", "value", "mdpo", "{type: serial, right: 0.25}", "turning_point"],
)
FORKED = ["segment", "{type: segment, per: deviation}", "tempo", "ancestors"]
CONCISE = "[{type: concise, length: it, right: 0.25, share: 0.5}]"
PLANS = {
    "{type: all, KERNEL}": TERMINAL,
    "{type: random, size: 1, per: prompt, KERNEL}": TERMINAL,
    "{type: all, completion: {steps: null}, KERNEL}": TERMINAL + EXACT,
    "{type: branch, forks: [0, 1], KERNEL}": TERMINAL + FORKED,
    "{type: branch, forks: [1], completion: {steps: 1}, KERNEL}": TERMINAL + FORKED + ["gain", "blend", "value"],
}
TRACKED = ["advantage.baseline={type: tracker, low: -9, high: 9}", "advantage.mean=group", "advantage.std=global"]
ANSWERS = {
    "dropped": [],
    "others in their place": ["rollout.refill=1", "advantage.zero_variance=drop", "objective.reduce=decision"],
    "more of others": ["rollout.allocate=interval"],
    "more of others, in rounds": ["rollout.allocate=interval", "rollout.phases=2"],
    "a given answer": ["advantage.baseline=anchor", "advantage.std=none"],
    "filtered": ["selection=[spread]"],
    "a virtual maximum": ["advantage.baseline=virtual_maximum", "advantage.std=none"],
    "their past": ["advantage.baseline=history", "advantage.mean=group", "advantage.std=group"],
    "what was expected": [*TRACKED, "rollout.prompt_sampler=priority"],
    "one sample a prompt": [*TRACKED, "selection=[]", "rollout.group_size=1"],
}
"""What may be done about groups whose samples all earn the same, and what goes with it."""
BOTH = {
    "objective.surrogate": ["clip", "kl_mask", "sigmoid", "cispo", "reinforce", "regression"],
    "objective.reduce": ["transition", "decision", "position", "step"],
    "advantage.baseline": ["own", "others"],
    "advantage.mean": SCOPES,
    "advantage.std": [*SCOPES, "none"],
    "advantage.zero_variance": ["drop", "keep"],
    "selection": ["[]", "[most_varied]", "[largest]", "[{type: best_worst, keep: 2}]", "[step_fraction]", "[distinct]"],
    "transforms": ["[]", "[]", "[{type: rarity, form: it}]", "[{type: budget, length: it, first: 0.5, least: 0.2}]", CONCISE],
    "optimizer.epochs": ["1", "2"],
}
FITTING = {
    "pictures": {
        "kernel": ["kernel: {type: flow_sde, noise_level: 0.7}", "kernel: {type: cps, noise_level: 0.7}"],
        **BOTH,
        "advantage.modifiers": ["[]"],
        "objective.ratio": ["plain", "guard"],
        "objective.clip": ["1e-4", "[1e-4, 2e-4]"],
        "objective.weight": ["one", "noise", "sensitivity"],
        "objective.decision_weights": ["[]"],
        "objective.auxiliary": ["[]"],
        "objective.kl": ["{coefficient: 0.0}", "{coefficient: 0.1}", "{coefficient: 0.1, unit: velocity}"],
    },
    "text": {
        "kernel": ["kernel: random_order", "kernel: low_confidence"],
        **BOTH,
        "objective.surrogate": [*BOTH["objective.surrogate"], "geometric", "mixture", "{type: mixture, by: entropy}"],
        "advantage.modifiers": ["[]", "[novelty]", "[semantic_entropy]", "[novelty, semantic_entropy]"],
        "selection": [*BOTH["selection"], "[{type: largest, by: entropy}]"],
        "objective.ratio": ["plain", "joint"],
        "objective.clip": ["0.2", "[0.2, 0.3]", "probability", "entropy"],
        "objective.weight": ["one", "confidence"],
        "objective.auxiliary": ["[]", "[]", "[answers]"],
        "objective.decision_weights": ["[]", "[]", "[conflict]", "[divergence]", "[{type: certain, limit: 2.0}, conflict]"],
        "objective.kl": ["{coefficient: 0.0}", "{coefficient: 0.1}"],
    },
}
ANY = {slot: sorted({*FITTING["pictures"][slot], *FITTING["text"][slot]}) for slot in FITTING["text"]}
ANY |= {
    "advantage.mean": [*SCOPES, "none"],
    "advantage.baseline": ["own", "others", "virtual_maximum", "anchor", "history", "tracker"],
    "rollout.allocate": ["equal", "adaptive", "interval"],
    "rollout.phases": ["1", "1", "2"],
    "rollout.refill": ["0", "1"],
    "rollout.prompt_sampler": ["shuffled", "priority"],
    "rollout.group_size": ["1", "4"],
    "selection": [*BOTH["selection"], "[spread]", "[{type: largest, by: entropy}]"],
}
RECIPES = {"pictures": "mini flow_grpo", "text": "mini-mdlm trajectory"}


@st.composite
def combinations(draw, of, plans=PLANS, answers=ANSWERS):
    """Overrides that say something for every slot."""
    kernel, *slots = (draw(st.sampled_from(choices)) for choices in of.values())
    plan = draw(st.sampled_from(sorted(plans)))
    credit = draw(st.sampled_from(plans[plan]))
    named = [f"{slot}={choice}" for slot, choice in zip([*of][1:], slots, strict=True)]
    answer = answers[draw(st.sampled_from(sorted(answers)))]
    return [*named, *answer, f"credit={credit}", f"rollout.plan={plan.replace('KERNEL', kernel)}"]


@pytest.mark.parametrize("kind", FITTING)
@settings(max_examples=6 + MORE)
@given(data=st.data())
def test_what_fits_trains(mdlm, pipelines, kind, data):
    overrides = data.draw(combinations(FITTING[kind]))
    more = ["optimizer.lr=1e-4", "rollout.prompts_per_update=1", "rollout.group_size=4", *overrides]
    try:
        trainer = text_trainer(mdlm, *more, "policy.steps=4") if kind == "text" else picture_trainer(pipelines, *more)
        metrics, _, scored = trainer.update()
    except UserError as refusal:
        assert is_a_sentence(refusal)
        return
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["ratio/first_log_abs_max"] <= (REPLAYED if "selection=[]" in overrides else 1e-4)
    assert metrics["grad_norm"] > 0 or not scored.advantage[scored.in_loss].any()


@settings(max_examples=3 + MORE)
@given(data=st.data())
def test_what_trains_is_the_same_in_two_processes_and_after_a_checkpoint(mdlm, data):
    few = ["rollout.prompts_per_update=3", "rollout.micro_batch=4", "rollout.group_size=4"]
    more = ["optimizer.lr=1e-4", *few, *data.draw(combinations(FITTING["text"])), "policy.steps=4"]

    def made(processes=None):
        return text_trainer(mdlm, *more, prompts=("1+2=:", "7:", "2*3=:", "9:"), processes=processes)

    def work(processes):
        trainer = made(processes)
        return [updated(trainer) for _ in range(2)]

    try:
        alone = work(None)
    except UserError as refusal:
        assert is_a_sentence(refusal)
        return
    assert in_two_processes(work) == [alone, alone]
    first, second = made(), made()
    updated(first)
    tensors, facts = first.state()
    second.load({kind: {k: v.clone() for k, v in rows.items()} for kind, rows in tensors.items()}, json.loads(json.dumps(facts)))
    assert updated(second) == alone[1]


def updated(trainer):
    """The metrics of an update, but for its seconds, and the weights after it."""
    metrics = {key: value for key, value in trainer.update()[0].items() if not key.startswith("seconds")}
    return metrics, {name: weight.tolist() for name, weight in trainer.weights.parameters.items()}


@pytest.mark.parametrize("kind", FITTING)
@given(data=st.data())
def test_what_does_not_fit_is_refused_in_one_sentence(kind, data):
    everything = dict.fromkeys(PLANS, TERMINAL + EXACT + FORKED)
    try:
        load_config(RECIPES[kind], ["policy.steps=4", *data.draw(combinations(ANY, everything, {"": []}))])
    except UserError as refusal:
        assert is_a_sentence(refusal)


def is_a_sentence(refusal: UserError) -> bool:
    return "\n" not in str(refusal) and 20 < len(str(refusal)) < 400
