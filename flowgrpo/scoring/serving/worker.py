"""The process that owns a served reward: it makes the reward, then scores one batch after another until its pipe ends.

Messages are YAML: what reward to make, then its greeting or an error; and JSON: the bodies of a batch's requests, a message each
after their number, then one with all their scores.
"""

import hashlib
import inspect
import json
import os
import threading
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from flowgrpo import __version__
from flowgrpo.config.run import RewardConfig, parse_yaml
from flowgrpo.core.errors import UserError
from flowgrpo.scoring.scorer import Reward, Scorer
from flowgrpo.scoring.serving.batch import receive, score
from flowgrpo.scoring.serving.wire import CARD, Answers, Request


def fingerprint(reward: Reward, name: str, arguments: dict[str, Any]) -> str:
    """Of a reward's name, arguments, source file and version of flowgrpo: what a client's scores depend on."""
    file = module.__file__ if (module := inspect.getmodule(reward)) else None
    source = Path(file).read_bytes() if file else b""
    facts = json.dumps([name, arguments, __version__], sort_keys=True, default=str)
    return hashlib.blake2b(facts.encode() + source, digest_size=8).hexdigest()


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
    try:
        scorer = Scorer({name: RewardConfig(use=name, arguments=arguments)})
    except UserError as error:
        pipe.send_bytes(yaml.safe_dump({"error": str(error)}).encode())
        return
    card = {key: value for key, value in vars(scorer.cards[name]).items() if key in CARD}
    greeting = {"card": {**card, "range": [*card["range"]]}, "fingerprint": fingerprint(scorer.rewards[name], name, arguments)}
    pipe.send_bytes(yaml.safe_dump(greeting).encode())
    while True:
        bodies = [pipe.recv_bytes() for _ in range(int(pipe.recv_bytes()))]
        requests = [receive(Request.model_validate_json(body).samples, job["pixels"]) for body in bodies]
        del bodies
        pipe.send_bytes(Answers(score(scorer, requests)).model_dump_json(exclude_none=True).encode())
