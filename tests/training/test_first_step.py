"""An update's first optimizer step starts from the very policy that sampled; later steps of the same update do not."""

import json
from pathlib import Path

import pytest

from conftest import REPLAYED
from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config

SMALL = [
    *("rollout.prompts_per_update=2", "rollout.group_size=2", "rollout.micro_batch=2", "updates=2", "evaluation=null"),
    *("optimizer.steps_per_update=2", "rewards={bright: {use: 'bright.py:bright'}}"),
]
TEXTS = [
    *("rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=8", "updates=2", "evaluation=null"),
    "rewards={length: {use: 'bright.py:length'}}",
]
DENSE = ["calibration={rounds: 1, prompts: 2}"]
CONDITIONAL = ["policy.lora=null", "policy.guidance_gradient=conditional", "policy.call.guidance_scale=4.5"]
PRODUCTS = "policy.runtime.attention=_native_math"
RUNS = {
    "calibrated levels and completions": ("mini/dense_grpo", [*SMALL, *DENSE]),
    "calibrated levels and completions, bf16": ("mini/dense_grpo", [*SMALL, *DENSE, "policy.dtype=bf16"]),
    "two sides of guidance apart": ("mini/flow_grpo", [*SMALL, *CONDITIONAL]),
    "two sides of guidance apart, bf16": ("mini/flow_grpo", [*SMALL, *CONDITIONAL, "policy.dtype=bf16"]),
    "attention as plain products": ("mini/flow_grpo", [*SMALL, PRODUCTS]),
    "attention as plain products, bf16": ("mini/flow_grpo", [*SMALL, PRODUCTS, "policy.dtype=bf16"]),
    "posed outcomes": ("mini-mdlm/coupled_grpo", TEXTS),
    "posed outcomes, bf16": ("mini-mdlm/coupled_grpo", [*TEXTS, "policy.dtype=bf16"]),
}
REWARDS = """
from hashlib import blake2b


def bright(samples):
    return samples.images.mean((1, 2, 3)).tolist()


def length(samples):
    return [blake2b(text.encode(), digest_size=1).digest()[0] / 255 for text in samples.texts]
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "bright.py").write_text(REWARDS)
    monkeypatch.chdir(tmp_path)


def trained(capsys, recipe, options):
    assert main(["train", recipe, *options]) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_the_first_step_has_no_ratio_and_the_second_has(name, capsys):
    for row in trained(capsys, *RUNS[name]):
        assert row["optimizer_steps"] == 2
        assert row["ratio/first_log_abs_max"] <= REPLAYED < row["ratio/log_abs_max"]


def test_a_selection_thins_the_batches_out_and_leaves_rounding_far_below_the_clip(capsys):
    options = [*SMALL, "selection=[{type: best_worst, keep: 2}]"]
    clip = load_config("mini/flow_grpo", options).objective.clip
    for row in trained(capsys, "mini/flow_grpo", options):
        assert row["ratio/first_log_abs_max"] <= 1e-2 * clip.low and row["ratio/log_abs_max"] > 1e-2 * clip.low


def test_an_update_without_a_step_has_no_ratio(capsys, tmp_path):
    (tmp_path / "bright.py").write_text(
        "calls = []\n\n\ndef bright(samples):\n    calls.append(1)\n"
        "    return samples.images.mean((1, 2, 3)).tolist() if len(calls) == 1 else [0.0] * len(samples)\n"
    )
    for row in trained(capsys, "mini/flow_grpo", [*SMALL, "updates=1"]):
        assert row["optimizer_steps"] == row["ratio/first_log_abs_max"] == row["ratio/log_abs_max"] == 0
