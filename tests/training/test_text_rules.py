"""Rules for texts are functions of keys: the same in two processes, and after a load."""

import json

import pytest

from trainers import in_two_processes, text_trainer

RULES = {
    "ada_grpo": [],
    "da_grpo_anchors": [],
    "grpo_lambda": [],
    "gtpo": [],
    "tw_grpo": [],
    "distil": ["teacher.policy.guidance_scale=2"],
    "expo": [],
    "grao": [],
    "rest_grpo_prefixes": ["rollout.context.good=0", "rollout.context.cut=.", "selection=[]"],
    "sage_own": ["policy.prompt_length=12", "rollout.context.requests=['{prompt}{answer}']", "rollout.context.between=''"],
    "igrpo": ["policy.prompt_length=12", "rollout.context.template='{draft},{prompt}'"],
}


def trainer(mdlm, rule, processes=None):
    """Of two blocks, one for each of two processes."""
    return text_trainer(mdlm, "rollout.micro_batch=8", "optimizer.lr=1e-3", *RULES[rule], rule=rule, processes=processes)


def told(metrics) -> dict:
    return {key: value for key, value in metrics.items() if not key.startswith("seconds")}


@pytest.mark.parametrize("rule", RULES)
def test_two_processes_make_the_same_update(rule, mdlm):
    def work(processes):
        made = trainer(mdlm, rule, processes)
        (metrics, _, scored), asked = made.update(), made.order.prompts
        weights = {name: weight.tolist() for name, weight in made.weights.parameters.items()}
        return told(metrics), scored.advantage.tolist(), asked, weights

    alone, both = work(None), in_two_processes(work)
    assert both[0] == both[1] == alone


@pytest.mark.parametrize("rule", RULES)
def test_a_trainer_that_is_loaded_goes_on_as_the_one_that_was_saved(rule, mdlm):
    first, second = trainer(mdlm, rule), trainer(mdlm, rule)
    first.update()
    tensors, facts = first.state()
    second.load(
        {kind: {name: t.clone() for name, t in rows.items()} for kind, rows in tensors.items()}, json.loads(json.dumps(facts))
    )
    (one, _, _), (other, _, _) = first.update(), second.update()
    assert told(one) == told(other)
