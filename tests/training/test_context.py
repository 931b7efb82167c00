"""Groups that answer what a context makes of a few tries."""

import numpy as np
import pytest

import flowgrpo as fg
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.context import Context
from flowgrpo.data.context.draft import Draft
from flowgrpo.data.context.hint import Hint
from flowgrpo.data.prompts import Prompt
from trainers import sevens, text_trainer

ROOM = "policy.prompt_length=12"
BEHIND = "rollout.context.template='{draft},{prompt}'"
PROMPT = Prompt(3, "1+1", {"hint": "it is even"})


def test_a_draft_is_the_first_of_the_best_tries():
    draft = Draft(template="{prompt}|{draft}")
    assert draft.text(PROMPT, ["a", "{prompt}", "c"], np.array([0.0, 1.0, 1.0])) == "1+1|{prompt}", "an answer is no template"
    assert draft.text(PROMPT, ["a", "b", "c"], np.array([0.5, 1.0, 1.0])) == "1+1|b"


def test_a_hint_is_given_only_where_no_try_was_right():
    hint = Hint(between=" # ")
    assert hint.text(PROMPT, ["a", "b"], np.array([0.1, 1.0 - 1e-9])) == "1+1"
    assert hint.text(PROMPT, ["a", "b"], np.array([0.1, 0.9])) == "1+1 # it is even"
    assert Hint(right=0.5).text(PROMPT, ["a", "b"], np.array([0.1, 0.9])) == "1+1"


class Silent(Context):
    def text(self, prompt, answers, rewards):
        return None


def test_a_context_of_a_user_that_gives_no_text_is_named():
    with pytest.raises(UserError, match=r"must return a text for the prompt in row 4"):
        Silent().asked(PROMPT, ["a"], np.array([0.0]))


def test_a_group_answers_its_prompt_with_its_best_draft_and_only_that_is_trained(mdlm):
    trainer = text_trainer(mdlm, ROOM, BEHIND, rule="igrpo")
    metrics, blocks, scored = trainer.update()
    for block in blocks:
        for prompt in block.rollout.prompts:
            plain = trainer.order.prompts[prompt.index]
            assert prompt.text.endswith(f",{plain.text}") and prompt.metadata == plain.metadata
        assert {g for t in block.rollout.transitions for g, _ in t.places} <= {*range(len(block.rollout.prompts))}
    assert metrics["network_evaluations"] == bill_of(trainer.config)["network_evaluations_per_update"]
    assert metrics["ratio/first_log_abs_max"] == 0.0 and scored.in_loss.any()


def test_tries_are_not_scored_as_wholes_where_groups_are(mdlm):
    whole = ["rollout.plan={type: outcomes, kernel: random_order}", "policy.likelihood=one_step"]
    trainer = text_trainer(mdlm, ROOM, BEHIND, *whole, rule="igrpo")
    metrics, _, scored = trainer.update()
    assert metrics["network_evaluations"] == bill_of(trainer.config)["network_evaluations_per_update"] and scored.in_loss.any()


def test_the_drafts_of_an_update_are_its_own_and_come_again(mdlm):
    trainer = text_trainer(mdlm, ROOM, BEHIND, rule="igrpo")
    prompts = trainer.order.prompts
    first, second, again = (trainer.tries(prompts, update) for update in (0, 1, 0))
    assert first == again and first != second


def test_the_best_of_the_tries_is_taken(mdlm, monkeypatch):
    """With as many tries as this one of them has a 7; each prompt has its own."""
    trainer = text_trainer(mdlm, ROOM, BEHIND, "rollout.context.tries=24", rule="igrpo")
    seen = {}
    monkeypatch.setattr(
        Draft, "text", lambda self, prompt, answers, rewards: seen.update({prompt.index: (answers, rewards)}) or "7"
    )
    asked = trainer.tries(trainer.order.prompts, 0)
    assert [prompt.text for prompt in asked] == ["7", "7"] and {*seen} == {0, 1}
    for answers, rewards in seen.values():
        texts = type("Texts", (), {"texts": answers})
        assert len(answers) == 24 and rewards.tolist() == sevens(texts)
    assert seen[0][0] != seen[1][0]


def test_a_row_without_a_hint_is_named_before_a_run_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="the prompt row 1 has no text under 'hint', which context 'hint' reads"):
        fg.train(fg.recipe("mini-mdlm trajectory sage", updates=1))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("words", "override", "refusal"),
    [
        ("mini flow_grpo", "rollout.context=draft", "puts answers into prompts, and this policy makes no texts"),
        ("mini-mdlm trajectory igrpo", "rollout.context.template='{prompt}'", "must hold {prompt} and {draft}"),
    ],
)
def test_what_does_not_fit_is_said_when_the_config_is_read(words, override, refusal):
    with pytest.raises(UserError, match=refusal):
        load_config(words, [override])
