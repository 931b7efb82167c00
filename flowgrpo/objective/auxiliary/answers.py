"""The likelihood of answers that are given with the prompts (terms of ExPO, arXiv 2507.02834, and of GRAO)."""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, field_validator

from flowgrpo.core.rounding import rounding
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.auxiliary import Auxiliary
from flowgrpo.objective.batch import LossInputs
from flowgrpo.sampling.likelihood import AnyLikelihood, Likelihood
from flowgrpo.sampling.likelihood.elbo import Elbo

if TYPE_CHECKING:
    from torch import Tensor


class Answers(Auxiliary):
    """-log p of the text in the `column` of each prompt's row, the mean over its ids, estimated by `likelihood`.

    `by` `advantage`: times the advantage that the answer has among the group, if it earns what `advantage.baseline`
    `virtual_maximum` says the best sample does (GRAO), or in groups where none is right what `anchor` says (DaGRPO).
    `shaping` g: p / (p + g) in place of log p, with p of what the likelihood decides at once: of an id, or the geometric mean of
    all ids at its level `mean`. Its gradient fades where the answer is likely already (LUFFY, arXiv 2504.14945).
    ExPO's texts are explanations that the model itself has drawn, shown the right answer; here they are made beforehand.
    """

    column: str = "answer"
    likelihood: AnyLikelihood = Elbo()
    by: Literal["one", "advantage"] = "one"
    shaping: PositiveFloat | None = None
    of_given: ClassVar[bool] = True

    @field_validator("likelihood")
    @classmethod
    def _of_wholes(cls, likelihood: Likelihood) -> Likelihood:
        if likelihood.states == 0:
            raise ValueError(
                f"'{likelihood.type}' scores recorded steps, and a given answer has none; take another, such as elbo"
            )
        return likelihood

    def complaint(self, advantage: AdvantageConfig) -> str | None:
        if self.by == "one" or (advantage.baseline.brings_company and advantage.mean in ("group", "group_step")):
            return None
        return (
            f"objective.auxiliary '{self.type}' by advantage compares an answer with its group; set advantage.mean=group and "
            "advantage.baseline=virtual_maximum or anchor, which says what it earns"
        )

    def weight(self, rewards: np.ndarray, advantage: AdvantageConfig) -> float:
        """How much the answer counts beside samples with these rewards [G]; 0 where it does not belong to them."""
        if self.by == "one":
            return 1.0
        company = advantage.baseline.company(rewards)
        spread = 0.0 if advantage.std == "none" else float(np.std(company, ddof=advantage.ddof))
        if len(company) == len(rewards) or np.ptp(company) <= rounding(company):
            return 0.0
        scale = 1.0 if advantage.std == "none" else max(spread + advantage.eps, advantage.floor)
        weight = float(company[-1] - company.mean()) / scale
        return min(weight, advantage.clip) if advantage.clip else weight

    def loss(self, batch: LossInputs) -> "Tensor":
        if self.shaping is None:
            return -batch.log_prob_CD
        p_CD = batch.log_prob_CD.exp()
        return -p_CD / (p_CD + self.shaping)
