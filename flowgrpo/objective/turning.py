"""Turning points of trajectories, for the credit rule and the selection of that name (TP-GRPO, arXiv 2602.06422)."""

import numpy as np

from flowgrpo.core.rounding import sign
from flowgrpo.objective.credit import needs_every_value
from flowgrpo.sampling.shape import Shape


def turning_points(values: np.ndarray, consistent: bool, rounding: float = 0.0) -> np.ndarray:
    """[w] booleans for the w steps between `values` [w + 1]; a change by no more than `rounding` has no sign."""
    d = sign(np.diff(values), rounding)
    s = d * sign(values[-1] - values[0], rounding)
    ahead = d * sign(values[-1] - values[1:], rounding) > 0
    turns = np.concatenate([s[:1] > 0, (s[:-1] < 0) & (s[1:] > 0)])
    if not consistent:
        return turns
    return np.concatenate([ahead[:1], turns[1:] & ahead[1:]])


def balanced(size: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[N] booleans: equally many of the chosen of either sign, the largest; all when only one sign is there."""
    keep = np.ones(len(size), bool)
    signs = [np.flatnonzero(chosen & (sign * size > 0)) for sign in (1, -1)]
    count = min(len(rows) for rows in signs)
    if count:
        for rows in signs:
            keep[rows[np.argsort(-np.abs(size[rows]), kind="stable")[count:]]] = False
    return keep


def needs_trajectories(whose: str, shape: Shape, instead: str) -> str | None:
    """The complaint of a rule that follows trajectories from state to state; `instead` says what to do on trees."""
    if len({i for path in shape.trajectories for i in path}) < sum(map(len, shape.trajectories)):
        return f"{whose} follows trajectories, and the plan forks them on the way; {instead}"
    return needs_every_value(whose, shape)
