"""What becomes of a run on a fleet when something goes wrong: every fault for real, and the weights compared with those of a
lone process that nothing disturbed.

    python tests/fleet_faults.py [FAULT ...]

Prints a row for each fault, and exits with 1 where a run did not end or its weights or metrics differ. Some ten minutes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

UPDATES = 12
TRAIN = [
    *(sys.executable, "-m", "flowgrpo", "train", "mini", "flow_grpo", f"updates={UPDATES}", "evaluation=null", "ema=null"),
    *("rollout.prompts_per_update=6", "rollout.group_size=6", "rollout.micro_batch=12", "checkpoints.every=2"),
]
FLEET = ["fleet.rollout=2", "fleet.rewards.strict=1"]
TWO_TRAINERS = ["fleet.rewards.strict=2"]
HEAD = "127.0.0.1:6399"
TOKENS = {"RAY_AUTH_MODE": "disabled"}
LONGEST = 600.0


class Disturbed:
    """A run in a folder of its own, and ways to disturb it."""

    def __init__(self, folder: Path, *settings: str, **environment: str) -> None:
        self.folder, self.settings, self.environment = folder, settings, {**os.environ, **environment}
        self.log = (folder / "log").open("w")
        self.process = self.started()

    def started(self, *more: str) -> "subprocess.Popen[bytes]":
        launched = [TRAIN[0], "-m", "torch.distributed.run", "--nproc-per-node", "2", *TRAIN[1:]]
        command = [*(launched if [*self.settings] == TWO_TRAINERS else TRAIN), *FLEET, *self.settings, *more]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=self.log, stderr=self.log)

    @property
    def updates(self) -> int:
        return sum(len(file.read_text().splitlines()) for file in self.folder.glob("runs/*/metrics.jsonl"))

    def after(self, updates: int) -> None:
        began = time.monotonic()
        while self.updates < updates and self.process.poll() is None and time.monotonic() - began < LONGEST:
            time.sleep(0.05)

    def actors(self, name: str) -> list[int]:
        """Of this run alone: a child comes after its parent in the list."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args=", "--sort=start_time"], capture_output=True, text=True).stdout
        family, found = {self.process.pid}, []
        for pid, parent, program in (line.split(maxsplit=2) for line in listed.splitlines()):
            if int(parent) in family:
                family.add(int(pid))
                found += [int(pid)] if program.startswith(f"ray::{name}") else []
        return found

    def send(self, name: str, number: signal.Signals) -> None:
        os.kill(self.actors(name)[0], number)

    def resumed(self) -> None:
        self.process.wait(LONGEST)
        self.process = self.started("--resume", "auto")


def nothing(run: Disturbed) -> None:
    pass


def rollout_actor_killed(run: Disturbed) -> None:
    run.after(3)
    run.send("Roller", signal.SIGKILL)


def all_rollout_actors_killed(run: Disturbed) -> None:
    run.after(3)
    for pid in run.actors("Roller"):
        os.kill(pid, signal.SIGKILL)


def reward_actor_killed(run: Disturbed) -> None:
    run.after(3)
    run.send("Judge", signal.SIGKILL)


def rollout_actors_hang(run: Disturbed) -> None:
    """Given up after fleet.patience; nobody can take their blocks before."""
    run.after(3)
    for pid in run.actors("Roller"):
        os.kill(pid, signal.SIGSTOP)


def rollout_actor_is_slow(run: Disturbed) -> None:
    """Well within fleet.patience; the other one takes its blocks."""
    run.after(3)
    pid = run.actors("Roller")[0]
    while run.process.poll() is None and run.updates < UPDATES:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)


def trainer_killed(run: Disturbed) -> None:
    run.after(5)
    run.process.kill()
    run.resumed()


def trainer_told_to_go(run: Disturbed) -> None:
    run.after(5)
    run.process.send_signal(signal.SIGUSR1)
    assert run.process.wait(LONGEST) == 0
    run.resumed()


def head_restarted(run: Disturbed) -> None:
    run.after(5)
    head("stop")
    run.process.wait(LONGEST)
    head("start")
    run.resumed()


FAULTS: dict[str, tuple[Callable[[Disturbed], None], list[str]]] = {
    "none": (nothing, []),
    "none, lag 1": (nothing, ["fleet.lag=1"]),
    "none, two trainers": (nothing, TWO_TRAINERS),
    "a rollout actor killed": (rollout_actor_killed, []),
    "a rollout actor killed, lag 1": (rollout_actor_killed, ["fleet.lag=1"]),
    "all rollout actors killed": (all_rollout_actors_killed, []),
    "the reward actor killed": (reward_actor_killed, []),
    "all rollout actors hang": (rollout_actors_hang, ["fleet.patience=20"]),
    "a rollout actor is slow": (rollout_actor_is_slow, []),
    "the trainer killed, --resume auto": (trainer_killed, []),
    "the trainer killed, --resume auto, lag 1": (trainer_killed, ["fleet.lag=1"]),
    "SIGUSR1 to the trainer, --resume auto": (trainer_told_to_go, []),
    "the head restarted, --resume auto": (head_restarted, []),
}


def head(what: str) -> None:
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    start = [*ray, "start", "--head", f"--port={HEAD.rpartition(':')[2]}", "--include-dashboard=false"]
    stop = [*ray, "stop", "--force"]
    subprocess.run(start if what == "start" else stop, check=True, capture_output=True, env={**os.environ, **TOKENS})


def ended(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The metrics of a run but for seconds, and all tensors of its last checkpoint."""
    (run,) = folder.glob("runs/*")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]
    files = (run / f"checkpoint-{UPDATES:06d}" / "state").glob("*.safetensors")
    return timeless, {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}


def same(one: Path, other: Path) -> bool:
    rows, tensors = ended(one)
    other_rows, others = ended(other)
    return rows == other_rows and tensors.keys() == others.keys() and all(torch.equal(tensors[k], others[k]) for k in tensors)


def tried(name: str, folder: Path) -> Path:
    """The folder of a disturbed run that has ended."""
    fault, settings = FAULTS[name]
    folder.mkdir()
    if fault is head_restarted:
        head("start")
    run = Disturbed(folder, *settings, **({"RAY_ADDRESS": HEAD, **TOKENS} if fault is head_restarted else {}))
    fault(run)
    code = run.process.wait(LONGEST)
    if fault is head_restarted:
        head("stop")
    if code:
        raise RuntimeError(f"it ended with {code}: {(folder / 'log').read_text()[-500:]}")
    return folder


def main(names: list[str]) -> int:
    work = Path(tempfile.mkdtemp())
    references: dict[bool, Path] = {}
    bad = 0
    print("| fault | seconds | metrics and weights |\n|---|---|---|", flush=True)
    for number, name in enumerate(names or FAULTS):
        began = time.monotonic()
        lag = "fleet.lag=1" in FAULTS[name][1]
        try:
            if lag not in references:
                references[lag] = tried("none, lag 1", work / "lag") if lag else alone(work / "alone")
                began = time.monotonic()
            equal = same(references[lag], tried(name, work / str(number)))
            said = "equal" if equal else "differ"
        except (RuntimeError, ValueError, FileNotFoundError, subprocess.SubprocessError) as error:
            equal, said = False, f"{type(error).__name__}: {error}"
        bad += not equal
        print(f"| {name} | {time.monotonic() - began:.0f} | {said} |", flush=True)
    if not bad:
        shutil.rmtree(work)
    return min(bad, 1)


def alone(folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(TRAIN, cwd=folder, check=True, capture_output=True)
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
