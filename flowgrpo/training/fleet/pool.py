"""Work handed out to workers that may die, hang, dawdle, or come late: every job is done, and what it gives does not depend on
who did it."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

from flowgrpo.core.errors import UserError

J = TypeVar("J", contravariant=True)
R = TypeVar("R", covariant=True)
MOST_LOSSES = 3
"""Workers that a job may cost before it is taken for the cause; and that may be lost one after the other before one is there."""
DAWDLES, KNOWN = 2.0, 3
"""Another worker that has nothing to do takes on a job that takes so many times the median of so many jobs."""
LOOKS = 0.2
"""Seconds between two looks for such a job."""
ENDS = 60.0
"""Seconds that a thread is waited for whose worker was stopped."""


class Lost(Exception):
    """The worker is gone, and with it what it was doing."""


class Worker(Protocol[J, R]):
    def ready(self) -> None:
        """Returns once it can be asked. Errors: `Lost`; anything else, because of which there can't be such a worker."""
        ...

    def ask(self, job: J) -> R:
        """Errors: `Lost`; anything else is the job's own fault."""
        ...

    def stop(self) -> None:
        """It may be busy, gone, or not ready yet: what waits for it is `Lost` then."""
        ...


@dataclass(eq=False)
class Task:
    """`begun` are the times at which workers that have it took it on."""

    job: Any
    result: "Future[Any]" = field(default_factory=Future)
    begun: list[float] = field(default_factory=list)
    losses: int = 0


class Pool(Generic[J, R]):
    """`count` workers of a `kind`, each started and asked by a thread of its own, one job at a time.

    `start(number)` returns a worker that need not be ready; jobs begin as soon as any worker is. What `start` and `ready` raise,
    but for `Lost`, ends the pool. A job whose worker is lost goes to another; a job that takes far longer than others is also
    given to a worker that has nothing to do, and the first to be done counts.
    """

    def __init__(self, kind: str, start: Callable[[int], Worker[J, R]], count: int) -> None:
        self.kind, self.start = kind, start
        self.changed = threading.Condition()
        self.waiting: deque[Task] = deque()
        self.running: list[Task] = []
        self.seconds: deque[float] = deque(maxlen=64)
        self.workers: dict[int, Worker[J, R]] = {}
        self.lost = 0
        self.failure: BaseException | None = None
        self.closed = False
        self.threads = [threading.Thread(target=self._serve, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def submit(self, job: J) -> "Future[R]":
        """What a worker makes of the job. Errors, of the future: what the job raised, or UserError where workers keep dying."""
        task = Task(job)
        with self.changed:
            if self.failure:
                task.result.set_exception(self.failure)
            else:
                self.waiting.append(task)
            self.changed.notify_all()
        return task.result

    def close(self) -> None:
        """Stop all workers, and wait for the threads that ask them; what is not done is cancelled."""
        with self.changed:
            self.closed = True
            for task in [*self.waiting, *self.running]:
                task.result.cancel()
            self.waiting.clear()
            workers = list(self.workers.values())
            self.changed.notify_all()
        for worker in workers:
            worker.stop()
        for thread in self.threads:
            thread.join(ENDS)

    def _serve(self, number: int) -> None:
        lost_before = 0
        while not self.closed and self.failure is None:
            try:
                worker = self._started(number)
                worker.ready()
            except Lost as lost:
                lost_before += 1
                if lost_before == MOST_LOSSES:
                    said = f"{lost_before} {self.kind}s are gone before they could be asked, the last because it {lost}"
                    self._fail(UserError(f"{said}; look at their memory"))
                    return
                self._say(number, lost, "another one is started")
                continue
            except BaseException as error:
                self._fail(error)
                return
            lost_before = 0
            self._work(number, worker)

    def _started(self, number: int) -> Worker[J, R]:
        worker = self.start(number)
        with self.changed:
            self.workers[number] = worker
        if self.closed:
            worker.stop()
        return worker

    def _work(self, number: int, worker: Worker[J, R]) -> None:
        """Until the worker is lost or the pool is closed."""
        while task := self._next():
            begun = time.monotonic()
            try:
                answer = worker.ask(task.job)
            except Lost as lost:
                worker.stop()
                self._again(task, number, lost)
                return
            except BaseException as error:
                self._settle(task, error=error)
            else:
                self.seconds.append(time.monotonic() - begun)
                self._settle(task, answer)
        worker.stop()

    def _next(self) -> Task | None:
        with self.changed:
            while not self.closed and self.failure is None:
                if task := self.waiting.popleft() if self.waiting else self._dawdling():
                    task.begun.append(time.monotonic())
                    if task not in self.running:
                        self.running.append(task)
                    return task
                self.changed.wait(LOOKS if self.running else None)
        return None

    def _dawdling(self) -> Task | None:
        """The job that one worker has had for longest, if that is long."""
        alone = [task for task in self.running if len(task.begun) == 1]
        if not alone or len(self.seconds) < KNOWN:
            return None
        oldest = min(alone, key=lambda task: task.begun[0])
        return oldest if time.monotonic() - oldest.begun[0] > DAWDLES * median(self.seconds) else None

    def _settle(self, task: Task, answer: Any = None, error: BaseException | None = None) -> None:
        with self.changed:
            if task in self.running:
                self.running.remove(task)
            if task.result.done():
                return
            if error:
                task.result.set_exception(error)
            else:
                task.result.set_result(answer)

    def _again(self, task: Task, number: int, lost: Lost) -> None:
        if self.closed:
            return
        with self.changed:
            self.lost += 1
            if task.result.done():
                self._say(number, lost, "its work was done by another one")
                return
            task.losses += 1
            task.begun.pop()
            if task.losses < MOST_LOSSES and not task.begun:
                self.running.remove(task)
                self.waiting.appendleft(task)
                self.changed.notify_all()
        if task.losses >= MOST_LOSSES:
            said = f"{task.losses} {self.kind}s that had the same work are gone, the last because it {lost}"
            self._settle(task, error=UserError(f"{said}; look at what they say, and at their memory"))
        else:
            self._say(number, lost, "its work goes to another one")

    def _fail(self, error: BaseException) -> None:
        """No worker can be started."""
        with self.changed:
            self.failure = error
            for task in [*self.waiting, *self.running]:
                if not task.result.done():
                    task.result.set_exception(error)
            self.waiting.clear()
            self.changed.notify_all()

    def _say(self, number: int, lost: Lost, therefore: str) -> None:
        if not self.closed:
            print(f"flowgrpo: {self.kind} {number} {lost}; {therefore}", file=sys.stderr)
