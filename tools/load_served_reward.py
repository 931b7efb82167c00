"""Load test of served rewards: `python tools/load_served_reward.py [--requests N] [--clients N] [--kills N]`.

Many clients ask a real server, which is killed (SIGKILL) and started again in the middle. One request in 100 is malformed, one
picture in 100 is corrupt. Every good picture must get exactly the score that it has in this process; exit code 1 if one does not.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import requests
import torch

from flowgrpo.assets.scenes import TAGS, caption, draw, sample_metadata, sample_scene
from flowgrpo.cli._numbers import positive
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import numpy_generator
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.scoring.serving.client import Served
from flowgrpo.scoring.serving.packing import encoded

REWARD = "jpeg:compressibility"
EVERY = 100
PICTURES = 4
PATIENCE = 120.0
MALFORMED = (
    b'{"prompt": "broken',
    b'{"prompt": "p", "group": 0, "image": "../../etc/passwd"}',
    b'{"prompt": "p", "group": 0, "picture": "AAAA"}',
    b'{"prompt": "p", "group": 0, "text": "t", "image": "AAAA"}',
)


class Process:
    """`flowgrpo serve-reward` in a process of its own, on a port that stays the same when it is started again."""

    def __init__(self, *arguments: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-m", "flowgrpo", "serve-reward", *arguments, "--port", str(self.port)]
        self.start()

    def start(self) -> None:
        """Returns when it is ready."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline()
        requests.get(f"{self.url}/health", timeout=PATIENCE).raise_for_status()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@dataclass(frozen=True)
class Outcome:
    """What became of a request: when it was asked and answered, and how often each thing happened to it."""

    asked: float
    answered: float
    counts: Counter[str]


class Client(Served):
    """Counts its retries, and sends what a client should not."""

    retries = 0

    def pause(self, seconds: float) -> None:
        self.retries += 1
        super().pause(seconds)

    def tried(self, samples: Samples, expected: list[float], number: int) -> Outcome:
        asked, retries = time.monotonic(), self.retries
        try:
            counts = self._counts(samples, expected, number)
        except UserError as error:
            print(f"request {number}: {error}", file=sys.stderr)
            counts = Counter(lost=1)
        counts["retries"] = self.retries - retries
        return Outcome(asked, time.monotonic(), counts)

    def _counts(self, samples: Samples, expected: list[float], number: int) -> Counter[str]:
        if number % EVERY == EVERY // 2:
            return self._malformed(MALFORMED[number // EVERY % len(MALFORMED)])
        corrupt = [row for row in range(PICTURES) if (number * PICTURES + row) % EVERY == 21]
        if corrupt:
            return self._corrupt(samples, expected, corrupt)
        return Counter("right" if pair[0] == pair[1] else "wrong" for pair in zip(self(samples), expected, strict=True))

    def _malformed(self, part: bytes) -> Counter[str]:
        try:
            self.ask([part], time.monotonic() + PATIENCE)
        except UserError as error:
            return Counter(refused=1) if re.search(r"HTTP 4\d\d", str(error)) else Counter(wrong=1)
        return Counter(wrong=1)

    def _corrupt(self, samples: Samples, expected: list[float], corrupt: list[int]) -> Counter[str]:
        parts = [encoded(samples, row) for row in range(PICTURES)]
        for row in corrupt:
            parts[row] = re.sub(rb'("image":"[^"]{100})[^"]*"', rb'\1"', parts[row])
        counts = Counter[str]()
        for row, score in enumerate(self.ask(parts, time.monotonic() + PATIENCE)):
            if row in corrupt:
                counts["told" if score.error and "can't be read" in score.error else "wrong"] += 1
            else:
                counts["right" if score.score == expected[row] else "wrong"] += 1
        return counts


@dataclass(frozen=True)
class Figures:
    """`down` are the seconds from each kill until the server answered again, `exit_code` how it ended on SIGTERM at last."""

    seconds: float
    outcomes: list[Outcome]
    down: list[float]
    exit_code: int

    @property
    def counts(self) -> Counter[str]:
        return sum((outcome.counts for outcome in self.outcomes), Counter())

    def table(self) -> str:
        waits = np.array([outcome.answered - outcome.asked for outcome in self.outcomes])
        answers = sorted(outcome.answered for outcome in self.outcomes)
        counts, down = self.counts, sum(self.down)
        facts = {
            "requests": len(waits),
            "seconds": f"{self.seconds:.1f}",
            "requests a second": f"{len(waits) / self.seconds:.0f}",
            "requests a second while the server was up": f"{len(waits) / (self.seconds - down):.0f}",
            "latency, median (ms)": f"{1000 * np.median(waits):.0f}",
            "latency, 99 % (ms)": f"{1000 * np.quantile(waits, 0.99):.0f}",
            "latency, longest (s)": f"{waits.max():.1f}",
            "kills": len(self.down),
            "server down, in all (s)": f"{down:.1f}",
            "longest time without an answer (s)": f"{max(b - a for a, b in pairwise(answers)):.1f}",
            "retries": counts["retries"],
            "pictures scored as in this process": counts["right"],
            "corrupt pictures told": counts["told"],
            "malformed requests refused": counts["refused"],
            "wrong": counts["wrong"],
            "lost": counts["lost"],
        }
        return "\n".join(["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in facts.items())])


def pool(size: int) -> Samples:
    """Drawn scenes, each under a prompt that another scene was drawn for half of the time."""
    rng = numpy_generator(("load",))
    rows = [sample_metadata(rng, TAGS[i % len(TAGS)]) for i in range(size)]
    drawn = [draw(sample_scene(rng, rows[i if i % 2 else i - 1])) for i in range(size)]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 255
    return Samples([caption(row) for row in rows], rows, [0] * size, pictures)


def load(count: int, clients: int, kills: int, size: int = 200) -> Figures:
    scenes = pool(size)
    expected = Scorer({REWARD: RewardConfig(use=REWARD)})(scenes)[REWARD]
    server = Process(REWARD)
    outcomes: list[Outcome] = []

    def ask(first: int) -> None:
        client = Client(server.url, PATIENCE)
        for number in range(first, count, clients):
            rows = numpy_generator(("load", number)).integers(size, size=PICTURES).tolist()
            samples = replace(scenes.take(rows), group=[row // 2 for row in range(PICTURES)])
            outcomes.append(client.tried(samples, expected[rows].tolist(), number))

    begin = time.monotonic()
    try:
        with ThreadPoolExecutor(clients) as threads:
            asking = [threads.submit(ask, first) for first in range(clients)]
            down = []
            for kill in range(kills):
                _wait(asking, outcomes, (kill + 1) * count // (kills + 1))
                down.append(_killed(server))
            _wait(asking, outcomes, count)
        seconds = time.monotonic() - begin
    finally:
        exit_code = server.stop()
    return Figures(seconds, outcomes, down, exit_code)


def _wait(asking: list[Future[None]], outcomes: list[Outcome], count: int) -> None:
    """For so many outcomes; what a client raises is raised."""
    while len(outcomes) < count:
        for client in asking:
            if client.done():
                client.result()
        time.sleep(0.01)


def _killed(server: Process) -> float:
    """Seconds until it answers again."""
    begin = time.monotonic()
    server.stop(signal.SIGKILL)
    server.start()
    return time.monotonic() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("requests", 10_000), ("clients", 32)):
        parser.add_argument(f"--{option}", type=positive, default=default)
    parser.add_argument("--kills", type=int, default=2)
    given = parser.parse_args()
    figures = load(given.requests, given.clients, given.kills)
    print(figures.table())
    return int(figures.counts["wrong"] + figures.counts["lost"] > 0 or len(figures.outcomes) != given.requests)


if __name__ == "__main__":
    sys.exit(main())
