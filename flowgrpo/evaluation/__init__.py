"""Models, checkpoints and files under rewards: held-out prompts, benchmarks, sheets of scores."""

from flowgrpo.core.moved import names_of

__getattr__ = names_of(__name__, "flowgrpo.evaluation.held_out", "HeldOut", "evaluate", "compare")
