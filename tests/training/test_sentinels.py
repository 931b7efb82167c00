"""Sentinels: what they say of a run, and that they end it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import RewardConfig, SentinelConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards import statistics
from flowgrpo.training.sentinels import Sentinels

REWARDS = {
    "trained": RewardConfig(use="scene:strict"),
    "panel": RewardConfig(use="scene:soft", weight=0),
    "detail": RewardConfig(use="statistics:high_frequency", weight=0),
}


def run(sentinels: SentinelConfig, rewards=REWARDS, **curves: list[float]) -> Sentinels:
    """The sentinels after updates with these rewards; what is not given stays at 1."""
    watch = Sentinels(sentinels, rewards)
    for update in range(len(next(iter(curves.values())))):
        values = {f"reward/{label}": curves.get(label, [1.0] * 99)[update] for label in rewards}
        watch.see({"update": update, "reward": 0.0, "optimizer_steps": 1, **values})
    return watch


def line(start: float, end: float, updates: int = 8) -> list[float]:
    return np.linspace(start, end, updates).tolist()


PANEL = SentinelConfig(panel=("panel",), window=3, sigmas=3.0)


def test_a_panel_that_falls_while_the_trained_reward_rises_is_said_once_with_both_changes():
    watch = run(PANEL, trained=line(0, 7), panel=line(7, 0))
    (alarm,) = watch.raised.values()
    assert alarm.sentence == "'panel' falls (6 to 3) while 'trained' improves (1 to 4)" and alarm.update == 5
    assert not watch.stop


def test_rising_together_falling_together_and_noise_are_no_alarm():
    assert not run(PANEL, trained=line(0, 7), panel=line(0, 7)).raised
    assert not run(PANEL, trained=line(7, 0), panel=line(7, 0)).raised
    assert not run(PANEL, trained=line(0, 7), panel=[0, 9, 0, 9, 0, 9, 0, 0]).raised


def test_a_reward_with_negative_weight_improves_when_it_falls():
    rewards = REWARDS | {"trained": RewardConfig(use="scene:strict", weight=-1.0)}
    assert "panel" in run(PANEL, rewards, trained=line(7, 0), panel=line(7, 0)).raised


def test_no_alarm_before_two_windows_have_passed():
    assert not run(PANEL, trained=line(0, 5, 5), panel=line(5, 0, 5)).raised


@pytest.mark.parametrize(("end", "alarms"), [(1.29, 0), (1.31, 1), (0.69, 1)])
def test_a_statistic_may_change_by_its_share(end, alarms):
    drift = SentinelConfig(drift={"detail": 0.3}, window=2, stop=True)
    watch = run(drift, detail=[1.0, 1.0, end, end])
    assert len(watch.raised) == alarms and watch.stop == bool(alarms)


def test_rows_that_are_no_update_are_passed_over():
    watch = run(PANEL, trained=line(0, 7), panel=line(0, 7))
    assert watch.see({"update": 7, "held_out/trained": 0.5}) == [] and len(watch.history) == 8


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sentinels={panel: [sof]}", "did you mean 'soft'"),
        ("sentinels={panel: [soft]}", "'soft', which is trained on"),
    ],
)
def test_sentinels_that_can_watch_nothing_are_refused(override, said):
    with pytest.raises(UserError, match=said):
        load_config("mini/flow_grpo", [override])


def pictures(made: torch.Tensor, group: list[int]) -> Samples:
    return Samples(["p"] * len(made), [{}] * len(made), group, made)


def test_statistics_of_pictures_that_can_be_worked_out_by_hand():
    row = torch.arange(8)
    finest = (row % 2).float().expand(1, 3, 8, 8)
    coarse = (torch.sin(2 * torch.pi * row / 8) / 2 + 0.5).expand(1, 3, 8, 8)
    flat = torch.full((1, 3, 8, 8), 0.25)
    both = torch.cat([finest, coarse, flat])
    assert statistics.high_frequency(pictures(both, [0, 1, 2])) == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("level", [0.1, 0.7, 1.0])
def test_a_large_picture_of_one_brightness_has_no_detail(level):
    """Its mean is not exact in float32."""
    flat = torch.full((1, 3, 509, 511), level)
    flat[..., 0, 0] += 1e-7
    assert statistics.high_frequency(Samples(["p"], [{}], [0], flat)) == [0.0]
    red, grey = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.5])
    coloured = torch.stack([red, grey])[:, :, None, None].expand(2, 3, 8, 8)
    assert statistics.saturation(pictures(coloured, [0, 1])) == pytest.approx([1.0, 0.0])
    spread = torch.tensor([0.0, 0.5, 1.0, 0.0, 0.2])[:, None, None, None].expand(5, 3, 8, 8)
    assert statistics.diversity(pictures(spread, [0, 0, 0, 1, 1])) == pytest.approx([0.75, 0.5, 0.75, 0.2, 0.2])
    with pytest.raises(UserError, match="one sample only"):
        statistics.diversity(pictures(flat, [0]))


HACKED = """
import itertools

calls = itertools.count()


def rising(samples):
    call = next(calls)
    return [call + 0.1 * image.mean().item() for image in samples.images]


def falling(samples):
    return [-score for score in rising(samples)]
"""


def test_a_run_ends_when_the_panel_parts_and_its_report_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hacked.py").write_text(HACKED)
    small = [
        "rollout.prompts_per_update=2",
        "rollout.group_size=2",
        "evaluation.limit=2",
        "updates=9",
        "optimizer.decay_over=null",
    ]
    rewards = "rewards={strict: {use: 'hacked.py:rising'}, panel: {use: 'hacked.py:falling', weight: 0}}"
    command = ["train", "mini/flow_grpo", *small, rewards, "sentinels={panel: [panel], window: 2, sigmas: 2, stop: true}"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    assert summary["updates"] == 4 and "'panel' falls" in summary["alarms"][0] and "update 3: 'panel' falls" in err
    run = Path(summary["run"])
    assert (run / "checkpoint-000004").is_dir()
    page = (run / "report.html").read_text()
    assert "<h2>Sentinels</h2>" in page and "Update 3:" in page and page.count("<b>panel</b>") == 1
    (run / "alarms.json").write_text('{"panel": {"update": 7, "sentence": "of an update that is done again"}}')
    assert main([*command, "--resume"]) == 0
    assert json.loads((run / "alarms.json").read_text())["panel"]["update"] == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["updates"] == 4
