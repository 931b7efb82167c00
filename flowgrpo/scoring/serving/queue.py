"""Requests that wait for one reward, and the batches that are made of them."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from flowgrpo.scoring.serving.process import Lost, RewardProcess
from flowgrpo.scoring.serving.wire import Score


@dataclass(eq=False)
class Job:
    """A request: its body, how many samples and pixels it has, and when it came."""

    body: bytes
    samples: int
    pixels: int
    came: float
    scores: asyncio.Future[list[Score]]


class Queue:
    """Requests that wait to be scored, as many at a time as fit into a batch. One that is given up leaves."""

    def __init__(self, reward: RewardProcess, batch: int, pixels: int, wait: float) -> None:
        self.reward, self.batch, self.pixels, self.wait = reward, batch, pixels, wait
        self.jobs: deque[Job] = deque()
        self.changed = asyncio.Condition()

    @property
    def waiting(self) -> int:
        return sum(job.samples for job in self.jobs)

    async def score(self, body: bytes, samples: int, pixels: int) -> list[Score]:
        loop = asyncio.get_running_loop()
        job = Job(body, samples, pixels, loop.time(), loop.create_future())
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
        room, pixels = self.batch, self.pixels
        while self.jobs and (not taken or (self.jobs[0].samples <= room and self.jobs[0].pixels <= pixels)):
            taken.append(self.jobs.popleft())
            room, pixels = room - taken[-1].samples, pixels - taken[-1].pixels
        return taken

    async def _answer(self, jobs: list[Job]) -> None:
        """A batch that the reward's process did not survive is scored again, request by request, to find out which it was."""
        jobs = [job for job in jobs if not job.scores.done()]
        try:
            answers = await self.reward.score([job.body for job in jobs]) if jobs else []
        except Lost as lost:
            if len(jobs) > 1:
                for job in jobs:
                    await self._answer([job])
                return
            answers = [[_failed(lost)] * job.samples for job in jobs]
        except Exception as error:
            for job in jobs:
                if not job.scores.done():
                    job.scores.set_exception(error)
            return
        for job, scores in zip(jobs, answers, strict=True):
            if not job.scores.done():
                job.scores.set_result(scores)


def _failed(lost: Lost) -> Score:
    return Score(
        error=f"the reward's process {lost} with the samples of this request, and was replaced; send fewer at once, mend the "
        "reward, or start the server with a larger --batch-timeout"
    )
