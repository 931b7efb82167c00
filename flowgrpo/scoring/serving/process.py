"""The server's side of the process that owns a reward (`worker.py`): it can be replaced."""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

import yaml

from flowgrpo.core.errors import UserError
from flowgrpo.scoring.card import Card
from flowgrpo.scoring.serving.context import CONTEXT
from flowgrpo.scoring.serving.wire import Answers, Score, Worker
from flowgrpo.scoring.serving.worker import work

PATIENCE = 600.0
"""Seconds in which a process that replaces another must be ready. The first may take as long as it likes."""


class Lost(Exception):
    """There is no answer, since the process that should give it is no more."""


class _Running:
    """A process and the pipe to it. It is in a group of its own, with what the reward starts."""

    def __init__(self) -> None:
        self.pipe, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=work, args=(theirs,))
        self.process.start()
        theirs.close()
        self.greeted, self.too_late = False, False

    @property
    def ready(self) -> bool:
        """It has made the reward and is alive.

        Only its sentinel tells of a process that ended unasked. Of one that `end` has seen, the sentinel may still be silent.
        """
        return self.greeted and not self.too_late and not self.pipe.closed and not wait([self.process.sentinel], 0)

    def exchange(self, messages: Sequence[bytes], seconds: float | None) -> bytes:
        """What it answers, within so many seconds for sending and waiting together."""
        try:
            with self._limited(seconds):
                for message in messages:
                    self.pipe.send_bytes(message)
                return self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            code = self.end()
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            raise Lost(f"took more than {seconds:g} s" if self.too_late else f"ended ({how})") from error

    @contextmanager
    def _limited(self, seconds: float | None) -> Iterator[None]:
        timer = threading.Timer(seconds or 0.0, self._stop)
        if seconds is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _stop(self) -> None:
        self.too_late = True
        self.kill()

    def kill(self) -> None:
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def end(self) -> int:
        """Its exit code; one that has only closed its pipe gets a second to leave."""
        self.process.join(1.0)
        if not self.pipe.closed:
            self.kill()
            self.process.join()
            self.pipe.close()
        assert self.process.exitcode is not None
        return self.process.exitcode


class RewardProcess:
    """A reward in a process of its own, which gets a batch at a time and is replaced when it ends or takes too long for one.

    `pixels` is the most that the pictures of a request may have, `seconds` the most that a batch may take.
    """

    def __init__(self, name: str, arguments: dict[str, Any], pixels: int, seconds: float) -> None:
        self.name, self.arguments, self.seconds = name, arguments, seconds
        self.job = yaml.safe_dump({"name": name, "arguments": arguments, "pixels": pixels}).encode()
        self.thread = ThreadPoolExecutor(1)
        self.running: _Running | None = None
        self.closed, self.mending, self.starts, self.batches = False, False, 0, 0
        self.began: float | None = None
        self.last: float | None = None
        self._start(None)

    @property
    def ready(self) -> bool:
        return self.running is not None and self.running.ready

    def state(self) -> Worker:
        since = None if self.began is None else time.monotonic() - self.began
        return Worker(
            ready=self.ready, restarts=self.starts - 1, batches=self.batches, scoring_seconds=since, last_batch_seconds=self.last
        )

    async def score(self, bodies: Sequence[bytes]) -> list[list[Score]]:
        """Of a batch of requests. Raises Lost, and starts another process then; UserError if none can be started."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, self._score, bodies)
        except Lost as lost:
            print(f"flowgrpo: the process of '{self.name}' {lost}; another is started", file=sys.stderr, flush=True)
            self.mend()
            raise

    def mend(self) -> None:
        """Start another process, if there is none, as soon as nothing else is done."""
        if not self.mending and not self.closed:
            self.mending = True
            self.thread.submit(self._mend)

    def close(self) -> None:
        self.closed = True
        if self.running:
            self.running.kill()
        self.thread.shutdown(cancel_futures=True)
        if self.running:
            self.running.end()

    def _mend(self) -> None:
        try:
            self._renew()
        except UserError as error:
            print(f"flowgrpo: {error}", file=sys.stderr, flush=True)
        finally:
            self.mending = False

    def _renew(self) -> _Running:
        if self.running is None or not self.running.ready:
            if self.running:
                self.running.end()
            return self._start(PATIENCE)
        return self.running

    def _start(self, patience: float | None) -> _Running:
        self.running = running = _Running()
        self.starts += 1
        if self.closed:
            running.kill()
        try:
            greeting = json.loads(running.exchange([self.job], patience))
        except Lost as lost:
            raise UserError(f"the reward '{self.name}' can't be made: its process {lost}") from lost
        except KeyboardInterrupt:
            running.kill()
            running.end()
            raise
        if "error" in greeting:
            running.end()
            raise UserError(greeting["error"])
        self.card, self.fingerprint, running.greeted = Card(**greeting["card"]), greeting["fingerprint"], True
        return running

    def _score(self, bodies: Sequence[bytes]) -> list[list[Score]]:
        running = self._renew()
        self.began = time.monotonic()
        try:
            answers = running.exchange([str(len(bodies)).encode(), *bodies], self.seconds)
        finally:
            self.last, self.began = time.monotonic() - self.began, None
        self.batches += 1
        return Answers.model_validate_json(answers).root
