"""One ratio for all decisions of a transition (GSPO, arXiv 2507.18071, in the form with a gradient for every token)."""

from typing import TYPE_CHECKING, ClassVar

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.ratio import Ratio

if TYPE_CHECKING:
    from torch import Tensor


class Joint(Ratio):
    """sg[s] + l - sg[l] with l = log p_new - log p_old and s the mean of l over the transition's decisions.

    So the value is the geometric mean of the decisions' ratios, and the gradient that of the decision itself. Where outcomes are
    scored as wholes, a transition is the sequence (GSPO). Where the recorded steps are scored it is the segment that a step has
    set (SSPO takes parts of sentences).
    """

    joins_decisions: ClassVar[bool] = True

    def log_ratio(self, batch: LossInputs) -> "Tensor":
        return joint(batch.log_ratio_CD, batch)


def joint(log_ratio_CD: "Tensor", batch: LossInputs) -> "Tensor":
    """[C, D]: the mean over a transition, with the gradients of its decisions."""
    own_CD = log_ratio_CD.detach()
    return batch.mean_D(own_CD) + (log_ratio_CD - own_CD)
