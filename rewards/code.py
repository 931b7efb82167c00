"""Code by unit tests: the share of a row's tests that the code of a completion passes, in a sandbox (`rewards/_sandbox.py`).

Judged is the last fenced block, or the whole text; `reasons` counts why samples got 0. The code runs in a process of its own,
which never sees the tests: another sandbox runs them, and the functions and classes that they name are calls to that
process. What comes back is data, made anew and compared where the code never ran, so nothing counts that the code does to
its own interpreter.

Tests share their names, so the first may prepare what others use. Arguments and results are None, bool, int, float, complex,
str, bytes, list, tuple, set, frozenset, dict, range, iterators of up to 10,000 items (sent whole), and Python's own types and
functions. All of them are copies: a function that changes its arguments is judged by what it returns. Any other object
stays in its process: tests can call it, read and set its attributes, index it, go through it, take its length or text and pass
it back; they can't compare it or ask whether it is true. An exception arrives as the first of Python's common ones that
it is. A test that passes a function or an object of its own is refused.

In a test, builtins and modules of the standard library that are used with a dot are Python's own. Other names that it does not
define are the solution's: let tests import what they need, or let the row state `entry_point`, which then is the only name of
the solution's.

Not contained: both sandboxes can read Python's own library, and take time from each other on a busy machine; what this machine
can't enforce is said in a warning when the reward is made.
"""

import json
import os
import re
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards import _exchange
from flowgrpo.rewards._answer import bad_row, stated
from flowgrpo.rewards._sandbox import Limits, Outcome, isolation, run
from flowgrpo.scoring.card import card

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
TESTS = "a list of tests, each a text of Python such as 'assert f(1) == 2'"
ENTRY_POINT = "the name of the function that the tests call"
PROGRAM = Path(_exchange.__file__).read_text(encoding="utf-8")
UNCONTAINED = {
    "network": "the network can be reached",
    "home": "home directories can be read",
    "disk": "what is readable on the disk can be read, the tests in a prompt file too",
    "processes": "a process can outlive its run, and interfere with the judge's",
    "memory": "memory that belongs to no process is not limited",
}


@card(
    reads="texts",
    range=(0.0, 1.0),
    better="more of the row's tests pass",
    licence="Apache-2.0",
    source="flowgrpo",
    row='{"tests": ["assert f(1) == 2", ...], "entry_point": "f" or not stated}',
    check=lambda _, prompt: _job(prompt.metadata),
)
class UnitTests:
    """`seconds` are for all tests of one sample together; its code may take `memory_mb` of memory, and its tests as much."""

    def __init__(self, allow_code_execution: bool = False, seconds: float = 4.0, memory_mb: int = 512) -> None:
        if not allow_code_execution:
            raise UserError("this reward runs code that a model wrote; set allow_code_execution: true if you want that")
        if not 0 < seconds < float("inf") or memory_mb < 64:
            raise UserError(f"unit tests need more than 0 seconds and at least 64 MB, not {seconds:g} and {memory_mb}")
        if missing := [words for guarantee, words in UNCONTAINED.items() if guarantee not in isolation()]:
            warnings.warn(f"the sandbox does not hold everything here: {'; '.join(missing)}", stacklevel=2)
        self.limits = Limits(seconds=seconds, memory_mb=memory_mb)
        self.reasons: Counter[str] = Counter()

    def __call__(self, samples: Samples) -> list[float]:
        solutions, jobs = [extract(text) for text in samples.texts], [_job(row) for row in samples.metadata]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            judged = list(pool.map(self._judge, solutions, jobs, samples.metadata))
        self.reasons.update(reason for score, reason in judged if score == 0.0)
        return [score for score, _ in judged]

    def _judge(self, solution: str, job: dict[str, Any], row: dict[str, Any]) -> tuple[float, str]:
        code, tests = judged(solution, job, self.limits)
        verdicts = {number: (verdict, words) for number, verdict, words in map(json.loads, tests.stdout.splitlines())}
        if refused := next((words for verdict, words in verdicts.values() if verdict == "refused"), None):
            raise bad_row(row, "tests", f"{TESTS}; one of these can't be judged, since {refused}")
        passed = sum(verdict == "passed" for number, (verdict, _) in verdicts.items() if number > 0)
        return passed / len(job["tests"]), why([code, tests], [verdict for verdict, _ in verdicts.values()])


def extract(text: str) -> str:
    """The last fenced block of a completion, or all of it."""
    blocks = FENCE.findall(text)
    return blocks[-1] if blocks else text


def _job(row: dict[str, Any]) -> dict[str, Any]:
    tests, entry_point = stated(row, "tests", TESTS), row.get("entry_point")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise bad_row(row, "tests", TESTS)
    if not isinstance(entry_point, str | None):
        raise bad_row(row, "entry_point", ENTRY_POINT)
    for test in tests:
        try:
            compile(test, "test", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise bad_row(row, "tests", f"{TESTS}; '{test[:100]}' is no Python ({type(error).__name__}: {error})") from error
    return {"tests": tests, "entry_point": entry_point}


def judged(solution: str, job: dict[str, Any], limits: Limits) -> tuple[Outcome, Outcome]:
    """What became of the code, and of the tests, which have verdicts in their output."""
    asked, requests = os.pipe()
    replies, answered = os.pipe()
    ends = {"code": solution, "requests": asked, "replies": answered}
    with ThreadPoolExecutor(1) as beside:
        code = beside.submit(run, f"{PROGRAM}\nsolve()", limits, json.dumps(ends), (asked, answered))
        ends = {**job, "requests": requests, "replies": replies}
        tests = run(f"{PROGRAM}\njudge()", limits, json.dumps(ends), (requests, replies))
        return code.result(), tests


def why(outcomes: list[Outcome], verdicts: list[str]) -> str:
    """One word: what stopped a run, or else what the solution or the first test came to; "exit" when it left early."""
    stopped = [outcome.status for outcome in outcomes if outcome.status not in ("ok", "error")]
    return next((verdict for verdict in [*stopped, *verdicts] if verdict != "passed"), "exit")
