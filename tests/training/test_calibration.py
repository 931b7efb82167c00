"""Noise levels from reward statistics."""

import json
from pathlib import Path

import numpy as np

from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import CalibrationConfig
from flowgrpo.training.calibration import adjusted


def test_levels_rise_where_gains_and_losses_balance_and_fall_elsewhere():
    calibration = CalibrationConfig(change=0.1, tolerance=0.2, least=0.25, most=0.75)
    levels = np.array([0.5, 0.5, 0.5, 0.5, 0.3, 0.7])
    raised, lowered = np.array([10, 11, 15, 0, 20, 10]), np.array([10, 9, 5, 0, 1, 10])
    found = adjusted(levels, raised, lowered, calibration)
    np.testing.assert_allclose(found, [0.6, 0.6, 0.4, 0.5, 0.25, 0.75])


SMALL = [
    *("rollout.prompts_per_update=2", "rollout.group_size=3", "rollout.micro_batch=6", "optimizer.steps_per_update=1"),
    *("evaluation=null", "calibration={rounds: 2, prompts: 2}", "rewards={b: {use: 'bright.py:bright'}}"),
]


def test_a_run_calibrates_once_and_resumes_with_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright.py").write_text("def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    assert main(["train", "mini/dense_grpo", *SMALL, "updates=1", "checkpoints.every=1"]) == 0
    run = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["run"])
    found = json.loads((run / "calibration.json").read_text())
    levels = found["levels"]
    assert len(levels) == 3 and levels[-1] == 0.7 != levels[0]  # the last step is deterministic, nothing is counted there
    bill = bill_of(load_config("mini/dense_grpo", SMALL))
    assert found["network_evaluations"] == bill["network_evaluations_before_training"] == 2 * 2 * 3 * 6
    (run / "calibration.json").write_text(json.dumps({**found, "levels": [0.5] * 3}))
    assert main(["train", "mini/dense_grpo", "updates=2", "--resume", str(run)]) == 0
    assert json.loads((run / "calibration.json").read_text())["levels"] == [0.5] * 3


def test_calibration_needs_its_kernel_and_completions(capsys):
    for override, words in (
        ("rollout.plan.kernel={type: flow_sde}", "rollout.plan.kernel is 'flow_sde'"),
        ("rollout.plan.completion=null", "which nothing completes"),
        ("rollout.plan.kernel.levels=[0.1, 0.2]", "2 levels for policy.steps = 3"),
    ):
        assert main(["train", "mini/dense_grpo", override]) == 2
        assert words in capsys.readouterr().err
