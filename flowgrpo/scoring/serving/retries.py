"""HTTP requests whose replies come in time and within bounds, and that are made again when that may help."""

import io
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

from flowgrpo.core.errors import UserError

PASSING = (429, 500, 502, 503, 504)
AT_ONCE = 64
LONGEST_PAUSE = 60
LARGEST = 2**24
"""Bytes of a reply."""


class Bounded(HTTPAdapter):
    """A reply is there as a whole within the timeout of reading, which for `requests` alone is that of each byte."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        patience = timeout[1] if isinstance(timeout, tuple) else timeout
        retries = self.max_retries.total or 0
        return _within(
            patience * (1 + retries) + LONGEST_PAUSE * retries,
            lambda: _whole(super(Bounded, self).send(request, True, timeout, verify, cert, proxies)),
        )


def _whole(response: requests.Response) -> requests.Response:
    try:
        body = response.raw.read(LARGEST + 1, decode_content=True)
    except HTTPError as error:
        raise requests.ConnectionError(f"the reply broke off ({error})") from error
    finally:
        response.close()
    if len(body) > LARGEST:
        raise UserError(f"{response.url} answers with more than {LARGEST} bytes; is it the server that you mean?")
    response.raw = io.BytesIO(body)
    return response


def _within(seconds: float, call: Callable[[], requests.Response]) -> requests.Response:
    """What the call returns or raises; after so many seconds its thread is left to itself."""
    outcomes: SimpleQueue[requests.Response | Exception] = SimpleQueue()

    def run() -> None:
        try:
            outcomes.put(call())
        except Exception as error:
            outcomes.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=seconds)
    except Empty as error:
        raise requests.ReadTimeout(f"no whole reply in {seconds:g} s") from error
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def session(retries: int) -> requests.Session:
    """Repeats a request, of any method, at most `retries` times: when there is no answer or one of the `PASSING` states.

    Waits 0, 1, 2, 4, ... seconds with up to half a second of jitter, or what `Retry-After` says, a minute at most. The last
    answer is returned whatever its state. A redirect, or a reply of more than LARGEST bytes, is a UserError: nothing is sent to
    an address that the user did not name. Every request needs a timeout.
    """
    policy = Retry(
        total=retries,
        allowed_methods=None,
        status_forcelist=PASSING,
        raise_on_status=False,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        backoff_max=LONGEST_PAUSE,
        retry_after_max=LONGEST_PAUSE,
    )
    patient = requests.Session()
    for scheme in ("http://", "https://"):
        patient.mount(scheme, Bounded(max_retries=policy, pool_maxsize=AT_ONCE))
    patient.hooks["response"].append(_refuse_redirect)
    return patient


def _refuse_redirect(response: requests.Response, **_: Any) -> None:
    if response.is_redirect:
        raise UserError(f"{response.url} redirects to {response.headers['location']}; name that address, if you trust it")
