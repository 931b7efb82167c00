"""Signals end a run in order: SIGINT soon, SIGTERM, SIGUSR1 (batch systems) and SIGHUP (the terminal is gone) after the work at
hand. A second one ends it at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, ClassVar

PATIENT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
ORDERLY = (signal.SIGINT, *PATIENT)
ECHO = 2.0
"""Seconds. A launcher passes on what its processes were sent as well: that is no second signal."""


class Stopped(KeyboardInterrupt):
    """A signal has asked the run to end."""


class Paused(Stopped):
    """A patient signal has: whoever sent it wants to go on later. The exit code is 0."""


class Signals:
    """Inside, a signal raises `Stopped` or `Paused`: at once, or where `busy()` at the next `check()`; `Paused` also waits while
    `working()`, and in a process that was `launched` as one of several for the next `meet`."""

    current: ClassVar["Signals | None"] = None
    critical: ClassVar[int] = 0

    def __init__(self) -> None:
        self.busy: Callable[[], bool] = lambda: False
        self.working: Callable[[], bool] = lambda: False
        self.launched = "WORLD_SIZE" in os.environ
        self.asked: str | None = None
        self.asked_at = 0.0
        self.told = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in ORDERLY if not _stays_ignored(number)}
            Signals.current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        Signals.current = None
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises for a signal once; what is done about it goes undisturbed."""
        if self.asked and not self.told and not self.busy() and not Signals.critical and not self._waits():
            self._tell(self.asked)

    def meet(self, gather: Callable[[list[Any]], list[Any]]) -> None:
        """Where all processes are at the same place: a signal to any of them ends all of them."""
        asked = [name for name in gather([self.asked]) if name]
        if asked and not self.told:
            self._tell(asked[0])

    def _waits(self) -> bool:
        return _is_patient(self.asked) and (self.launched or self.working())

    def _tell(self, name: str) -> None:
        self.told = True
        raise (Paused if _is_patient(name) else Stopped)(name)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked and self.launched and now - self.asked_at < ECHO:
            return
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.asked, self.asked_at = signal.Signals(number).name, now
        self.check()


def _stays_ignored(number: signal.Signals) -> bool:
    """Under `nohup` a run goes on without its terminal."""
    return number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def _is_patient(name: str | None) -> bool:
    return any(number.name == name for number in PATIENT)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, a signal waits for the end: what changes places does so as a whole."""
    Signals.critical += 1
    try:
        yield
    finally:
        Signals.critical -= 1
    if Signals.current:
        Signals.current.check()
