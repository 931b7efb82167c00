"""What parts of a config read from files, checked before a model is loaded or a run begins."""

from collections.abc import Sequence

from flowgrpo.config.run import Config
from flowgrpo.config.teacher import teaching
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.objective.auxiliary.answers import Answers
from flowgrpo.policies.prompt_check import check_files


def require_read(config: Config, prompts: Sequence[Prompt]) -> None:
    """Errors: UserError for a teacher that is none, or a row of the training prompts that lacks what is read of it."""
    if config.teacher:
        teaching(config)
    if column := config.rollout.wordings:
        worded = [prompt.in_wordings(column) for prompt in prompts]
        asked = [prompt.asked_of(sample) for prompt in worded for sample in range(len(prompt.wordings))]
        check_files(config.policy, {config.rollout.prompts: asked})
    for prompt in prompts:
        if config.rollout.context:
            config.rollout.context.check(prompt)
        for term in answers_of(config):
            given(prompt, term)


def answers_of(config: Config) -> list[Answers]:
    """The terms that are of given answers."""
    return [term for term in config.objective.auxiliary if isinstance(term, Answers)]


def given(prompt: Prompt, term: Answers) -> str:
    """The answer in a prompt's row. Errors: UserError where there is none."""
    text = prompt.metadata.get(term.column)
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"the prompt row {prompt.index + 1} has no text under '{term.column}', which objective.auxiliary '{term.type}' reads"
        )
    return text
