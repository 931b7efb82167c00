"""What the objective sees of transitions.

A suffix says the shape, over C transitions of D decisions each: `log_ratio_CD` is [C, D], `tau_C1` is [C, 1], what a transition's
decisions share. All tensors are float32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


KLUnit = Literal["nats", "nats_dt", "velocity"]
"""`nats`: the exact KL per dimension, mean((mu - mu')^2) / (2 tau^2); `nats_dt`: that times dt (flow_grpo's published beta);
`velocity`: mean((v - v')^2) (Flow-Factory's), for kernels with a prediction of velocity."""


@dataclass(frozen=True)
class Noised:
    """C finished samples that were noised anew: what is predicted of them, [C, ...], with the gradient and by the policy that
    made them; and `error`: of a prediction, [C, ...] the sample that it leads to less the sample."""

    prediction: "Tensor"
    old: "Tensor"
    error: "Callable[[Tensor], Tensor]"


@dataclass(frozen=True)
class LossInputs:
    """C transitions; none of it says what family the policy is of.

    `log_prob` quantities are in the policy's own scale (a mean over dimensions for Gaussian laws, which make one decision a
    transition); log-ratios are said to be large or small in multiples of `unit`. `decisions_CD` is 1 for decisions that count.
    `kl_old_CD` is KL(new || old) and `entropy_CD`, in [0, 1], that of the law of a decision over the largest possible; None where
    the objective needs none. `kl_reference_CD` is KL(new || reference) in nats, and `log_prob_reference_CD` what the policy
    before training says, or None; `kl_teacher_CD` is KL(new || teacher) in nats, `log_prob_teacher_CD` what the teacher says, and
    `contrast_CD` how likely the ids are under softmax(2 log p_teacher - log p_reference); or None. `tau_C1` and `dt_C1` are the
    noise scale and step size of the kernel, `g_C1` the sensitivity of the mean to the prediction. `group_C` numbers the groups;
    `noised` are the samples where the objective needs them. `reward_C1` is the weighted sum of the rewards of the sample that a
    transition leads to, with its gradient, where the objective needs that.
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
    log_prob_reference_CD: "Tensor | None" = None
    group_C: "Tensor | None" = None
    noised: "Noised | None" = None
    kl_teacher_CD: "Tensor | None" = None
    log_prob_teacher_CD: "Tensor | None" = None
    contrast_CD: "Tensor | None" = None
    reward_C1: "Tensor | None" = None

    def in_unit(self, kl_CD: "Tensor", unit: KLUnit) -> "Tensor":
        """A KL in nats, in this unit."""
        match unit:
            case "nats":
                return kl_CD
            case "nats_dt":
                return kl_CD * self.dt_C1
            case "velocity":
                return kl_CD * 2.0 * self.tau_C1**2 / self.g_C1**2

    @property
    def log_ratio_CD(self) -> "Tensor":
        """log p_new - log p_old."""
        return self.log_prob_CD - self.log_prob_old_CD

    def sum_group(self, values_C1: "Tensor") -> "Tensor":
        """[C, 1]: over the transitions of the same group."""
        assert self.group_C is not None
        sums = values_C1.new_zeros(int(self.group_C.max()) + 1, 1).index_add_(0, self.group_C, values_C1)
        return sums[self.group_C]

    def mean_group(self, values_C1: "Tensor") -> "Tensor":
        """[C, 1]: over the transitions of the same group."""
        return self.sum_group(values_C1) / self.sum_group(values_C1.new_ones(values_C1.shape))

    def best_C1(self, values_C1: "Tensor") -> "Tensor":
        """[C, 1]: 1 for a group's largest value, in equal parts where several are, 0 for the others."""
        assert self.group_C is not None
        same_CC = self.group_C[:, None] == self.group_C
        best_C1 = (values_C1 == values_C1.T.where(same_CC, -math.inf).amax(1, keepdim=True)).to(values_C1)
        return best_C1 / self.sum_group(best_C1)

    def best_to_worst_C1(self, as_best_C1: "Tensor", as_worst_C1: "Tensor") -> "Tensor":
        """[C, 1]: what a group's best sample is worth as such, less what its worst is."""
        best_C1, worst_C1 = self.best_C1(self.advantage_C1), self.best_C1(-self.advantage_C1)
        return self.sum_group(best_C1 * as_best_C1 - worst_C1 * as_worst_C1)

    def above_reference_C1(self) -> "Tensor":
        """[C, 1]: log p_new - log p_reference, the mean over a transition's decisions."""
        return self.mean_D(self.above_reference_CD())

    def above_reference_CD(self) -> "Tensor":
        """log p_new - log p_reference."""
        assert self.log_prob_reference_CD is not None
        return self.log_prob_CD - self.log_prob_reference_CD

    def sum_D(self, values_CD: "Tensor") -> "Tensor":
        """[C, 1]: over a transition's decisions that count."""
        return (values_CD * self.decisions_CD).sum(1, keepdim=True)

    def mean_D(self, values_CD: "Tensor") -> "Tensor":
        """[C, 1]: over a transition's decisions that count."""
        return self.sum_D(values_CD) / self.decisions_CD.sum(1, keepdim=True).clamp(min=1.0)
