"""The process that owns a served reward: it makes the reward, then scores one batch after another until its pipe ends.

Messages are YAML: what reward to make; and JSON: its greeting or an error, then the bodies of a batch's requests, a message each
after their number, then one with all their scores.
"""

import json
import os
import threading
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import get_args

from flowgrpo.config.sections import RewardConfig
from flowgrpo.config.tree import parse_yaml
from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.data.kinds import Kind
from flowgrpo.scoring.identity import identity
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.scoring.serving.batch import receive, score
from flowgrpo.scoring.serving.wire import CARD, Answers, Request


def work(pipe: Connection) -> None:
    """All that the process does."""
    os.setsid()
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        _serve(pipe)


def _end_with_the_server() -> None:
    """However that ends, and whatever the reward is doing then."""
    server = parent_process()
    assert server is not None
    server.join()
    os._exit(1)


def _serve(pipe: Connection) -> None:
    job = parse_yaml(pipe.recv_bytes().decode())
    name, arguments = job["name"], job["arguments"]
    config = RewardConfig(use=name, arguments=arguments)
    try:
        scorer = Scorer({name: config})
        scorer.require(get_args(Kind), "requests to a server hold")
    except UserError as error:
        pipe.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    card = {key: value for key, value in vars(scorer.cards[name]).items() if key in CARD}
    greeting = {"card": {**card, "range": [*card["range"]]}, "fingerprint": digest_of(identity(config))[:16]}
    pipe.send_bytes(json.dumps(greeting).encode())
    while True:
        bodies = [pipe.recv_bytes() for _ in range(int(pipe.recv_bytes()))]
        requests = [receive(Request.model_validate_json(body).samples, job["pixels"]) for body in bodies]
        del bodies
        pipe.send_bytes(Answers(score(scorer, requests)).model_dump_json(exclude_none=True).encode())
