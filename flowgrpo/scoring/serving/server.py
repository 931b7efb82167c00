"""A reward as an HTTP service: requests of many clients are scored together, by one process that owns the reward."""

import asyncio
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from flowgrpo.core.errors import UserError
from flowgrpo.core.section import Section
from flowgrpo.core.version import VERSION
from flowgrpo.scoring.serving.client import bearer
from flowgrpo.scoring.serving.connection import Connection
from flowgrpo.scoring.serving.pictures import pixels_of
from flowgrpo.scoring.serving.process import RewardProcess
from flowgrpo.scoring.serving.queue import Queue
from flowgrpo.scoring.serving.wire import (
    BACKLOG,
    CARD,
    PROTOCOL,
    SAMPLES,
    Health,
    Limits,
    Load,
    Refusal,
    Request,
    Sample,
    Score,
    Scores,
    complaint,
)

KEEP_ALIVE = 60
AGAIN = {"Retry-After": "1"}


class Options(Section):
    """Up to `batch` samples are scored together, and a request waits up to `wait` milliseconds for others to join it.

    `queue` requests may be there at once, each for `timeout` seconds, with `max_bytes` of JSON, which must arrive within
    `reading` seconds, and `max_pixels` in all its pictures; all of them together may have four times as many bytes and pixels.
    A batch has up to `max_pixels` too, each of which takes about 20 bytes of memory beside what the reward takes. When it is
    not scored in `batch_timeout` seconds, the process that has it is replaced. `token` names the environment variable with the
    bearer token that clients must send.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    batch: PositiveInt = 32
    wait: NonNegativeFloat = 5.0
    queue: PositiveInt = 64
    timeout: PositiveFloat = 90.0
    batch_timeout: PositiveFloat = 30.0
    reading: PositiveFloat = 20.0
    max_bytes: PositiveInt = 2**27
    max_pixels: PositiveInt = 2**26
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

    def __init__(self, reward: RewardProcess, options: Options) -> None:
        self.reward, self.options = reward, options
        self.queue = Queue(reward, options.batch, options.max_pixels, options.wait / 1000)
        self.authorization = bearer(options.token) if options.token else None
        self.load = {"requests": 0, "pixels": 0, "bytes": 0}
        backlog = {"bytes": BACKLOG * options.max_bytes, "pixels": BACKLOG * options.max_pixels}
        self.most = {"requests": options.queue, **backlog}

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run())
        yield
        task.cancel()

    async def health(self, request: HttpRequest) -> Response:
        """503 while no process has the reward; another is started then."""
        self._authorise(request)
        worker = self.reward.state()
        if not worker.ready:
            self.reward.mend()
        health = Health(
            protocol=PROTOCOL,
            name=self.reward.name,
            fingerprint=self.reward.fingerprint,
            version=VERSION,
            arguments=self.reward.arguments,
            limits=self.options.limits,
            load=Load(waiting=self.queue.waiting, **self.load),
            worker=worker,
            **{key: value for key, value in vars(self.reward.card).items() if key in CARD},
        )
        return _json(health.model_dump_json(), 200 if worker.ready else 503)

    async def score(self, request: HttpRequest) -> Response:
        self._authorise(request)
        with self._counted("requests", 1):
            try:
                async with asyncio.timeout(self.options.timeout):
                    scores = await self._scored(request)
            except TimeoutError as error:
                raise HTTPException(504, self._too_late()) from error
        reply = Scores(name=self.reward.name, fingerprint=self.reward.fingerprint, scores=scores)
        return _json(reply.model_dump_json(exclude_none=True))

    async def _scored(self, request: HttpRequest) -> list[Score]:
        with self._counted("bytes", 0) as count:
            body = await self._body(request, count)
            samples, pixels = await asyncio.to_thread(self._read, body)
            with self._counted("pixels", pixels):
                try:
                    return await self.queue.score(body, samples, pixels)
                except UserError as error:
                    raise HTTPException(503, str(error), AGAIN) from error

    async def _body(self, request: HttpRequest, count: Callable[[int], None]) -> bytes:
        """Read as it comes, and not beyond the limit, whatever length was announced."""
        limit, seconds = self.options.max_bytes, self.options.reading
        if int(request.headers.get("content-length", 0)) > limit:
            raise _too_large(limit)
        chunks, size = [], 0
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > limit:
                        raise _too_large(limit)
                    count(len(chunk))
        except TimeoutError as error:
            late = f"the request was not there within {seconds:g} s; send less at once"
            raise HTTPException(408, late, {"Connection": "close"}) from error
        return b"".join(chunks)

    def _read(self, body: bytes) -> tuple[int, int]:
        """How many samples it has and how many pixels will be read of them."""
        try:
            samples = Request.model_validate_json(body).samples
        except ValidationError as error:
            broken = error.errors(include_input=False)[0]["type"] == "json_invalid"
            raise HTTPException(400 if broken else 422, complaint(error)) from error
        return len(samples), min(sum(map(_pixels, samples)), self.options.max_pixels)

    @contextmanager
    def _counted(self, what: str, n: int) -> Iterator[Callable[[int], None]]:
        """Of what is there at once; more than the server takes is told to come back."""
        mine = 0

        def count(n: int) -> None:
            nonlocal mine
            if self.load[what] + n > self.most[what]:
                raise HTTPException(503, f"{self.load[what]} {what} are waiting already; try again", AGAIN)
            mine += n
            self.load[what] += n

        count(n)
        try:
            yield count
        finally:
            self.load[what] -= mine

    def _too_late(self) -> str:
        now = self.reward.state()
        busy = f"the reward has been at a batch for {now.scoring_seconds:.0f} s" if now.scoring_seconds else "others came first"
        why = busy if now.ready else "the reward's process is being replaced"
        return f"not scored within {self.options.timeout:g} s ({why}); ask for less at once, or later"

    def _authorise(self, request: HttpRequest) -> None:
        sent = request.headers.get("authorization", "")
        if self.authorization and not secrets.compare_digest(sent.encode(), self.authorization.encode()):
            wanted = "this server wants its bearer token; let `token` name the environment variable that holds it"
            raise HTTPException(401, wanted, {"WWW-Authenticate": "Bearer"})


def _pixels(sample: Sample) -> int:
    pictures = sample.frames or ([] if sample.image is None else [sample.image])
    return sum(map(pixels_of, pictures))


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


def application(reward: RewardProcess, options: Options) -> FastAPI:
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
            uvicorn.Config(app, http=Connection, loop="asyncio", ws="none", log_level="warning", timeout_keep_alive=KEEP_ALIVE)
        )
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(self.ready, flush=True)


def serve(name: str, arguments: dict[str, Any], options: Options) -> None:
    """Serve until SIGTERM or SIGINT; what has been accepted by then is still answered."""
    with (
        closing(_bound(options.host, options.port)) as bound,
        closing(RewardProcess(name, arguments, options.max_pixels, options.batch_timeout)) as reward,
    ):
        app = application(reward, options)
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
        bound.close()
        raise UserError(f"{host}:{port} can't be served ({error}); choose another --port or --host") from error
    return bound
