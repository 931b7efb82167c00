"""Kill runs at every phase, let them go on, and compare them with one that nothing disturbed.

    python tools/kill_runs.py [--kills N] [--out FOLDER]

A run of six updates is calibrated first, and evaluated every second update. Kill k of N comes after the share k / N of the time
from its folder to its report, by SIGKILL, SIGTERM, SIGINT and SIGUSR1 in turn; half of them are killed again while they go on.
Compared are metrics without their seconds, all weights and states bit for bit, held-out scores, samples, and the report.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from flowgrpo.runs.report import write_report
from flowgrpo.runs.run import Run

CONFIG = """
base: mini/dense_grpo
updates: 6
calibration: {rounds: 2, prompts: 2}
rollout: {prompts_per_update: 4, group_size: 4, micro_batch: 8}
optimizer: {steps_per_update: 2, decay_over: 6}
evaluation: {limit: 24, every: 2, limit_between: 8, pictures: 4}
checkpoints: {every: 2, keep_last: 9}
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def command(folder: Path, resume: bool) -> list[str]:
    config = folder.parent / "config.yaml"
    return [sys.executable, "-m", "flowgrpo", "train", str(config), f"output={folder}", *(["--resume"] if resume else [])]


def started(folder: Path) -> bool:
    return any(folder.glob("*/run.json"))


def finish(folder: Path) -> Path:
    """Let a run, or what is left of one, go to its end."""
    done = subprocess.run(command(folder, started(folder)), capture_output=True, text=True, cwd=folder.parent)
    if done.returncode:
        raise SystemExit(f"{folder}: a run could not go on: {done.stderr[-1500:]}")
    (run,) = (file.parent for file in folder.glob("*/report.html"))
    return run


def disturb(folder: Path, share: float, seconds: float, number: signal.Signals) -> str:
    """Kill a run when this share of what it does has passed; how far it was."""
    with subprocess.Popen(command(folder, started(folder)), stderr=subprocess.PIPE, cwd=folder.parent, text=True) as process:
        while process.poll() is None and not started(folder):
            time.sleep(0.02)
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        said = process.communicate(timeout=120)[1].strip().splitlines()
    if any(folder.glob("*/report.html")):
        return "its end"
    orderly = 2 if number == signal.SIGINT else 0
    if number != signal.SIGKILL and process.returncode not in (orderly, -number):
        raise SystemExit(f"{folder}: {number.name} ended it with {process.returncode}: {said[-5:]}")
    (run,) = (file.parent for file in folder.glob("*/run.json"))
    rows = (run / "metrics.jsonl").read_text().count("\n") if (run / "metrics.jsonl").is_file() else 0
    return f"{rows} rows, {len([*run.glob('checkpoint-*')])} checkpoints"


def facts(run: Path) -> dict[str, object]:
    """What must be equal."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    quiet = [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
    files = [file for file in sorted((run / "samples").rglob("*")) if file.is_file()]
    samples = {str(file.relative_to(run)): file.read_bytes() for file in files}
    found = {name: (run / name).read_text() for name in ("held_out.json", "tree.json")}
    found["levels"] = json.loads((run / "calibration.json").read_text())["levels"]
    return {"metrics": quiet, **samples, **found, "report": _report(run, quiet)}


def _report(run: Path, rows: list[dict[str, object]]) -> str:
    """The report of a folder of one name, without any seconds."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "run")
        shutil.copytree(run, copy)
        (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (copy / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(run.parent), "OUTPUT"))
        return write_report(Run(copy)).read_text()


def differences(run: Path, undisturbed: Path) -> list[str]:
    """What of the last checkpoint, the weights, and what was said of the run is not equal."""
    one, other = facts(run), facts(undisturbed)
    found = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    last = sorted(undisturbed.glob("checkpoint-*"))[-1].name
    for file in sorted((undisturbed / last).rglob("*.safetensors")):
        a, b = load_file(file), load_file(run / file.relative_to(undisturbed))
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            found.append(str(file.relative_to(undisturbed)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--out", type=Path, help="an empty folder to work in")
    given = parser.parse_args()
    out = (given.out or Path(tempfile.mkdtemp())).resolve()
    (out / "config.yaml").write_text(CONFIG)
    undisturbed = finish(out / "undisturbed")
    seconds = (undisturbed / "report.html").stat().st_mtime - (undisturbed / "run.json").stat().st_mtime
    wrong = 0
    for k in range(given.kills):
        folder, number = out / f"{k:02d}", SIGNALS[k % len(SIGNALS)]
        shares = [(k + 0.5) / given.kills, *([0.8] if k // len(SIGNALS) % 2 else [])]
        told = " and ".join(disturb(folder, share, seconds, number) for share in shares)
        found = differences(finish(folder), undisturbed)
        wrong += bool(found)
        verdict = f"DIFFERS: {', '.join(found)}" if found else "equal"
        print(f"{k:2}  {number.name:7}  after {told:50}  {verdict}", flush=True)
    print(f"{given.kills - wrong} of {given.kills} runs equal the undisturbed one")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
