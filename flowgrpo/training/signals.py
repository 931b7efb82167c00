"""SIGINT and SIGTERM end a run in order; the second one ends it at once."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

ORDERLY = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal has asked the run to end."""


class Signals:
    """Inside, a signal raises `Stopped`: at once, or where `busy()` at the next `check()`."""

    def __init__(self) -> None:
        self.busy: Callable[[], bool] = lambda: False
        self.asked: str | None = None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in ORDERLY}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        if self.asked:
            raise Stopped(self.asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.asked = signal.Signals(number).name
        if not self.busy():
            self.check()
