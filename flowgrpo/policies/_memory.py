"""Estimates of memory that all policies share."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

from safetensors import safe_open

from flowgrpo.policies import Activations, Work

STORED = {"fp32": 4, "bf16": 2, "fp16": 2}
TRAINED = 4
"""Bytes of a trained weight: float32."""
OF_BF16 = {
    "bf16": Activations(lora=1.0, whole=1.0, passing=1.0, checkpointed=1.0),
    "fp16": Activations(lora=1.3, whole=1.0, passing=1.0, checkpointed=1.0),
    "fp32": Activations(lora=1.9, whole=1.5, passing=2.0, checkpointed=2.0),
}
"""What a network holds in other types, of what it holds in bf16. Adapters compute in bf16 without autocast, whose casts fp16 has
beside them; where all weights are trained, both have. Autocast computes norms and sums in float32 anyway. Of five models 1.2 to
1.4 and 1.5 to 2.0 for adapters."""


def count_parameters(folder: Path) -> int:
    """Of all safetensors files in a folder, from their headers."""
    return sum(prod(shape) for _, shape in shapes(folder))


def shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of the tensors in the safetensors files of a folder."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            for key in weights.keys():  # noqa: SIM118
                yield key, weights.get_slice(key).get_shape()


def lora_parameters(folder: Path, targets: tuple[str, ...], rank: int) -> int:
    """Of low-rank adapters on the layers in a folder whose names end in one of `targets`."""
    weights = ((key.removesuffix(".weight"), shape) for key, shape in shapes(folder) if key.endswith(".weight"))
    chosen = [shape for layer, shape in weights if any(layer == t or layer.endswith(f".{t}") for t in targets)]
    return sum(rank * (shape[0] + prod(shape[1:])) for shape in chosen)


def share(weights: int, work: Work, apart: int = 0) -> int:
    """What a process holds of `weights`, of which so many are outside of blocks."""
    return apart + (weights - apart) // work.cards


def gathered(weights: int, layers: int, stored: int, whole: bool, work: Work) -> dict[str, int]:
    """Bytes of the one block that a process has whole, with its gradient where all weights are trained."""
    return {"a block": (2 * TRAINED if whole else stored) * weights // layers} if work.cards > 1 and layers else {}


def resting(trained: int, work: Work) -> dict[str, int]:
    """What is kept from update to update for `trained` weights: AdamW has two moments of each, those of 8 bits with a scale of 4
    bytes for 256."""
    moment = 4.0 if work.moment_bits == 32 else 1.0 + 4 / 256
    return {
        "trained weights": TRAINED * trained,
        "optimizer": int(2 * moment * trained),
        **dict.fromkeys(work.averages, TRAINED * trained),
    }


def gradients(trained: int, work: Work) -> int:
    """Of `trained` weights, beside the sums of those before them in float64."""
    return (TRAINED + (8 if work.sums else 0)) * trained


def passing(dtype: str, size: int, activations: Activations) -> int:
    """Activations without a backward pass; `size` is rows x tokens x width."""
    return int(_held("passing", dtype, activations) * size)


def training(dtype: str, size: int, layers: int, whole: bool, every: int, activations: Activations) -> int:
    """Activations for a backward pass through `layers` blocks. With checkpointing every n-th keeps its input only, and one at a
    time is computed again (arXiv 1604.06174); 0: none does."""
    block = _held("whole" if whole else "lora", dtype, activations)
    if not every:
        return int(size * layers * block)
    again = -(-layers // every)
    return int(size * (again * _held("checkpointed", dtype, activations) + (layers - again + 1) * block))


def offloaded(dtype: str, size: int, whole: bool, again: bool, activations: Activations) -> int:
    """Activations on the device of an update whose others wait in main memory: a block that is computed `again`, or as many as
    pass where none is."""
    block = _held("whole" if whole else "lora", dtype, activations)
    return int(block * size) if again else passing(dtype, size, activations)


def _held(what: str, dtype: str, activations: Activations) -> float:
    counted, wanted, known = (each.model_dump()[what] for each in (activations, OF_BF16[dtype], OF_BF16[activations.dtype]))
    return float(counted * wanted / known)
