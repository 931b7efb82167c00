"""Fewer prompts, samples and steps: a recipe's tree in smaller and smaller editions.

G samples of a prompt, S steps.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

from flowgrpo.config.tree import merge
from flowgrpo.core.section import class_of
from flowgrpo.policies import PolicyConfig
from flowgrpo.policies.masked import MaskedConfig

Tree = dict[str, Any]
GROUP, STEPS, PROMPTS, IDS, BATCH = 4, 4, 2, 16, 8
"""The least of each; and the most states at once."""
EPOCHS = 2
HELD_OUT = 4


def editions(tree: Tree) -> Iterator[Tree]:
    """The smallest first, the last with the recipe's own S and G. What is not a size is the recipe's in all of them."""
    stepped = [*_fewer_steps(_shortened(tree))]
    group = tree["rollout"]["group_size"]
    sizes = product(range(len(stepped)), range(min(GROUP, group), group + 1))
    for number, size in sorted(sizes, key=lambda pair: (pair[0] + STEPS) * pair[1]):
        yield merge(stepped[number], {"rollout": {"group_size": size}})


def _shortened(tree: Tree) -> Tree:
    """Two updates on few prompts, with a checkpoint and an evaluation."""
    optimizer, rollout = tree["optimizer"], tree["rollout"]
    turns = min(PROMPTS, optimizer.get("steps_per_update", 1))
    changes: Tree = {
        "updates": 2,
        "tracker": "none",
        "rollout": {"prompts_per_update": PROMPTS, "micro_batch": min(BATCH, rollout.get("micro_batch", BATCH))},
        "optimizer": {"epochs": min(EPOCHS, optimizer.get("epochs", 1)), "steps_per_update": turns},
        "checkpoints": {"every": 2},
    }
    if tree.get("evaluation"):
        every = min(1, tree["evaluation"].get("every", 0))
        changes["evaluation"] = {"limit": HELD_OUT, "limit_between": 2, "pictures": HELD_OUT, "every": every}
    if fleet := tree.get("fleet"):
        one = {label: {"actors": 1, "gpus": 0.0} for label in fleet.get("rewards", ())}
        changes["fleet"] = {"rollout": min(1, fleet.get("rollout", 0)), "gpus": 0.0, "rewards": one}
    if tree.get("calibration") is not None:
        changes["calibration"] = {"rounds": 1, "prompts": 2}
    return merge(tree, changes)


def _fewer_steps(tree: Tree) -> Iterator[Tree]:
    """Of a language model the ids of an answer, of a block, and the steps shrink by one factor."""
    policy = tree["policy"]
    if not issubclass(class_of(policy["type"], PolicyConfig), MaskedConfig):
        for steps in range(min(_least_steps(tree["rollout"]), policy["steps"]), policy["steps"] + 1):
            yield _with_steps(tree, steps)
        return
    for factor in (16, 8, 4, 2, 1):
        if factor == 1 or (policy["length"] >= IDS * factor and all(size % factor == 0 for size in _sizes(tree))):
            smaller = _divided(tree, factor)
            yield _with_steps(smaller, policy["steps"] // factor)


def _least_steps(rollout: Tree) -> int:
    """A last step that is named is not the very last, where some kernels add no noise."""
    plan = rollout.get("plan")
    last = plan.get("last") if isinstance(plan, dict) else None
    return STEPS if last is None else max(STEPS, last + 2)


SIZES = ("length", "block_length")


def _sizes(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key in SIZES and isinstance(entry, int) and entry > 1:
                yield entry
            else:
                yield from _sizes(entry)


def _divided(value: Any, factor: int) -> Any:
    if not isinstance(value, dict):
        return value
    divided = {key: _divided(entry, factor) for key, entry in value.items()}
    return divided | {key: max(1, value[key] // factor) for key in SIZES if isinstance(value.get(key), int)}


def _with_steps(tree: Tree, steps: int) -> Tree:
    evaluation = {"evaluation": {"steps": steps}} if tree.get("evaluation") else {}
    return merge(tree, {"policy": {"steps": steps}, **evaluation})
