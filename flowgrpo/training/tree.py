"""One group of the last update as data for the report: nodes with kernels, values, advantages and pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.core.whole import write_json
from flowgrpo.data.media import kept
from flowgrpo.training.collect import UpdateBlock
from flowgrpo.training.scored import Scored


def save_tree(run: Path, block: UpdateBlock, scored: Scored) -> None:
    """Write `tree.json` and the pictures of the block's most varied group.

    A state that was completed only to be valued has that completion's picture and reward; the completing nodes are not listed.
    """
    shape = block.block.shape
    spread = [scored.total[slot, list(shape.outcomes)].std() for slot in block.slots]
    group = int(np.argmax(spread))
    folder = run / "samples" / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    samples = block.block.samples[group * len(shape.leaves) : (group + 1) * len(shape.leaves)].shown()
    files = {leaf: kept(sample, run, f"samples/tree/{leaf:04d}") for leaf, sample in zip(shape.leaves, samples, strict=True)}
    nodes = [_node(i, scored, block.slots[group], files) for i, node in enumerate(shape.nodes) if not node.completing]
    write_json(run / "tree.json", {"prompt": block.block.prompts[group].text, "nodes": nodes})


def _node(i: int, scored: Scored, slot: int, files: dict[int, dict[str, str]]) -> dict[str, Any]:
    node, leaf = scored.shape.nodes[i], scored.shape.completions[i]
    shown = leaf if leaf is not None and (leaf == i or scored.shape.nodes[leaf].completing) else None
    return {
        "id": i,
        "parent": node.parent,
        "step": node.step,
        "kernel": node.kernel.type if node.kernel else None,
        "stochastic": bool(node.kernel and node.kernel.stochastic),
        "trained": node.trained,
        "value": None if shown is None else float(scored.total[slot, shown]),
        "advantage": float(scored.advantage[slot, i]) if scored.in_loss[slot, i] else None,
        "turning": bool(scored.turning[slot, i]),
        "image": None if shown is None else files[shown].get("image") or files[shown].get("video"),
        "text": None if shown is None else files[shown].get("text"),
    }
