"""What credit rules on forking trees share: N nodes of a shape."""

import numpy as np

from flowgrpo.sampling.shape import Shape


def forks(shape: Shape) -> np.ndarray:
    """[N] booleans: states that several trained transitions leave."""
    return np.array([sum(shape.nodes[child].trained for child in children) > 1 for children in shape.children])


def fork_above(shape: Shape) -> list[int | None]:
    """[N]: the nearest state above each node that forks."""
    forking, above = forks(shape), list[int | None]()
    for node in shape.nodes:
        above.append(None if node.parent is None else node.parent if forking[node.parent] else above[node.parent])
    return above


def needs_forks(whose: str, shape: Shape) -> str | None:
    """The complaint of a rule that has nothing to say of trajectories that share no more than their start."""
    starts = {i for i, node in enumerate(shape.nodes) if node.parent is None}
    if any(forking and i not in starts for i, forking in enumerate(forks(shape))):
        return None
    return f"{whose} compares what follows forks, and the plan has none after the start; set rollout.plan, e.g. {{type: branch}}"
