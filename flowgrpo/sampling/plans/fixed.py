"""A fixed list of stochastic steps."""

from pydantic import NonNegativeInt

from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans._steps import StepsPlan


class FixedSteps(StepsPlan):
    """The steps named in `steps`, in every update."""

    steps: tuple[NonNegativeInt, ...]

    def stochastic_steps(self, draw: Draw) -> list[int]:
        return sorted(self.steps)

    def window_complaint(self, steps: int) -> str | None:
        if not self.steps:
            return "the list of steps is empty: nothing would be trained"
        outside = [i for i in self.steps if i >= steps]
        return f"steps {outside} do not exist: there are {steps} steps (0 .. {steps - 1})" if outside else None
