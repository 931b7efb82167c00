"""A gate that closes gradually where a clip closes at once (SAPO, arXiv 2511.20347)."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from flowgrpo.objective.batch import LossInputs
from flowgrpo.objective.bounds import Bounds
from flowgrpo.objective.surrogate import Surrogate

FARTHEST = 20.0
"""A log-ratio, in the unit; beyond it the gate is closed, and exp overflows later."""


class Sigmoid(Surrogate):
    """-A (4 / t) sigmoid(t (r - 1)), with t = `positive` for A > 0 and `negative` else.

    The weight of the gradient is 4 p (1 - p) r with p = sigmoid(t (r - 1)): 1 at r = 1, and falling to both sides. Log-ratios are
    taken in the policy's unit, so that t means the same for Gaussian steps, whose ratios stay within 1 +- 1e-3.
    """

    positive: PositiveFloat = 1.0
    negative: PositiveFloat = 1.05

    def loss(self, log_ratio_CD: Tensor, batch: LossInputs, clip: Bounds) -> tuple[Tensor, Tensor]:
        far_CD = torch.expm1((log_ratio_CD / batch.unit).clamp(-FARTHEST, FARTHEST))
        t_C1 = torch.where(batch.advantage_C1 > 0, self.positive, self.negative)
        gate_CD = torch.sigmoid(t_C1 * far_CD)
        closed_CD = (4.0 * gate_CD * (1.0 - gate_CD) * (1.0 + far_CD) < 0.5).detach()
        return -batch.advantage_C1 * batch.unit * 4.0 / t_C1 * gate_CD, closed_CD
