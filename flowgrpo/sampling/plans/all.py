"""Every step stochastic (Flow-GRPO, DanceGRPO)."""

from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans._steps import StepsPlan


class AllSteps(StepsPlan):
    """Steps 0 .. S - 2, and the last one where the kernel says so; a picture's is deterministic, since its noise would stay."""

    def stochastic_steps(self, draw: Draw) -> list[int]:
        return list(range(draw.steps if self.kernel.ends_stochastic else draw.steps - 1))

    def window_complaint(self, steps: int) -> str | None:
        if self.kernel.ends_stochastic:
            return f"tail: kernel '{self.kernel.type}' draws every step, so none is left for it" if self.tail else None
        return None if steps > 1 else f"plan '{self.type}' needs at least 2 steps, since the last one is deterministic"
