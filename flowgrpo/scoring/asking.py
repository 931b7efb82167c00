"""How a reward is asked: with samples that it can't harm, for one number per sample. B samples."""

import copy
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from flowgrpo.core.errors import UserError, user_code
from flowgrpo.data.samples import Samples

WANTED = "a list, tuple, numpy array or tensor with one number per sample"


class Spoilt(UserError):
    """A reward has changed pixels that others see too: no score of these samples means anything."""


def ask(what: str, reward: Callable[..., Any], *asked: Samples) -> np.ndarray:
    """[B] float64: what `reward` says of the samples, or of pairs of samples; `what` it is called in errors.

    It gets lists and rows of its own; pixels are shared, since a copy of clips may not fit into memory, and compared afterwards.
    """
    before = [_mark(samples) for samples in asked]
    failure: UserError | None = None
    try:
        with user_code(what):
            scores = numbers(what, reward(*map(_lent, asked)), len(asked[0]))
    except UserError as error:
        failure = error
    if [_mark(samples) for samples in asked] != before:
        part = "latents.states" if asked[0].kind == "latents" else asked[0].kind
        raise Spoilt(f"{what} changes its samples in place, and others see them too; let it work on samples.{part}.clone()")
    if failure:
        raise failure
    return scores


def ask_with_gradient(what: str, reward: Callable[..., Any], samples: Samples) -> Tensor:
    """[B] float32: what a differentiable reward says of samples that have a gradient, with its own."""
    with user_code(what), torch.enable_grad():
        scores = reward(samples)
    if not isinstance(scores, Tensor) or scores.numel() != len(samples) or not scores.requires_grad:
        said = f"a tensor {list(scores.shape)}" if isinstance(scores, Tensor) else _a(scores)
        without = " without a gradient" if isinstance(scores, Tensor) and not scores.requires_grad else ""
        raise UserError(
            f"{what} says that it is differentiable and returned {said}{without}; it must return a tensor of one number per "
            "sample that is computed by torch from the samples, with no .tolist(), .detach() or no_grad on the way"
        )
    if not bool(torch.isfinite(scores).all()):
        raise UserError(f"{what} returned numbers that are not finite")
    return scores.flatten().float()


_copies: WeakKeyDictionary[Samples, Samples] = WeakKeyDictionary()


def _lent(samples: Samples) -> Samples:
    """A copy but for the pixels; the same one each time, so that rewards can share work on it, unless it was changed."""
    if samples not in _copies or _facts(_copies[samples]) != _facts(samples):
        outputs = None if samples.outputs is None else samples.decoded
        outputs = list(outputs) if isinstance(outputs, list) else outputs if outputs is None else outputs.detach()
        rows = [copy.deepcopy(row) for row in samples.metadata]
        _copies[samples] = replace(
            samples, prompts=list(samples.prompts), metadata=rows, group=list(samples.group), outputs=outputs
        )
    return _copies[samples]


def _facts(samples: Samples) -> list[Any]:
    """All that can be changed but the pixels."""
    outputs = samples.outputs if samples.outputs is None else samples.decoded
    form = (outputs.shape, outputs.stride(), outputs.requires_grad) if isinstance(outputs, Tensor) else outputs
    return [samples.prompts, samples.metadata, samples.group, form]


def _mark(samples: Samples) -> int:
    """A checksum of pixels and latents: a version counter does not see what is done through numpy or `.data`."""
    outputs = None if samples.outputs is None else samples.decoded
    tensors = list(outputs) if isinstance(outputs, Tensor) else []
    if samples.states:
        tensors += [column.cpu() for column in vars(samples.states).values()]
    mark = 0
    for tensor in tensors:
        mark = zlib.crc32(tensor.contiguous().numpy().data, mark)
    return mark


def numbers(what: str, answer: Any, count: int) -> np.ndarray:
    """[count] float64 of a list or tuple of numbers, or of a tensor or array [B] or [B, 1] of any real type."""
    if isinstance(answer, list | tuple):
        values = np.array([_number(what, value) for value in answer], np.float64)
    elif isinstance(answer, Tensor | np.ndarray):
        values = _array(what, answer)
    else:
        raise UserError(f"{what} returned {_a(answer)}, and must return {WANTED}")
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.ndim != 1:
        raise UserError(f"{what} returned {_a(answer)} of shape {list(values.shape)}, and must return {WANTED}")
    if len(values) != count:
        raise UserError(f"{what} returned {len(values)} scores for {count} samples")
    return values


def _array(what: str, answer: Tensor | np.ndarray) -> np.ndarray:
    real = not answer.is_complex() if isinstance(answer, Tensor) else answer.dtype.kind in "biuf"
    if not real:
        raise UserError(f"{what} returned {_a(answer)} of {answer.dtype}, and must return {WANTED}")
    return answer.detach().to("cpu", torch.float64).numpy() if isinstance(answer, Tensor) else answer.astype(np.float64)


def _number(what: str, value: Any) -> float:
    """Of a number, or of an array or tensor that holds one."""
    if isinstance(value, Tensor | np.ndarray) and value.shape in ((), (1,)):
        return float(_array(what, value).reshape(()))
    if isinstance(value, Tensor | np.ndarray | complex | np.complexfloating) or "__float__" not in dir(value):
        raise UserError(f"{what} returned a list with {_a(value)} in it, and must return {WANTED}")
    return float(value)


def _a(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
