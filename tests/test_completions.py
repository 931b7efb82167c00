"""Cheap completions against exact ones."""

import json

import numpy as np

from flowgrpo.cli.main import main
from flowgrpo.completions import _centred


def test_centring_removes_what_a_step_does_to_everyone():
    gains = np.array([[1.0, 5.0, 3.0, 7.0]])
    assert _centred(gains, np.array([1, 2, 1, 2])).tolist() == [[-1.0, -1.0, 1.0, 1.0]]


def test_the_command_measures_every_candidate_on_the_same_transitions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright.py").write_text("def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    small = ["rollout.group_size=2", "rollout.micro_batch=4", "policy.steps=4", "rewards={b: {use: 'bright.py:bright'}}"]
    assert main(["completions", "mini/dense_grpo", *small, "evaluation=null", "--prompts", "2", "--json"]) == 0
    rows = {row["completion"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["exact"]["gains"] > 0.999999 and rows["exact"]["network_evaluations"] == 10
    assert rows["ode, 1 step"]["network_evaluations"] == 4 and rows["ode, 2 steps"]["network_evaluations"] == 7
    assert all(-1 <= row["centred"] <= 1 for row in rows.values())
    assert main(["completions", "mini/tempflow_grpo", "rollout.plan.teeth=1"]) == 2
