"""The JSON that a reward server and its clients exchange.

POST /score takes a `Request` and answers `Scores`, GET /health answers `Health`; either may answer a `Refusal`. Pictures are
base64 of PNG, JPEG or WebP files. Requests are read strictly; replies may hold more than their reader knows.
"""

import base64
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    RootModel,
    ValidationError,
    model_validator,
)

from flowgrpo.data.kinds import Kind
from flowgrpo.scoring.card import Card

PROTOCOL = 2
SAMPLES = 1024
"""The most samples of a request."""
BACKLOG = 4
CARD = {"reads", "range", "better", "licence", "source", "row", "compares"}


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError("must be the base64 of a PNG, JPEG or WebP file; no path or address is opened") from error


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


Encoded = Annotated[bytes, BeforeValidator(_decoded), PlainSerializer(_encoded, when_used="json")]


class Sample(BaseModel):
    """One sample: an image, the frames of a clip, or a text. `metadata` is the prompt row, `group` as in `Samples`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, ser_json_inf_nan="constants")

    prompt: str
    metadata: dict[str, Any] = Field(default_factory=dict)
    group: int
    image: Encoded | None = None
    frames: list[Encoded] | None = Field(default=None, min_length=1, fail_fast=True)
    text: str | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if sum(output is not None for output in (self.image, self.frames, self.text)) != 1:
            raise ValueError("a sample has exactly one of 'image', 'frames' and 'text'")
        return self


class Request(BaseModel):
    """Samples of whole groups."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    samples: list[Sample] = Field(min_length=1, max_length=SAMPLES, fail_fast=True)


class Score(BaseModel):
    """Of one sample: its score, or the sentence that says why it has none."""

    score: FiniteFloat | None = None
    error: str | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.score is None) == (self.error is None):
            raise ValueError("a sample has either a 'score' or an 'error'")
        return self


class Scores(BaseModel):
    """In the order of the request's samples. `fingerprint` changes with the reward's `identity`."""

    name: str
    fingerprint: str
    scores: list[Score]


class Answers(RootModel[list[list[Score]]]):
    """The scores of each request of a batch."""


class Refusal(BaseModel):
    """Why a request is not answered."""

    error: str


class Limits(BaseModel):
    """Of a request: samples, bytes, pixels of all its pictures, and the seconds after which it is given up.

    All that are there at once may have `BACKLOG` times its bytes and pixels. `batch` samples are scored together, and
    `requests` may be there at once.
    """

    samples: int
    bytes: int
    pixels: int
    seconds: float
    batch: int
    requests: int


class Load(BaseModel):
    """Requests that are being read, wait or are scored, their pixels and bytes, and the samples of those that wait."""

    requests: int
    waiting: int
    pixels: int
    bytes: int


class Worker(BaseModel):
    """The process that owns the reward. It is `ready`, or ended and not there again, `restarts` times up to now.

    `scoring_seconds` is how long it has been at its present batch, `last_batch_seconds` how long it took for the last one of
    those `batches` that it scored.
    """

    ready: bool
    restarts: int
    batches: int
    scoring_seconds: float | None
    last_batch_seconds: float | None


class Greeting(BaseModel):
    """What a `Health` of any protocol holds."""

    protocol: int


class Health(Greeting):
    """The reward's card and what the server takes. Ends of the range may be "Infinity" and "-Infinity"."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str
    fingerprint: str
    version: str
    reads: Kind | None
    range: tuple[float, float]
    better: str
    licence: str
    source: str
    row: str
    compares: bool
    arguments: dict[str, Any]
    limits: Limits
    load: Load
    worker: Worker

    def card(self) -> Card:
        return Card(**self.model_dump(include=CARD))


def complaint(error: ValidationError) -> str:
    """Where the first mistake is and what it is."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return ": ".join(filter(None, [where, first["msg"].removeprefix("Value error, ")]))
