"""The config tree, and what it will cost. Imports no torch."""

from flowgrpo.core.moved import names_of

SECTIONS = ("Config", "RewardConfig", "RolloutConfig", "OptimizerConfig", "EmaConfig", "EvaluationConfig", "SentinelConfig")

__getattr__ = names_of(__name__, "flowgrpo.config.run", "load_config", "dump", *SECTIONS)
