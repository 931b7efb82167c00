"""Whether what a library loads is all there: weights, and the words of a tokenizer."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers import ModelMixin
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from flowgrpo.core.errors import UserError


def require_all(where: object, missing: Collection[str], unexpected: Collection[str] = ()) -> None:
    """What a library's loader says of the names that it did not find, and of those that it did not know. Errors: UserError."""
    for names, words in ((unexpected, "are none of the model's"), (missing, "of the model's are not in it")):
        if names:
            said = f"{where}: {len(names)} weights {words}, such as '{min(names)}'"
            raise UserError(f"{said}; it is not whole, or for another model")


def require_vocabulary(tokenizer: PreTrainedTokenizerBase) -> None:
    """Where files are missing or empty transformers makes a tokenizer that knows no words: all prompts are the same to it.

    It then has special tokens alone, or T5's sign for a space besides. Errors: UserError.
    """
    if len(tokenizer) - len(tokenizer.all_special_tokens) < 2:
        where, files = tokenizer.name_or_path or type(tokenizer).__name__, {*tokenizer.vocab_files_names.values()}
        parts = sorted(files - {"tokenizer.json"}) or ["tokenizer.json"]
        raise UserError(f"{where} lacks the words of its tokenizer ({' and '.join(parts)}); get its files anew")


@contextmanager
def whole_models() -> Iterator[None]:
    """Inside, a model that diffusers or transformers load and that lacks a weight is refused.

    By themselves they log it and go on with random numbers, and pipelines do not hand on what their parts' loaders found.
    Buffers that are missing are made by the model, and what a file has besides is not read. Errors: UserError.
    """
    with ExitStack() as both:
        for base in (ModelMixin, PreTrainedModel):
            both.enter_context(_strict(base))
        yield


@contextmanager
def _strict(base: Any) -> Iterator[None]:
    original = vars(base)["from_pretrained"]

    def from_pretrained(cls: type[nn.Module], source: Any, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        model, info = original.__func__(cls, source, *args, output_loading_info=True, **options)
        weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        require_all(source, weights.intersection(info["missing_keys"]))
        return (model, info) if output_loading_info else model

    base.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        base.from_pretrained = original
