"""A wheel, installed elsewhere, beside folders of the user that have the names of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_wheel_trains_the_quickstart_beside_the_users_own_rewards_and_eval(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    user = tmp_path / "user"
    for name in ("rewards", "eval"):
        (user / name).mkdir(parents=True)
        (user / name / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    (user / "rewards" / "mine.py").write_text("def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    small = ["rollout.prompts_per_update=2", "rollout.group_size=2", "updates=1", "evaluation.limit=4"]
    own = "rewards.bright={use: 'rewards/mine.py:bright', weight: 0.1}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "flowgrpo", "train", "quickstart", *small, own]
    done = subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    run = user / json.loads(done.stdout.splitlines()[-1])["run"]
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert {"reward/bright", "reward/strict", "reward/soft"} <= row.keys()
    shown = {path.relative_to(ROOT) for kind in ("jinja", "css", "js") for path in (ROOT / "flowgrpo").rglob(f"*.{kind}")}
    assert len(shown) > 10 and all((tmp_path / "site" / path).is_file() for path in shown)
    where = [
        sys.executable,
        "-c",
        "import flowgrpo, flowgrpo.rewards as r, flowgrpo.eval as e; print(flowgrpo.__file__, r.__file__, e.__file__)",
    ]
    found = subprocess.run(where, cwd=user, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert all(path.startswith(str(tmp_path / "site")) for path in found)
