"""Trajectories without noise, trained by the gradient of their rewards."""

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import PositiveInt

from flowgrpo.sampling.kernels import AnyKernel
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.plans import Draw, Plan
from flowgrpo.sampling.shape import Shape


class Backward(Plan):
    """G trajectories of `kernel`. The gradient of the rewards goes back from a sample to the state that has K steps left, K
    uniform in `least` .. `most` (null: all S).

    `through` `steps`: the K steps that were made there (DRaFT-K, arXiv 2309.17400; with K drawn, AlignProp, arXiv 2310.03739);
    `jump`: one prediction of the clean sample in their place, which is judged instead (ReFL, arXiv 2304.05977). `per` says who
    shares a draw: all of an `update`, or the members of a `prompt`'s group.
    """

    trains_outcomes: ClassVar[bool] = True

    kernel: AnyKernel = Ode()
    least: PositiveInt = 1
    most: PositiveInt | None = 1
    through: Literal["steps", "jump"] = "steps"
    per: Literal["update", "prompt"] = "prompt"

    @property
    def drawn_for(self) -> Literal["update", "prompt"]:
        return self.per

    def grow(self, draw: Draw) -> Shape:
        left = int(draw.rng.integers(self.least, (self.most or draw.steps) + 1))
        shape = Shape.chains([(self.kernel, i + 1) for i in range(draw.steps)], draw.group_size, self.shared_start)
        first = draw.steps - left + 1
        nodes = (replace(node, trained=True, backward=self.through) if node.step == first else node for node in shape.nodes)
        return Shape(tuple(nodes))

    def complaint(self, steps: int, group_size: int) -> str | None:
        if self.kernel.stochastic or self.kernel.multistep:
            why = "adds noise" if self.kernel.stochastic else "looks back at the state before"
            return f"kernel '{self.kernel.type}' {why}, and no gradient goes back through that; set kernel to ode"
        if self.shared_start:
            return f"kernel '{self.kernel.type}' makes one sample of one start; set shared_start to false"
        if self.completion:
            return f"plan '{self.type}' scores nothing on the way, so completion must be null"
        if not self.least <= (self.most or steps) <= steps:
            return f"least = {self.least} .. most = {self.most or steps} must be a range in 1 .. policy.steps = {steps}"
        return None
