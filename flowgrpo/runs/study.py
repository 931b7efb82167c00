"""A study: every recipe with every seed at an equal budget of network evaluations, each run a process of its own.

A study folder holds `runs/`, `logs/`, `study.json` (how far every run is; a record, never read back) and the comparison. Below
`grid/` are such folders of the values that were tried first, if any were.
A run folder belongs to a trial if its resolved config is the trial's and its prompts, model and rewards are today's, so a study
goes on where it stopped, and another budget or override makes other runs.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import name_of, words_of
from flowgrpo.config.run import Config, load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.signals import Signals, Stopped, uninterrupted
from flowgrpo.core.whole import write_json
from flowgrpo.runs.compare import Comparison, compare
from flowgrpo.runs.folder import RunFolder
from flowgrpo.runs.provenance import Provenance

ALL_PROMPTS = 1_000_000
NOT_EXAM = {"every", "limit_between", "batch", "pictures"}
PATIENCE = 0.2


@dataclass(frozen=True)
class Trial:
    """One recipe with one seed. `overrides` turn the recipe `source` into `config`."""

    source: str
    overrides: list[str]
    config: Config
    out: Path

    @property
    def name(self) -> str:
        return name_of(self.source)

    @property
    def log(self) -> Path:
        return self.out / "logs" / f"{self.name}-{self.config.seed}.log"

    def finished(self) -> Path | None:
        """The run folder, once it holds what a run writes last."""
        return next((run.path for run in self._runs() if (run.path / "report.html").is_file()), None)

    def begin(self, threads: int) -> subprocess.Popen[bytes]:
        """Train in a new process, on from the last checkpoint if there is one. Ctrl-C reaches the study alone."""
        stopped = [run for run in self._runs() if run.checkpoints]
        resume = ["--resume", f"{stopped[-1]}"] if stopped else []
        command = [sys.executable, "-m", "flowgrpo", "train", *words_of(self.source), *self.overrides, *resume]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": f"{threads}"}
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0)

    def _runs(self) -> list[RunFolder]:
        """The folders of this trial, oldest first."""
        runs = [RunFolder(file.parent) for file in sorted((self.out / "runs").glob("*/run.json"))]
        return [run for run in runs if run.recipe == self.name and self._made(run)]

    def _made(self, run: RunFolder) -> bool:
        asked = self.config.model_dump(mode="json")
        return {**run.settings, "output": ""} == {**asked, "output": ""} and Provenance.load(run.path).stands_for(self.config)


def plan(
    sources: Sequence[str],
    seeds: Sequence[int],
    evaluations: int | None,
    points: int,
    overrides: Sequence[str],
    out: Path,
    own: Mapping[str, Sequence[str]] = {},
) -> list[Trial]:
    """The trials, the first seed of all recipes first. `evaluations` of the network each; None: the cheapest recipe's own.

    `own` are overrides of one recipe, by its name, after those of all.
    """
    every = {source: [*overrides, *own.get(name_of(source), ())] for source in sources}
    configs = {source: load_config(source, every[source]) for source in sources}
    _check(configs)
    bills = {source: bill_of(config) for source, config in configs.items()}
    costs = {source: bill["network_evaluations_per_update"] for source, bill in bills.items()}
    first = {source: bill["network_evaluations_before_training"] for source, bill in bills.items()}
    budget = evaluations or budget_of(configs.values())
    updates = {source: max(1, round((budget - first[source]) / cost)) for source, cost in costs.items()}
    each = [(source, seed) for seed in dict.fromkeys(seeds) for source in configs]
    return [_trial(source, seed, updates[source], points, every[source], out) for source, seed in each]


def budget_of(configs: Iterable[Config]) -> int:
    """Network evaluations of the cheapest training."""
    bills = [(bill_of(config), config.updates) for config in configs]
    return min(b["network_evaluations_before_training"] + updates * b["network_evaluations_per_update"] for b, updates in bills)


def _trial(source: str, seed: int, updates: int, points: int, overrides: Sequence[str], out: Path) -> Trial:
    """What the study must decide comes after the user's overrides; a learning rate that falls does so over the trial."""
    falls = load_config(source, overrides).optimizer.decay_over is not None
    everything = [
        *overrides,
        f"seed={seed}",
        f"updates={updates}",
        *([f"optimizer.decay_over={updates}"] if falls else []),
        f"output={json.dumps(str(out / 'runs'))}",
        f"evaluation.every={max(1, updates // points)}",
        f"evaluation.limit_between={ALL_PROMPTS}",
    ]
    return Trial(source, everything, load_config(source, everything), out)


def _check(configs: dict[str, Config]) -> None:
    for source, config in configs.items():
        if config.evaluation is None:
            raise UserError(f"{source} has no `evaluation`, so a study has nothing to compare; add this section to it")
    for first, second in combinations(configs, 2):
        if name_of(first) == name_of(second):
            raise UserError(f"{first} and {second} would both be called '{name_of(first)}'; rename one of the files")
        if differ := differences(configs[first], configs[second]):
            fields = ", ".join(f"evaluation.{key}" for key in differ)
            raise UserError(f"{first} and {second} differ in {fields}; give both the same: {fields.split(', ')[0]}=...")


def differences(one: Config, other: Config) -> list[str]:
    """Fields of the held-out evaluation that decide what is measured."""
    assert one.evaluation and other.evaluation
    left, right = (evaluation.model_dump(exclude=NOT_EXAM) for evaluation in (one.evaluation, other.evaluation))
    return [key for key in left if left[key] != right[key]]


def train(trials: Sequence[Trial], workers: int) -> None:
    """Train what is not finished, `workers` at a time. A run that fails does not stop the others.

    Errors: Stopped for a signal; the runs were let end an update and save it.
    """
    waiting = [trial for trial in trials if not trial.finished()]
    running: dict[subprocess.Popen[bytes], Trial] = {}
    try:
        with Signals():
            while waiting or running:
                _fill(running, waiting, workers)
                time.sleep(PATIENCE)
                for process in [process for process in running if process.poll() is not None]:
                    trial = running.pop(process)
                    state = "ends" if trial.finished() else "FAILED"
                    print(f"{trial.name}, seed {trial.config.seed}: {state}; {len(waiting)} runs wait", file=sys.stderr)
                    write_index(trials)
    except Stopped as stop:
        raise type(stop)(f"{stop} ended the study; the same command goes on with the runs that are missing") from stop
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _fill(running: dict[subprocess.Popen[bytes], Trial], waiting: list[Trial], workers: int) -> None:
    """Begin what waits while fewer than `workers` are running. A signal finds every process that was begun among them."""
    threads = max(1, torch.get_num_threads() // workers)
    while waiting and len(running) < workers:
        trial = waiting.pop(0)
        print(f"{trial.name}, seed {trial.config.seed}: begins, log in {trial.log}", file=sys.stderr)
        with uninterrupted():
            running[trial.begin(threads)] = trial


def write_index(trials: Sequence[Trial]) -> None:
    """`study.json`, whole or as it was."""
    rows = []
    for trial in trials:
        finished = trial.finished()
        row = {"recipe": trial.name, "seed": trial.config.seed, "updates": trial.config.updates, "log": str(trial.log)}
        rows.append({**row, "finished": finished is not None, "run": finished and str(finished)})
    file = trials[0].out / "study.json"
    write_json(file, rows, indent=1)


def comparison_of(trials: Sequence[Trial]) -> Comparison:
    """The finished runs against one another, in the order in which the recipes were named."""
    order = list(dict.fromkeys(trial.source for trial in trials))
    runs = [trial.finished() for trial in sorted(trials, key=lambda trial: order.index(trial.source))]
    return compare([run for run in runs if run])
