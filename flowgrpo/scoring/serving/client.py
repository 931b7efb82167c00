"""A served reward as its clients call it. Scoring is idempotent, so what got no answer is asked again."""

import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
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


@dataclass(frozen=True)
class Miss:
    """Why there is no answer, and how many seconds the server asks to wait."""

    reason: str
    pause: float = 0.0


class Served:
    """The reward that `flowgrpo serve-reward` serves at `url`; `card` is what it says of itself.

    A call, with all its retries, may take `timeout` seconds. `token` names the environment variable with the server's bearer
    token. Pictures are rounded to 8 bits a channel. A server that comes back with another reward is refused.
    """

    def __init__(self, url: str, timeout: float = 120.0, token: str | None = None) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise UserError(f"the url of a reward server begins with http:// or https://, not '{url}'")
        self.url, self.timeout = url.rstrip("/"), timeout
        self.session = session(retries=0)
        if token:
            self.session.headers["Authorization"] = bearer(token)
        self.health = self._greeted()
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
        attempt = 0
        while isinstance(outcome := self._post(encodings, deadline), Miss):
            jitter = random.SystemRandom().uniform(0.5, 1.0)
            pause = outcome.pause + jitter * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 10))
            if time.monotonic() + pause >= deadline:
                raise Unavailable(
                    f"no scores in {self.timeout:g} s from {self.url} ({outcome.reason}): is it up, and fast enough?"
                )
            self.pause(pause)
            attempt += 1
        return self._scores(outcome, len(encodings))

    def pause(self, seconds: float) -> None:
        """Before a retry."""
        time.sleep(seconds)

    def _post(self, encodings: Sequence[bytes], deadline: float) -> requests.Response | Miss:
        """A server that takes longer than it says is taken for dead."""
        patience = max(0.001, min(deadline - time.monotonic(), self.health.limits.seconds + MARGIN))
        timeout = (min(patience, CONNECTING), patience)
        try:
            response = self.session.post(f"{self.url}/score", body(encodings), timeout=timeout)
        except LOST as error:
            return Miss(_reason(error))
        if response.status_code in PASSING:
            asked = response.headers.get("Retry-After", "")
            return Miss(_said(response), float(asked) if asked.isdecimal() else 0.0)
        return response

    def _scores(self, response: requests.Response, asked: int) -> list[Score]:
        if response.status_code != 200:
            raise UserError(f"the reward server at {self.url} refuses a request: {_said(response)}")
        try:
            answer = Scores.model_validate_json(response.content)
        except ValidationError as error:
            raise UserError(f"{self.url} does not answer like a reward server: {complaint(error)}") from error
        if answer.fingerprint != self.health.fingerprint:
            raise UserError(
                f"the server at {self.url} serves '{answer.name}' and not the '{self.health.name}' of before: name, arguments, "
                "source or version differ; start the former again"
            )
        if len(answer.scores) != asked:
            raise UserError(f"the reward server at {self.url} returned {len(answer.scores)} scores for {asked} samples")
        return answer.scores

    def _number(self, score: Score, prompt: str) -> float:
        if score.score is None:
            raise UserError(f"the reward server at {self.url} can't score the prompt '{prompt}': {score.error}")
        return score.score

    def _greeted(self) -> Health:
        try:
            response = self.session.get(f"{self.url}/health", timeout=min(self.timeout, CONNECTING))
        except requests.RequestException as error:
            raise UserError(
                f"no reward server at {self.url} ({_reason(error)}); start one with `flowgrpo serve-reward NAME`"
            ) from error
        try:
            spoken = Greeting.model_validate_json(response.content).protocol
            if spoken == PROTOCOL:
                return Health.model_validate_json(response.content)
        except ValidationError as error:
            raise UserError(f"{self.url} does not greet as a reward server of flowgrpo: {_said(response)}") from error
        raise UserError(f"the server at {self.url} speaks protocol {spoken}, and this is {PROTOCOL}: update the older flowgrpo")


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
