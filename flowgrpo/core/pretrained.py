"""Whether what a library loads is all there: weights, and the words of a tokenizer."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
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
    """Without its files transformers makes a tokenizer that knows no words: all prompts are the same to it. Errors: UserError.

    One that was made in memory, or fetched by the name of its repository, has no folder to look into.
    """
    if not (tokenizer.name_or_path and Path(tokenizer.name_or_path).is_dir()):
        return
    folder, names = Path(tokenizer.name_or_path), {*tokenizer.vocab_files_names.values()}
    parts = sorted(names - {"tokenizer.json"}) or ["tokenizer.json"]
    kinds = (["tokenizer.json"], parts, [file.name for file in folder.glob("*.model")])
    if names and not any(kind and all((folder / part).is_file() for part in kind) for kind in kinds):
        raise UserError(f"{folder} lacks the words of its tokenizer ({' and '.join(parts)}); get its files anew")


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
