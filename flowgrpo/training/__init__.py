"""Rollouts, updates, and runs that are made of them."""

from flowgrpo.core.moved import names_of

__getattr__ = names_of(__name__, "flowgrpo.training.run", "Training", "train")
