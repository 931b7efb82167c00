"""Finished samples noised anew, for objectives of the forward process."""

from typing import ClassVar, Literal

from pydantic import Field

from flowgrpo.core.section import Section
from flowgrpo.sampling.noising import AnyLevels
from flowgrpo.sampling.noising.uniform import Uniform


class Matching(Section):
    """A sample x0 is noised to `levels`, which its group shares, x = alpha x0 + sigma e, and what the network predicts there is
    compared with what would lead to x0. Its log-prob at a level is -w m^p / p, in place of a likelihood (AWM, arXiv 2509.25050),
    with m = mean((v - v*)^2) and v* the prediction that gives x0.

    `noise`: e is each sample's `own`, or `shared` by its group (DGPO, arXiv 2510.08425). `weight` w: `one`, or sigma or its
    square, as a noise level of flow matching. `power` p: below 1, what is predicted badly counts less than by its square (a
    generalised Huber weight; with w = sigma, 1/4 is what the code of AWM calls ghuber, and 1/2 is twice its huber).
    """

    log_ratio_unit: ClassVar[float] = 1e-2

    levels: AnyLevels = Uniform()
    noise: Literal["own", "shared"] = "own"
    weight: Literal["one", "sigma", "sigma_squared"] = "one"
    power: float = Field(default=1.0, gt=0.0, le=1.0)

    def complaint(self, steps: int) -> str | None:
        """Why samples can't be noised anew beside rollouts of so many steps, or None."""
        complaint = self.levels.complaint(steps)
        return f"policy.matching.levels: {complaint}" if complaint else None
