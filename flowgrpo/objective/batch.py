"""What the objective sees of transitions.

A suffix says the shape, over C transitions of D decisions each: `log_ratio_CD` is [C, D], `tau_C1` is [C, 1], what a transition's
decisions share. All tensors are float32.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LossInputs:
    """C transitions; none of it says what family the policy is of.

    `log_prob` quantities are in the policy's own scale (a mean over dimensions for Gaussian laws, which make one decision a
    transition); log-ratios are said to be large or small in multiples of `unit`. `decisions_CD` is 1 for decisions that count.
    `kl_old_CD` is KL(new || old) and `entropy_CD`, in [0, 1], that of the law of a decision over the largest possible; None where
    the objective needs none. `kl_reference_CD` is KL(new || reference) in nats, or None. `tau_C1` and `dt_C1` are the noise scale
    and step size of the kernel, `g_C1` the sensitivity of the mean to the prediction.
    """

    log_prob_CD: "Tensor"
    log_prob_old_CD: "Tensor"
    advantage_C1: "Tensor"
    weight_CD: "Tensor"
    decisions_CD: "Tensor"
    tau_C1: "Tensor"
    dt_C1: "Tensor"
    g_C1: "Tensor"
    unit: float = 1.0
    kl_old_CD: "Tensor | None" = None
    kl_reference_CD: "Tensor | None" = None
    entropy_CD: "Tensor | None" = None

    @property
    def log_ratio_CD(self) -> "Tensor":
        """log p_new - log p_old."""
        return self.log_prob_CD - self.log_prob_old_CD

    def mean_D(self, values_CD: "Tensor") -> "Tensor":
        """[C, 1]: over a transition's decisions that count."""
        return (values_CD * self.decisions_CD).sum(1, keepdim=True) / self.decisions_CD.sum(1, keepdim=True).clamp(min=1.0)
