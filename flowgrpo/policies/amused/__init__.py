"""A masked image model, aMUSEd (arXiv 2401.01808), as a policy."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from flowgrpo.policies import PolicyConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.diffusers._sizes import SIZES
from flowgrpo.sampling.kernels import KernelFamily
from flowgrpo.sampling.kernels._unmasking import UnmaskingKernel
from flowgrpo.sampling.shape import Shape

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from flowgrpo.policies.amused._policy import AmusedPolicy, AmusedSampler

GUIDANCE_SCALE = 10.0
"""The default of the pipeline's call."""


class AmusedConfig(DiffusersConfig):
    """A diffusers pipeline over image ids. `length` is L, the number of ids of a picture; kernel `maskgit` is the pipeline's
    own."""

    makes: ClassVar[tuple[str, ...]] = ("images",)

    length: PositiveInt

    @property
    def guidance_scale(self) -> float:
        return float(self.call.get("guidance_scale", GUIDANCE_SCALE))

    @property
    def kernels(self) -> KernelFamily:
        return UnmaskingKernel

    @property
    def chooses_ids(self) -> bool:
        return True

    def joining_complaint(self) -> str | None:
        return PolicyConfig.joining_complaint(self)

    def complaint(self, shape: Shape) -> str | None:
        kernels = [node.kernel for node in shape.nodes if isinstance(node.kernel, UnmaskingKernel)]
        if complaint := next(filter(None, (kernel.needs(self.steps, self.length) for kernel in kernels)), None):
            return complaint
        if SIZES in self.call:
            return "policy.call.sizes is for continuous latents; policy.length is how many ids a picture has"
        if self.guidance_gradient == "conditional":
            return "policy.guidance_gradient 'conditional' is for continuous latents; set it to full"
        return None

    def unshardable(self) -> str | None:
        return f"policy '{self.type}' can't share its weights out"

    def build(self, device: "torch.device", seed: int) -> "AmusedPolicy":
        from flowgrpo.policies.amused._policy import AmusedPolicy

        return AmusedPolicy(self, device, seed)

    def build_sampler(self, device: "torch.device", trained: "Path | None") -> "AmusedSampler":
        from flowgrpo.policies.amused._policy import AmusedSampler

        sampler = AmusedSampler(self, device)
        if trained is not None:
            sampler.load(trained)
        return sampler
