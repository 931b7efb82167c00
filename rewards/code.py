"""Code by unit tests: the share of a row's tests that the code of a completion passes, in a sandbox (`rewards/_sandbox.py`).

Judged is the last fenced block, or the whole text.
`reasons` counts why samples got 0. The tests share a process with the code, so code that searches the interpreter's own frames,
or returns objects that equal everything, can still pass by deceit.
"""

import json
import os
import re
import secrets
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._answer import bad_row, stated
from flowgrpo.rewards._sandbox import Limits, Outcome, isolation, run
from flowgrpo.scoring.card import card

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
TESTS = "a list of tests, each a text of Python such as 'assert f(1) == 2'"

HARNESS = r"""
import json, os, sys

def verdict(code, scope):
    try:
        exec(compile(code, "completion", "exec"), scope)
    except SyntaxError:
        return "syntax"
    except MemoryError:
        return "memory"
    except SystemExit:
        return "exit"
    except BaseException:
        return "failed"
    return "passed"

def main(write, leave, whoami):
    job, channel, me = json.load(sys.stdin), os.dup(1), whoami()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    nonce, scope = job.pop("nonce"), {"__name__": "completion"}
    for index, code in enumerate([job["solution"], *job["tests"]]):
        found = verdict(code, scope)
        if whoami() == me:
            write(channel, ("\n%s %d %s\n" % (nonce, index, found)).encode())
        if index == 0 and found != "passed":
            break
    leave(0)

main(os.write, os._exit, os.getpid)
"""
"""Runs the solution, then each test; reports on a pipe of its own in lines that begin with a number drawn for this run."""


@card(
    reads="texts",
    range=(0.0, 1.0),
    better="more of the row's tests pass",
    licence="Apache-2.0",
    source="flowgrpo",
    row='{"tests": ["assert f(1) == 2", ...]}',
    check=lambda _, prompt: _tests(prompt.metadata),
)
class UnitTests:
    """`seconds` and `memory_mb` are for all tests of one sample together."""

    def __init__(self, allow_code_execution: bool = False, seconds: float = 4.0, memory_mb: int = 512) -> None:
        if not allow_code_execution:
            raise UserError("this reward runs code that a model wrote; set allow_code_execution: true if you want that")
        if seconds <= 0 or memory_mb < 64:
            raise UserError(f"unit tests need more than 0 seconds and at least 64 MB, not {seconds:g} and {memory_mb}")
        missing = {"network", "home", "disk", "processes"} - isolation()
        if missing:
            warnings.warn(f"the sandbox does not protect here: {', '.join(sorted(missing))}", stacklevel=2)
        self.limits = Limits(seconds=seconds, memory_mb=memory_mb)
        self.reasons: Counter[str] = Counter()

    def __call__(self, samples: Samples) -> list[float]:
        solutions, tests = [extract(text) for text in samples.texts], [_tests(row) for row in samples.metadata]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            judged = list(pool.map(self._judge, solutions, tests))
        self.reasons.update(reason for score, reason in judged if score == 0.0)
        return [score for score, _ in judged]

    def _judge(self, solution: str, tests: list[str]) -> tuple[float, str]:
        nonce = secrets.token_hex(16)
        outcome = run(HARNESS, self.limits, json.dumps({"nonce": nonce, "solution": solution, "tests": tests}))
        verdicts = reported(outcome.stdout, nonce)
        passed = sum(verdicts.get(index) == "passed" for index in range(1, len(tests) + 1))
        return passed / len(tests), why(outcome, verdicts)


def extract(text: str) -> str:
    """The last fenced block of a completion, or all of it."""
    blocks = FENCE.findall(text)
    return blocks[-1] if blocks else text


def _tests(row: dict[str, Any]) -> list[str]:
    tests = stated(row, "tests", TESTS)
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise bad_row(row, "tests", TESTS)
    return tests


def reported(output: str, nonce: str) -> dict[int, str]:
    """The verdict of the solution (0) and of each test (from 1) that was run to its end."""
    lines = [line.split() for line in output.splitlines()]
    return {int(line[1]): line[2] for line in lines if len(line) == 3 and line[0] == nonce}


def why(outcome: Outcome, verdicts: dict[int, str]) -> str:
    """One word: what stopped the run, or else what the solution or the first test came to; "exit" when it left early."""
    if outcome.status not in ("ok", "error"):
        return outcome.status
    return next((found for found in verdicts.values() if found != "passed"), "exit")
