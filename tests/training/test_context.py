"""Groups that answer what a context makes of a few tries."""

import numpy as np
import pytest

import flowgrpo as fg
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.data.context import Context, Replies
from flowgrpo.data.context.draft import Draft
from flowgrpo.data.context.hint import Hint
from flowgrpo.data.context.own_hint import OwnHint
from flowgrpo.data.context.prefix import Prefix
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


class Chosen:
    """Chance that takes what it is told to, and says how likely that was."""

    def __init__(self, number):
        self.number = number

    def choice(self, count, p):
        self.p = p.tolist()
        return self.number


def test_a_beginning_is_a_part_of_a_good_try_by_the_decay_of_its_number():
    """Parts "", "a;" and "a;b;" of the first of the best, with 1, 1/2 and 1/4; the whole answer is none."""
    tries = [Replies("1+1", ["bad", "a;b;c", "d;"], np.array([0.1, 0.9 - 1e-9, 0.9 - 1e-9]))]
    for number, part in enumerate(["", "a;", "a;b;"]):
        chance = Chosen(number)
        assert Prefix(decay=0.5, cut=";").beginning(PROMPT, tries, chance) == part
        assert chance.p == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert Prefix(cut=";", good=0.95).beginning(PROMPT, tries, Chosen(1)) == "", "none was good"
    Prefix(cut=".").beginning(PROMPT, tries, letters := Chosen(0))
    assert len(letters.p) == 5
    asked = Prefix(cut=";").asked(PROMPT, tries, Chosen(2))
    assert asked.begun == "a;b;" and asked.text == PROMPT.text


def test_a_hint_of_its_own_is_asked_for_until_a_try_is_right():
    prompt = Prompt(0, "1+1", {"answer": "{prompt}"})
    context = OwnHint(requests=("{prompt}|{answer}|a", "{prompt}|{answer}|b"), between="#", tries=2)
    wrong, right, none = np.array([0.0, 0.5]), np.array([0.0, 1.0 - 1e-9]), np.empty(0)
    assert [(turn.samples, turn.judged) for turn in context.turns] == [(2, True), (1, False), (2, True), (1, False), (2, True)]
    talk = []
    for asked, answers, rewards in [
        ("1+1", ["a", "b"], wrong),
        ("1+1|{prompt}|a", ["think"], none),
        ("1+1#think", ["a", "b"], wrong),
        ("1+1|{prompt}|b", ["two"], none),
    ]:
        assert context.further(prompt, talk) == asked
        talk.append(Replies(asked, answers, rewards))
    assert context.further(prompt, talk) == "1+1#two"
    for end in (right, wrong):
        over = [*talk, Replies("1+1#two", ["a", "b"], end)]
        assert context.further(prompt, over) is None and context.final(prompt, over) == "1+1#two"
    at_once = [Replies("1+1", ["a", "b"], right)]
    assert context.further(prompt, at_once) is None and context.final(prompt, at_once) == "1+1"


class Silent(Context):
    def text(self, prompt, answers, rewards):
        return None


def test_a_context_of_a_user_that_gives_no_text_is_named():
    with pytest.raises(UserError, match=r"must return a text for the prompt in row 4"):
        Silent().asked(PROMPT, [Replies("1+1", ["a"], np.array([0.0]))], np.random.default_rng(0))


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


OWN = ["policy.prompt_length=12", "rollout.context.requests=['{prompt}{answer}']", "rollout.context.between=''"]


@pytest.mark.parametrize("right", [False, True])
def test_only_prompts_without_a_right_try_pay_for_a_hint(mdlm, right):
    def reward(samples):
        return [float(right and prompt == "7:") for prompt in samples.prompts]

    trainer = text_trainer(mdlm, *OWN, rule="sage_own", reward=reward)
    metrics, blocks, _ = trainer.update()
    texts = {prompt.index: prompt.text for block in blocks for prompt in block.rollout.prompts}
    assert texts[0].startswith("1+2=:") and texts[1].startswith("7:") and (texts[1] == "7:") == right
    bill, (_, hint, again) = bill_of(trainer.config)["network_evaluations_per_update"], trainer.config.rollout.turns(2)
    assert metrics["network_evaluations"] == bill - (hint.network_evaluations + again.network_evaluations) * right


BEGUN = ["rollout.context={type: prefix, good: 0.0, cut: .}", "policy.steps=4"]
WHOLE = ["rollout.plan={type: outcomes, kernel: random_order}", "policy.likelihood=one_step"]


@pytest.mark.parametrize("more", [[], WHOLE, ["rollout.plan.kernel=rcr"]], ids=["steps", "outcomes", "remasking"])
def test_the_answers_of_a_group_begin_with_a_part_of_its_best_try_and_the_rest_is_trained(mdlm, more):
    trainer = text_trainer(mdlm, *BEGUN, *more, rule="rest_grpo_prefixes")
    begun = 0
    for _ in range(3):
        metrics, blocks, _ = trainer.update()
        assert metrics["network_evaluations"] == bill_of(trainer.config)["network_evaluations_per_update"]
        assert metrics["ratio/first_log_abs_max"] <= 1e-4
        for block in blocks:
            given = [len(trainer.policy.tokens.begun(p, trainer.policy.vocabulary)) for p in block.rollout.prompts]
            texts = zip(block.rollout.samples.texts, np.repeat(block.rollout.prompts, 8), strict=True)
            assert all(text.startswith(prompt.begun) for text, prompt in texts)
            for t in block.rollout.transitions:
                assert not any(row[: given[g]].any() for (g, _), row in zip(t.places, t.decisions, strict=True))
            begun += sum(map(bool, given))
    assert begun


def test_a_beginning_leaves_an_id_to_set_and_ends_before_what_no_answer_holds(mdlm):
    policy = text_trainer(mdlm).policy
    long = Prompt(0, "7:", begun="77777777")
    assert len(policy.tokens.begun(long, policy.vocabulary)) == policy.config.length - 1
    ended = Prompt(0, "7:", begun="7" + policy.tokenizer.eos_token + "7")
    assert len(policy.tokens.begun(ended, policy.vocabulary)) == 1
    plain, state = policy.start([Prompt(0, "7:")], []), policy.start([ended], [])
    assert (plain != state).sum() == 2, "an id, and that it is sure"


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
        ("mini-mdlm trajectory", "rollout.context={type: prefix, cut: (}", "is no regular expression"),
        ("mini-mdlm trajectory sage_own", "rollout.context.requests=['{prompt}']", "must hold {prompt} and {answer}"),
        ("mini-mdlm trajectory rest_grpo_prefixes", "policy.window=true", "and this policy can't be given texts"),
        ("mini flow_grpo", "rollout.context=draft", "puts answers into prompts, and this policy makes no texts"),
        ("mini-mdlm trajectory igrpo", "rollout.context.template='{prompt}'", "must hold {prompt} and {draft}"),
    ],
)
def test_what_does_not_fit_is_said_when_the_config_is_read(words, override, refusal):
    with pytest.raises(UserError, match=refusal):
        load_config(words, [override])
