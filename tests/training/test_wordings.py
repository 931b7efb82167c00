"""The samples of a group are asked one question in several wordings."""

import pytest
import torch

from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.training.required import require_read
from trainers import picture_trainer, text_trainer

WORDED = ["rollout.wordings=wordings", "rollout.plan.shared_start=false"]
ASKED = {0: ["1+2=:", "2+1=:", "3=:"], 1: ["7:", "7=:"]}
"""The prompts of `trainers`, and their other wordings."""


@pytest.mark.parametrize("kind", ["text", "whole", "pictures"])
def test_each_sample_is_asked_the_next_wording_and_trained_on_it(kind, mdlm, pipelines):
    whole = ["rollout.plan={type: outcomes, kernel: random_order}", "policy.likelihood=one_step"] if kind == "whole" else []
    more = [*WORDED, "rollout.group_size=4", "optimizer.lr=1e-4", *whole]
    trainer = picture_trainer(pipelines, *more) if kind == "pictures" else text_trainer(mdlm, *more)
    metrics, blocks, _ = trainer.update()
    assert metrics["ratio/first_log_abs_max"] == 0.0
    for block in blocks:
        samples = block.rollout.samples
        for group, prompt in enumerate(block.rollout.prompts):
            words = ASKED[prompt.index]
            assert samples.prompts[4 * group : 4 * group + 4] == [words[i % len(words)] for i in range(4)]
        for t in block.rollout.transitions:
            said = {block.rollout.prompts[g].index: {*()} for g, _ in t.places}
            for prompt in t.prompts:
                said[prompt.index].add(prompt.text)
            assert all(texts == {*ASKED[index]} for index, texts in said.items())


def test_another_wording_is_another_state(mdlm):
    plain, worded = (text_trainer(mdlm, WORDED[1], *more) for more in ([], WORDED[:1]))
    states = [made.collect(made.clock())[0][0].rollout.transitions[0].states for made in (plain, worded)]
    same = [torch.equal(*pair) for pair in zip(*states, strict=True)]
    assert same[0] and not same[1]


@pytest.mark.parametrize("row", [{}, {"wordings": "one"}, {"wordings": []}, {"wordings": ["1", " "]}])
def test_a_row_without_a_list_of_texts_is_refused(row):
    with pytest.raises(UserError, match=r"the prompt row 4 has no list of texts under 'wordings', which rollout\.wordings reads"):
        Prompt(3, "1+1", row).in_wordings("wordings")


def test_a_wording_that_is_too_long_is_refused_before_training(mdlm):
    trainer = text_trainer(mdlm, *WORDED)
    with pytest.raises(UserError, match=r"more ids than policy\.prompt_length = 5"):
        require_read(trainer.config, [Prompt(0, "1+1", {"wordings": ["1+1+1+1"]})])


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["rollout.plan.shared_start=true"], "all have one start"),
        (["rollout.context=hint"], "take out rollout.context"),
    ],
)
def test_what_asks_a_group_only_once_is_refused(overrides, complaint):
    with pytest.raises(UserError, match=complaint):
        load_config("mini-mdlm/trajectory", [*WORDED, *overrides])
