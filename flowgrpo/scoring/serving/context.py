"""Where reward processes come from: one that has imported what they need, and forks. A second reward is there at once."""

import multiprocessing
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["flowgrpo.scoring.serving.worker"])


def prepare() -> None:
    """Start that process now; it imports while this one does."""
    forkserver.ensure_running()
