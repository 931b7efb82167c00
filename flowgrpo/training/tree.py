"""One group of the last update as data for the report: nodes with kernels, values, advantages and pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.whole import write_json
from flowgrpo.data.media import save_sample
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.collect import UpdateBlock
from flowgrpo.training.rollout import Block
from flowgrpo.training.scored import Scored


def save_tree(run: Path, block: UpdateBlock, scored: Scored) -> None:
    """Write `tree.json` and the pictures of the block's most varied group."""
    outcomes = [list(shape.outcomes) for shape in block.rollout.shapes]
    group = int(np.argmax([scored.total[slot, rows].std() for slot, rows in zip(block.slots, outcomes, strict=True)]))
    write_json(run / "tree.json", drawable(run, block.rollout, group, scored, block.slots[group]))


def drawable(folder: Path, block: Block, group: int, scored: Scored | None = None, slot: int = 0) -> dict[str, Any]:
    """A group of a block as `draw_tree` draws it; its pictures are written below the folder. `slot` is the group's in `scored`.

    A state that was completed only to be valued has that completion's picture and reward; the completing nodes are not listed.
    """
    shape = block.shapes[group]
    first = sum(len(before.leaves) for before in block.shapes[:group])
    (folder / "samples" / "tree").mkdir(parents=True, exist_ok=True)
    samples = block.samples[first : first + len(shape.leaves)].shown()
    files = {
        leaf: save_sample(sample, folder, f"samples/tree/{leaf:04d}") for leaf, sample in zip(shape.leaves, samples, strict=True)
    }
    nodes = [_node(shape, i, files) for i, node in enumerate(shape.nodes) if not node.completing]
    if scored is not None:
        nodes = [node | _judged(scored, slot, node["id"], node["shows"]) for node in nodes]
    return {"prompt": block.prompts[group].text, "nodes": nodes}


def _node(shape: Shape, i: int, files: dict[int, dict[str, str]]) -> dict[str, Any]:
    node, leaf = shape.nodes[i], shape.completions[i]
    shows = leaf if leaf is not None and (leaf == i or shape.nodes[leaf].completing) else None
    return {
        "id": i,
        "parent": node.parent,
        "step": node.step,
        "kernel": node.kernel.type if node.kernel else None,
        "stochastic": bool(node.kernel and node.kernel.stochastic),
        "trained": node.trained,
        "shows": shows,
        "value": None,
        "advantage": None,
        "turning": False,
        "image": None if shows is None else files.get(shows, {}).get("image") or files.get(shows, {}).get("video"),
        "text": None if shows is None else files.get(shows, {}).get("text"),
    }


def _judged(scored: Scored, slot: int, i: int, shows: int | None) -> dict[str, Any]:
    return {
        "value": None if shows is None else float(scored.total[slot, shows]),
        "advantage": float(scored.advantage[slot, i]) if scored.in_loss[slot, i] else None,
        "turning": bool(scored.turning[slot, i]),
    }
