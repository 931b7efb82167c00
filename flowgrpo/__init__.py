"""Align generative models that work by denoising, with one GRPO trainer."""

from flowgrpo.core import moved

__version__ = "0.2.0"

moved.install()
