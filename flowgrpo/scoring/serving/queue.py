"""Requests that wait for one reward, and the thread that owns it: rewards may not be called by two threads at once."""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flowgrpo.config.run import RewardConfig
from flowgrpo.core.digests import digest_of
from flowgrpo.scoring.identity import identity
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.scoring.serving.batch import Received, score
from flowgrpo.scoring.serving.wire import Score


class RewardThread:
    """A reward, made and called in a thread of its own."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self.name, self.arguments = name, arguments
        self.thread = ThreadPoolExecutor(1)
        config = RewardConfig(use=name, arguments=arguments)
        self.scorer = self.thread.submit(Scorer, {name: config}).result()
        self.fingerprint = digest_of(identity(config))[:16]

    async def score(self, requests: Sequence[Sequence[Received]]) -> list[list[Score]]:
        return await asyncio.get_running_loop().run_in_executor(self.thread, score, self.scorer, requests)


@dataclass(eq=False)
class Job:
    samples: list[Received]
    came: float
    scores: asyncio.Future[list[Score]]


class Queue:
    """Requests that wait to be scored, as many at a time as fit into a batch. One that is given up leaves."""

    def __init__(self, reward: RewardThread, batch: int, wait: float) -> None:
        self.reward, self.batch, self.wait = reward, batch, wait
        self.jobs: deque[Job] = deque()
        self.changed = asyncio.Condition()

    @property
    def waiting(self) -> int:
        return sum(len(job.samples) for job in self.jobs)

    async def score(self, samples: list[Received]) -> list[Score]:
        loop = asyncio.get_running_loop()
        job = Job(samples, loop.time(), loop.create_future())
        async with self.changed:
            self.jobs.append(job)
            self.changed.notify_all()
        try:
            return await job.scores
        finally:
            if job in self.jobs:
                self.jobs.remove(job)

    async def run(self) -> None:
        while True:
            if jobs := await self._next():
                await self._answer(jobs)

    async def _next(self) -> list[Job]:
        """Wait for a job, then until a batch is full or the job has waited for long enough."""
        async with self.changed:
            await self.changed.wait_for(lambda: bool(self.jobs))
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self.jobs[0].came + self.wait):
                    await self.changed.wait_for(lambda: self.waiting >= self.batch)
        return self._taken()

    def _taken(self) -> list[Job]:
        """Whole requests; one that is larger than a batch goes alone."""
        taken: list[Job] = []
        room = self.batch
        while self.jobs and (not taken or len(self.jobs[0].samples) <= room):
            taken.append(self.jobs.popleft())
            room -= len(taken[-1].samples)
        return taken

    async def _answer(self, jobs: list[Job]) -> None:
        try:
            answers = await self.reward.score([job.samples for job in jobs])
        except Exception as error:
            for job in jobs:
                if not job.scores.done():
                    job.scores.set_exception(error)
            return
        for job, scores in zip(jobs, answers, strict=True):
            if not job.scores.done():
                job.scores.set_result(scores)
