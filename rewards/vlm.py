"""A vision-language model as the judge, over any server that speaks OpenAI's chat completions (vLLM, SGLang, a vendor's).

Sent are the picture, the prompt and the question, never other metadata; temperature is 0, but few servers answer the same
whatever else they work on. `url` is the base that ends in /v1, `token` names the environment variable with its key. Every
request may take `timeout` seconds and is repeated at most `retries` times; `concurrency` of them run at once.

What of an answer counts is its last line, or that of its last <answer> block. One that can't be read is sent back once, with
the form that it should have. `vlm:Pairwise` is no reward but a judge for `win_rate`.
"""

import base64
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import requests
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from flowgrpo.core.errors import Unavailable, UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import answer, bad_row, stated
from flowgrpo.rewards._local_judge import url_of
from flowgrpo.scoring.card import card
from flowgrpo.scoring.serving.client import bearer
from flowgrpo.scoring.serving.pictures import png
from flowgrpo.scoring.serving.retries import PASSING, session
from flowgrpo.scoring.twins import Arguments, Make, tiny

MARKS = " \t*_`'\""
PLACE = re.compile(r"\{(\w+)\}")
NUMBER = re.compile(r"(?:(?:final |overall )?score\s*[:=]?\s*)?(-?\d+(?:\.\d+)?)(?:\s*/\s*(\d+))?", re.IGNORECASE)
BETTER = re.compile(r"(?:image\s*)?([12])(?: is better)?|tie", re.IGNORECASE)
YES_NO = re.compile(r"(yes)|no", re.IGNORECASE)

judged = partial(card, reads="images", range=(0.0, 1.0), licence="Apache-2.0, and the served model's")


def _asked_here(choices: Callable[[Arguments], Sequence[str]]) -> Make:
    """The twin of a judge asks a server of this process that draws one of the answers."""

    def make(_: Path, arguments: Arguments) -> Arguments:
        return {"model": "drawn", **arguments, "url": url_of(choices(arguments)), "token": None}

    return make


def _scores(arguments: Arguments) -> list[str]:
    low, high = (float(arguments.get(name, default)) for name, default in (("low", Pointwise.low), ("high", Pointwise.high)))
    return [f"{low + (high - low) * step / 9:.4f}" for step in range(10)]


class Question(NamedTuple):
    text: str
    pictures: Sequence[Tensor]


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


@dataclass(kw_only=True, eq=False)
class _Judge(ABC):
    """`prompt` can hold the names in `places`, in braces."""

    places: ClassVar[set[str]] = {"prompt"}

    url: str
    model: str
    prompt: str
    max_tokens: int = 1024
    timeout: float = 120.0
    concurrency: int = 8
    retries: int = 4
    token: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"the url of a judge begins with http:// or https://, not '{self.url}'")
        if min(self.max_tokens, self.timeout, self.concurrency) <= 0 or self.retries < 0:
            raise UserError("max_tokens, timeout and concurrency of a judge are above 0, and retries at least 0")
        if unknown := set(PLACE.findall(self.prompt)) - self.places:
            raise UserError(f"a judge's prompt can hold {sorted(self.places)} in braces, not '{min(unknown)}'")
        self.session = session(self.retries)
        if self.token:
            self.session.headers["Authorization"] = bearer(self.token)

    @property
    @abstractmethod
    def form(self) -> str:
        """What an answer must be."""

    @abstractmethod
    def read(self, verdict: str) -> float | None:
        """None unless the verdict has the form."""

    def ask(self, questions: Sequence[Question]) -> list[float]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self._verdict, questions))

    def fill(self, **values: str) -> str:
        return PLACE.sub(lambda place: values[place[1]], self.prompt)

    def _verdict(self, question: Question) -> float:
        messages = [_user(question)]
        for _ in range(2):
            said = self._complete(messages)
            if (verdict := self.read(_conclusion(said))) is not None:
                return verdict
            again = f"Answer again, with {self.form} alone on the last line."
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": again}]
        raise UserError(f"the judge '{self.model}' answered '{said[:100]}' where {self.form} should be on the last line")

    def _complete(self, messages: list[dict[str, Any]]) -> str:
        request: dict[str, Any] = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0}
        try:
            reply = self.session.post(f"{self.url.rstrip('/')}/chat/completions", json=request, timeout=self.timeout)
        except requests.RequestException as error:
            raise Unavailable(f"no answer from the judge at {self.url} ({type(error).__name__}); is its server up?") from error
        if reply.status_code != 200:
            kind = Unavailable if reply.status_code in PASSING else UserError
            raise kind(f"the judge at {self.url} answered HTTP {reply.status_code}: {reply.text[:200]}")
        try:
            return _Completion.model_validate_json(reply.content).choices[0].message.content
        except ValidationError as error:
            raise UserError(f"the judge at {self.url} answered no chat completion but '{reply.text[:100]}'") from error


def _user(question: Question) -> dict[str, Any]:
    """The pictures, then the text."""
    addresses = [f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}" for picture in question.pictures]
    pictures = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": question.text}]}


def _conclusion(text: str) -> str:
    """The last line of what is judged of an answer, without Markdown's emphasis, quotes and a full stop."""
    return (answer(text).splitlines() or [""])[-1].strip(MARKS).rstrip(MARKS + ".")


@tiny(_asked_here(_scores))
@judged(better="the model gives a higher score", source="UnifiedReward, arXiv 2503.05236")
@dataclass(kw_only=True, eq=False)
class Pointwise(_Judge):
    """A score from `low` to `high`, moved to [0, 1]. `prompt` can hold {prompt}, {low} and {high}."""

    places: ClassVar[set[str]] = {"prompt", "low", "high"}

    prompt: str = (
        "This picture was made for the prompt:\n{prompt}\n\nHow well does it show what the prompt says, and how well is it made? "
        "Give a score from {low} to {high}, as a number alone on the last line."
    )
    low: float = 1.0
    high: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise UserError(f"a scale runs from low to high, not from {self.low:g} to {self.high:g}")

    @property
    def form(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def read(self, verdict: str) -> float | None:
        match = NUMBER.fullmatch(verdict)
        if match is None or match[2] not in (None, f"{self.high:g}") or not self.low <= float(match[1]) <= self.high:
            return None
        return (float(match[1]) - self.low) / (self.high - self.low)

    def __call__(self, samples: Samples) -> list[float]:
        scale = {"low": f"{self.low:g}", "high": f"{self.high:g}"}
        texts = [self.fill(prompt=prompt, **scale) for prompt in samples.prompts]
        return self.ask([Question(text, [picture]) for text, picture in zip(texts, samples.images, strict=True)])


@tiny(_asked_here(lambda _: ("Image 1", "Image 2", "tie")))
@dataclass(kw_only=True, eq=False)
class Pairwise(_Judge):
    """A judge of pairs: 1 when the first picture is better, 0 when the second is, 1/2 for a tie. `prompt` can hold {prompt}.

    Use it as `use: win_rate` with `arguments: {judge: "vlm:Pairwise", arguments: {url: ..., model: ...}}`.
    """

    prompt: str = (
        "Both pictures were made for the prompt:\n{prompt}\n\nWhich one shows better what the prompt says, and is better made? "
        "Answer 'Image 1', 'Image 2' or 'tie', alone on the last line."
    )
    form = "'Image 1', 'Image 2' or 'tie'"

    def read(self, verdict: str) -> float | None:
        match = BETTER.fullmatch(verdict)
        return None if match is None else {"1": 1.0, "2": 0.0, None: 0.5}[match[1]]

    def __call__(self, a: Samples, b: Samples) -> list[float]:
        pairs = zip(a.prompts, a.images, b.images, strict=True)
        return self.ask([Question(self.fill(prompt=prompt), [first, second]) for prompt, first, second in pairs])


@tiny(_asked_here(lambda _: ("yes", "no")))
@judged(
    better="more of the row's questions are answered yes",
    source="UniGenBench in Pref-GRPO, arXiv 2508.20751",
    row='{"questions": ["Is the cat black?", ...]}',
    check=lambda _, prompt: questions_of(prompt.metadata),
)
@dataclass(kw_only=True, eq=False)
class Questions(_Judge):
    """The share of a row's questions that are answered yes, each asked by itself. `prompt` can hold {prompt} and {question}."""

    places: ClassVar[set[str]] = {"prompt", "question"}

    prompt: str = "Look at the picture. {question}\nAnswer 'yes' or 'no', alone on the last line."
    form = "'yes' or 'no'"

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{question}" not in self.prompt:
            raise UserError("the prompt of vlm:Questions must hold {question}")

    def read(self, verdict: str) -> float | None:
        match = YES_NO.fullmatch(verdict)
        return None if match is None else float(match[1] is not None)

    def __call__(self, samples: Samples) -> list[float]:
        return [sum(answers) / len(answers) for answers in self.answers(samples)]

    def answers(self, samples: Samples) -> list[list[float]]:
        """For each picture 1 or 0 per question of its row."""
        asked = [questions_of(row) for row in samples.metadata]
        rows = zip(samples.prompts, samples.images, asked, strict=True)
        verdicts = iter(
            self.ask(
                [
                    Question(self.fill(prompt=prompt, question=text), [picture])
                    for prompt, picture, texts in rows
                    for text in texts
                ]
            )
        )
        return [list(islice(verdicts, len(texts))) for texts in asked]


def questions_of(row: dict[str, Any]) -> list[str]:
    questions = stated(row, "questions", "a list of questions")
    if not isinstance(questions, list) or not questions or not all(isinstance(text, str) and text.strip() for text in questions):
        raise bad_row(row, "questions", "a list of questions")
    return questions
