"""Whole runs of the clip recipes on mini-wan, and what ships with it."""

import json
from pathlib import Path

import pytest

import flowgrpo.assets
from conftest import REPLAYED
from flowgrpo.assets.clips import is_held_out
from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.data.media import read
from flowgrpo.data.prompts import load_prompts
from flowgrpo.runs.run import Run

FOLDER = Path(flowgrpo.assets.__file__).parent / "mini-wan"


@pytest.mark.parametrize("recipe", ["mini-wan/dance_grpo", "mini-wan/dense_grpo"])
def test_every_recipe_trains_and_its_report_plays_the_clips(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["updates=2", "rollout.prompts_per_update=2", "rollout.group_size=4", "evaluation.limit=2", "checkpoints.every=2"]
    assert main(["train", recipe, *options]) == 0
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    run = Path(summary["run"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bill = bill_of(load_config(recipe, options))
    assert [row["network_evaluations"] for row in rows] == [bill["network_evaluations_per_update"]] * 2
    assert rows[0]["ratio/first_log_abs_max"] <= REPLAYED
    sides = [(run / "samples" / when, record) for when in ("before", "after") for record in Run(run).records(when)]
    clips = [read(folder / record.shown["video"]) for folder, record in sides]
    assert [clip.shape for clip in clips] == [(9, 32, 32, 3)] * 4
    assert (run / "report.html").read_text().count("<img class='pixels'") == 4
    assert (run / "report.html").read_text().count("src='data:image/webp") == 4


def test_no_held_out_combination_is_trained_on():
    files = {name: load_prompts(f"asset:mini-wan/prompts/{name}.jsonl.gz") for name in ("train", "held_out")}
    assert len(files["held_out"]) == 300 and len({prompt.text for prompt in files["held_out"]}) == 300
    assert all(is_held_out(prompt.metadata) for prompt in files["held_out"])
    assert not any(is_held_out(prompt.metadata) for prompt in files["train"])


def test_the_model_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file() and "__pycache__" not in file.parts) < 480_000
