"""A signal never leaves things half changed, and never waits longer than that."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from flowgrpo.core.signals import Paused, Signals, Stopped, uninterrupted
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


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_patient_signal_waits_for_the_work_and_an_interrupt_does_not(number):
    with Signals() as signals:
        signals.working = lambda: True
        send(number)
        signals.check()
        with pytest.raises(Paused, match=number.name):
            signals.meet(list)
        signals.meet(list)
    with Signals() as signals, pytest.raises(Stopped) as stop:
        signals.working = lambda: True
        send(signal.SIGINT)
    assert not isinstance(stop.value, Paused)


def test_under_nohup_a_closed_terminal_is_no_signal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            send(signal.SIGHUP)
            assert signals.asked is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_of_several_processes_waits_for_the_others_and_hears_no_echo(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Signals() as signals:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        signals.check()
        with pytest.raises(Paused, match="SIGTERM"):
            signals.meet(lambda mine: [None, *mine])
    with Signals() as signals, pytest.raises(Paused, match="SIGUSR1"):
        signals.meet(lambda mine: [*mine, "SIGUSR1"])


TWICE = """
import os, signal
from flowgrpo.core.signals import Signals

with Signals() as signals:
    signals.working = lambda: True
    os.kill(os.getpid(), signal.SIGUSR1)
    print("works on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("too late")
"""


def test_a_second_signal_ends_the_process_at_once():
    ended = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "works on\n" and ended.returncode == -signal.SIGTERM
