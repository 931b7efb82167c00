"""One group of the last update as data for the report: nodes with kernels, values, advantages and pictures."""

import json
from pathlib import Path
from typing import Any

from flowgrpo.credit import ScoredTree
from flowgrpo.scored import Scored
from flowgrpo.trainer import Part


def save_tree(run: Path, part: Part, scored: Scored) -> None:
    """Write `tree.json` and the pictures of the part's first group.

    A state's `value` and picture are those of its deterministic completion. Completions that are there for nothing else
    (probes) are not listed.
    """
    slot, shape = part.slots[0], part.block.shape
    folder = run / "samples" / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = part.block.samples[: len(shape.leaves)].pil()
    images = {leaf: f"samples/tree/{leaf:04d}.png" for leaf in shape.leaves}
    for leaf, picture in zip(shape.leaves, pictures, strict=True):
        picture.save(run / images[leaf])
    values = ScoredTree(shape, scored.total[slot]).values
    nodes = [_node(i, scored, slot, float(values[i]), images) for i, node in enumerate(shape.nodes) if not node.probe]
    (run / "tree.json").write_text(json.dumps({"prompt": part.block.prompts[0].text, "nodes": nodes}))


def _node(i: int, scored: Scored, slot: int, value: float, images: dict[int, str]) -> dict[str, Any]:
    node, completion = scored.shape.nodes[i], scored.shape.completions[i]
    return {
        "id": i,
        "parent": node.parent,
        "step": node.step,
        "kernel": node.kernel.type if node.kernel else None,
        "trained": node.trained,
        "value": None if completion is None else value,
        "advantage": float(scored.advantage[slot, i]) if scored.kept[slot, i] else None,
        "turning": bool(scored.turning[slot, i]),
        "image": None if completion is None else images[completion],
    }
