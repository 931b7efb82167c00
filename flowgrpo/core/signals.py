"""SIGINT and SIGTERM end a run in order; the second one ends it at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, ClassVar

ORDERLY = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal has asked the run to end."""


class Signals:
    """Inside, a signal raises `Stopped`: at once, or where `busy()` at the next `check()`."""

    current: ClassVar["Signals | None"] = None
    critical: ClassVar[int] = 0

    def __init__(self) -> None:
        self.busy: Callable[[], bool] = lambda: False
        self.asked: str | None = None
        self.told = False
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in ORDERLY}
            Signals.current = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        Signals.current = None
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises for a signal once; what is done about it goes undisturbed."""
        if self.asked and not self.told and not self.busy() and not Signals.critical:
            self.told = True
            raise Stopped(self.asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.asked = signal.Signals(number).name
        self.check()


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
