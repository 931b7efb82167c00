"""Hostile code ends in a zero and a counted reason, reaches nothing, and leaves nothing behind. Each guarantee is tested where
this machine gives it, else skipped."""

import json
import os
import shutil
import socket
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.core.errors import UserError
from flowgrpo.rewards import _sandbox as sandbox
from flowgrpo.rewards import code
from flowgrpo.rewards._exchange import pack, unpack
from flowgrpo.rewards._sandbox import Limits, Outcome, isolation, run
from flowgrpo.rewards.code import UnitTests, extract

LIMITS = Limits(seconds=2.0)
SEVERAL = Limits(seconds=1.0, processes=16)


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
def nothing_survives(tmp_path_factory) -> Iterator[None]:
    """What runs here has a temporary folder and a command line of its own: other tests run untrusted code at the same time."""
    tmp_path_factory.getbasetemp()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o711)
        patch.setattr(tempfile, "tempdir", folder)
        patch.setattr(sandbox, "PYTHON", [*sandbox.PYTHON, "-X", f"tests={uuid.uuid4().hex}"])
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
    outcome = run(source, SEVERAL)
    assert outcome.status == status and len(outcome.stdout) <= LIMITS.output_bytes
    assert time.monotonic() - started < 5.0


def test_processes_are_few():
    needs("processes")
    counting = "import os, time\nn = 0\nwhile True:\n    try: child = os.fork()\n    except OSError: break\n"
    counting += "    if child == 0: time.sleep(60)\n    n += 1\nprint(n)"
    assert int(run(counting, Limits(processes=8)).stdout) <= 7
    assert run(counting, LIMITS).stdout == "0\n"


def test_memory_that_belongs_to_no_process_is_refused():
    needs("memory")
    calls = ("memfd_create(b'x', 0)", "shmget(0, 1 << 30, 0o1600)", "msgget(0, 0o1600)", "semget(0, 1, 0o1600)")
    for call in calls:
        assert run(f"import ctypes; print(ctypes.CDLL(None).{call})", LIMITS).stdout == "-1\n", call


def test_files_take_no_more_than_they_may():
    needs("disk")
    many = "n = 0\nwhile True:\n    try: open(str(n), 'w').close()\n    except OSError: break\n    n += 1\nprint(n)"
    assert int(run(many, LIMITS).stdout) < 1024


def test_it_has_no_environment_and_an_empty_directory(monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    outcome = run("import os; print('TOKEN' in os.environ, os.listdir())", LIMITS)
    assert outcome.stdout == "False ['main.py']\n"


def test_home_can_not_be_read(secret):
    needs("home")
    outcome = run(f"print(open({str(secret)!r}).read())", LIMITS)
    assert outcome.status == "error" and outcome.stdout == ""
    assert "No such file" in outcome.reason or "Permission denied" in outcome.reason


def test_nothing_of_the_disk_can_be_read_but_python(tmp_path):
    """Neither a prompt file beside the project nor a package with answers, and no socket that is a file."""
    needs("disk")
    package = Path(sysconfig.get_path("stdlib")) / "site-packages"
    for place in (Path(__file__), tmp_path, Path("/proc/self"), Path("/sys"), Path("/etc/passwd"), Path("/usr/share")):
        assert run(f"import os; print(os.path.exists({str(place)!r}))", LIMITS).stdout == "False\n", place
    assert run(f"import os; print(os.path.isdir({str(package)!r}) and os.listdir({str(package)!r}))", LIMITS).stdout in (
        "[]\n",
        "False\n",
    )
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        (tmp_path / "socket").chmod(0o777)
        connecting = f"import socket; socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'socket')!r})"
        assert "No such file" in run(connecting, LIMITS).reason


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
    assert "Read-only" in run("open('/x', 'w')", LIMITS).reason
    assert "Read-only" in run("import os; open(os.path.dirname(os.__file__) + '/x', 'w')", LIMITS).reason
    assert run(f"open({str(tmp_path / 'x')!r}, 'w')", LIMITS).status == "error"
    filling = "for i in range(64):\n    with open(str(i), 'wb') as file: file.write(bytes(2**20))"
    assert "No space left" in run(filling, LIMITS).reason


@pytest.mark.parametrize("ending", ["", LOOP])
def test_a_daemon_dies_with_the_run(ending):
    needs("processes")
    run(DAEMON + ending, SEVERAL)


SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")


@pytest.mark.skipif(os.getuid() != 0 or SYSTEM_PYTHON is None, reason="needs root and a Python that everyone can run")
def test_without_namespaces_another_user_keeps_it_from_surviving(monkeypatch):
    monkeypatch.setattr(sandbox, "_mode", lambda: "uid")
    monkeypatch.setattr(sandbox, "PYTHON", [SYSTEM_PYTHON, *sandbox.PYTHON[1:]])
    outcome = run(DAEMON, SEVERAL)
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
    ],
)
def test_hostile_code_gets_zero_and_a_counted_reason(text, reason):
    reward = UnitTests(allow_code_execution=True, seconds=1.5)
    assert judged(reward, text, TESTS) == 0.0
    assert reward.reasons == {reason: 1}


def test_code_that_writes_verdicts_everywhere_gets_zero():
    """What it writes into the middle of an exchange ends that, or makes its test fail, as it happens."""
    reward = UnitTests(allow_code_execution=True, seconds=1.5)
    text = "import os\nfor fd in range(20):\n    try: os.write(fd, b'\\n0 1 passed\\n1 passed\\n')\n    except OSError: pass"
    assert judged(reward, text, TESTS) == 0.0
    assert reward.reasons in ({"exit": 1}, {"failed": 1})


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


WRITE_EVERYWHERE = """
import json, os
for fd in range(64):
    for line in ('[0, "passed", ""]', '[1, "passed", ""]', '"passed"', '[1, "value", 2]', '[2, "value", 2]'):
        try: os.write(fd, (line + "\\n").encode())
        except OSError: pass
"""
EVERY_FRAME = """
import sys
def double(x):
    frame = sys._getframe()
    while frame:
        for scope in (frame.f_locals, frame.f_globals):
            for name in [*scope]:
                if "double" + "(1)" in str(scope[name]) or "=" + "= 2" in str(scope[name]): raise SystemError("seen")
        frame = frame.f_back
    return 2 * x
"""
EVERY_OPERATOR = """
class Liar:
    def __getattr__(self, name): return lambda *args: True
for name in "eq ne lt le gt ge add radd sub rsub mul rmul abs bool contains hash call".split():
    setattr(Liar, f"__{name}__", lambda self, *args: 0 if name in ("abs", "hash") else True)
"""
HACKS = {
    "builtins.exec": "import builtins\nbuiltins.exec = lambda *a: None",
    "builtins.compile": "import builtins\nc = compile\nbuiltins.compile = lambda *a: c('pass', 'x', 'exec')",
    "names of the harness": "import __main__\n__main__.verdict = lambda *a: 'passed'\n"
    "for name in [*vars(__main__)]: setattr(__main__, name, lambda *a: 'passed')",
    "a child that answers": "import os\nif os.fork(): os._exit(0)\ndouble = lambda x: 7",
    "AssertionError": "import builtins\nbuiltins.AssertionError = KeyError\ndouble = lambda x: 7",
    "patched builtins": "import builtins\nfor name in 'abs all any bool isinstance len sorted'.split():\n"
    "    setattr(builtins, name, lambda *a, **k: True)",
    "shadowed builtins": "abs = sorted = lambda *a, **k: 0\n"
    "all = any = isinstance = bool = lambda *a: True\ndouble = lambda x: 7",
    "shadowed modules": "class math: isclose = lambda *a, **k: True\ndouble = lambda x: 7",
    "an object equal to everything": "class A:\n  __eq__ = lambda s, o: True\ndouble = lambda x: A()",
    "an object not unequal": "class A:\n  __ne__ = lambda s, o: False\n  __bool__ = lambda s: True\ndouble = lambda x: A()",
    "a number that lies": "class A(int):\n  __eq__ = lambda s, o: True\n  __sub__ = lambda s, o: 0\ndouble = lambda x: A(99)",
    "a text that lies": "class A(str):\n  __eq__ = lambda s, o: True\n  __hash__ = lambda s: 0\ndouble = lambda x: A('99')",
    "a list that lies": "class A(list):\n  __eq__ = lambda s, o: True\ndouble = lambda x: A([99])",
    "a float that lies": "class A(float):\n  __abs__ = __sub__ = lambda s, *o: 0.0\ndouble = lambda x: A('nan')",
    "every operator": EVERY_OPERATOR + "double = lambda x: Liar()",
    "nan": "double = lambda x: float('nan')",
    "an end of iteration": "def double(x): raise StopIteration",
    "an exit": "import os\ndef double(x): os._exit(0)",
    "an end": "import sys\ndef double(x): sys.exit(0)",
    "what has no end": "import itertools\ndouble = lambda x: itertools.count()",
    "reports of its own": WRITE_EVERYWHERE + "double = lambda x: 7",
    "reports of its own, later": WRITE_EVERYWHERE.replace("\nfor fd", "\ndef double(x):\n  for fd").replace("\n    ", "\n      "),
    "a flood": "import os\ndef double(x):\n  for fd in range(3, 64):\n    try:\n      while True: os.write(fd, b'[' * 2**20)\n"
    "    except OSError: pass",
    "deep brackets": "import json\nreal = json.dumps\njson.dumps = lambda *a, **k: '[' * 10**5\ndouble = lambda x: 7",
    "a number in front": "import json\nreal = json.dumps\njson.dumps = lambda *a, **k: real([1, 'value', ['object', '0']])\n"
    "double = lambda x: 7",
    "mutated arguments": "def double(x):\n  try: x.clear()\n  except AttributeError: return 7\n  return []",
}
WAYS = [
    "assert double(1) == 2",
    "assert abs(double(3) - 6) < 1e-6",
    "import math\nassert math.isclose(double(3), 6)",
    "assert math.isclose(double(3), 6)",
    "assert all(double(i) == 2 * i for i in range(1, 5))",
    "assert all(map(lambda x: x == 2, map(double, [1, 1])))",
    "assert double(1) in (2, 2.0) and double(2) in {4}",
    "assert sorted([double(2), double(1)]) == [2, 4]",
    "assert not double(1) != 2",
    "assert __builtins__ and double(1) == 2",
    "x = [1]\nassert double(x) == x + x",
    "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate('a') == 'aa', 'text'\ncheck(double)",
    "try:\n    assert double(1) == 2\nexcept (TypeError, ValueError):\n    pass",
]


@pytest.mark.parametrize("hack", HACKS)
def test_a_wrong_solution_gets_no_mark(hack):
    reward = UnitTests(allow_code_execution=True, seconds=1.5)
    assert judged(reward, HACKS[hack], WAYS) == 0.0


def test_a_right_solution_passes_all_ways():
    assert judged(UnitTests(allow_code_execution=True), "import math\ndef double(x): return 2 * x", WAYS) == 1.0


def test_the_solution_sees_no_test():
    assert judged(UnitTests(allow_code_execution=True), EVERY_FRAME, TESTS) == 1.0
    stdin = "import os, sys\nassert not sys.stdin.read() and not os.read(0, 9)\ndef double(x): return 2 * x"
    assert judged(UnitTests(allow_code_execution=True), stdin, TESTS) == 1.0


def test_a_name_of_python_is_the_solutions_where_the_row_says_so():
    reward = UnitTests(allow_code_execution=True)
    code = "def sum(a, b): return a * b\ndef isclose(*a): return True"
    tests = ["assert sum(2, 3) == 6", "assert isclose(1, 2)", "from math import isclose\nassert not isclose(1, 2)"]
    assert reward(Texts([code], [{"tests": tests, "entry_point": "sum"}])) == [2 / 3]
    with pytest.raises(UserError, match="must hold 'entry_point': the name of the function"):
        reward(Texts([code], [{"tests": tests, "entry_point": 3}]))


PLAIN = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.text(), st.binary()),
        *(st.floats(allow_nan=False), st.complex_numbers(allow_nan=False), st.just(range(1, 9, 2))),
    ),
    lambda each: (
        st.lists(each, max_size=3)
        | st.lists(each, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), each, max_size=3)
        | st.frozensets(st.text() | st.integers(), max_size=3)
        | st.sets(st.integers() | st.tuples(st.text()), max_size=3)
    ),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_values_arrive_as_they_are(value):
    def refused(*_: Any) -> Any:
        raise AssertionError

    found = unpack(json.loads(json.dumps(pack(value, refused))), refused)
    assert found == value and type(found) is type(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each), max_leaves=10))
def test_what_is_malformed_is_no_value_of_another_type(packed):
    try:
        found = unpack(packed, lambda kind, what: {}[kind])
    except Exception:
        return
    assert (
        found is None or type(found) in (bool, int, str, float, complex, bytes, list, tuple, set, frozenset, dict) or iter(found)
    )


CLASSES = """
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item)
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
    def __iter__(self): return iter(self.items)
    def __str__(self): return "Stack"
class Node:
    def __init__(self, value): self.value, self.left = value, None
def depth(node): return 0 if node is None else 1 + depth(node.left)
def adder(n): return lambda x: x + n
def count(n): yield from range(n)
def apply(f, *xs, **more): return f(*xs, **more)
def kind(x): return type(x)
class Mine(ValueError): pass
def fail(x): raise Mine("no") if x else KeyError(x)
def total(xs): return sum(xs)
def big(n): return 7**n
LIMIT = [1, 2]
"""


@pytest.mark.parametrize(
    "test",
    [
        "s = Stack(1); s.push(2); assert len(s) == 2 and s[1] == 2 and list(s) == [1, 2] and 2 in s and str(s) == 'Stack'",
        "root = Node(1); root.left = Node(2); assert depth(root) == 2 and root.left.value == 2",
        "assert adder(1)(2) == 3",
        "assert list(count(3)) == [0, 1, 2] and next(count(1)) == 0 and sum(count(4)) == 6",
        "assert apply(len, 'abc') == 3 and apply(sorted, [2, 1], reverse=True) == [2, 1] and apply(int, '7') == 7",
        "assert apply(adder(1), 2) == 3",
        "assert kind('a') is str and isinstance(LIMIT, list) and LIMIT == [1, 2]",
        "try:\n    fail(1)\nexcept ValueError as error:\n    assert str(error) == 'no'\nelse:\n    assert False",
        "try:\n    fail(0)\nexcept KeyError:\n    pass\nelse:\n    assert False",
        "assert total(x * x for x in range(4)) == 14 and total(range(3)) == 3",
        "assert big(9000) == 7**9000",
    ],
)
def test_classes_closures_iterators_and_exceptions_can_be_tested(test):
    assert judged(UnitTests(allow_code_execution=True), CLASSES, [test]) == 1.0


def test_a_comparison_of_the_solutions_objects_is_no_pass_and_is_counted():
    reward = UnitTests(allow_code_execution=True)
    for test in ("assert Node(1) != Node(2)", "assert Node(1)", "assert Node(1) in [1]", "assert hash(Node(1)) or True"):
        assert judged(reward, CLASSES, [f"try:\n    {test}\nexcept TypeError:\n    pass"]) == 0.0
    assert reward.reasons == {"object": 4}


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("assert apply(lambda x: x, 1) == 1", "gives the solution an argument of type function"),
        ("class Mine: pass\ntry: kind(Mine())\nexcept Exception: pass", "an argument of type Mine"),
        ("import math\nassert kind([math])", "an argument of type module"),
        ("import itertools\nassert kind(itertools.count())", "an iterator of more than 10000 items"),
        ("assert f(1) = 2", "is no Python"),
        ("assert f(" + "(" * 10_000, "is no Python"),
        ("assert " + "-" * 100_000 + "f(1)", "is no Python"),
        ("assert f(1)\0", "is no Python"),
    ],
)
def test_a_test_that_can_not_be_judged_is_refused(test, words):
    with pytest.raises(UserError, match="must hold 'tests': a list of tests") as error:
        judged(UnitTests(allow_code_execution=True), CLASSES, ["assert True", test])
    assert words in str(error.value)


def test_what_the_sandbox_does_not_hold_is_said(monkeypatch):
    monkeypatch.setattr(code, "isolation", lambda: frozenset({"network", "home", "processes", "memory"}))
    with pytest.warns(UserWarning, match="what is readable on the disk can be read, the tests in a prompt file too$"):
        UnitTests(allow_code_execution=True)


def test_the_last_fenced_block_is_the_code():
    assert extract("```python\n1\n```\n```python\n2\n```") == "2\n"
    assert extract("3") == "3"


def test_code_is_only_run_when_allowed():
    with pytest.raises(UserError, match="allow_code_execution: true"):
        UnitTests()


@pytest.mark.parametrize("arguments", [{"seconds": 0.0}, {"memory_mb": 1}, {"seconds": float("nan")}, {"seconds": float("inf")}])
def test_limits_that_let_nothing_run_are_refused(arguments):
    with pytest.raises(UserError, match="at least 64 MB"):
        UnitTests(allow_code_execution=True, **arguments)


@pytest.mark.parametrize("row", [{}, {"tests": []}, {"tests": "assert True"}, {"tests": [1]}])
def test_a_row_without_tests_is_refused(row):
    with pytest.raises(UserError, match="must hold 'tests': a list of tests"):
        UnitTests(allow_code_execution=True)(Texts(["pass"], [row]))
