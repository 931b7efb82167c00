"""The two programs of `code:UnitTests`: a solution that answers calls, and a judge that runs the tests and asks it.

Each runs in a sandbox of its own, as the text of this file and a call of `solve()` or `judge()`: the standard library is all
there is. Lines of JSON go between them. What the solution's side sends may be anything, so the judge reads nothing but values
from it: plain ones, which the judge makes anew and compares itself, and numbers that stand for objects which stay there.
"""

import ast
import builtins
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import BuiltinFunctionType, CodeType
from typing import Any, BinaryIO, NoReturn

LINE = 2**20
"""Bytes of a message."""
ITEMS = 10_000
"""Of an iterator, which is sent as what is left in it."""
SMALL = 2**63
CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
    "range": lambda ends: range(*ends),
    "dict": dict,
}
RAISED = (
    *(ValueError, TypeError, KeyError, IndexError, LookupError, ZeroDivisionError, OverflowError, ArithmeticError),
    *(AttributeError, NameError, NotImplementedError, RecursionError, RuntimeError, MemoryError, FileNotFoundError),
    *(PermissionError, TimeoutError, OSError, EOFError, ImportError, AssertionError),
)
"""What a test may expect of a solution; any other exception is an Exception to it. None of them ends an iteration."""


class Refused(Exception):
    """A value that can't be sent."""


class Broken(BaseException):
    """The other side is gone, or does not speak like one of us."""


def pack(value: Any, other: Callable[[Any], list[Any]]) -> Any:
    """As JSON: null, true, text and small integers as they are, else [type, ...]; what is not plain as `other` packs it."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -SMALL < value < SMALL else ["int", hex(value)]
    if isinstance(value, float | complex):
        return ["float" if isinstance(value, float) else "complex", repr(value)]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, dict):
        return ["dict", *([pack(key, other), pack(of, other)] for key, of in value.items())]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return [name, *(pack(item, other) for item in value)]
    if isinstance(value, Iterator):
        items = list(islice(value, ITEMS + 1))
        if len(items) > ITEMS:
            raise Refused(f"an iterator of more than {ITEMS} items")
        return ["iterator", *(pack(item, other) for item in items)]
    if isinstance(value, type) and (builtin := _builtin(value)):
        return ["type", builtin]
    return other(value)


def _builtin(value: Any) -> str | None:
    return next((name for name, known in vars(builtins).items() if known is value), None)


def unpack(packed: Any, other: Callable[[str, Any], Any]) -> Any:
    """What `pack` packed; `other` unpacks what its counterpart packed. Raises anything at what is malformed."""
    if packed is None or isinstance(packed, bool | str | int):
        return packed
    kind, *rest = packed
    if kind == "dict":
        return {unpack(key, other): unpack(value, other) for key, value in rest}
    if kind in CONTAINERS:
        return CONTAINERS[kind]([unpack(item, other) for item in rest])
    (text,) = rest
    if kind == "int":
        return int(text, 16)
    if kind in ("float", "complex"):
        return float(text) if kind == "float" else complex(text)
    if kind == "bytes":
        return bytes.fromhex(text)
    if kind == "type":
        builtin = vars(builtins)[text]
        return builtin if isinstance(builtin, type) else other(kind, text)
    return other(kind, text)


class Solution:
    """The code of a completion, its names, and those of its objects that a test has seen."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"__name__": "completion"}
        self.objects: list[Any] = []

    def run(self, code: str) -> str:
        try:
            exec(compile(code, "completion", "exec"), self.scope)
        except SyntaxError:
            return "syntax"
        except MemoryError:
            return "memory"
        except SystemExit:
            return "exit"
        except BaseException:
            return "failed"
        return "passed"

    def answer(self, kind: str, *request: Any) -> list[Any]:
        """["value", packed] or ["raised", [names of the exception's classes, text]]."""
        try:
            return ["value", pack(self._value(kind, *request), self._keep)]
        except BaseException as error:
            return ["raised", [[each.__name__ for each in type(error).__mro__], str(error)[:1000]]]

    def _value(self, kind: str, target: Any, *rest: Any) -> Any:
        if kind == "name":
            if target not in self.scope:
                raise NameError(target)
            return self.scope[target]
        if kind == "call":
            args, kwargs = (unpack(part, self._known) for part in rest)
            return self.objects[target](*args, **kwargs)
        if kind == "set":
            return setattr(self.objects[target], rest[0], unpack(rest[1], self._known))
        return getattr(self.objects[target], rest[0])

    def _keep(self, value: Any) -> list[Any]:
        self.objects.append(value)
        return ["object", len(self.objects) - 1]

    def _known(self, kind: str, what: Any) -> Any:
        return self.objects[what] if kind == "object" else vars(builtins)[what]


def solve() -> None:
    """Run the code of the job on stdin, say what became of it, then answer one line after another."""
    job = json.load(sys.stdin)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    solution = Solution()
    with open(job["requests"], "rb") as requests, open(job["replies"], "wb") as replies:
        replies.write(json.dumps(solution.run(job["code"])).encode() + b"\n")
        replies.flush()
        for line in requests:
            number, *request = json.loads(line)
            reply = json.dumps([number, *solution.answer(*request)]).encode()
            if len(reply) >= LINE:
                reply = json.dumps([number, "raised", [["Exception"], f"the value takes more than {LINE} bytes"]]).encode()
            replies.write(reply + b"\n")
            replies.flush()


class Channel:
    """The judge's end of the line to the solution. `complaint` is the last thing that a test wanted and can't have."""

    def __init__(self, replies: BinaryIO, requests: BinaryIO) -> None:
        self.replies, self.requests = replies, requests
        self.asked, self.broken, self.complaint = 0, False, ""

    def read(self) -> Any:
        line = b"" if self.broken else self.replies.readline(LINE + 1)
        if not line.endswith(b"\n"):
            self._break()
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            self._break(error)

    def ask(self, *request: Any) -> Any:
        """The value that the request has there; raises what it raises there, as an exception of this side."""
        self._send(request)
        reply = self.read()
        if not isinstance(reply, list) or len(reply) != 3 or reply[0] != self.asked:
            self._break()
        _, kind, what = reply
        try:
            value = unpack(what, self.object) if kind == "value" else _exception(*what)
        except BaseException as malformed:
            raise Exception("this is no value") from malformed
        if kind != "value":
            raise value
        return value

    def _send(self, request: tuple[Any, ...]) -> None:
        self.asked += 1
        try:
            if not self.broken:
                self.requests.write(json.dumps([self.asked, *request]).encode() + b"\n")
                self.requests.flush()
        except OSError as error:
            self._break(error)

    def object(self, kind: str, number: Any) -> "Remote":
        if kind != "object" or not isinstance(number, int):
            raise ValueError(kind)
        return Remote(self, number)

    def packed(self, value: Any) -> Any:
        """An argument that a test gives."""
        try:
            return pack(value, self._other)
        except Refused as error:
            self.complaint = f"it gives the solution {error}"
            raise

    def _other(self, value: Any) -> list[Any]:
        if type(value) is Remote:
            return ["object", object.__getattribute__(value, "_number")]
        if isinstance(value, BuiltinFunctionType) and (name := _builtin(value)):
            return ["function", name]
        raise Refused(
            f"an argument of type {type(value).__name__}, and only plain values and the solution's own objects go there"
        )

    def _break(self, error: Exception | None = None) -> NoReturn:
        self.broken = True
        raise Broken from error


def _exception(classes: list[str], text: str) -> BaseException:
    """The first class of RAISED; what is no Exception there is none here, so that a test does not catch it by chance."""
    named = {kind.__name__: kind for kind in RAISED}
    kind = next((named[name] for name in classes if name in named), Exception if "Exception" in classes else SystemExit)
    return kind(str(text))


class Remote:
    """A function, class or object that stays in the solution's process.

    It can be called, its attributes read and set, and it can be an argument. It is never equal, ordered, true or false: that
    would be the solution's own word.
    """

    __slots__ = ("_channel", "_number")

    def __init__(self, channel: Channel, number: int) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        channel = self._channel
        return channel.ask("call", self._number, channel.packed(args), channel.packed(kwargs))

    def __getattr__(self, name: str) -> Any:
        return self._channel.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.ask("set", self._number, name, self._channel.packed(value))


def _told(name: str) -> Callable[..., Any]:
    return lambda self, *args: self.__getattr__(name)(*args)


def _not_told(self: Remote, *_: Any) -> NoReturn:
    self._channel.complaint = "object"
    raise TypeError("an object of the solution can't be compared, and is neither true nor false")


for _name in ("len", "str", "repr", "getitem", "setitem", "iter"):
    setattr(Remote, f"__{_name}__", _told(f"__{_name}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "bool", "hash"):
    setattr(Remote, f"__{_name}__", _not_told)


class Tests:
    """The tests of a row: they share their names, and are given those of the solution that they use."""

    def __init__(self, channel: Channel, entry_point: str | None) -> None:
        self.channel, self.entry_point = channel, entry_point
        self.scope: dict[str, Any] = {"__name__": "tests"}

    def verdict(self, test: str) -> tuple[str, str]:
        """`passed`, `failed`, `object`, `exit`, or `refused` and why this test can't be judged at all."""
        self.channel.complaint = ""
        try:
            self._provide(test)
            exec(compile(test, "test", "exec"), self.scope)
            outcome = "passed"
        except BaseException:
            outcome = "failed"
        if self.channel.broken:
            return "exit", ""
        if self.channel.complaint and self.channel.complaint != "object":
            return "refused", self.channel.complaint
        return self.channel.complaint or outcome, ""

    def _provide(self, test: str) -> None:
        modules = _modules(ast.parse(test))
        for name in _names(compile(test, "test", "exec")) - {*self.scope, "__builtins__"}:
            if name == self.entry_point or not (self.entry_point or hasattr(builtins, name) or name in modules):
                self._take(name)
            elif name in modules:
                self.scope[name] = __import__(name)

    def _take(self, name: str) -> None:
        try:
            self.scope[name] = self.channel.ask("name", name)
        except NameError:
            """The test has this name by itself, or fails."""


def _names(code: CodeType) -> set[str]:
    """Those that are looked up in a scope around a piece of code, and some more."""
    return {*code.co_names}.union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _modules(tree: ast.AST) -> set[str]:
    """What is used like a module of the standard library: `math` in `math.isclose(...)`."""
    dotted = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return {node.id for node in dotted if isinstance(node, ast.Name)} & sys.stdlib_module_names


def judge() -> None:
    """Run the tests of the job on stdin; each verdict is a line [number, verdict, words], the solution's own has number 0."""
    job, out = json.load(sys.stdin), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def report(*verdict: Any) -> None:
        os.write(out, json.dumps(verdict).encode() + b"\n")

    with open(job["replies"], "rb") as replies, open(job["requests"], "wb") as requests:
        channel = Channel(replies, requests)
        try:
            outcome = channel.read()
        except Broken:
            outcome = "exit"
        report(0, outcome if outcome in ("passed", "syntax", "memory", "failed") else "exit", "")
        tests = Tests(channel, job["entry_point"])
        for number, test in enumerate(job["tests"] if outcome == "passed" else [], 1):
            report(number, *tests.verdict(test))
