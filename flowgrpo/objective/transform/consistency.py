"""Answers that tell much, and as much as the group's others (information-consistency GRPO, arXiv 2512.12858, reconstructed)."""

from collections.abc import Sequence

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from flowgrpo.objective.transform import Graded, Transform


class Consistency(Transform):
    """R + `helpful` h + `stable` s, with H what the reward `entropy` says of a sample: h = (H - min H) / (max H - min H) over the
    group, 0 where all are equal, and s = 1 - the mean over the group's other samples of min(1, |H - H'| / `gap`).

    The group is asked one question in several wordings (`rollout.wordings`). In the paper there is no other reward; its weights,
    and the largest gap between two entropies, were not found.
    """

    entropy: str
    gap: PositiveFloat = 1.0
    helpful: NonNegativeFloat = 0.5
    stable: NonNegativeFloat = 0.5

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.entropy,)

    def ends(self, low: float, high: float, group_size: int) -> tuple[float, float]:
        return low, high + self.helpful + self.stable

    def apply(self, groups: Sequence[Graded], update: int) -> list[np.ndarray]:
        return [group.reward + self._worth(group.measured[self.entropy]) for group in groups]

    def _worth(self, entropy: np.ndarray) -> np.ndarray:
        """[G]"""
        helpful = (entropy - entropy.min()) / (np.ptp(entropy) or 1.0)
        gaps = np.minimum(1.0, np.abs(entropy[:, None] - entropy[None]) / self.gap)
        return self.helpful * helpful + self.stable * (1.0 - gaps.sum(1) / max(1, len(entropy) - 1))
