"""HTTP requests that are made again when that may help."""

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from flowgrpo.core.errors import UserError

PASSING = (429, 500, 502, 503, 504)
AT_ONCE = 64


def session(retries: int) -> requests.Session:
    """Repeats a request, of any method, at most `retries` times: when there is no answer or one of the `PASSING` states.

    Waits 0, 1, 2, 4, ... seconds with up to half a second of jitter, or what `Retry-After` says, a minute at most. The last
    answer is returned whatever its state. A redirect is a UserError: nothing is sent to an address that the user did not name.
    """
    policy = Retry(
        total=retries,
        allowed_methods=None,
        status_forcelist=PASSING,
        raise_on_status=False,
        backoff_factor=0.5,
        backoff_jitter=0.5,
        backoff_max=60.0,
        retry_after_max=60,
    )
    patient = requests.Session()
    for scheme in ("http://", "https://"):
        patient.mount(scheme, HTTPAdapter(max_retries=policy, pool_maxsize=AT_ONCE))
    patient.hooks["response"].append(_refuse_redirect)
    return patient


def _refuse_redirect(response: requests.Response, **_: Any) -> None:
    if response.is_redirect:
        raise UserError(f"{response.url} redirects to {response.headers['location']}; name that address, if you trust it")
