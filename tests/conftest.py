"""Tiny random pipelines of real classes, and a policy over a tiny one that trains in milliseconds."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from flowgrpo.policies import tiny
from flowgrpo.policies.tiny.mdlm import save
from flowgrpo.sampling.kernels import Kernel
from flowgrpo.sampling.shape import Shape

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))
"""Threads wait for each other longer than a tiny model computes; the suite has a process per core instead."""


REPLAYED = 1e-6
"""How far a log-prob may be from the rollout's, relative or absolute. Most CPUs give the very same number; on some, a kernel
rounds otherwise where it keeps a graph."""


def assert_replayed(log_prob: Tensor, rolled: Tensor) -> None:
    torch.testing.assert_close(log_prob.detach(), rolled, rtol=REPLAYED, atol=REPLAYED)


def interruptible() -> None:
    """Runs in a child before its program: one that a shell has put into the background is born deaf to interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def with_terminal() -> Iterator[None]:
    """As if nothing had told this process to outlive its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """No test asks the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


def trajectories(kernels: list[Kernel], group_size: int, shared_start: bool) -> Shape:
    """Trajectories side by side, `kernels[i]` at step i."""
    return Shape.chains([(kernel, i + 1) for i, kernel in enumerate(kernels)], group_size, shared_start)


CALLS = {name: tiny.pipelines()[name].call for name in ("sd3", "flux", "wan", "sd15")}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random pipeline by its name, saved once and ready to load."""

    @cache
    def folder(name: str) -> Path:
        made = tmp_path_factory.mktemp(name) / "pipeline"
        tiny.pipelines()[name].build().save_pretrained(made)
        return made

    return folder


@pytest.fixture(scope="session")
def pipelines(saved: Callable[[str], Path]) -> dict[str, Path]:
    """Those folders that many tests need."""
    return {name: saved(name) for name in CALLS}


@pytest.fixture(scope="session")
def mdlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random masked-diffusion language model."""
    return save(tmp_path_factory.mktemp("mdlm"))
