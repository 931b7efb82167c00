"""Plans whose members are trajectories side by side: some steps stochastic and trained, the others deterministic."""

from abc import abstractmethod
from math import ceil

from pydantic import Field

from flowgrpo.core.section import Section
from flowgrpo.sampling.completion import levels
from flowgrpo.sampling.kernels import AnyKernel, Kernel
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.shape import Shape


class Tail(Section):
    """The steps after the last stochastic one, compressed: ceil(`fraction` x their number) steps of `kernel` (MixGRPO-Flash)."""

    kernel: AnyKernel = DpmPp2m()
    fraction: float = Field(default=0.4, gt=0.0, le=1.0)


class StepsPlan(Plan):
    """`tail` null: the steps after the stochastic ones are ordinary deterministic steps."""

    tail: Tail | None = None

    @abstractmethod
    def stochastic_steps(self, draw: Draw) -> list[int]:
        """The steps out of 0 .. S - 1 that are sampled from `kernel` and trained; never empty."""

    def grow(self, draw: Draw) -> Shape:
        steps, chosen = draw.steps, set(self.stochastic_steps(draw))
        other = self.kernel.deterministic()
        moves: list[tuple[Kernel, int]] = [(self.kernel if i in chosen else other, i + 1) for i in range(steps)]
        if self.tail:
            begin = max(chosen) + 1
            count = ceil(self.tail.fraction * (steps - begin))
            moves[begin:] = [(self.tail.kernel, level) for level in levels(begin, steps, count)]
        return Shape.chains(moves, draw.group_size, self.shared_start)

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.tail and self.tail.kernel.stochastic:
            return f"tail.kernel '{self.tail.kernel.type}' is stochastic; the tail must be deterministic (ode, dpmpp_2m)"
        return self.window_complaint(steps)

    @abstractmethod
    def window_complaint(self, steps: int) -> str | None:
        """Why the stochastic steps can't be chosen out of this many, or None."""
