"""The on-policy check: before the first optimizer step the policy is still the one that sampled, so every log-ratio must be 0.

Shapes: C transitions of D decisions each, which leave B states.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import torch_generator
from flowgrpo.policies._dtypes import ROUNDINGS, unit_roundoff
from flowgrpo.policies.protocol import Law, Policy, Predicts, trained_by
from flowgrpo.training.rollout import Transitions

DRAWS = 4


def tolerance(law: Law, x: Tensor, prediction: Tensor, x_next: Tensor, unit: float) -> Tensor:
    """[C, D]: how far log-probs may move by rounding alone.

    What the network stores of its output has a relative error of at most `unit`, the unit roundoff u of the type that it computes
    in. So the log-prob is taken again at predictions with errors of that size and random signs; the largest change, times
    `ROUNDINGS`, is allowed. For a Gaussian step one change is about u |g| rms(v) / (tau sqrt(dimensions)) +
    u^2 g^2 rms(v)^2 / (2 tau^2). The log-prob itself is a float32.
    """
    log_prob = law.log_prob(x, prediction, x_next)
    largest = torch.zeros_like(log_prob)
    for draw in range(DRAWS):
        signs = torch.randn(prediction.shape, generator=torch_generator(("gate", draw))).sign().to(prediction.device)
        moved = law.log_prob(x, prediction.float() * (1.0 + unit * signs), x_next)
        largest = torch.maximum(largest, (moved - log_prob).abs())
    return ROUNDINGS * (largest + unit_roundoff(torch.float32) * (1.0 + log_prob.abs()))


@dataclass
class OnPolicyCheck:
    """Sees the transitions of the first optimizer step, and keeps the one that is furthest off."""

    policy: Policy
    excess: float = 0.0
    size: float = 0.0
    allowed: float = 0.0
    worst: Transitions | None = None

    @torch.no_grad()
    def see(self, t: Transitions, prediction: Tensor, log_ratio: Tensor) -> None:
        """`prediction` [C, ...] is that of the update, and `log_ratio` [C, D] what it makes of the rollout's log-probs."""
        x = t.states[t.parent]
        allowed = tolerance(t.law, x, prediction.detach(), t.next_states, self.policy.unit_roundoff)
        sizes = log_ratio.detach().abs() * t.decisions
        excess = (sizes / allowed).nan_to_num(nan=0.0)
        if excess.numel() and float(excess.max()) > self.excess:
            at = int(excess.argmax())
            self.excess = float(excess.max())
            self.size, self.allowed, self.worst = float(sizes.flatten()[at]), float(allowed.flatten()[at]), t

    def __call__(self) -> None:
        """Errors: UserError where a log-ratio is further from 0 than rounding can take it, with the cause where one is found."""
        if self.worst is None or self.excess <= 1.0:
            return
        why = cause(trained_by(self.policy), self.worst, self.policy.unit_roundoff)
        raise UserError(
            f"on-policy check: replaying the rollout gives a log-ratio of {self.size:.1e} at step {self.worst.step}, and it "
            f"must be 0 (rounding explains {self.allowed:.0e}); {why}; no weight was changed"
        )


@torch.no_grad()
def cause(policy: Predicts, t: Transitions, unit: float) -> str:
    """Why the update's network differs from the rollout's, found by asking it again in other ways."""
    first = policy.predict(t.states, t.prompts, t.step)
    if not torch.equal(first, policy.predict(t.states, t.prompts, t.step)):
        return (
            "the network answers the same question in two ways, so it draws random numbers or its kernels are not deterministic: "
            "switch off dropout, or set policy.runtime.attention to another backend"
        )
    with torch.enable_grad():
        graded = policy.predict(t.states, t.prompts, t.step).detach()
    if not torch.equal(first, graded):
        return (
            "the network computes something else when it keeps a graph for its gradient: it is in training mode, or "
            "policy.runtime.attention takes another kernel then"
        )
    other = max(0, t.step - 1) if t.step else t.step + 1
    policy.predict(t.states, t.prompts, other)
    if not torch.equal(first, policy.predict(t.states, t.prompts, t.step)):
        return "the network remembers the step before (a cache hook, a guider with momentum): switch it off"
    alone = policy.predict(t.states[:1], t.prompts[:1], t.step)
    if not torch.allclose(first[:1].float(), alone.float(), rtol=64 * unit, atol=64 * unit):
        return "what it says of a sample depends on the samples beside it: set rollout.micro_batch to one group"
    return "its weights or its settings are not those of the rollout any more"
