"""Whole runs of the token recipes: on mini-mdlm, and the published ones on a tiny random model of the same interface."""

import json
from pathlib import Path

import pytest

from conftest import REPLAYED
from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.recipes import METHODS, fitting
from flowgrpo.config.run import load_config
from flowgrpo.policies.tiny import mdlm as tiny_mdlm

REWARD = """
from hashlib import blake2b


def spread(samples):
    return [blake2b(text.encode(), digest_size=1).digest()[0] / 255 for text in samples.texts]
"""
SMALL = [
    "rewards={spread: {use: 'my_reward.py:spread'}}",
    *("rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=8", "updates=2", "checkpoints.every=2"),
]
HUB_SMALL = [
    *SMALL,
    *("policy.prompt_length=5", "policy.length=8", "policy.dtype=fp32", "policy.chat=false", "policy.mask_id=null"),
    *("policy.trust_remote_code=false", "optimizer.epochs=1"),
]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "my_reward.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)


def train(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict, list[dict]]:
    assert main(["train", *arguments]) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return summary, [json.loads(line) for line in (Path(summary["run"]) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", [f"mini-mdlm/{method}" for method in fitting("mini-mdlm", METHODS)])
def test_every_miniature_recipe_trains_and_the_plan_counts_right(recipe, capsys):
    options = [*SMALL, "evaluation.metric=spread", "evaluation.limit=8", "evaluation.pictures=2"]
    summary, rows = train(capsys, recipe, *options)
    bill = bill_of(load_config(recipe, options))
    assert [row["network_evaluations"] for row in rows] == [bill["network_evaluations_per_update"]] * 2
    if not load_config(recipe, options).selection:
        assert rows[0]["ratio/first_log_abs_max"] <= REPLAYED
    assert rows[0]["grad_norm"] > 0 and summary["held_out"]["metric"] == "spread"
    report = (Path(summary["run"]) / "report.html").read_text()
    assert "class=text" in report


def test_a_recipe_that_runs_code_says_so_before_it_does(capsys, tmp_path):
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "1+2=:", "tests": ["assert True"]}\n{"prompt": "7:", "tests": ["assert True"]}\n'
    )
    folder = tiny_mdlm.save(tmp_path / "model")
    rewards = "rewards={tests: {use: code:UnitTests, arguments: {allow_code_execution: false}}}"
    options = [
        *HUB_SMALL[1:],
        f"policy.model={folder}",
        rewards,
        "policy.steps=4",
        "rollout.prompts=prompts.jsonl",
        "evaluation=null",
    ]
    assert main(["train", "dream-7b/coupled_grpo", "rollout.prompts=prompts.jsonl", *options]) == 2
    assert "allow_code_execution" in capsys.readouterr().err
