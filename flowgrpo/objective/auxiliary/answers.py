"""The likelihood of answers that are given with the prompts (the supervised term of ExPO, arXiv 2507.02834)."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import field_validator

from flowgrpo.objective.auxiliary import Auxiliary
from flowgrpo.objective.batch import LossInputs
from flowgrpo.sampling.likelihood import AnyLikelihood, Likelihood
from flowgrpo.sampling.likelihood.elbo import Elbo

if TYPE_CHECKING:
    from torch import Tensor


class Answers(Auxiliary):
    """-log p of the text in the `column` of each prompt's row, the mean over its ids, estimated by `likelihood`.

    ExPO's texts are explanations that the model itself has drawn, shown the right answer; here they are made beforehand.
    """

    column: str = "answer"
    likelihood: AnyLikelihood = Elbo()
    of_given: ClassVar[bool] = True

    @field_validator("likelihood")
    @classmethod
    def _of_wholes(cls, likelihood: Likelihood) -> Likelihood:
        if likelihood.states == 0:
            raise ValueError(
                f"'{likelihood.type}' scores recorded steps, and a given answer has none; take another, such as elbo"
            )
        return likelihood

    def loss(self, batch: LossInputs) -> "Tensor":
        return -batch.log_prob_CD
