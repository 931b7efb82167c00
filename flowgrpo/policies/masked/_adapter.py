"""Any model that maps ids to logits, asked so that row i of its logits is about position i, and that no row ever sees padding.

Shapes: B rows, P prompt positions (left-padded), L positions to fill, N = P + L, V ids.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from flowgrpo.core.errors import UserError
from flowgrpo.core.held import OBJECT, held
from flowgrpo.core.paths import locate
from flowgrpo.core.pretrained import require_all, require_vocabulary, whole_models
from flowgrpo.policies._dtypes import DTYPES
from flowgrpo.policies._finite import weights
from flowgrpo.policies._fit import in_a_sentence, only_errors
from flowgrpo.policies._hub import require_reachable
from flowgrpo.policies._pooled import LastBlock, stream
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.policies.masked import transformer as _registers_our_own  # noqa: F401
from flowgrpo.sampling.canvas import Vocabulary

UNIFORM = {"diffusion_gemma", "DiffusionGemmaPipeline"}
"""Models and pipelines whose corruption is uniform over the ids."""


def load_model(config: MaskedConfig, trained: Path | None = None) -> Any:
    """The model, or the fully trained one of a checkpoint; safetensors only. Or one that is loaded already."""
    model = held(config.model)[0] if config.model.startswith(OBJECT) and trained is None else _loaded(config, trained)
    weights({"network": model}, config.model)
    return model


def _loaded(config: MaskedConfig, trained: Path | None) -> Any:
    source = _source(config, "model") if trained is None else str(trained)
    remote = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with in_a_sentence(f"model '{source}'"):
        try:
            _, loader = _class(source, config)
            options = {"dtype": DTYPES[config.dtype], "use_safetensors": True, **remote}
            if trained is None:
                with whole_models():
                    return loader.from_pretrained(source, **options)
            with only_errors():
                model, info = loader.from_pretrained(source, output_loading_info=True, **options)
            require_all(trained, info["missing_keys"], info["unexpected_keys"])
            return model
        except (OSError, ValueError, SafetensorError) as error:
            hint = "" if config.trust_remote_code else "; a model with code of its own needs policy.trust_remote_code: true"
            raise UserError(f"model '{source}' can't be loaded: {str(error).splitlines()[0]}{hint}") from error


def unloaded(config: MaskedConfig) -> Any:
    """The model without weights, on the device that is torch's default."""
    source = _source(config, "model")
    geometry, loader = _class(source, config)
    return loader.from_config(geometry, dtype=DTYPES[config.dtype], trust_remote_code=config.trust_remote_code)


def _class(source: str, config: MaskedConfig) -> tuple[Any, Any]:
    """A model's config, and the class of transformers that finds its own."""
    geometry = AutoConfig.from_pretrained(source, revision=config.revision, trust_remote_code=config.trust_remote_code)
    if geometry.model_type in UNIFORM:
        raise UserError(_uniform(geometry.model_type))
    with_head = "AutoModelForCausalLM" in geometry.to_dict().get("auto_map", {})
    return geometry, AutoModelForCausalLM if with_head else AutoModel


def load_tokenizer(config: MaskedConfig, offline: bool = False) -> PreTrainedTokenizerBase:
    tokenizer = held(config.model)[1] if config.model.startswith(OBJECT) else _loaded_tokenizer(config, offline)
    require_vocabulary(tokenizer)
    return tokenizer


def _loaded_tokenizer(config: MaskedConfig, offline: bool) -> PreTrainedTokenizerBase:
    source = _source(config, "tokenizer")
    if not offline:
        require_reachable(source, config.revision)
    remote = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with in_a_sentence(f"the tokenizer of '{source}'"):
        return AutoTokenizer.from_pretrained(source, local_files_only=offline, **remote)


def _source(config: MaskedConfig, component: str) -> str:
    """Folder or hub id where transformers finds a component; those of a pipeline have folders of their own."""
    path = locate(config.model)
    index = path / "model_index.json"
    if not index.is_file():
        return str(path) if path.exists() else config.model
    name = json.loads(index.read_text())["_class_name"]
    if name in UNIFORM:
        raise UserError(_uniform(name))
    if name != "LLaDA2Pipeline":
        raise UserError(f"model '{config.model}' is a {name}; policy 'masked' takes models of transformers and LLaDA2Pipeline")
    if not config.window:
        raise UserError("LLaDA2Pipeline shows its model nothing behind the block it works on: set policy.window to true")
    if not (path / component).is_dir():
        raise UserError(f"{path} has no folder '{component}'; write it with pipe.{component}.save_pretrained(...)")
    return str(path / component)


def _uniform(name: str) -> str:
    return (
        f"{name} has no mask: its ids are corrupted into other ids and may change at every step, so there is no unmasking step "
        "to take the log-prob of; policy 'masked' can't train it"
    )


def padding(tokenizer: PreTrainedTokenizerBase) -> int | None:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id


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
    pad = padding(tokenizer)
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
        self.last: LastBlock | None = None

    def logits(self, ids: Tensor) -> Tensor:
        """[B, N] -> [B, L, V] float32, guided, -inf for what must not be emitted. Rows with no mask left are not evaluated: 0."""
        return self._guided(self._evaluated(ids))

    def watched(self, ids: Tensor, last: LastBlock) -> tuple[Tensor, Tensor]:
        """The logits, and what the last block computed [B, L, W] at their positions; 0 where nothing was evaluated."""
        self.last = last
        try:
            with last():
                both = self._evaluated(ids)
        finally:
            self.last = None
        size = self.vocabulary.size
        return self._guided(both[..., :size]), both[..., size:].movedim(-3, -2).flatten(-2)

    def _evaluated(self, ids: Tensor) -> Tensor:
        """[B, 1, L, V], or [B, 2, L, V] with the prompt and without; behind the V logits what the last block computed, where that
        is watched."""
        return (
            self._open_rows(ids, self._both) if self.config.guidance_scale != 1.0 else self._open_rows(ids, self._rows)[:, None]
        )

    def _guided(self, both: Tensor) -> Tensor:
        scale = self.config.guidance_scale
        logits = both[:, 0] if scale == 1.0 else both[:, 1] + scale * (both[:, 0] - both[:, 1])
        return logits.masked_fill(self.forbidden.to(logits.device), -torch.inf)

    def _open_rows(self, ids: Tensor, evaluate: Callable[[Tensor, int], Tensor]) -> Tensor:
        """What `evaluate` gives for the rows that hold a mask, each without its padding and what it must not see; 0 elsewhere.

        (One row is always evaluated, so that there is a graph to go back through.)
        """
        pads, hidden = self._pads(ids[:, : -self.config.length]), self._hidden(ids[:, -self.config.length :])
        open_ = (ids[:, -self.config.length :] == self.vocabulary.mask).any(1)
        open_[0] |= ~open_.any()
        out: Tensor | None = None
        for first, behind in torch.stack([pads, hidden], 1)[open_].unique(dim=0).tolist():
            rows = torch.nonzero(open_ & (pads == first) & (hidden == behind)).flatten()
            logits = evaluate(ids[rows, first : ids.shape[1] - behind], self.config.length - behind)
            logits = torch.cat([logits, logits.new_zeros(*logits.shape[:-2], behind, logits.shape[-1])], dim=-2)
            out = logits.new_zeros(len(ids), *logits.shape[1:]) if out is None else out
            out = out.index_put((rows,), logits)
        assert out is not None
        return out

    def _pads(self, prompt: Tensor) -> Tensor:
        """[B]: how much padding leads."""
        return (prompt == self.vocabulary.pad).long().cumprod(1).sum(1)

    def _hidden(self, answer: Tensor) -> Tensor:
        """[B]: how many positions [B, L] are behind the block of the first mask, where that matters."""
        if not self.config.window:
            return torch.zeros(len(answer), dtype=torch.long, device=answer.device)
        size = self.config.sampler.block_length or self.config.length
        before = (answer != self.vocabulary.mask).long().cumprod(1).sum(1).clamp(max=self.config.length - 1)
        return self.config.length - (before // size + 1) * size

    def _both(self, ids: Tensor, count: int) -> Tensor:
        """[B, 2, count, V]: with the prompt, and with masks in its place."""
        blank = ids.clone()
        blank[:, :-count] = self.vocabulary.mask
        return torch.stack([self._rows(ids, count), self._rows(blank, count)], dim=1)

    def _rows(self, ids: Tensor, count: int) -> Tensor:
        """[B, count, V] for the last `count` positions."""
        seen = {}
        if self.config.window:
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            seen = {"attention_mask": torch.ones_like(ids), "position_ids": positions}
        logits = self.model(ids, **seen).logits
        last = logits.shape[1] - (1 if self.config.shift else 0)
        logits = logits[:, last - count : last].float()
        if self.last is None:
            return logits
        return torch.cat([logits, stream(self.last.taken())[:, -count:].float()], dim=-1)
