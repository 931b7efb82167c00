"""One group of the last update as data for the report: nodes with kernels, rewards, advantages and pictures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowgrpo.trainer import Part, Scored


def save_tree(run: Path, part: Part, scored: Scored, weights: Mapping[str, float]) -> None:
    """Write `tree.json` and the leaves' pictures of the part's first group."""
    slot, shape = part.slots[0], part.block.shape
    reward = np.sum([weights[label] * values[slot] for label, values in scored.rewards.items()], axis=0)
    folder = run / "samples" / "tree"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = part.block.samples[: len(shape.leaves)].pil()
    images = {}
    for leaf, picture in zip(shape.leaves, pictures, strict=True):
        picture.save(folder / f"{leaf:04d}.png")
        images[leaf] = f"samples/tree/{leaf:04d}.png"
    nodes = [_node(i, scored, slot, reward, images.get(i)) for i in range(len(shape.nodes))]
    (run / "tree.json").write_text(json.dumps({"prompt": part.block.prompts[0].text, "nodes": nodes}))


def _node(i: int, scored: Scored, slot: int, reward: np.ndarray, image: str | None) -> dict[str, Any]:
    node = scored.shape.nodes[i]
    return {
        "id": i,
        "parent": node.parent,
        "step": node.step,
        "kernel": node.kernel.type if node.kernel else None,
        "trained": node.trained,
        "reward": None if np.isnan(reward[i]) else float(reward[i]),
        "advantage": float(scored.advantage[slot, i]) if scored.kept[slot, i] else None,
        "image": image,
    }
