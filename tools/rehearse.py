"""Rehearse recipes with `--tiny` and write a table: `python tools/rehearse.py [--all] [--out FOLDER] [MODEL ...] [a.b=c ...]`.

Without names it is all models. Each method is rehearsed with the model's own task, and each task with the model's first method
(flow_grpo where it fits); `--all` takes every method with every task. The table says how many of a model's runs went well, and
the sentences below it why some did not. What is true of every run is checked: it ends well, its report has samples, and the
log-ratio of its first optimizer step is 0 up to rounding.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from flowgrpo.cli.main import main as flowgrpo
from flowgrpo.config.recipes import METHODS, TASKS, fitting, models, read_recipe
from flowgrpo.pages.tables import markdown_table

PROCESSES = 2
FIRST = ("flow_grpo", "diffu_grpo", "trajectory")
OWN = "own task"
ROUNDING = 1e-4
"""Of a log-ratio in bfloat16."""


@dataclass(frozen=True)
class Case:
    model: str
    method: str
    task: str

    @property
    def words(self) -> list[str]:
        return [self.model, self.method, *([] if self.task == OWN else [self.task])]

    @property
    def consent(self) -> list[str]:
        """To run what random weights write, where the task is code."""
        rewards = read_recipe(self.words).tree["rewards"]
        asking = [label for label, reward in rewards.items() if "allow_code_execution" in reward.get("arguments", {})]
        return [f"rewards.{label}.arguments.allow_code_execution=true" for label in asking]


@dataclass(frozen=True)
class Found:
    """`failure` is empty where all went well."""

    case: Case
    seconds: float
    failure: str = ""


def cases(model: str, every: bool) -> Iterator[Case]:
    methods, tasks = fitting(model, METHODS), fitting(model, TASKS)
    first = next(method for method in FIRST if method in methods)
    yield from (Case(model, method, OWN) for method in methods)
    yield from (Case(model, method, task) for method in (methods if every else [first]) for task in tasks)


def rehearse(case: Case, overrides: Sequence[str], folder: str) -> Found:
    os.chdir(folder)
    said, told = io.StringIO(), io.StringIO()
    start = time.process_time()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            code = flowgrpo(["train", *case.words, "--tiny", *case.consent, *overrides])
        except Exception as error:
            return Found(case, time.process_time() - start, f"{type(error).__name__}: {error}")
    seconds = time.process_time() - start
    if code:
        return Found(case, seconds, told.getvalue().strip().splitlines()[-1])
    return Found(case, seconds, flaw(Path(json.loads(said.getvalue().splitlines()[-1])["run"])))


def flaw(run: Path) -> str:
    """What is wrong with a run that ended well."""
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    if not first["optimizer_steps"]:
        return "the first update has no optimizer step"
    if first["ratio/first_log_abs_max"] > ROUNDING:
        return f"the first step's log-ratio is {first['ratio/first_log_abs_max']:.1e}"
    if "The same prompts, before and after" not in (run / "report.html").read_text():
        return "the report shows no samples"
    return ""


def table(found: Sequence[Found]) -> str:
    """A row for each model; below, the sentences of what went wrong."""
    failures = list(dict.fromkeys(one.failure for one in found if one.failure))
    lines: list[tuple[str, ...]] = [("model", "methods", "tasks", "both", "seconds of one core")]
    for model in dict.fromkeys(one.case.model for one in found):
        mine = [one for one in found if one.case.model == model]
        first = next(method for method in FIRST if method in fitting(model, METHODS))
        own = [one for one in mine if one.case.task == OWN]
        of_tasks = [one for one in mine if one.case.task != OWN and one.case.method == first]
        others = [one for one in mine if one not in own and one not in of_tasks]
        seconds = [one.seconds for one in mine if not one.failure]
        span = f"{min(seconds):.0f} to {max(seconds):.0f}" if seconds else "none"
        lines.append((model, *(_passed(some, failures) for some in (own, of_tasks, others)), span))
    return "\n".join([markdown_table(lines), "", *(f"{i}. {sentence}" for i, sentence in enumerate(failures, 1))])


def _passed(found: Sequence[Found], failures: list[str]) -> str:
    """How many went well, and which did not."""
    wrong = [f"{' '.join(one.case.words[1:])} [{failures.index(one.failure) + 1}]" for one in found if one.failure]
    count = f"{len(found) - len(wrong)} of {len(found)}" if found else "none"
    return f"{count} (not {', '.join(wrong)})" if wrong else count


def _quiet() -> None:
    torch.set_num_threads(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="MODEL or a.b=c")
    parser.add_argument("--all", action="store_true", help="every method with every task")
    parser.add_argument("--method", help="this one only")
    parser.add_argument("--out", help="keep the runs in this folder")
    arguments = parser.parse_args()
    overrides = [word for word in arguments.words if "=" in word]
    chosen = [word for word in arguments.words if "=" not in word] or models()
    wanted = [case for model in chosen for case in cases(model, arguments.all) if arguments.method in (None, case.method)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.out or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(PROCESSES, get_context("spawn"), _quiet) as pool:
            found = []
            for one in pool.map(rehearse, wanted, [overrides] * len(wanted), [str(folder)] * len(wanted)):
                print(f"{one.seconds:5.1f} s  {' '.join(one.case.words)}  {one.failure}", file=sys.stderr, flush=True)
                found.append(one)
    print(table(found))
    return any(one.failure for one in found)


if __name__ == "__main__":
    sys.exit(main())
