"""Judges over HTTP, against a server on this machine that speaks chat completions."""

import base64
import io
import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from flowgrpo.core.errors import Unavailable, UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards.vlm import Pairwise, Pointwise, Questions
from flowgrpo.rewards.win_rate import WinRate


class Server:
    """Answers with `reply(request)`: a text, or (status, headers, body)."""

    def __init__(self):
        self.reply, self.requests = lambda request: "5", []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, dict(self.headers), request))
                said = server.reply(request)
                content = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]})
                status, headers, body = (200, {}, content) if isinstance(said, str) else said
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body.encode()))}.items():
                    self.send_header(key, value)
                with suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def turns(self, *replies):
        left = list(replies)
        self.reply = lambda request: left.pop(0)


@pytest.fixture
def server():
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def samples(*brightness, group=None, rows=None):
    images = torch.tensor(brightness).view(-1, 1, 1, 1).expand(-1, 3, 6, 4)
    rows = rows or [{"prompt": "a {question}", "secret": "hidden"}] * len(brightness)
    return Samples(["a {question}"] * len(brightness), rows, group or [0] * len(brightness), images)


def pictures(request):
    """The pictures of the first message, as arrays."""
    addresses = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    files = [base64.b64decode(address.partition(",")[2]) for address in addresses]
    return [np.array(Image.open(io.BytesIO(file))) for file in files]


def asked(request):
    return request["messages"][0]["content"][-1]["text"]


def test_the_request_holds_the_picture_and_the_prompt_and_nothing_else(server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "key-1")
    judge = Pointwise(url=f"{server.url}/", model="m", token="JUDGE_KEY", prompt="Rate {prompt}, {low} to {high}", max_tokens=7)
    assert judge(samples(0.2)) == [pytest.approx(4 / 9)]
    [(path, headers, request)] = server.requests
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer key-1"
    assert {key: request[key] for key in ("model", "temperature", "max_tokens")} == {
        "model": "m",
        "temperature": 0,
        "max_tokens": 7,
    }
    assert set(request) == {"model", "temperature", "max_tokens", "messages"} and len(request["messages"]) == 1
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]
    assert asked(request) == "Rate a {question}, 1 to 10"
    assert (pictures(request)[0] == np.full((6, 4, 3), 51)).all()
    assert "hidden" not in json.dumps(request) and "key-1" not in json.dumps(request)


SCORES = {
    "10": 1.0,
    "1": 0.0,
    "5.5": 0.5,
    "It shows 3 dogs.\n\n**Final score: 10**": 1.0,
    "8/10": 7 / 9,
    "<answer>\n5.5\n</answer> and 3": 0.5,
    "Score: 4.": 1 / 3,
}


@pytest.mark.parametrize("said, expected", SCORES.items())
def test_scores_are_read_from_the_last_line(server, said, expected):
    server.reply = lambda request: said
    assert Pointwise(url=server.url, model="m")(samples(0.2)) == [pytest.approx(expected)]
    assert len(server.requests) == 1


@pytest.mark.parametrize("said", ["", "ten", ".5", "10 or 9", "11", "0", "5/5", "the score is between 1 and 10"])
def test_what_is_no_score_is_asked_for_again_and_then_refused(server, said):
    server.turns(said, "9.1")
    judge = Pointwise(url=server.url, model="m")
    assert judge(samples(0.2)) == [pytest.approx(0.9)]
    again = server.requests[1][2]["messages"]
    assert [message["role"] for message in again] == ["user", "assistant", "user"]
    assert again[1]["content"] == said and "a number from 1 to 10" in again[2]["content"]
    server.turns(said, "x" * 150)
    with pytest.raises(UserError, match=f"answered '{'x' * 100}' where a number from 1 to 10 should be"):
        judge(samples(0.2))


def test_a_scale_of_ones_own(server):
    server.turns("0", "0.25")
    judge = Pointwise(url=server.url, model="m", low=-1.0, high=1.0, concurrency=1)
    assert judge(samples(0.2, 0.3)) == [0.5, 0.625]


def test_requests_are_repeated_when_the_server_is_busy(server):
    server.turns((503, {}, "busy"), (429, {}, "slowly"), "10")
    assert Pointwise(url=server.url, model="m")(samples(0.2)) == [1.0]
    assert len(server.requests) == 3


def test_retry_after_is_respected(server):
    server.turns((503, {"Retry-After": "1"}, "busy"), "10")
    begin = time.monotonic()
    assert Pointwise(url=server.url, model="m")(samples(0.2)) == [1.0]
    assert time.monotonic() - begin >= 1.0


def test_a_server_that_stays_busy_is_unavailable(server):
    server.reply = lambda request: (503, {}, "loading the model")
    with pytest.raises(Unavailable, match="answered HTTP 503: loading the model"):
        Pointwise(url=server.url, model="m", retries=1)(samples(0.2))
    assert len(server.requests) == 2


def test_a_refused_request_is_not_repeated(server):
    server.reply = lambda request: (404, {}, "no model 'm'")
    with pytest.raises(UserError, match="answered HTTP 404: no model 'm'"):
        Pointwise(url=server.url, model="m")(samples(0.2))
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["{}", "<html>", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'])
def test_what_is_no_chat_completion_is_refused(server, body):
    server.reply = lambda request: (200, {}, body)
    with pytest.raises(UserError, match="answered no chat completion but"):
        Pointwise(url=server.url, model="m")(samples(0.2))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(server, status):
    elsewhere = Server()
    server.reply = lambda request: (status, {"Location": f"{elsewhere.url}/chat/completions"}, "")
    with pytest.raises(UserError, match=r"redirects to .*name that address"):
        Pointwise(url=server.url, model="m")(samples(0.2))
    elsewhere.http.shutdown()
    elsewhere.http.server_close()
    assert not elsewhere.requests


def test_a_server_that_is_not_there_is_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"no answer from the judge at http://127.0.0.1:{port}/v1 .*is its server up"):
        Pointwise(url=f"http://127.0.0.1:{port}/v1", model="m", retries=0)(samples(0.2))


def test_a_server_that_takes_too_long_is_one_sentence(server):
    done = threading.Event()
    server.reply = lambda request: "5" if done.wait(10.0) else ""
    with pytest.raises(Unavailable, match="no answer from the judge"):
        Pointwise(url=server.url, model="m", timeout=0.2, retries=0)(samples(0.2))
    done.set()


def test_requests_run_at_once(server):
    together = threading.Barrier(4, timeout=10.0)

    def reply(request):
        together.wait()
        return "yes"

    server.reply = reply
    rows = [{"questions": ["Is it red?", "Is it blue?"]}] * 4
    assert Questions(url=server.url, model="m", concurrency=4)(samples(*[0.5] * 4, rows=rows)) == [1.0] * 4


def brighter(request):
    first, second = (picture.mean() for picture in pictures(request))
    return "tie" if first == second else "Image 1 is better" if first > second else "Image 2"


def through_win_rate(server):
    return WinRate("vlm:Pairwise", arguments={"url": server.url, "model": "m"})


def test_win_rates_by_a_judge_that_looks(server):
    server.reply = brighter
    assert through_win_rate(server)(samples(0.1, 0.9, 0.5, 0.5, group=[0, 0, 0, 1])) == [0.0, 1.0, 0.5, 0.5]
    assert len(server.requests) == 6


def test_a_tie_is_half_a_win(server):
    server.reply = brighter
    assert through_win_rate(server)(samples(0.5, 0.5)) == [0.5, 0.5]


def test_a_judge_that_prefers_a_place_is_cancelled_by_the_swap(server):
    server.reply = lambda request: "Image 1"
    assert through_win_rate(server)(samples(0.1, 0.9, 0.5)) == [0.5, 0.5, 0.5]
    orders = {tuple(int(picture.mean()) for picture in pictures(request)) for _, _, request in server.requests}
    assert orders == {(a, b) for a in (26, 230, 128) for b in (26, 230, 128) if a != b}


VERDICTS = {"Image 1": 1.0, "**Image 2 is better**": 0.0, "They differ.\ntie": 0.5, "<answer>2</answer>": 0.0}


@pytest.mark.parametrize("said, expected", VERDICTS.items())
def test_verdicts_on_pairs(server, said, expected):
    server.reply = lambda request: said
    assert Pairwise(url=server.url, model="m")(samples(0.1), samples(0.2)) == [expected]


def test_a_verdict_on_no_picture_is_refused(server):
    server.reply = lambda request: "Image 3"
    with pytest.raises(UserError, match="answered 'Image 3' where 'Image 1', 'Image 2' or 'tie'"):
        Pairwise(url=server.url, model="m")(samples(0.1), samples(0.2))


def test_the_share_of_questions_that_are_answered_yes(server):
    yes = ("Is it dark?", "Is it small?")
    server.reply = lambda request: "Yes." if any(text in asked(request) for text in yes) else "I see none.\nno"
    rows = [{"questions": ["Is it dark?", "Is it red?", "Is it small?"]}, {"questions": ["Is it blue?"]}]
    judge = Questions(url=server.url, model="m")
    assert judge.answers(samples(0.1, 0.2, rows=rows)) == [[1.0, 0.0, 1.0], [0.0]]
    assert judge(samples(0.1, 0.2, rows=rows)) == pytest.approx([2 / 3, 0.0])


def test_a_question_can_stand_beside_the_prompt(server):
    server.reply = lambda request: "no"
    rows = [{"questions": ["Is {prompt} red?"]}]
    assert Questions(url=server.url, model="m", prompt="{prompt}: {question}")(samples(0.1, rows=rows)) == [0.0]
    assert asked(server.requests[0][2]) == "a {question}: Is {prompt} red?"


@pytest.mark.parametrize("row", [{}, {"questions": []}, {"questions": "Is it red?"}, {"questions": [1]}, {"questions": [" "]}])
def test_rows_without_questions_are_refused(row):
    with pytest.raises(UserError, match="must hold 'questions': a list of questions"):
        Questions(url="http://127.0.0.1:1/v1", model="m")(samples(0.1, rows=[row]))


def test_arguments_that_can_not_work_are_refused():
    at = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    for kind, arguments, said in (
        (Pointwise, {"url": "127.0.0.1", "model": "m"}, "begins with http:// or https://, not '127.0.0.1'"),
        (Pointwise, {**at, "prompt": "Rate {promt}"}, r"can hold \['high', 'low', 'prompt'\] in braces, not 'promt'"),
        (Pointwise, {**at, "low": 5.0, "high": 5.0}, "from low to high, not from 5 to 5"),
        (Pointwise, {**at, "concurrency": 0}, "concurrency of a judge are above 0"),
        (Pairwise, {**at, "token": "NO_SUCH_KEY"}, "variable NO_SUCH_KEY must hold the token"),
        (Questions, {**at, "prompt": "Is it good?"}, "must hold {question}"),
    ):
        with pytest.raises(UserError, match=said):
            kind(**arguments)


def test_clips_are_refused():
    with pytest.raises(UserError, match=r"reads samples\.images"):
        Pointwise(url="http://127.0.0.1:1/v1", model="m")(Samples(["p"], [{}], [0], torch.rand(1, 2, 3, 4, 4)))
