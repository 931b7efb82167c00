"""How much each id that a block trains counts, by what the rest of its group has chosen.

C transitions of D decisions; N ids of a block that count.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowgrpo.objective.decision_weight import Chosen, DecisionWeight, product
from flowgrpo.policies.protocol import Choosing
from flowgrpo.sampling.shape import Shape
from flowgrpo.training.rollout import Transitions


def weigh(
    batches: Sequence[Transitions], shapes: Sequence[Shape], advantage: Sequence[np.ndarray], rules: Sequence[DecisionWeight]
) -> None:
    """Set the `weight` of these batches of a block, whose groups have the `shapes` and the `advantage` [N nodes]."""
    reads = any(rule.needs_old_prediction for rule in rules)
    places = [torch.nonzero(t.decisions) for t in batches]
    parts = [_chosen(t, where, shapes, advantage, reads) for t, where in zip(batches, places, strict=True)]
    groups = torch.cat([_of(where, [g for g, _ in t.places]) for t, where in zip(batches, places, strict=True)])
    together = Chosen.joined(parts)
    weights = torch.ones_like(together.advantage)
    for group in groups.unique().tolist():
        weights[groups == group] = product(rules, together[groups == group])
    for t, where, own in zip(batches, places, weights.split([len(where) for where in places]), strict=True):
        t.weight = torch.ones_like(t.decisions)
        t.weight[where[:, 0], where[:, 1]] = own


@torch.no_grad()
def _chosen(t: Transitions, where: Tensor, shapes: Sequence[Shape], advantage: Sequence[np.ndarray], reads: bool) -> Chosen:
    """The ids at the rows and columns `where` [N, 2] of a batch."""
    assert isinstance(t.law, Choosing), "`Config` asks this of a policy"
    row, column = where.unbind(1)
    below = [shapes[g].outcomes_below[node] for g, node in t.places]
    return Chosen(
        position=column,
        id=t.law.choices(t.next_states.to(where.device))[row, column],
        advantage=_of(where, [float(advantage[g][node]) for g, node in t.places]).float(),
        sample=_of(where, [leaves[0] if len(leaves) == 1 else -1 for leaves in below]),
        log_p=_log_probs(t, t.law)[row, column] if reads else None,
    )


def _log_probs(t: Transitions, law: Choosing) -> Tensor:
    """[C, D, V]: at the rollout."""
    assert t.prediction is not None, "what a rule reads is kept"
    return law.log_probs(t.prediction.to(t.decisions.device)[t.parent])


def _of(where: Tensor, values: Sequence[float]) -> Tensor:
    """[N]: the values [C] of the transitions that these ids belong to."""
    return torch.tensor(values, device=where.device)[where[:, 0]]
