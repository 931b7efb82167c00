"""From prompts to the ids of a canvas. P prompt positions."""

from collections.abc import Sequence
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked._adapter import load_tokenizer, padding
from flowgrpo.sampling.canvas import Vocabulary

MOST_KNOWN = 100_000
"""Prompts whose ids are kept; with `rollout.context` every update has new ones."""


class Tokens:
    """Turns prompts into ids, once each; errors name the row."""

    def __init__(self, config: MaskedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer, self.pad = config, tokenizer, padding(tokenizer)
        self.known: dict[str, list[int]] = {}
        if config.chat and tokenizer.chat_template is None:
            raise UserError(f"the tokenizer of '{config.model}' has no chat template; set policy.chat to false")

    def padded(self, prompt: Prompt) -> list[int]:
        """[P], with padding on the left."""
        ids, room = self.ids(prompt), self.config.prompt_length
        assert self.pad is not None
        if len(ids) > room:
            raise UserError(
                f"the prompt in row {prompt.index + 1} has {len(ids)} ids, and policy.prompt_length is {room}; raise it or "
                "shorten the prompt"
            )
        return [self.pad] * (room - len(ids)) + ids

    def answer(self, prompt: Prompt, text: str, vocabulary: Vocabulary) -> list[int]:
        """[L]: the ids of an answer and, where there is room, the end of text up to the last of them."""
        ids, room = self.tokenizer(text, add_special_tokens=False)["input_ids"], self.config.length
        whose = f"the answer of the prompt in row {prompt.index + 1}"
        if len(ids) > room:
            raise UserError(f"{whose} has {len(ids)} ids, and policy.length is {room}; raise it or shorten the answer")
        if never := {vocabulary.mask, *vocabulary.forbidden} & {*ids}:
            raise UserError(f"{whose} holds id {min(never)}, which the model must never emit")
        if len(ids) < room and vocabulary.eos is None:
            raise UserError(f"{whose} has {len(ids)} ids of {room}, and the tokenizer has no end of text to put behind them")
        return ids + [vocabulary.eos or 0] * (room - len(ids))

    def begun(self, prompt: Prompt, vocabulary: Vocabulary) -> list[int]:
        """The ids that the prompt's answer begins with: up to one that can't stand within an answer, and never a whole answer."""
        if not prompt.begun:
            return []
        never = {vocabulary.mask, vocabulary.eos, *vocabulary.forbidden}
        ids = self.tokenizer(prompt.begun, add_special_tokens=False)["input_ids"]
        return [*takewhile(lambda i: i not in never, ids)][: self.config.length - 1]

    def ids(self, prompt: Prompt) -> list[int]:
        if prompt.text not in self.known:
            if len(self.known) >= MOST_KNOWN:
                self.known.clear()
            self.known[prompt.text] = self._tokenized(prompt)
        return self.known[prompt.text]

    def _tokenized(self, prompt: Prompt) -> list[int]:
        try:
            ids = self._encoded(prompt.text)
        except Exception as error:  # of no special class, where a tokenizer has no token for what it does not know
            raise UserError(f"the prompt in row {prompt.index + 1} can't be tokenized ({error})") from error
        if not ids:
            raise UserError(f"the prompt in row {prompt.index + 1} has no ids that the tokenizer knows")
        if ids[0] == self.pad:
            raise UserError(f"the prompt in row {prompt.index + 1} begins with the padding token")
        return ids

    def _encoded(self, text: str) -> list[int]:
        if not self.config.chat:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        messages = [{"role": "user", "content": text}]
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def check(config: MaskedConfig, prompts: Sequence[Prompt]) -> list[str] | None:
    """As `PolicyConfig.check`: a prompt that does not fit is refused, so none is cut."""
    try:
        tokens = Tokens(config, load_tokenizer(config, offline=True))
    except UserError:
        if locate(config.model).exists():
            raise
        return None
    lengths = {prompt.index: len(tokens.ids(prompt)) for prompt in prompts}
    if longer := {row: length for row, length in lengths.items() if length > config.prompt_length}:
        row = max(longer, key=longer.__getitem__)
        raise UserError(
            f"{len(longer)} of {len(prompts)} prompts have more ids than policy.prompt_length = {config.prompt_length}, most "
            f"of all row {row + 1} with {longer[row]}; raise it or shorten them"
        )
    return []
