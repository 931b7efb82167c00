"""The mean of the set (GRPO, arXiv 2402.03300)."""

from flowgrpo.objective.baseline import Baseline


class Own(Baseline):
    """It holds a sample's own credit, which makes the expected advantage smaller by 1 / n, the same for all."""
