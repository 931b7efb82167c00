"""A reward as an HTTP service: requests of many clients are scored together, by one thread that owns the reward."""

import asyncio
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from flowgrpo import __version__
from flowgrpo.core.errors import UserError
from flowgrpo.core.section import Section
from flowgrpo.scoring.serving.batch import Received, receive
from flowgrpo.scoring.serving.client import bearer
from flowgrpo.scoring.serving.queue import Queue, RewardThread
from flowgrpo.scoring.serving.wire import CARD, PROTOCOL, SAMPLES, Health, Limits, Load, Refusal, Request, Scores, complaint

KEEP_ALIVE = 60


class Options(Section):
    """Up to `batch` samples are scored together, and a request waits up to `wait` milliseconds for others to join it.

    `queue` requests may be there at once, each for `timeout` seconds, with `max_bytes` of JSON and `max_pixels` in all its
    pictures, which take 3 bytes of memory each. `token` names the environment variable with the bearer token that clients must
    send.
    """

    host: str = "127.0.0.1"
    port: NonNegativeInt = 8000
    batch: PositiveInt = 32
    wait: NonNegativeFloat = 5.0
    queue: PositiveInt = 64
    timeout: PositiveFloat = 60.0
    max_bytes: PositiveInt = 2**27
    max_pixels: PositiveInt = 2**27
    token: str | None = None

    @property
    def limits(self) -> Limits:
        return Limits(
            samples=SAMPLES,
            bytes=self.max_bytes,
            pixels=self.max_pixels,
            seconds=self.timeout,
            batch=self.batch,
            requests=self.queue,
        )


class Service:
    """What the addresses of the server do."""

    def __init__(self, reward: RewardThread, options: Options) -> None:
        self.reward, self.options = reward, options
        self.queue = Queue(reward, options.batch, options.wait / 1000)
        self.authorization = bearer(options.token) if options.token else None
        self.requests = 0

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run())
        yield
        task.cancel()

    async def health(self, request: HttpRequest) -> Response:
        self._authorise(request)
        card = self.reward.scorer.cards[self.reward.name]
        found = Health(
            protocol=PROTOCOL,
            name=self.reward.name,
            fingerprint=self.reward.fingerprint,
            version=__version__,
            arguments=self.reward.arguments,
            limits=self.options.limits,
            load=Load(requests=self.requests, waiting=self.queue.waiting),
            **{key: value for key, value in vars(card).items() if key in CARD},
        )
        return _json(found.model_dump_json())

    async def score(self, request: HttpRequest) -> Response:
        self._authorise(request)
        if self.requests >= self.options.queue:
            raise HTTPException(503, f"{self.requests} requests are waiting already; try again", {"Retry-After": "1"})
        self.requests += 1
        try:
            async with asyncio.timeout(self.options.timeout):
                samples = await asyncio.to_thread(self._samples, await _body(request, self.options.max_bytes))
                scores = await self.queue.score(samples)
        except TimeoutError as error:
            raise HTTPException(504, f"not scored within {self.options.timeout:g} s; ask for less at once, or later") from error
        finally:
            self.requests -= 1
        reply = Scores(name=self.reward.name, fingerprint=self.reward.fingerprint, scores=scores)
        return _json(reply.model_dump_json(exclude_none=True))

    def _samples(self, body: bytearray) -> list[Received]:
        try:
            request = Request.model_validate_json(body)
        except ValidationError as error:
            broken = error.errors(include_input=False)[0]["type"] == "json_invalid"
            raise HTTPException(400 if broken else 422, complaint(error)) from error
        return receive(request.samples, self.options.max_pixels)

    def _authorise(self, request: HttpRequest) -> None:
        sent = request.headers.get("authorization", "")
        if self.authorization and not secrets.compare_digest(sent.encode(), self.authorization.encode()):
            wanted = "this server wants its bearer token; let `token` name the environment variable that holds it"
            raise HTTPException(401, wanted, {"WWW-Authenticate": "Bearer"})


async def _body(request: HttpRequest, limit: int) -> bytearray:
    """Read as it comes, and not beyond the limit, whatever length was announced."""
    if int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return body


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"a request may have {limit} bytes; send less at once, or start the server with --max-bytes")


def _json(content: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(content, status, headers, media_type="application/json")


async def _refuse(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return _json(Refusal(error=error.detail).model_dump_json(), error.status_code, dict(error.headers or {}))


async def _hung_up(_: HttpRequest, error: Exception) -> Response:
    """Nobody is there to read this."""
    return _json(Refusal(error="the request ended early").model_dump_json(), 400)


def application(reward: RewardThread, options: Options) -> FastAPI:
    service = Service(reward, options)
    app = FastAPI(
        title="flowgrpo reward",
        lifespan=service.running,
        openapi_url=None,
        exception_handlers={AnyHTTPException: _refuse, ClientDisconnect: _hung_up},
    )
    app.add_api_route("/health", service.health)
    app.add_api_route("/score", service.score, methods=["POST"])
    return app


class Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, app: FastAPI, ready: str) -> None:
        super().__init__(
            uvicorn.Config(app, http="h11", loop="asyncio", ws="none", log_level="warning", timeout_keep_alive=KEEP_ALIVE)
        )
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.ready, flush=True)


def serve(name: str, arguments: dict[str, Any], options: Options) -> None:
    """Serve until SIGTERM or SIGINT; what has been accepted by then is still answered."""
    bound = _bound(options.host, options.port)
    app = application(RewardThread(name, arguments), options)
    host = f"[{options.host}]" if ":" in options.host else options.host
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    Server(app, f"serving {name} at http://{host}:{bound.getsockname()[1]}").run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    """Port 0 is any free one. It listens when the reward is there."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port} can't be served ({error}); choose another --port or --host") from error
    return bound
