"""A signal never leaves things half changed, and never waits longer than that."""

import os
import signal

import pytest
import torch

from flowgrpo.core.signals import Signals, Stopped, uninterrupted
from flowgrpo.training.ema import Ema


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Telling:
    """A parameter at whose every change a signal comes."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    @property
    def data(self) -> torch.Tensor:
        return self.value

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        self.value = value
        if not Signals.current.asked:
            ask()

    def detach(self) -> torch.Tensor:
        return self.value


def test_weights_that_change_places_are_back_when_a_signal_came_between():
    raw = {name: torch.full((2,), value) for name, value in (("a", 1.0), ("b", 2.0))}
    parameters = {name: Telling(value) for name, value in raw.items()}
    ema = Ema(parameters, 0.9)
    with Signals(), pytest.raises(Stopped), ema.applied():
        pytest.fail("the signal came before")
    assert all(parameters[name].value is raw[name] for name in raw)


def test_a_signal_waits_where_it_must_and_comes_at_once_elsewhere():
    reached = []
    with Signals() as signals:
        with pytest.raises(Stopped, match="SIGTERM"):
            with uninterrupted(), uninterrupted():
                ask()
                reached.append("inside")
            reached.append("behind")
        signals.asked, signals.told, signals.busy = None, False, lambda: True
        ask()
        reached.append("busy")
        signals.busy = lambda: False
        with pytest.raises(Stopped):
            signals.check()
        signals.check()
    assert reached == ["inside", "busy"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
