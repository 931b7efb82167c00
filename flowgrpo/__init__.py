"""Align generative models that work by denoising, with one GRPO trainer."""

__version__ = "0.1.0"
