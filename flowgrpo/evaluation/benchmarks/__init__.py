"""Benchmarks: pinned prompts, settings and rewards, checkpoints against one another on the same prompts and seeds."""
