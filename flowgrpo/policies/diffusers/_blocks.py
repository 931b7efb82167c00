"""Rows of what a network is given and of what it answers, wherever they are in nested arguments: tensors with so many rows, lists
with so many items, lists of tensors that each have so many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import (
    KeyPath,
    TreeSpec,
    tree_flatten,
    tree_leaves,
    tree_leaves_with_path,
    tree_map_with_path,
    tree_unflatten,
)


@dataclass(frozen=True)
class Form:
    """How an answer holds its rows."""

    tree: TreeSpec
    listed: bool

    @classmethod
    def of(cls, answer: Any, rows: int) -> "Form | None":
        leaves, tree = tree_flatten(answer, is_leaf=is_list)
        return cls(tree, isinstance(leaves[0], list)) if len(leaves) == 1 and has(leaves[0], rows) else None

    def rows(self, answer: Any) -> Tensor:
        leaf = tree_leaves(answer, is_leaf=is_list)[0]
        return torch.stack(leaf) if self.listed else leaf

    def answer(self, rows: Tensor) -> Any:
        return tree_unflatten([list(rows) if self.listed else rows], self.tree)


def rows_of(answer: Any) -> int:
    """Rows of an answer: those of the first tensor or list in it."""
    return len(tree_leaves(answer, is_leaf=is_list)[0])


def with_rows(given: Any, rows: int) -> dict[KeyPath, bool]:
    leaves = tree_leaves_with_path(given, is_leaf=is_list)
    return {path: each_has(leaf, rows) for path, leaf in leaves if has(leaf, rows) or each_has(leaf, rows)}


def has(leaf: Any, rows: int) -> bool:
    return len(leaf) == rows if isinstance(leaf, list) else isinstance(leaf, Tensor) and leaf.shape[:1] == (rows,)


def each_has(leaf: Any, rows: int) -> bool:
    return isinstance(leaf, list) and bool(leaf) and all(isinstance(x, Tensor) and has(x, rows) for x in leaf)


def is_list(node: Any) -> bool:
    return isinstance(node, list)


def taken(given: Any, total: int, rowed: Mapping[KeyPath, bool], rows: Sequence[int]) -> Any:
    """Arguments of a call, with these rows of all."""

    def take(path: KeyPath, leaf: Any) -> Any:
        if path not in rowed or not (each_has if rowed[path] else has)(leaf, total):
            return leaf
        if rowed[path]:
            return [x[rows] for x in leaf]
        return leaf[rows] if isinstance(leaf, Tensor) else [leaf[i] for i in rows]

    return tree_map_with_path(take, given, is_leaf=is_list)
