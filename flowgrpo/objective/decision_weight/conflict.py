"""Ids that better and worse samples share are not punished (GTPO, arXiv 2508.03772, reconstructed for masked models)."""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from flowgrpo.objective.decision_weight import Chosen, DecisionWeight


class Conflict(DecisionWeight):
    """An id that one sample of the group has at a position with an advantage above 0, and another with one below: `positive` for
    the former, `negative` for the latter.

    The paper looks at the runs of such ids that texts begin and end with, aligned at either end. The positions of a canvas are
    aligned, and are filled in any order, so here all of them are looked at.
    """

    positive: NonNegativeFloat = 2.0
    negative: NonNegativeFloat = 0.0

    def weigh(self, chosen: Chosen) -> Tensor:
        place = chosen.position * (chosen.id.max() + 1) + chosen.id
        better, worse = chosen.advantage > 0, chosen.advantage < 0
        shared = torch.isin(place, place[better]) & torch.isin(place, place[worse])
        weight = torch.ones_like(chosen.advantage)
        weight[shared & better], weight[shared & worse] = self.positive, self.negative
        return weight
