"""Served rewards: the same scores as in this process, whatever comes in, and whatever becomes of the server."""

import base64
import io
import json
import os
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import requests
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowgrpo.cli.main import main
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import Unavailable, UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards import arithmetic, scene
from flowgrpo.scoring.card import card_of
from flowgrpo.scoring.exemplars import samples as exemplars
from flowgrpo.scoring.identity import identity
from flowgrpo.scoring.scorer import Scorer, load_reward
from flowgrpo.scoring.serving import connection as serving_connection
from flowgrpo.scoring.serving import retries
from flowgrpo.scoring.serving.client import Served
from flowgrpo.scoring.serving.packing import packed
from flowgrpo.scoring.serving.pictures import Reader, pixels_of, png
from flowgrpo.scoring.serving.process import RewardProcess
from flowgrpo.scoring.serving.server import Options, Server, application
from flowgrpo.scoring.serving.wire import Limits
from load_served_reward import load, pool

SOURCE = """
import os
import time
from pathlib import Path

here = Path(__file__).parent


def bright(samples):
    return samples.images.mean((1, 2, 3)).tolist()


def motion(samples):
    return samples.videos.diff(dim=1).abs().mean((1, 2, 3, 4)).tolist()


def crowd(samples):
    return [float(len(samples))] * len(samples)


def mates(samples):
    return [float(samples.group.count(number)) for number in samples.group]


def gated(samples):
    with (here / "seen").open("a") as seen:
        seen.write(f"{len(samples)} ")
    while not (here / "gate").exists():
        time.sleep(0.01)
    return [1.0] * len(samples)


def deadly(samples):
    if "hang" in samples.prompts:
        time.sleep(600)
    if "exit" in samples.prompts:
        os._exit(3)
    if "kill" in samples.prompts:
        os.kill(os.getpid(), 9)
    return [float(len(samples))] * len(samples)


def picky(samples):
    if "bad" in samples.prompts:
        raise ValueError("bad prompt")
    return [1.0] * len(samples)


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def __call__(self, samples):
        return [float(repr(row) in self.rows) for row in samples.metadata]
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def seen(mine: Path) -> list[int]:
    """How many samples each batch had that `gated` has begun."""
    path = mine.with_name("seen")
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@contextmanager
def serving(name: str, arguments: dict[str, Any] | None = None, port: int = 0, **options: Any) -> Iterator[SimpleNamespace]:
    """The server of the command in a thread; `process` has the reward, `end()` does what SIGTERM does."""
    chosen = Options(**options)
    reward = RewardProcess(name, arguments or {}, chosen.max_pixels, chosen.batch_timeout)
    bound = socket.create_server(("127.0.0.1", port))
    port = bound.getsockname()[1]
    server = Server(application(reward, chosen), "ready")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    end = partial(setattr, server, "should_exit", True)
    with closing(reward):
        try:
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, process=reward, end=end)
        finally:
            end()
            thread.join()


@pytest.fixture(scope="module")
def scene_server() -> Iterator[str]:
    with serving("scene:soft", max_bytes=2**20, max_pixels=10_000) as server:
        yield server.url


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def health(url: str) -> dict[str, Any]:
    return requests.get(f"{url}/health", timeout=60).json()


def post(url: str, body: bytes | dict[str, Any]) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.post(f"{url}/score", data, timeout=60)


def sample(image: bytes | str, group: int = 0, **fields: Any) -> dict[str, Any]:
    text = base64.b64encode(image).decode() if isinstance(image, bytes) else image
    return {"prompt": "p", "metadata": {"include": []}, "group": group, "image": text, **fields}


def grey(level: float, count: int = 1, size: int = 4) -> Samples:
    return exemplars(torch.full((count, 3, size, size), level), [{"prompt": "grey"}] * count)


def test_pictures_score_as_in_this_process(scene_server):
    scenes = replace(pool(100), group=[row % 20 for row in range(100)])
    assert Served(scene_server)(scenes) == scene.soft(scenes)


def test_texts_score_as_in_this_process():
    rows = [{"numbers": [2, 3, 4], "target": 14, "prompt": f"{i}"} for i in range(4)]
    texts = exemplars(["2 + 3 * 4", "2 * 3 + 4", "<answer>(3 + 4) * 2</answer>", "é\n\u2028"], rows)
    with serving("arithmetic:countdown") as server:
        assert Served(server.url)(texts) == arithmetic.countdown(texts) == [1.0, 0.1, 1.0, 0.0]


def test_clips_score_as_in_this_process(mine):
    clips = torch.randint(0, 256, (5, 3, 3, 6, 8), generator=torch.Generator().manual_seed(0)) / 255
    with serving(f"{mine}:motion") as server:
        found = exemplars(clips, [{"prompt": "p"}] * 5)
        assert Served(server.url)(found) == load_reward(f"{mine}:motion")(found)


def test_a_float_picture_is_rounded_to_8_bits(mine):
    with serving(f"{mine}:bright") as server:
        assert Served(server.url)(grey(0.4999)) == pytest.approx([127 / 255])


def test_prompt_rows_arrive_untouched(mine):
    rows = [{"prompt": "p", "none": None, "nested": [{"é": [1, 2.5, True, "\n"]}], "large": 10**30}, {"nan": float("nan")}]
    with serving(f"{mine}:Rows", {"rows": [repr(row) for row in rows]}) as server:
        assert Served(server.url)(exemplars(["a", "b"], rows)) == [1.0, 1.0]
        for row in ({"x": object()}, {"x": "\ud800"}, {1: "x"}):
            with pytest.raises(UserError, match="can't be sent as JSON"):
                Served(server.url)(exemplars(["a"], [row]))


def test_the_card_travels(scene_server, mine):
    assert Served(scene_server).card == replace(card_of(scene.soft), ladder=None, check=None)
    with serving(f"{mine}:crowd") as server:
        assert Served(server.url).card.range == (-float("inf"), float("inf"))
        assert requests.get(f"{server.url}/health", timeout=60).json()["range"] == ["-Infinity", "Infinity"]


def test_requests_of_many_clients_are_scored_together(mine):
    with serving(f"{mine}:crowd", batch=8, wait=60_000) as server, ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda _: Served(server.url)(grey(0.5)), range(8)))
    assert found == [[8.0]] * 8


def test_groups_of_different_clients_stay_apart(mine):
    levels = np.random.default_rng(0).permutation(40).reshape(10, 4) / 255
    pictures = [replace(Samples.concatenate([grey(level) for level in row]), group=[0, 1, 0, 0]) for row in levels]
    arguments = {"judge": f"{mine}:bright", "margin": 0.0}
    here = Scorer({"wins": RewardConfig(use="win_rate:WinRate", arguments=arguments)})
    with serving("win_rate:WinRate", arguments, batch=40, wait=60_000) as server, ThreadPoolExecutor(10) as clients:
        found = list(clients.map(lambda each: Served(server.url)(each), pictures))
    assert found == [here(each)["wins"].tolist() for each in pictures]


def test_a_group_is_never_split(mine):
    with serving(f"{mine}:mates", batch=3) as server:
        group = [0, 1, 0, 2, 0, 0, 1, 0]
        assert Served(server.url)(replace(grey(0.5, 8), group=group)) == [5.0, 2.0, 5.0, 1.0, 5.0, 5.0, 2.0, 5.0]


def test_a_group_too_large_for_the_server_is_said(mine):
    with serving(f"{mine}:mates", max_pixels=20) as server:
        assert Served(server.url)(grey(0.5, 3)) == [1.0] * 3
        with pytest.raises(UserError, match=r"one of 2 samples is too much \(32 pixels of 20\)"):
            Served(server.url)(replace(grey(0.5, 2), group=[0, 0]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 60)), min_size=1, max_size=20), st.integers(1, 8))
def test_requests_hold_whole_groups_within_the_limits(rows, batch):
    group = [number for number, _ in rows]
    parts = [b"x" * size for _, size in rows]
    texts = replace(exemplars(["t"] * len(rows), [{}] * len(rows)), group=group)
    limits = Limits(samples=1024, bytes=10_000, pixels=0, seconds=1.0, batch=batch, requests=1)
    found = packed(texts, parts, limits)
    assert sorted(row for request in found for row in request) == list(range(len(rows)))
    for request in found:
        numbers = {group[row] for row in request}
        assert sum(number in numbers for number in group) == len(request)
        assert len(request) <= batch or len(numbers) == 1


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "Invalid JSON"),
        (b"\xff\xfe", 400, "Invalid JSON"),
        (b"[" * 100_000, 400, "Invalid JSON"),
        (b"[]", 422, "should be an object"),
        ({"samples": []}, 422, "at least 1 item"),
        ({"samples": [sample("", text="both")]}, 422, "exactly one of 'image', 'frames' and 'text'"),
        ({"samples": [{"prompt": "p", "group": 0}]}, 422, "exactly one of"),
        ({"samples": [sample("", pikture="x")]}, 422, "samples.0.pikture"),
        ({"samples": [sample("")], "more": 1}, 422, "more: Extra"),
        ({"samples": [sample("", group="0")]}, 422, "samples.0.group"),
        ({"samples": [sample("../../etc/passwd")]}, 422, "no path or address is opened"),
        ({"samples": [sample("/etc/passwd")]}, 422, "samples.0.image"),
        ({"samples": [sample("file:///etc/passwd")]}, 422, "no path or address is opened"),
        ({"samples": [sample("http://127.0.0.1/a.png")]}, 422, "no path or address is opened"),
        ({"samples": [sample("data:image/png;base64,AAAA")]}, 422, "must be the base64"),
        ({"samples": [{"prompt": "p", "group": 0, "frames": ["AAAA", "../b"]}]}, 422, "samples.0.frames.1"),
        ({"samples": [sample("AA\nAA")]}, 422, "must be the base64"),
    ],
)
def test_what_is_malformed_is_refused_in_a_sentence(scene_server, body, status, words):
    response = post(scene_server, body)
    assert response.status_code == status and list(response.json()) == ["error"]
    assert words in response.json()["error"] and "\n" not in response.json()["error"]


def file(format: str, picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format)
    return buffer.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """A file of some 60 bytes that says it is so large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


WHITE = Image.new("RGB", (8, 8), "white")
UNREADABLE = {
    "truncated": (file("PNG", Image.effect_noise((32, 32), 50))[:300], "can't be read"),
    "another format": (file("GIF", WHITE), "not a PNG, JPEG or WebP"),
    "text that is base64": ("etc/pass", "not a PNG, JPEG or WebP"),
    "nothing": ("", "not a PNG, JPEG or WebP"),
    "16 bits": (file("PNG", Image.new("I;16", (8, 8))), "save it with 8 bits"),
    "larger than allowed": (empty_png(200, 51), "200 x 51 pixels"),
    "a bomb": (empty_png(60_000, 60_000), "can't be read"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_unreadable_picture_fails_alone(scene_server, kind):
    data, words = UNREADABLE[kind]
    good = sample(file("PNG", WHITE))
    found = post(scene_server, {"samples": [good, sample(data), good]}).json()["scores"]
    assert [list(score) for score in found] == [["score"], ["error"], ["score"]]
    assert words in found[1]["error"]


def test_small_files_can_not_be_many_pixels_together(scene_server):
    each = sample(file("PNG", Image.new("RGB", (64, 64))))
    found = post(scene_server, {"samples": [each] * 4}).json()["scores"]
    assert ["error" in score for score in found] == [False, False, True, True]


def test_a_reward_that_compares_never_sees_a_part_of_a_group(mine):
    pictures = [sample(png(torch.full((3, 4, 4), level)), group) for level, group in ((0.1, 0), (0.2, 0), (0.3, 1), (0.4, 1))]
    with serving("win_rate:WinRate", {"judge": f"{mine}:bright", "margin": 0.0}) as server:
        body = {"samples": [*pictures, sample("AAAA", 0)]}
        found = post(server.url, body).json()["scores"]
        assert [score.get("score") for score in found] == [None, None, 0.0, 1.0, None]
        assert "needs whole groups" in found[0]["error"] and "not a PNG" in found[4]["error"]
        body = {"samples": [*pictures, sample(png(torch.zeros(3, 5, 5)), 1)]}
        found = post(server.url, body).json()["scores"]
        assert [score.get("score") for score in found] == [0.0, 1.0, None, None, None]


def test_jpeg_and_webp_are_read_and_png_is_lossless():
    noise = torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(Reader(63).picture(png(noise / 255)), noise)
    for format in ("JPEG", "WEBP"):
        assert Reader(64).picture(file(format, WHITE)).shape == (3, 8, 8)


def test_a_sample_that_fails_names_prompt_and_reason(mine):
    texts = Samples(["good", "bad"], [{}, {}], [0, 1], ["a", "b"])
    with serving(f"{mine}:picky") as server:
        served = {"served": RewardConfig(url=server.url)}
        with pytest.raises(UserError, match=r"can't score the prompt 'bad': .*raised ValueError: bad prompt \(mine.py, line"):
            Scorer(served)(texts)
        good, bad = Scorer(served).attempt(texts)["served"]
        assert good == 1.0 and isinstance(bad, UserError)
    with serving("text:xml_answer") as server, pytest.raises(UserError, match="these samples are images"):
        Served(server.url)(grey(0.5))


def answer(server: str, head: str, body: bytes) -> bytes:
    """What comes back while the request is not at its end."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(f"POST /score HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
        return connection.recv(1000)


def test_a_body_over_the_limit_is_refused_before_its_end(scene_server):
    assert b" 413 " in answer(scene_server, f"Content-Length: {10**12}", b"{")
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    assert b" 413 " in answer(scene_server, "Transfer-Encoding: chunked", 17 * chunk)
    assert post(scene_server, b" " * 2**22).json()["error"].startswith("a request may have 1048576 bytes")
    assert requests.post(f"{scene_server}/score", (b" " * 2**16 for _ in range(64)), timeout=60).status_code == 413


def test_a_full_queue_sends_back_and_the_client_gets_through(mine):
    with serving(f"{mine}:gated", queue=1) as server, ThreadPoolExecutor(2) as clients:

        class Client(Served):
            def pause(self, seconds: float) -> None:
                mine.with_name("gate").touch()
                assert seconds >= 1.0

        first = clients.submit(Served(server.url), grey(0.5))
        until(lambda: seen(mine) == [1])
        refused = post(server.url, {"samples": [sample(png(torch.zeros(3, 4, 4)))]})
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert Client(server.url)(grey(0.5)) == first.result() == [1.0]


def test_work_that_waited_for_too_long_is_dropped(mine):
    body = {"samples": [sample(png(torch.zeros(3, 4, 4)))]}
    with serving(f"{mine}:gated", timeout=0.5, batch=1) as server:
        for _ in range(2):
            late = post(server.url, body)
            assert late.status_code == 504
            assert "not scored within 0.5 s (the reward has been at a batch for" in late.json()["error"]
        mine.with_name("gate").touch()
        assert Served(server.url)(grey(0.5, 3)) == [1.0] * 3
        assert seen(mine) == [1] * 4
        assert set(health(server.url)["load"].values()) == {0}


def test_a_client_that_hangs_up_leaves_nothing_behind(scene_server):
    host, port = scene_server.removeprefix("http://").split(":")

    def requests_there() -> int:
        return health(scene_server)["load"]["requests"]

    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(b'POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"samples"')
        until(lambda: requests_there() == 1)
    until(lambda: requests_there() == 0)


def test_frames_of_several_sizes_are_no_clip(scene_server):
    frames = [base64.b64encode(png(torch.zeros(3, size, 4))).decode() for size in (4, 5)]
    found = post(scene_server, {"samples": [{"prompt": "p", "group": 0, "frames": frames}]}).json()["scores"]
    assert found == [{"error": "the frames of a clip must have one size"}]


def test_a_client_error_is_not_retried(scene_server):
    class Client(Served):
        def pause(self, seconds: float) -> None:
            raise AssertionError

    with pytest.raises(UserError, match=r"refuses a request: Invalid JSON.* \(HTTP 400\)"):
        Client(scene_server).ask([b"{"], time.monotonic() + 60)
    with pytest.raises(UserError, match=r"a request may have 1048576 bytes.* \(HTTP 413\)"):
        Client(scene_server).ask([b" " * 2**21], time.monotonic() + 60)


def test_no_server_is_said_in_a_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert main(["train", "quickstart", f"rewards.soft={{url: '{url}'}}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"flowgrpo: no reward server at {url} (no connection); start one with `flowgrpo serve-reward NAME`"
    with pytest.raises(UserError, match="begins with http:// or https://, not 'localhost:8000'"):
        Served("localhost:8000")


def test_a_server_that_is_gone_fails_all_groups_at_once(mine):
    with serving(f"{mine}:crowd") as server:
        scorer = Scorer({"gone": RewardConfig(url=server.url, timeout=0.5)})
    begin = time.monotonic()
    errors = scorer.attempt(grey(0.5, 20))["gone"]
    assert len(errors) == 20 and {type(error) for error in errors} == {Unavailable}
    assert "no scores in 0.5 s" in str(errors[0]) and time.monotonic() - begin < 5


def test_a_server_that_comes_back_with_another_reward_is_refused():
    with serving("scene:soft") as server:
        served = Served(server.url)
        assert served(pool(2)) == scene.soft(pool(2))
    with serving("scene:soft", port=server.port):
        assert served(pool(2)) == scene.soft(pool(2))
    other = "serves 'scene:strict' and not the 'scene:soft' of before"
    with serving("scene:strict", port=server.port), pytest.raises(UserError, match=other):
        served(pool(2))


def test_whatever_a_served_reward_depends_on_belongs_to_its_fingerprint(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "weights").mkdir()
    weights, module, path = tmp_path / "weights" / "w.bin", tmp_path / "beside_it.py", tmp_path / "own.py"
    found = []
    for content, code, own in ((b"1", "x = 1", 0), (b"2", "x = 1", 0), (b"2", "x = 2", 0), (b"2", "x = 2", 1)):
        weights.write_bytes(content)
        module.write_text(code)
        path.write_text(f"import beside_it\n\n\nclass One:\n    def __init__(self, weights):\n        self.own = {own}\n")
        reward = RewardConfig(use=f"{path}:One", arguments={"weights": str(weights.parent)})
        found += [digest_of(identity(reward)) for _ in range(2)]
    assert found[::2] == found[1::2] and len(set(found)) == 4


@contextmanager
def stranger(health: bytes, scores: bytes) -> Iterator[str]:
    """Another server, which answers always the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(health)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(scores)

        def reply(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_strangers_are_refused(scene_server):
    greeting = health(scene_server)
    known = {"name": greeting["name"], "fingerprint": greeting["fingerprint"]}
    with stranger(b"<html>", b"") as url, pytest.raises(UserError, match="does not greet as a reward server"):
        Served(url)
    with stranger(b'{"protocol": 1}', b"") as url, pytest.raises(UserError, match="speaks protocol 1, and this is 2"):
        Served(url)
    answers = {
        b"<html>": "does not answer like a reward server",
        json.dumps({**known, "scores": [{"score": 1.0}] * 2}).encode(): "returned 2 scores for 1 samples",
        json.dumps({**known, "scores": [{"score": float("nan")}]}).encode(): "scores.0.score",
        json.dumps({**known, "scores": [{"score": None}]}).encode(): "either a 'score' or an 'error'",
    }
    for scores, words in answers.items():
        with stranger(json.dumps(greeting).encode(), scores) as url, pytest.raises(UserError, match=words):
            Served(url)(grey(0.5))


def test_a_token_is_asked_for(mine, monkeypatch):
    with pytest.raises(UserError, match="the environment variable REWARD_TOKEN must hold the token"):
        application(cast(RewardProcess, None), Options(token="REWARD_TOKEN"))
    monkeypatch.setenv("REWARD_TOKEN", "secret")
    with serving(f"{mine}:crowd", token="REWARD_TOKEN") as server:
        assert Scorer({"x": RewardConfig(url=server.url, token="REWARD_TOKEN")})(grey(0.5))["x"].tolist() == [1.0]
        assert post(server.url, {"samples": []}).status_code == 401
        with pytest.raises(UserError, match=r"wants its bearer token; let `token` name .* \(HTTP 401\)"):
            Served(server.url)


def test_a_served_reward_works_beside_one_of_this_process(tmp_path):
    """Each waits for the other to have begun."""
    source = "import os, time\nfrom pathlib import Path\n\n\ndef meet(samples):\n    here = Path(__file__).parent\n"
    source += "    (here / f'{os.getpid()}.here').touch()\n    while len([*here.glob('*.here')]) < 2:\n        time.sleep(0.01)\n"
    (tmp_path / "meeting.py").write_text(source + "    return [1.0]\n")
    use = f"{tmp_path / 'meeting.py'}:meet"
    with serving(use) as server:
        scorer = Scorer({"here": RewardConfig(use=use), "there": RewardConfig(url=server.url)})
        assert [*scorer(grey(0.5))] == ["here", "there"]


def test_training_with_a_served_reward_is_training(capsys, tmp_path, monkeypatch):
    (tmp_path / "brightness.py").write_text("def brightness(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    monkeypatch.chdir(tmp_path)
    small = ["rollout.prompts_per_update=4", "rollout.group_size=4", "rollout.micro_batch=8", "evaluation=null", "updates=1"]
    small += ["rewards.bright={use: 'brightness.py:brightness'}"]
    rows = []
    with serving("scene:soft") as server:
        for place in ("use: 'scene:soft'", f"url: '{server.url}'"):
            assert main(["train", "quickstart", *small, f"rewards.soft={{{place}}}"]) == 0
            run = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            rows.append([{key: value for key, value in line.items() if "seconds" not in key} for line in lines])
    assert rows[0] == rows[1] and "reward/soft" in rows[0][0]


def test_what_can_not_be_served_is_said_in_a_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve-reward", "scene:soft", "--port", port]) == 2
        assert f"127.0.0.1:{port} can't be served" in capsys.readouterr().err
    for arguments, words in {
        ("scen", "--port", "0"): "did you mean 'scene'",
        ("text:Length", "width=0", "target=1", "--port", "0"): "a width above 0",
        ("scene:soft", "--batch", "0"): "serve-reward: batch: Input should be greater than 0",
        ("scene:soft", "--port", "70000"): "serve-reward: port: Input should be less than or equal to 65535",
        ("scene:soft", "--port", "-1"): "serve-reward: port: Input should be greater than or equal to 0",
        ("scene:soft", "--timeout", "inf"): "serve-reward: timeout: Input should be a finite number",
        ("scene:soft", "--batch-timeout", "0"): "serve-reward: batch_timeout: Input should be greater than 0",
        ("scene:soft", "--batc", "0"): "serve-reward: ambiguous option: --batc",
    }.items():
        assert main(["serve-reward", *arguments]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_a_server_that_ends_answers_what_it_accepted(mine):
    body = {"samples": [sample(png(torch.zeros(3, 4, 4)))]}
    with ThreadPoolExecutor(3) as clients, serving(f"{mine}:gated", batch=1) as server:
        asked = [clients.submit(post, server.url, body) for _ in range(3)]
        until(lambda: health(server.url)["load"]["requests"] == 3 and health(server.url)["load"]["waiting"] == 2)
        server.end()
        until(lambda: not accepts(server.port))
        mine.with_name("gate").touch()
        assert [each.result().json()["scores"] for each in asked] == [[{"score": 1.0}]] * 3


def accepts(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def ask(prompt: str, size: int = 4) -> dict[str, Any]:
    return {"samples": [sample(png(torch.zeros(3, size, size)), prompt=prompt)]}


@pytest.mark.parametrize(
    ("fault", "words"), [("exit", "ended (exit code 3)"), ("kill", "ended (signal 9)"), ("hang", "more than 1.5 s")]
)
def test_a_reward_that_does_not_survive_a_batch_is_replaced_and_only_who_did_it_is_told(mine, fault, words):
    with serving(f"{mine}:deadly", batch=3, wait=60_000, batch_timeout=1.5) as server, ThreadPoolExecutor(3) as clients:
        found = [each.json() for each in clients.map(lambda prompt: post(server.url, ask(prompt)), ["a", fault, "b"])]
        good, bad, also = [reply["scores"][0] for reply in found]
        assert good == also == {"score": 1.0}
        assert words in bad["error"] and "was replaced" in bad["error"]
        until(lambda: health(server.url)["worker"]["ready"])
        worker = health(server.url)["worker"]
        assert worker["restarts"] == 2 and worker["batches"] == 2 and worker["scoring_seconds"] is None
        assert Served(server.url)(grey(0.5, 3)) == [3.0] * 3


def test_what_a_hung_reward_started_ends_with_it(mine):
    source = "import subprocess, time\nfrom pathlib import Path\n\n\ndef parent(samples):\n"
    source += "    child = subprocess.Popen(['sleep', '600'])\n"
    source += "    Path(__file__).with_name('child').write_text(str(child.pid))\n    time.sleep(600)\n"
    mine.write_text(source)
    with serving(f"{mine}:parent", batch_timeout=0.5) as server:
        assert "more than 0.5 s" in post(server.url, ask("p")).json()["scores"][0]["error"]
        child = Path("/proc") / mine.with_name("child").read_text() / "stat"
        until(lambda: not child.exists() or child.read_text().split()[2] in "ZX")


def test_health_says_what_the_worker_does(mine):
    with serving(f"{mine}:gated", batch=1) as server, ThreadPoolExecutor(1) as clients:
        assert health(server.url)["worker"] == {
            "ready": True,
            "restarts": 0,
            "batches": 0,
            "scoring_seconds": None,
            "last_batch_seconds": None,
        }
        asked = clients.submit(post, server.url, ask("p"))
        until(lambda: (health(server.url)["worker"]["scoring_seconds"] or 0) > 0.05)
        mine.with_name("gate").touch()
        assert asked.result().status_code == 200
        worker = health(server.url)["worker"]
        assert worker["batches"] == 1 and worker["last_batch_seconds"] > 0.05 and worker["scoring_seconds"] is None


def test_a_reward_that_can_not_be_made_again_is_no_healthy_server(mine):
    with serving(f"{mine}:deadly") as server:
        client = Served(server.url, timeout=1.0)
        mine.write_text("def deadly(samples) nonsense")
        assert "error" in post(server.url, ask("exit")).json()["scores"][0]
        until(lambda: requests.get(f"{server.url}/health", timeout=60).status_code == 503)
        reply = post(server.url, ask("p"))
        assert reply.status_code == 503 and "can't be imported: it raised SyntaxError" in reply.json()["error"]
        with pytest.raises(Unavailable, match="can't be imported"):
            client(grey(0.5))
        mine.write_text(SOURCE)
        assert post(server.url, ask("p")).json()["scores"] == [{"score": 1.0}]
        assert health(server.url)["worker"]["ready"]


def test_a_process_that_ends_while_nothing_is_asked_is_seen_and_replaced(mine):
    with serving(f"{mine}:deadly") as server:
        for ask_first in (True, False):
            pid = server.process.running.process.pid
            os.kill(pid, signal.SIGKILL)
            until(lambda: not server.process.ready)
            if ask_first:
                assert post(server.url, ask("p")).json()["scores"] == [{"score": 1.0}]
            else:
                assert requests.get(f"{server.url}/health", timeout=60).status_code == 503
                until(lambda: requests.get(f"{server.url}/health", timeout=60).status_code == 200)
            assert server.process.running.process.pid != pid
        assert health(server.url)["worker"]["restarts"] == 2


def test_a_process_whose_end_was_seen_is_not_ready_however_late_its_sentinel_says_so(mine, monkeypatch):
    with closing(RewardProcess(f"{mine}:deadly", {}, 10_000, 10.0)) as process:
        assert process.ready
        process.running.end()
        monkeypatch.setattr("flowgrpo.scoring.serving.process.wait", lambda sentinels, seconds: [])
        assert not process.ready


def test_a_server_ends_while_its_reward_is_being_made_again(mine):
    with serving(f"{mine}:deadly") as server:
        mine.write_text("import time\ntime.sleep(600)")
        assert "ended" in post(server.url, ask("exit")).json()["scores"][0]["error"]
        until(lambda: server.process.starts == 2)
        begin = time.monotonic()
    assert time.monotonic() - begin < 20


def test_a_reward_that_ends_its_process_while_it_is_made_is_said(tmp_path, capsys):
    path = tmp_path / "ends.py"
    path.write_text("import os\nos._exit(3)")
    assert main(["serve-reward", f"{path}:x", "--port", "0"]) == 2
    assert "can't be made: its process ended (exit code 3)" in capsys.readouterr().err


def test_a_batch_has_no_more_pixels_than_a_request_may_have(mine):
    with serving(f"{mine}:deadly", batch=8, wait=300, max_pixels=40) as server, ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda _: post(server.url, ask("p")).json()["scores"][0]["score"], range(4)))
    assert max(found) <= 2.0


def test_the_pixels_and_bytes_of_all_requests_together_are_limited(mine):
    small = {"max_pixels": 16, "max_bytes": len(json.dumps(ask("p"))), "queue": 64}
    for limit, what in (({"max_bytes": 10**6}, "pixels"), ({"max_pixels": 10**6}, "bytes")):
        with serving(f"{mine}:gated", batch=1, **{**small, **limit}) as server, ThreadPoolExecutor(4) as clients:
            asked = [clients.submit(post, server.url, ask("p")) for _ in range(4)]
            most = 4 * small[f"max_{what}"]
            until(lambda what=what, url=server.url, most=most: health(url)["load"][what] == most)
            refused = post(server.url, ask("p"))
            assert f" {what} are waiting already; try again" in refused.json()["error"] and refused.headers["Retry-After"] == "1"
            mine.with_name("gate").touch()
            assert {each.result().status_code for each in asked} == {200}
            assert set(health(server.url)["load"].values()) == {0}
        mine.with_name("gate").unlink()


def closed(connection: socket.socket) -> bytes:
    """What still comes before the other side hangs up."""
    connection.settimeout(30)
    found = b""
    while part := connection.recv(1000):
        found += part
    return found


@pytest.mark.parametrize("head", [b"", b"POST /score HTTP/1.1\r\nHost: x\r\n"])
@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_that_never_ends_is_hung_up_on(scene_server, monkeypatch, before, head):
    monkeypatch.setattr(serving_connection, "HEAD", 1.0)
    host, port = scene_server.removeprefix("http://").split(":")
    begin, found = time.monotonic(), b""
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(before)
        while before and not found.endswith(b"}}"):
            found += connection.recv(10_000)
        connection.sendall(head or b"G")
        assert closed(connection) == b""
    assert time.monotonic() - begin < 10


def test_a_body_that_never_ends_is_given_up(mine):
    with serving(f"{mine}:crowd", reading=1.0) as server:
        for rest in (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{"):
            with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
                connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\n" + rest)
                assert b" 408 " in closed(connection)
        assert Served(server.url)(grey(0.5)) == [1.0]


@contextmanager
def dripping(first: bytes, drop: bytes) -> Iterator[str]:
    """A server that answers with some bytes from time to time, after it has greeted well where `first` is a greeting."""
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            asked = connection.recv(2**16)
            connection.sendall(first if asked.startswith(b"GET /health") else b"")
            while not stop.wait(0.05) and not (first and asked.startswith(b"GET /health")):
                connection.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("drop", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{", b"HTTP/1.1 200 OK\r\nX: "])
def test_the_timeout_of_a_client_holds_when_a_reply_drips(scene_server, drop):
    greeting = requests.get(f"{scene_server}/health", timeout=60).content
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(greeting)
    begin = time.monotonic()
    with dripping(head + greeting, drop) as url, pytest.raises(Unavailable, match=r"no scores in 1 s .*no answer in time"):
        Served(url, timeout=1.0)(grey(0.5))
    with dripping(b"", drop) as url, pytest.raises(UserError, match=r"no reward server at .* \(no answer in time\)"):
        Served(url, timeout=1.0)
    assert time.monotonic() - begin < 10


def test_a_reply_has_a_largest_size(scene_server, monkeypatch):
    greeting = requests.get(f"{scene_server}/health", timeout=60).content
    with stranger(greeting, b" " * 10_000) as url:
        served = Served(url)
        monkeypatch.setattr(retries, "LARGEST", 9_999)
        with pytest.raises(UserError, match="answers with more than 9999 bytes"):
            served(grey(0.5))


def test_a_picture_is_measured_before_it_is_decoded():
    assert pixels_of(empty_png(4000, 3000)) == 12_000_000
    assert pixels_of(b"nonsense") == pixels_of(empty_png(60_000, 60_000)) == 0


def test_a_kill_loses_nothing_and_makes_nothing_wrong():
    figures = load(count=300, clients=8, kills=1)
    assert len(figures.outcomes) == 300 and figures.counts["retries"] > 0 and figures.exit_code == 0
    found = {key: figures.counts[key] for key in ("right", "told", "refused", "wrong", "lost")}
    assert found == {"right": 1176, "told": 12, "refused": 3, "wrong": 0, "lost": 0}


def test_several_servers_share_out_requests_and_a_dead_one_is_left_out(mine, capsys):
    with serving(f"{mine}:crowd") as left, serving(f"{mine}:crowd") as right:
        both = Served([left.url, right.url])
        assert both.count == 2 and Scorer({"x": RewardConfig(url=(left.url, right.url))}).at_once == 2
        nobody_waits = dict.fromkeys(both.servers, 0.0)
        with both._least_asked(nobody_waits) as first, both._least_asked(nobody_waits) as second:
            assert {first.url, second.url} == {left.url, right.url}
        assert both(grey(0.5, 3)) == [3.0] * 3
        with socket.create_server(("127.0.0.1", 0)) as free:
            dead = f"http://127.0.0.1:{free.getsockname()[1]}"
        late = Served([dead, left.url])
        assert late(grey(0.5)) == [1.0]
    assert f"{dead}: no answer yet; the other servers go on, and it is asked again" in capsys.readouterr().err
    with serving(f"{mine}:crowd", port=left.port):
        begin = time.monotonic()
        assert both(grey(0.5, 2)) == [2.0] * 2 and both(grey(0.5)) == [1.0]
        assert time.monotonic() - begin < 5
    both.timeout = 0.3
    with pytest.raises(Unavailable, match=f"from {left.url} or {right.url}"):
        both(grey(0.5))


def test_one_label_has_one_reward():
    with serving("scene:soft") as soft, serving("scene:strict") as strict, pytest.raises(UserError, match="different rewards"):
        Served([soft.url, strict.url])


def test_a_server_that_others_can_reach_asks_for_a_token(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("flowgrpo.scoring.serving.server.serve", lambda name, given, options: asked.append(options.token))
    monkeypatch.delenv("REWARD_TOKEN", raising=False)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert main(["serve-reward", "scene:soft", "--host", host]) == 0
    assert asked == [None] * 3 and capsys.readouterr().err == ""
    assert main(["serve-reward", "scene:soft", "--host", "0.0.0.0"]) == 0
    assert main(["serve-reward", "scene:soft", "--host", "0.0.0.0", "--token", "none"]) == 0
    assert asked[3:] == ["REWARD_TOKEN", None]
    assert f"export REWARD_TOKEN={os.environ['REWARD_TOKEN']}" in capsys.readouterr().err
    assert main(["serve-reward", "scene:soft", "--host", "rewards.example"]) == 0
    assert asked[5:] == ["REWARD_TOKEN"] and capsys.readouterr().err == ""
