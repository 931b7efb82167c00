"""What a step decides, and cheap completions against exact ones."""

import numpy as np
import pytest
import torch

from flowgrpo.config.run import load_config
from flowgrpo.data.prompts import load_prompts
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.credit.diagnostics import Diagnostics, _centred, candidates, worth


def test_centring_removes_what_a_step_does_to_everyone():
    gains = np.array([[1.0, 5.0, 3.0, 7.0]])
    assert _centred(gains, np.array([1, 2, 1, 2])).tolist() == [[-1.0, -1.0, 1.0, 1.0]]


def test_what_a_gain_is_worth_follows_from_the_correlation_of_values():
    """V' = V + e with e as large as V: correlation 1 / sqrt 2, baseline 1; and V' that has forgotten V."""
    before, noise = np.random.default_rng(0).normal(size=(2, 100_000))
    kept = worth(0, 1.0, 0.0, before + noise, before, noise, before + noise, before)
    assert (kept.correlation, kept.baseline, kept.variance_ratio) == pytest.approx((0.5**0.5, 1.0, 2.0), abs=0.02)
    assert kept.prediction == pytest.approx(0.5**0.5, abs=0.02)
    forgotten = worth(0, 1.0, 0.0, noise, before, noise - before, noise, before)
    assert (forgotten.correlation, forgotten.baseline, forgotten.variance_ratio) == pytest.approx((0.0, 0.0, 0.5), abs=0.02)


def test_steps_and_completions_are_measured_on_the_same_transitions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright.py").write_text("def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    small = ["rollout.group_size=2", "rollout.micro_batch=4", "policy.steps=4", "rewards={b: {use: 'bright.py:bright'}}"]
    config = load_config("mini/flow_grpo", [*small, "evaluation=null"])
    policy = config.policy.build(torch.device("cpu"), 0)
    found = Diagnostics(config, policy, load_prompts(config.rollout.prompts)[:2], Scorer(config.rewards))
    assert found.complaint() is None
    steps, rows = found.steps(), {row.completion: row for row in found.completions()}
    assert [row.step for row in steps] == [0, 1, 2]
    assert all(0 <= row.baseline <= 1 and row.deviation > 0 for row in steps)
    assert rows["exact"].gains > 0.999999 and rows["exact"].network_evaluations == 10
    assert rows["ode, 1 step"].network_evaluations == 4 and rows["ode, 2 steps"].network_evaluations == 7
    assert all(-1 <= row.centred <= 1 for row in rows.values())


def test_only_a_gaussian_kernel_is_completed_by_an_ode_solver():
    gaussian, masked = (load_config(words.split()).rollout.plan.kernel for words in ("mini flow_grpo", "mini-mdlm mdpo"))
    assert "dpmpp_2m, 2 steps" in candidates(gaussian) and "ode, 1 step" in candidates(gaussian)
    assert not any("dpmpp" in name or "ode" in name for name in candidates(masked)) and len(candidates(masked)) == 5
