"""`flowgrpo serve-reward NAME [key=value ...]`: a reward as an HTTP service, for `url:` in a config."""

import argparse
import os
import sys
from ipaddress import ip_address
from secrets import token_urlsafe

from flowgrpo.config.tree import with_overrides
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import checked


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the reward as a config names it in `use`")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="what its constructor is given")
    for option, helped in OPTIONS.items():
        parser.add_argument(f"--{option}", default=argparse.SUPPRESS, metavar=option.rpartition("-")[2].upper(), help=helped)


SECRET = "REWARD_TOKEN"
OPTIONS = {
    "host": "the address to listen at (default 127.0.0.1: this machine only; others can reach 0.0.0.0)",
    "port": "default 8000; 0: any free one",
    "batch": "samples that are scored together, across requests (default 32)",
    "wait": "milliseconds that a request waits for others to fill a batch (default 5)",
    "queue": "requests that may be there at once; more are told to come back (default 64)",
    "timeout": "seconds after which a request is given up (default 90)",
    "batch-timeout": "seconds after which the process that scores a batch is replaced (default 30)",
    "reading": "seconds within which a request must have arrived (default 20)",
    "max-bytes": "of a request (default 128 MiB); all that wait may have four times as many",
    "max-pixels": "of all pictures of a request, and of a batch; each takes about 20 bytes of memory and what the reward "
    "itself takes (default 2^26); all that wait may have four times as many",
    "token": "the environment variable with the bearer token that clients must send (default: none is asked for on this "
    f"machine, and {SECRET} where others can reach the address; none: none at all)",
}


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.scoring.serving.context import prepare

    prepare()
    try:
        from flowgrpo.scoring.serving.server import Options, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise UserError("serving needs fastapi and uvicorn; run: pip install 'flowgrpo[serve]'") from error
    given = {key: value for key, value in vars(arguments).items() if key in Options.model_fields}
    if "token" not in given and not _is_this_machine(given.get("host", Options().host)):
        given["token"] = _secret()
    elif given.get("token") == "none":
        del given["token"]
    serve(arguments.name, with_overrides({}, arguments.overrides), checked(Options, given, "serve-reward"))
    return 0


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _secret() -> str:
    """The variable that holds it; where it holds none yet, one is made and said."""
    if not os.environ.get(SECRET):
        os.environ[SECRET] = token_urlsafe(24)
        print(
            f"flowgrpo: others can reach this server, so it asks for a token: export {SECRET}={os.environ[SECRET]} where the run "
            f"is, and give the reward token: {SECRET}",
            file=sys.stderr,
        )
    return SECRET
