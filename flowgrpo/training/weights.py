"""What is trained: the weights, their optimizer and their averages; one step at a time, and their state for checkpoints."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from flowgrpo.config.run import Config
from flowgrpo.core.errors import NotFinite
from flowgrpo.core.parts import fill, in_parts, whole
from flowgrpo.core.processes import Processes
from flowgrpo.policies.protocol import Policy
from flowgrpo.runs.checkpoint import load_optimizer, optimizer_tensors
from flowgrpo.training.adamw import adamw, moments, plain, set_rate
from flowgrpo.training.ema import Ema


class TrainedWeights:
    """`steps` counts optimizer steps. `ema` is the average to keep, `old` the one that makes the samples."""

    def __init__(self, policy: Policy, config: Config, processes: Processes) -> None:
        self.config, self.processes = config.optimizer, processes
        self.parameters, groups = _grouped(policy.trainable())
        self.optimizer = adamw(groups, self.config, policy.device)
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.needs_loss_scaling)
        self.ema = Ema(self.parameters, config.ema.decay_at, processes.lockstep) if config.ema else None
        self.old = Ema(self.parameters, config.old.decay_at, processes.lockstep) if config.old else None
        self.sums: list[Tensor] | None = None
        self.exact = config.sums_blocks
        self.steps = 0

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss."""
        self.processes.backward(self.scaler.scale(loss))

    def end_block(self) -> None:
        """What was added since the last end is the gradient of a whole block of prompts. A sum of blocks has 29 bits more than
        their float32 gradients, so it rounds to the same float32 whatever their order is."""
        if not self.exact:
            return
        self.sums = self.sums or self._zeros()
        for total, parameter in zip(self.sums, self.parameters.values(), strict=True):
            if parameter.grad is not None:
                total += parameter.grad
        self.optimizer.zero_grad()

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter, dtype=torch.float64) for parameter in self.parameters.values()]

    def _gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]

    def gradient_norm(self) -> Tensor:
        """Sum the gradients of all processes, clip them, and return the norm that they had. Those in parts are sums already."""
        self.processes.finish()
        parameters = list(self.parameters.values())
        gradients = (self.sums or self._zeros()) if self.exact else self._gradients()
        self.sums = None
        self.processes.sum([gradient for gradient in gradients if not in_parts(gradient)])
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        self.scaler.unscale_(self.optimizer)
        norms = [get_total_norm([p.grad for p in group["params"]]) for group in self.optimizer.param_groups]
        norm = get_total_norm([whole(norm) for norm in norms]) if len(norms) > 1 else whole(norms[0])
        for group in self.optimizer.param_groups:
            clip_grads_with_norm_(group["params"], self.config.max_grad_norm, norm)
        return norm

    def taken_gradient(self) -> Tensor:
        """All that was added [D], one parameter after the other and unclipped; it is gone then. Errors: NotFinite."""
        gradients = self._gradients()
        self.optimizer.zero_grad()
        gradient = torch.cat([g.flatten() for g in gradients]) / self.scaler.get_scale()
        if not bool(torch.isfinite(gradient).all()):
            raise NotFinite("the gradient holds NaN or infinity; look for what makes it so large, such as the noise level")
        return gradient

    def require_finite(self, loss_is_finite: bool, norm: Tensor, update: int) -> None:
        """Errors: NotFinite for a loss or gradient that no step may follow. Scaled gradients may overflow: such a step is left
        out."""
        if not (loss_is_finite and (torch.isfinite(norm) or self.scaler.is_enabled())):
            raise NotFinite(
                f"update {update}: the loss or its gradient is not finite; nothing of this update is kept; take a lower "
                "optimizer.lr"
            )

    def step(self, update: int) -> bool:
        """One optimizer step; False where the scaler has left it out because scaled gradients overflow."""
        set_rate(self.optimizer, self.config.lr * self.config.share_of_rate(update))
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.scaler.get_scale() < scale:
            return False
        self.steps += 1
        if self.ema:
            self.ema.update(self.steps)
        return True

    def sampling(self) -> AbstractContextManager[None]:
        """Inside, the parameters are those that make the samples."""
        return self.old.applied() if self.old else nullcontext()

    def end_update(self, number: int) -> None:
        """After update 1, 2 .. the weights that make the samples follow the trained ones."""
        if self.old:
            self.old.update(number)

    @property
    def _averages(self) -> dict[str, Ema]:
        return {name: average for name, average in (("ema", self.ema), ("old", self.old)) if average}

    @property
    def kinds(self) -> list[str]:
        """What the tensors of `state` are."""
        return ["trainable", "optimizer", *self._averages]

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """(named tensors, facts)."""
        tensors: dict[str, dict[str, Tensor]] = {
            "trainable": dict(self.parameters),
            "optimizer": plain(optimizer_tensors(self.optimizer, list(self.parameters))),
        }
        tensors |= {name: average.average for name, average in self._averages.items()}
        return tensors, {"optimizer_steps": self.steps, "scaler": self.scaler.state_dict()}

    @torch.no_grad()
    def load(self, tensors: dict[str, dict[str, Tensor]], facts: dict[str, Any]) -> None:
        """The inverse of `state`. Errors: ValueError where the tensors are of another model."""
        for kind in ("trainable", *self._averages):
            shapes = {name: value.shape for name, value in tensors[kind].items()}
            if shapes != {name: parameter.shape for name, parameter in self.parameters.items()}:
                raise ValueError(f"its {kind} tensors are not those of this model")
        if facts["optimizer_steps"] and not tensors["optimizer"]:
            raise ValueError("it has no state of the optimizer")
        for name, parameter in self.parameters.items():
            fill(parameter, tensors["trainable"][name])
        load_optimizer(self.optimizer, moments(tensors["optimizer"]), self.parameters)
        for kind, average in self._averages.items():
            average.load(tensors[kind])
        self.steps = facts["optimizer_steps"]
        self.scaler.load_state_dict(facts["scaler"])


def _grouped(parameters: dict[str, torch.nn.Parameter]) -> tuple[dict[str, torch.nn.Parameter], list[dict[str, Any]]]:
    """Whole ones first, then those in parts, which an optimizer takes as a group of their own."""
    kinds = [{name: p for name, p in parameters.items() if in_parts(p) == parted} for parted in (False, True)]
    return kinds[0] | kinds[1], [{"params": list(kind.values())} for kind in kinds if kind]
