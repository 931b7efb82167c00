"""Hostile code ends in a zero and a counted reason, reaches nothing, and leaves nothing behind. Each guarantee is tested where
this machine gives it, else skipped."""

import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowgrpo.core.errors import UserError
from flowgrpo.rewards import _sandbox as sandbox
from flowgrpo.rewards._sandbox import Limits, Outcome, isolation, run
from flowgrpo.rewards.code import UnitTests, extract

LIMITS = Limits(seconds=2.0)


@dataclass
class Texts:
    texts: list[str]
    metadata: list[dict[str, Any]]


def leftovers() -> list[str]:
    """The untrusted processes that live now and the folders of their runs."""
    command = b"\0".join(part.encode() for part in [*sandbox.PYTHON, "main.py"])
    processes = [str(path.parent) for path in Path("/proc").glob("[0-9]*/cmdline") if command in _read(path)]
    return (processes if "processes" in isolation() else []) + [str(f) for f in Path(tempfile.gettempdir()).glob("sandbox-*")]


def assert_nothing_is_left() -> None:
    """Within seconds: the kernel ends what was killed when it gets to it."""
    end = time.monotonic() + 3.0
    while leftovers() and time.monotonic() < end:
        time.sleep(0.05)
    assert leftovers() == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@pytest.fixture(autouse=True)
def nothing_survives() -> Iterator[None]:
    yield
    assert_nothing_is_left()


@pytest.fixture
def secret() -> Iterator[Path]:
    path = Path.home() / f".flowgrpo-secret-{uuid.uuid4().hex}"
    path.write_text("secret")
    path.chmod(0o644)
    yield path
    path.unlink()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def needs(guarantee: str) -> None:
    if guarantee not in isolation():
        pytest.skip(f"the sandbox can't guarantee this here: {guarantee}")


FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
LOOP = "while True: pass"
ALLOCATION = "x = bytearray(10 * 2**30)"
DAEMON = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.close(1)\n    os.close(2)\n    time.sleep(600)\n"
OUTPUT = "for _ in range(10 * 2**10): print('x' * 2**20)"


def test_code_that_works_works():
    outcome = run("import sys; print(sys.stdin.read()); sys.exit(0)", LIMITS, "hello")
    assert outcome == Outcome("ok", 0, "hello\n", "", isolation())


def test_an_error_is_told():
    outcome = run("print('before'); 1 / 0", LIMITS)
    assert (outcome.status, outcome.stdout, outcome.reason) == ("error", "before\n", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (LOOP, "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("import os; os.close(1); os.close(2)\nwhile True: pass", "timeout"),
        (FORK_BOMB, "timeout"),
        (ALLOCATION, "memory"),
        (OUTPUT, "output"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("import sys; sys.exit(3)", "error"),
    ],
)
def test_what_stopped_it_is_told(source, status):
    started = time.monotonic()
    outcome = run(source, Limits(seconds=1.0))
    assert outcome.status == status and len(outcome.stdout) <= LIMITS.output_bytes
    assert time.monotonic() - started < 5.0


def test_processes_are_few():
    needs("processes")
    counting = "import os, time\nn = 0\nwhile True:\n    try: child = os.fork()\n    except OSError: break\n"
    counting += "    if child == 0: time.sleep(60)\n    n += 1\nprint(n)"
    assert int(run(counting, Limits(processes=8)).stdout) == 7


def test_it_has_no_environment_and_an_empty_directory(monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    outcome = run("import os; print('TOKEN' in os.environ, os.listdir())", LIMITS)
    assert outcome.stdout == "False ['main.py']\n"


def test_home_can_not_be_read(secret):
    needs("home")
    outcome = run(f"print(open({str(secret)!r}).read())", LIMITS)
    assert outcome.status == "error" and outcome.stdout == ""
    assert "No such file" in outcome.reason or "Permission denied" in outcome.reason


def test_home_can_not_be_uncovered(secret):
    needs("home")
    uncover = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.unshare(0x10020000)\n"
    uncover += f"for path in ('/', '/home', '/root', {str(Path.home())!r}): libc.umount2(path.encode(), 2)\n"
    assert run(uncover + f"print(open({str(secret)!r}).read())", LIMITS).status == "error"


def test_the_network_can_not_be_reached(listener):
    needs("network")
    outcome = run(f"import socket; socket.create_connection({listener.getsockname()!r}, 1)", LIMITS)
    assert outcome.status == "error"
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_the_disk_can_not_be_written(tmp_path):
    needs("disk")
    tmp_path.chmod(0o777)
    assert "Read-only" in run("open('/var/tmp/x', 'w')", LIMITS).reason
    assert run(f"open({str(tmp_path / 'x')!r}, 'w')", LIMITS).status == "error"
    filling = "for i in range(64):\n    with open(str(i), 'wb') as file: file.write(bytes(2**20))"
    assert "No space left" in run(filling, LIMITS).reason


@pytest.mark.parametrize("ending", ["", LOOP])
def test_a_daemon_dies_with_the_run(ending):
    needs("processes")
    run(DAEMON + ending, Limits(seconds=1.0))


SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")


@pytest.mark.skipif(os.getuid() != 0 or SYSTEM_PYTHON is None, reason="needs root and a Python that everyone can run")
def test_without_namespaces_another_user_keeps_it_from_surviving(monkeypatch):
    monkeypatch.setattr(sandbox, "_mode", lambda: "uid")
    monkeypatch.setattr(sandbox, "PYTHON", [SYSTEM_PYTHON, "-I", "-S"])
    outcome = run(DAEMON, LIMITS)
    assert outcome.status == "ok" and "network" not in outcome.isolation and "processes" in outcome.isolation
    assert_nothing_is_left()


def judged(reward: UnitTests, text: str, tests: list[str]) -> float:
    (score,) = reward(Texts([text], [{"tests": tests}]))
    return score


TESTS = ["assert double(1) == 2", "assert double(0) == 0", "assert double(-2) == -4", "assert double('a') == 'aa'"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def double(x): return 2 * x", 1.0),
        ("Sure:\n```python\ndef double(x):\n    return 2 * x\n```\nDone.", 1.0),
        ("```\nnonsense!\n```\nbetter:\n```py\ndef double(x): return x + abs(x)\n```", 0.5),
        ("def double(x): return x", 0.25),
        ("print('chatter')\ndef double(x):\n    print(x)\n    return 2 * x", 1.0),
    ],
)
def test_the_score_is_the_share_of_tests_that_pass(text, expected):
    assert judged(UnitTests(allow_code_execution=True), text, TESTS) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FORK_BOMB, "timeout"),
        (LOOP, "timeout"),
        (ALLOCATION, "memory"),
        (OUTPUT, "output"),
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("def double(x) return x", "syntax"),
        ("def double(x): return 7", "failed"),
        ("import sys; sys.exit(0)", "exit"),
        ("import os; os._exit(0)", "exit"),
        (
            "import os\nfor fd in range(20):\n    try: os.write(fd, b'\\n0 1 passed\\n1 passed\\n')\n    except OSError: pass",
            "failed",
        ),
    ],
)
def test_hostile_code_gets_zero_and_a_counted_reason(text, reason):
    reward = UnitTests(allow_code_execution=True, seconds=1.5)
    assert judged(reward, text, TESTS) == 0.0
    assert reward.reasons == {reason: 1}


def test_code_that_reads_home_or_connects_gets_zero_and_a_counted_reason(secret, listener):
    needs("home")
    needs("network")
    reading = f"double = lambda x: 2 * x\nopen({str(secret)!r})"
    connecting = f"double = lambda x: 2 * x\nimport socket\nsocket.create_connection({listener.getsockname()!r}, 1)"
    reward = UnitTests(allow_code_execution=True)
    assert reward(Texts([reading, connecting], [{"tests": TESTS}] * 2)) == [0.0, 0.0]
    assert reward.reasons == {"failed": 2}
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_tests_that_were_not_run_are_not_passed():
    reward = UnitTests(allow_code_execution=True)
    assert judged(reward, "import os\ndef double(x): return 2 * x if x else os._exit(0)", TESTS) == 0.25
    assert judged(reward, "import sys\ndef double(x): return 2 * x if x else sys.exit(0)", TESTS) == 0.75
    assert not reward.reasons


def test_the_number_of_a_report_can_not_be_read_back():
    peek = (
        "import os, sys\ntry: os.lseek(0, 0, 0)\nexcept OSError: pass\nassert 'nonce' not in sys.stdin.read() + str(os.environ)"
    )
    peek += "\nassert b'nonce' not in os.read(0, 999)\ndef double(x): return 2 * x"
    assert judged(UnitTests(allow_code_execution=True), peek, TESTS) == 1.0


def test_the_last_fenced_block_is_the_code():
    assert extract("```python\n1\n```\n```python\n2\n```") == "2\n"
    assert extract("3") == "3"


def test_code_is_only_run_when_allowed():
    with pytest.raises(UserError, match="allow_code_execution: true"):
        UnitTests()


@pytest.mark.parametrize("arguments", [{"seconds": 0.0}, {"memory_mb": 1}])
def test_limits_that_let_nothing_run_are_refused(arguments):
    with pytest.raises(UserError, match="at least 64 MB"):
        UnitTests(allow_code_execution=True, **arguments)


@pytest.mark.parametrize("row", [{}, {"tests": []}, {"tests": "assert True"}, {"tests": [1]}])
def test_a_row_without_tests_is_refused(row):
    with pytest.raises(UserError, match="must hold 'tests': a list of tests"):
        UnitTests(allow_code_execution=True)(Texts(["pass"], [row]))
