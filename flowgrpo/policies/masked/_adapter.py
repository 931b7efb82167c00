"""Any model that maps ids to logits, asked so that row i of its logits is about position i, and that no row ever sees padding.

Shapes: B rows, P prompt positions (left-padded), L positions to fill, N = P + L, V ids.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from flowgrpo.errors import UserError
from flowgrpo.paths import locate
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked import transformer as _registers_our_own  # noqa: F401
from flowgrpo.sampling.canvas import Vocabulary

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(config: MaskedConfig, trained: Path | None = None) -> Any:
    """The model, or the fully trained one of a checkpoint; safetensors only."""
    path = locate(config.model) if trained is None else trained
    try:
        return AutoModel.from_pretrained(
            str(path) if path.exists() else config.model,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=DTYPES[config.dtype],
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        hint = "" if config.trust_remote_code else "; a model with code of its own needs policy.trust_remote_code: true"
        raise UserError(f"model '{path}' can't be loaded: {str(error).splitlines()[0]}{hint}") from error


def load_tokenizer(config: MaskedConfig) -> PreTrainedTokenizerBase:
    path = locate(config.model)
    try:
        return AutoTokenizer.from_pretrained(
            str(path) if path.exists() else config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer of '{path}' can't be loaded: {str(error).splitlines()[0]}") from error


def vocabulary_of(config: MaskedConfig, tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """The ids that mean something; `size` is V, which may be more than the tokenizer knows."""
    mask = tokenizer.mask_token_id if config.mask_id is None else config.mask_id
    if mask is None:
        raise UserError(
            f"the tokenizer of '{config.model}' has no mask token; set policy.mask_id to the id that the model was trained with"
        )
    if mask >= size:
        raise UserError(f"policy.mask_id = {mask}, but the model has only {size} ids")
    eos = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    if pad is None or pad == mask:
        raise UserError(f"the tokenizer of '{config.model}' has no padding token of its own (padding {pad}, mask {mask})")
    if unknown := [i for i in config.forbidden if i >= size]:
        raise UserError(f"policy.forbidden holds {unknown}, but the model has only {size} ids")
    forbidden = ({*range(len(tokenizer), size), pad} - {eos, mask}) | set(config.forbidden)
    return Vocabulary(size, mask, pad, eos, tuple(sorted(forbidden)))


class Adapter:
    """A loaded model with its vocabulary."""

    def __init__(self, config: MaskedConfig, model: Any, vocabulary: Vocabulary) -> None:
        self.config, self.model, self.vocabulary = config, model, vocabulary
        self.forbidden = torch.zeros(vocabulary.size, dtype=torch.bool)
        self.forbidden[[vocabulary.mask, *vocabulary.forbidden]] = True

    def logits(self, ids: Tensor) -> Tensor:
        """[B, N] -> [B, L, V] float32, guided, -inf for what must not be emitted. Rows with no mask left are not evaluated: 0."""
        scale = self.config.guidance_scale
        if scale == 1.0:
            return self._allowed(self._open_rows(ids, self._rows))
        both = self._open_rows(ids, self._both)
        return self._allowed(both[:, 1] + scale * (both[:, 0] - both[:, 1]))

    def halves(self, ids: Tensor) -> Tensor:
        """[B, N] -> [B, 2, L, V]: the same with the prompt and without it, to be guided later; -inf in the first half only."""
        both = self._open_rows(ids, self._both)
        return torch.stack([self._allowed(both[:, 0]), both[:, 1]], dim=1)

    def _allowed(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(self.forbidden.to(logits.device), -torch.inf)

    def _open_rows(self, ids: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """What `evaluate` gives for the rows that hold a mask, each without its padding; 0 for the others.

        (One row is always evaluated, so that there is a graph to go back through.)
        """
        length = self.config.length
        pads = self._pads(ids[:, :-length])
        open_ = (ids[:, -length:] == self.vocabulary.mask).any(1)
        open_[0] |= ~open_.any()
        found = []
        for count in pads[open_].unique().tolist():
            rows = torch.nonzero(open_ & (pads == count)).flatten()
            found.append((rows, evaluate(ids[rows, count:])))
        out = torch.zeros(len(ids), *found[0][1].shape[1:], device=ids.device)
        for rows, values in found:
            out = out.index_put((rows,), values)
        return out

    def _pads(self, prompt: Tensor) -> Tensor:
        """[B]: how much padding leads."""
        return (prompt == self.vocabulary.pad).long().cumprod(1).sum(1)

    def _both(self, ids: Tensor) -> Tensor:
        """[B, 2, L, V]"""
        blank = ids.clone()
        blank[:, : -self.config.length] = self.vocabulary.mask
        return torch.stack([self._rows(ids), self._rows(blank)], dim=1)

    def _rows(self, ids: Tensor) -> Tensor:
        logits = self.model(ids).logits
        last = logits.shape[1] - (1 if self.config.shift else 0)
        return logits[:, last - self.config.length : last].float()
