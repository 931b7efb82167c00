"""A served reward as its clients call it. Scoring is idempotent, so what got no answer is asked again."""

import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock
from urllib.parse import urlsplit

import requests
from pydantic import ValidationError

from flowgrpo.core.errors import Unavailable, UserError
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.serving.packing import body, encoded, packed
from flowgrpo.scoring.serving.retries import session
from flowgrpo.scoring.serving.wire import PROTOCOL, Greeting, Health, Refusal, Score, Scores, complaint

AT_ONCE = 4
PASSING = (502, 503, 504)
LOST = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
CONNECTING, MARGIN = 10.0, 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
OUT = 30.0


@dataclass(frozen=True)
class Miss:
    """Why there is no answer, and how many seconds the server asks to wait."""

    reason: str
    pause: float = 0.0


@dataclass(eq=False)
class Server:
    """One of those that serve a reward: how many requests it has of ours, and until when it is left out."""

    url: str
    asked: int = 0
    out_until: float = 0.0


class Served:
    """The reward that `flowgrpo serve-reward` serves at each of the `urls`; `card` is what it says of itself.

    A request goes to the server with the fewest of ours. One that can't be reached is left out for `OUT` seconds at a time while
    there are others. A call, with all its retries, may take `timeout` seconds. `token` names the environment variable with the
    servers' bearer token. Pictures are rounded to 8 bits a channel. A server that comes back with another reward is refused.
    """

    def __init__(self, urls: str | Sequence[str], timeout: float = 120.0, token: str | None = None) -> None:
        self.servers = [Server(url.rstrip("/")) for url in ([urls] if isinstance(urls, str) else urls)]
        for server in self.servers:
            if urlsplit(server.url).scheme not in ("http", "https") or not urlsplit(server.url).netloc:
                raise UserError(f"the url of a reward server begins with http:// or https://, not '{server.url}'")
        self.timeout, self.count, self.lock = timeout, len(self.servers), Lock()
        self.session = session(retries=0)
        if token:
            self.session.headers["Authorization"] = bearer(token)
        self.health = self._greeted_by_all()
        self.card = self.health.card()

    def __call__(self, samples: Samples) -> list[float]:
        deadline = time.monotonic() + self.timeout
        with ThreadPoolExecutor(AT_ONCE) as pool:
            encodings = list(pool.map(partial(encoded, samples), range(len(samples))))
            asked = packed(samples, encodings, self.health.limits)
            answers = list(pool.map(lambda rows: self.ask([encodings[row] for row in rows], deadline), asked))
        scores = dict(zip(chain(*asked), chain(*answers), strict=True))
        return [self._number(scores[row], prompt) for row, prompt in enumerate(samples.prompts)]

    def ask(self, encodings: Sequence[bytes], deadline: float) -> list[Score]:
        """One request of samples that are JSON already, again and again until `time.monotonic()` is `deadline`."""
        attempt, waits = 0, dict.fromkeys(self.servers, 0.0)
        while True:
            with self._least_asked(waits) as server:
                outcome = self._post(server, encodings, deadline)
            if not isinstance(outcome, Miss):
                return self._scores(server, outcome, len(encodings))
            jitter = random.SystemRandom().uniform(0.5, 1.0)
            pause = outcome.pause + jitter * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt // self.count, 10))
            now = time.monotonic()
            waits[server] = now + pause
            pause = max(0.0, min(waits.values()) - now)
            if now + pause >= deadline:
                raise Unavailable(
                    f"no scores in {self.timeout:g} s from {self._names} ({outcome.reason}): is it up, and fast enough?"
                )
            if pause:
                self.pause(pause)
            attempt += 1

    @contextmanager
    def _least_asked(self, waits: Mapping[Server, float]) -> Iterator[Server]:
        """Of those that need not be waited for, and are not left out if there are others."""
        with self.lock:
            now = time.monotonic()
            server = min(self.servers, key=lambda one: (waits[one] > now, one.out_until > now, one.asked))
            server.asked += 1
        try:
            yield server
        finally:
            with self.lock:
                server.asked -= 1

    @property
    def _names(self) -> str:
        return " or ".join(server.url for server in self.servers)

    def pause(self, seconds: float) -> None:
        """Before a retry."""
        time.sleep(seconds)

    def _post(self, server: Server, encodings: Sequence[bytes], deadline: float) -> requests.Response | Miss:
        """A server that takes longer than it says is taken for dead."""
        patience = max(0.001, min(deadline - time.monotonic(), self.health.limits.seconds + MARGIN))
        timeout = (min(patience, CONNECTING), patience)
        try:
            response = self.session.post(f"{server.url}/score", body(encodings), timeout=timeout)
        except LOST as error:
            self._leave_out(server, _reason(error))
            return Miss(_reason(error))
        if response.status_code in PASSING:
            asked = response.headers.get("Retry-After", "")
            return Miss(_said(response), float(asked) if asked.isdecimal() else 0.0)
        return response

    def _leave_out(self, server: Server, reason: str) -> None:
        if self.count > 1 and server.out_until < time.monotonic():
            print(f"flowgrpo: {server.url}: {reason}; the other servers go on, and it is asked again", file=sys.stderr)
        server.out_until = time.monotonic() + OUT

    def _scores(self, server: Server, response: requests.Response, asked: int) -> list[Score]:
        url = server.url
        if response.status_code != 200:
            raise UserError(f"the reward server at {url} refuses a request: {_said(response)}")
        try:
            answer = Scores.model_validate_json(response.content)
        except ValidationError as error:
            raise UserError(f"{url} does not answer like a reward server: {complaint(error)}") from error
        if answer.fingerprint != self.health.fingerprint:
            raise UserError(
                f"the server at {url} serves '{answer.name}' and not the '{self.health.name}' of before: name, arguments, "
                "source or version differ; start the former again"
            )
        if len(answer.scores) != asked:
            raise UserError(f"the reward server at {url} returned {len(answer.scores)} scores for {asked} samples")
        return answer.scores

    def _number(self, score: Score, prompt: str) -> float:
        if score.score is None:
            raise UserError(f"the reward server at {self._names} can't score the prompt '{prompt}': {score.error}")
        return score.score

    def _greeted_by_all(self) -> Health:
        """What the first says of those that can be reached; all of them serve the same."""
        found: list[tuple[Server, Health]] = []
        missing: list[Unavailable] = []
        for server in self.servers:
            try:
                found.append((server, self._greeted(server.url)))
            except Unavailable as error:
                missing.append(error)
                self._leave_out(server, "no answer yet")
        if not found:
            raise UserError(str(missing[0]))
        first, health = found[0]
        if other := next((server for server, one in found if one.fingerprint != health.fingerprint), None):
            raise UserError(f"{first.url} and {other.url} serve different rewards; one label has one reward")
        return health

    def _greeted(self, url: str) -> Health:
        try:
            response = self.session.get(f"{url}/health", timeout=min(self.timeout, CONNECTING))
        except requests.RequestException as error:
            raise Unavailable(
                f"no reward server at {url} ({_reason(error)}); start one with `flowgrpo serve-reward NAME`"
            ) from error
        try:
            spoken = Greeting.model_validate_json(response.content).protocol
            if spoken == PROTOCOL:
                return Health.model_validate_json(response.content)
        except ValidationError as error:
            raise UserError(f"{url} does not greet as a reward server of flowgrpo: {_said(response)}") from error
        raise UserError(f"the server at {url} speaks protocol {spoken}, and this is {PROTOCOL}: update the older flowgrpo")


def bearer(variable: str) -> str:
    """The authorization that the token in this environment variable gives."""
    if not (token := os.environ.get(variable)):
        raise UserError(f"the environment variable {variable} must hold the token of the reward server")
    return f"Bearer {token}"


def _reason(error: requests.RequestException) -> str:
    return "no answer in time" if isinstance(error, requests.Timeout) else "no connection"


def _said(response: requests.Response) -> str:
    try:
        said = Refusal.model_validate_json(response.content).error
    except ValidationError:
        said = response.reason
    return f"{said} (HTTP {response.status_code})"
