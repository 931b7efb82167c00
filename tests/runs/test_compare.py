"""Comparing runs on folders with known numbers, and one real study on mini-sd3."""

import json
import os
import re
import signal
import subprocess
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.intervals import mean_interval, percentiles, resampled_means, t_interval
from flowgrpo.data.prompts import load_prompts
from flowgrpo.data.records import Record, write_records
from flowgrpo.pages.line_plots import plot
from flowgrpo.pages.plot import Line, Panel, apart, figure
from flowgrpo.pages.ticks import round_ticks, tick_labels
from flowgrpo.runs.compare import compare
from flowgrpo.runs.compare_page import markdown, write_comparison
from flowgrpo.runs.curve import curve_of, find_runs
from flowgrpo.runs.provenance import Provenance
from flowgrpo.runs.run import Run
from flowgrpo.runs.study import Trial, plan

BEFORE = [0.0, 0.0, 1.0, 1.0] * 10


def make_run(folder, name, seed=0, gain=0.0, **changes):
    """A run of 4 updates that cost 100 evaluations and 2 seconds each; `between` are held-out means after updates."""
    facts = {"before": BEFORE, "between": {}, "cost": 100, "seconds": 2.0, "finished": True, "metric": "strict", "limit": 1000}
    facts |= changes
    before = np.array(facts["before"])
    run = folder / f"{name}-20250101-{len(list(folder.iterdir())):06d}"
    (run / "samples").mkdir(parents=True)
    evaluation = {"metric": facts["metric"], "limit_between": facts["limit"]}
    config = {"seed": seed, "updates": 4, "lr": facts.get("lr", 1e-4), "evaluation": evaluation}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    rows = []
    for update in range(4 if facts["finished"] else 2):
        half = facts["seconds"] / 2
        rows.append({"update": update, "network_evaluations": facts["cost"], "seconds/rollout": half, "seconds/update": half})
        if update in facts["between"]:
            rows.append({"update": update, f"held_out/{facts['metric']}": facts["between"][update]})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_scores(run, "before", facts["metric"], before)
    if facts["finished"]:
        save_scores(run, "after", facts["metric"], before + gain)
        tags = {"counting": {"before": 0.5, "after": 0.5 + 2 * np.mean(gain), "n": 4}}
        (run / "held_out.json").write_text(json.dumps({"metric": facts["metric"], "by_tag": tags}))
    return run


def save_scores(run, when, metric, scores):
    records = [Record(i, 0, i, {"prompt": "p"}, {}, {metric: float(score)}) for i, score in enumerate(scores)]
    write_records(Run(run).scores_file(when), records)


def test_the_curve_of_a_finished_and_of_an_unfinished_run(tmp_path):
    between = {0: 0.55, 1: 0.625}
    run = curve_of(Run(make_run(tmp_path, "a", gain=0.25, between=between)))
    assert run.points.tolist() == [[0, 0, 0.5], [100, 2, 0.55], [200, 4, 0.625], [400, 8, 0.75]]
    assert run.gain_at(0, 150) == pytest.approx(0.0875) and run.gain_at(1, 6.0) == pytest.approx(0.1875)
    cut = curve_of(Run(make_run(tmp_path, "a", between=between, finished=False)))
    assert cut.after is None and cut.updates == 2 and cut.points[-1].tolist() == [200, 4, 0.625]


def test_an_evaluation_on_fewer_prompts_adds_its_gain_on_these_prompts(tmp_path):
    before = [0.0, 1.0, 0.0, 0.0]
    run = curve_of(Run(make_run(tmp_path, "a", before=before, between={1: 0.75}, limit=2)))
    assert run.points[1].tolist() == [200, 4, 0.25 + 0.75 - 0.0]


def test_a_run_resumed_past_its_end_is_not_finished(tmp_path):
    run = make_run(tmp_path, "a", between={1: 0.6})
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("updates: 4", "updates: 9"))
    curve = curve_of(Run(run))
    assert curve.after is None and curve.points[-1, 0] == 200


def test_folders_are_expanded_and_names_lose_their_time(tmp_path):
    (tmp_path / "runs").mkdir()
    first, second = (make_run(tmp_path / "runs", name) for name in ("mini-a", "mini-b"))
    assert [run.path for run in find_runs([second, tmp_path])] == [second, first]
    names = ("mini-b-20250101-000001", "mini-b-20250101-000001-2", "renamed")
    assert [Run(name).recipe for name in names] == ["mini-b", "mini-b", "renamed"]


def test_gains_at_the_end_and_at_equal_cost(tmp_path):
    for seed, gain in enumerate((0.2, 0.4)):
        make_run(tmp_path, "slow", seed, gain, seconds=10.0)
    make_run(tmp_path, "short", 0, 0.25, cost=50, seconds=2.0)
    found = compare([tmp_path])
    assert (found.equal_network_evaluations, found.equal_seconds, found.prompts, found.rate) == (200, 8, 40, False)
    short, slow = found.recipes
    assert (short.recipe, short.updates, short.network_evaluations, short.seconds) == ("short", 4, 200, 8)
    assert short.gain.mean == pytest.approx(0.25) and short.gain.ci95 == pytest.approx((0.25, 0.25))
    assert short.gain_at_equal_network_evaluations.mean == pytest.approx(0.25)
    assert short.gain_at_equal_seconds.ci95 is None and short.against_baseline is None
    assert slow.gain.mean == pytest.approx(0.3) and slow.gain.ci95 == pytest.approx((0.2, 0.4))
    assert slow.gain_at_equal_network_evaluations.mean == pytest.approx(0.15)
    half = 12.7062 * 0.05
    assert slow.gain_at_equal_network_evaluations.ci95 == pytest.approx((0.15 - half, 0.15 + half), abs=1e-4)
    assert slow.gain_at_equal_seconds.mean == pytest.approx(0.3 * 8 / 40)
    assert slow.gain_by_tag == {"counting": pytest.approx(0.6)}


def test_the_word_about_the_baseline(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, (3, 40))
    for name, gain in (("baseline", 0.0), ("better", 0.5), ("worse", -0.5), ("same", 0.02)):
        for seed in range(3):
            make_run(tmp_path, name, seed, gain + noise[seed])
    found = compare([*tmp_path.glob("baseline-*"), tmp_path])
    words = {recipe.recipe: recipe.against_baseline and recipe.against_baseline.word for recipe in found.recipes}
    assert words == {"baseline": None, "better": "better", "worse": "worse", "same": "no difference shown"}
    assert {r.recipe: r for r in found.recipes}["better"].against_baseline.mean == pytest.approx(0.5)


def test_the_order_of_the_seeds_does_not_matter(tmp_path):
    first = make_run(tmp_path, "a", 0, 0.1)
    rest = [make_run(tmp_path, "b", seed, 0.2 * seed * np.linspace(0, 1, 40)) for seed in range(3)]
    found = {json.dumps(asdict(compare([first, *order]))) for order in permutations(rest)}
    assert len(found) == 1


def test_an_unfinished_recipe_is_compared_at_equal_cost_only(tmp_path):
    make_run(tmp_path, "a", 0, 0.25)
    make_run(tmp_path, "b", 0, between={1: 0.75}, finished=False)
    found = compare([tmp_path])
    unfinished = found.recipes[1]
    assert unfinished.gain is None and unfinished.after is None and unfinished.against_baseline is None
    assert found.equal_network_evaluations == 200 and unfinished.gain_at_equal_network_evaluations.mean == pytest.approx(0.25)
    assert "1 (1 unfinished)" in markdown(found)


def test_a_score_of_zero_or_one_is_shown_in_percent(tmp_path):
    make_run(tmp_path, "a", 0, 0.0)
    make_run(tmp_path, "b", 0, 1.0 - np.array(BEFORE))
    row = markdown(compare([tmp_path])).splitlines()[3]
    assert [row.count(text) for text in ("| 50.0%", "| 100.0%", "+50.0% [+35.0, +65.0] better (one seed)")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("b", {"metric": "soft"}, "compare runs of one metric"),
        ("b", {"before": BEFORE[:20]}, "20 held-out prompts, .* on 40; give them the same"),
        ("b", {"before": [1.0, *BEFORE[1:]]}, "scored 0.525 before training, .* 0.5, prompt by prompt not the same"),
        ("b", {"before": BEFORE[::-1]}, "prompt by prompt not the same"),
        ("b", {"finished": False}, "no held-out evaluation after its start"),
        ("a", {}, "same recipe and seed; leave one of them out"),
        ("a", {"seed": 1, "lr": 1e-3}, "differ in lr, so they are not seeds of one recipe"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, name, changes, message):
    make_run(tmp_path, "a")
    make_run(tmp_path, name, **changes)
    with pytest.raises(UserError, match=message):
        compare([tmp_path])


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        compare([tmp_path])
    run = make_run(tmp_path, "a")
    Run(run).scores_file("before").unlink()
    with pytest.raises(UserError, match="has no held-out scores"):
        compare([run])
    whole = make_run(tmp_path, "b")
    (whole / "metrics.jsonl").write_text('{"update": 0, "rew\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1 is damaged"):
        compare([whole])


def test_students_t():
    assert t_interval(np.array([0.1, 0.3])) == pytest.approx((0.2 - 1.27062, 0.2 + 1.27062), rel=1e-4)
    assert t_interval(np.array([0.1, 0.2, 0.3])) == pytest.approx((0.2 - 0.430265 / 3**0.5, 0.2 + 0.430265 / 3**0.5), rel=1e-4)
    assert t_interval(np.array([0.5, 0.5])) == (0.5, 0.5) and t_interval(np.array([0.1])) is None


def test_the_bootstrap_of_a_mean_is_inside_what_was_drawn():
    assert mean_interval(np.array([0.25])) == (0.25, 0.25) and mean_interval(np.full(5, 0.5)) == (0.5, 0.5)
    low, high = mean_interval(np.repeat([0.0, 1.0], 50))
    assert (low, high) == pytest.approx((0.4, 0.6), abs=0.02)
    assert mean_interval(np.repeat([0.0, 1.0], 50)) == (low, high)


def test_the_bootstrap_covers_seeds_and_prompts():
    """Gains that differ by seed alone, or by prompt alone, have the exact bootstrap of two items: 1/4, 1/2, 1/4."""
    for gains in (np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])):
        values, counts = np.unique(resampled_means(gains, "a"), return_counts=True)
        assert values.tolist() == [0, 0.5, 1] and counts / counts.sum() == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert percentiles(resampled_means(np.full((3, 5), 0.2), "a")) == pytest.approx((0.2, 0.2))


def test_the_bootstrap_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = []
    for _ in range(200):
        seeds, prompts, rest = rng.normal(0, 0.05, (10, 1)), rng.normal(0, 0.3, (1, 60)), rng.normal(0, 0.3, (10, 60))
        low, high = percentiles(resampled_means(0.1 + seeds + prompts + rest, "a"))
        held.append(low < 0.1 < high)
    assert 0.91 <= np.mean(held) <= 0.99


def test_labels_keep_apart_and_ticks_are_round():
    assert apart([50.0, 52.0, 10.0], 10, 0, 100) == [46.0, 56.0, 10.0]
    assert apart([99.0, 98.0], 10, 0, 100) == [100.0, 90.0]
    assert round_ticks(0.42, 0.61, 5) == pytest.approx([0.4, 0.45, 0.5, 0.55, 0.6, 0.65])
    assert round_ticks(0.0, 0.0, 5)[-1] > 0


@pytest.mark.parametrize(
    ("low", "high"), [(0.5 - 2**-54, 0.5), (-1e-320, 0.0), (1e9, 1e9 + 1e-6), (-3.0, -3.0 + 2**-51), (0.0, 1e-7)]
)
def test_numbers_that_differ_by_rounding_alone_have_ticks_that_differ(low, high):
    ticks = round_ticks(low, high, 3)
    assert ticks[0] <= low + 1e-6 and high - 1e-6 <= ticks[-1] and len(set(tick_labels(ticks))) == len(ticks) <= 6


@pytest.mark.parametrize(
    "low, high, labels",
    [
        (0.42, 0.61, ["0.4", "0.5", "0.6", "0.7"]),
        (0.0, 9e-7, ["0", "5e-7", "1e-6"]),
        (0.123456, 0.123458, ["0.123456", "0.123457", "0.123458"]),
        (-1500, -200, ["-1500", "-1000", "-500", "0"]),
        (100000.1, 100000.3, ["100000.1", "100000.2", "100000.3"]),
        (1e12, 3e12, ["1e12", "2e12", "3e12"]),
        (-0.2, 0.1, ["-0.2", "-0.1", "0", "0.1"]),
    ],
)
def test_labels_of_ticks_are_short_and_differ(low, high, labels):
    assert tick_labels(round_ticks(low, high, 3)) == labels


@pytest.mark.parametrize("values", [[-1234.5, -900.0], [1e-7, 3e-7], [100000.1, 100000.2], [0.1234567, 0.1234569]])
def test_labels_of_ticks_are_inside_their_plot(values):
    line = np.array(values)
    small = str(plot("loss", {"": list(enumerate(values))}, []))
    large = figure([Panel("loss", "updates", [Line("a", np.arange(2.0), line, line, line)])], rate=False)
    labels = [(place, label, 7.5) for place, label in re.findall(r"<text x=(\d+) y=[\d.]+ class=end>([-\d.e]+)<", small)]
    labels += [(place, label, 8.3) for place, label in re.findall(r"<text class='end' x='(\d+)' y='[\d.]+'>([-\d.e]+)<", large)]
    assert len(labels) >= 5 and all(int(place) >= width * len(label) - 1 for place, label, width in labels)


def test_the_files_are_whole_and_offline(tmp_path):
    (tmp_path / "runs").mkdir()
    for i in range(15):
        for seed in range(2):
            make_run(tmp_path / "runs", f"recipe<{i}>", seed, 0.01 * i, between={1: 0.5})
    write_comparison(compare([tmp_path / "runs"]), tmp_path / "out")
    files = {file.suffix: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert files.keys() == {".md", ".json", ".svg", ".html"}
    drawing = ElementTree.fromstring(files[".svg"])
    names = [text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    assert sorted(names) == sorted([f"recipe<{i}>" for i in range(15)] * 2)
    assert "script" not in files[".svg"] and "http" not in files[".svg"].replace("http://www.w3.org/2000/svg", "")
    assert "http" not in files[".html"] and not re.search(r"(src|href)='(?!data:)", files[".html"])
    assert "recipe<0" not in files[".html"] and "Gain by task" in files[".html"] and "All 30 runs" in files[".html"]
    assert len(json.loads(files[".json"])["recipes"]) == 15 and files[".md"].count("\n| recipe<") == 15


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    make_run(tmp_path, "a", 0, 0.25)
    assert main(["compare", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipes"][0]["gain"]["mean"] == pytest.approx(0.25)
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "| baseline" in capsys.readouterr().out and (tmp_path / "out" / "compare.html").is_file()
    assert main(["compare", str(tmp_path / "none")]) == 2


def test_a_study_gives_every_recipe_the_same_budget(tmp_path):
    for name, prompts, updates in (("cheap", 2, 30), ("dear", 4, 20)):
        text = f"base: mini/flow_grpo\nupdates: {updates}\nrollout: {{prompts_per_update: {prompts}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    recipes = [str(tmp_path / name) for name in ("dear.yaml", "cheap.yaml")]
    cost = bill_of(load_config(recipes[1]))["network_evaluations_per_update"]
    own = plan(recipes, [0, 1, 1], None, 4, ["optimizer.lr=1e-5"], tmp_path)
    assert [(trial.source, trial.config.seed) for trial in own] == [(recipe, seed) for seed in (0, 1) for recipe in recipes]
    assert [trial.config.updates for trial in own] == [15, 30] * 2
    config = own[0].config
    assert config.evaluation.every == 3 and config.optimizer.lr == 1e-5
    assert [trial.config.updates for trial in plan(recipes, [0], 7 * cost, 5, [], tmp_path)] == [4, 7]
    assert plan(recipes, [0], 1, 5, [], tmp_path)[0].config.updates == 1


def test_recipes_that_no_study_can_compare_are_refused(tmp_path):
    def refused(message, *sources):
        with pytest.raises(UserError, match=message):
            plan(sources, [0], None, 5, [], tmp_path)

    (tmp_path / "blind.yaml").write_text("base: mini/cps\nevaluation: null\n")
    (tmp_path / "mini-cps.yaml").write_text("base: mini/cps\n")
    (tmp_path / "other.yaml").write_text("base: mini/cps\nevaluation: {steps: 5}\n")
    refused("has no `evaluation`", str(tmp_path / "blind.yaml"))
    refused("would both be called 'mini-cps'", "mini/cps", str(tmp_path / "mini-cps.yaml"))
    refused(r"differ in evaluation\.steps; give both the same", "mini/cps", str(tmp_path / "other.yaml"))


STUDY = """
base: mini/flow_grpo
rollout: {prompts_per_update: 2, group_size: 3, micro_batch: 6}
rewards: {bright: {use: "REWARD.py:reward"}}
evaluation: {limit: 4, pictures: 2}
"""
REWARD = "def reward(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two recipes, one of which has a broken reward; returns the arguments of a study of two updates each."""
    monkeypatch.chdir(tmp_path)
    for name in ("whole", "broken"):
        Path(f"{name}.yaml").write_text(STUDY.replace("REWARD", f"{name}_reward"))
        Path(f"{name}_reward.py").write_text(REWARD if name == "whole" else "def reward(samples):\n    raise KeyError('x')\n")
    budget = 2 * bill_of(load_config("whole.yaml"))["network_evaluations_per_update"]
    return ["study", "whole.yaml", "broken.yaml", "--seeds", "3", "--evaluations", str(budget), "--out", "out"]


def test_a_study_goes_on_after_a_failure_and_repeats_nothing(study, capsys):
    assert main(study) == 2
    first = capsys.readouterr()
    assert "1 of 2 runs failed" in first.err and "out/logs/broken-3.log" in first.err and "| whole " in first.out
    assert "KeyError" in Path("out/logs/broken-3.log").read_text()
    (run,) = Path("out/runs").glob("whole-*")
    (run / "report.html").unlink()
    metrics = (run / "metrics.jsonl").read_text()

    Path("broken_reward.py").write_text(REWARD)
    assert main([*study, "--workers", "2"]) == 0
    table = capsys.readouterr().out
    assert "| whole " in table and "| broken" in table and "baseline" in table
    assert list(Path("out/runs").glob("whole-*")) == [run] and (run / "metrics.jsonl").read_text() == metrics
    rows = [json.loads(line) for line in metrics.splitlines()]
    assert [row["update"] for row in rows] == [0, 0, 1] and "held_out/strict" in rows[1]
    index = json.loads(Path("out/study.json").read_text())
    assert [(row["recipe"], row["seed"], row["finished"]) for row in index] == [("whole", 3, True), ("broken", 3, True)]

    assert main(study) == 0
    again = capsys.readouterr()
    assert again.out == table and "begins" not in again.err
    assert Path("out/compare.html").is_file()


def test_a_run_of_other_prompts_or_another_reward_is_not_the_trials(study, tmp_path):
    Path("p.jsonl").write_text('{"prompt": "a red circle"}\n' * 9)
    (trial,) = plan(["whole.yaml"], [0], 1, 1, ["rollout.prompts=p.jsonl"], tmp_path / "out")
    run = tmp_path / "out" / "runs" / "whole-20260101-000000"
    run.mkdir(parents=True)
    Run(run).save_config(trial.config)
    (run / "report.html").touch()
    assert trial.finished() is None
    Provenance.of("whole.yaml", trial.config).save(run)
    assert trial.finished() == run
    Path("p.jsonl").write_text('{"prompt": "a blue circle"}\n' * 9)
    assert trial.finished() is None
    Path("p.jsonl").write_text('{"prompt": "a red circle"}\n' * 9)
    assert trial.finished() == run
    Path("whole_reward.py").write_text(REWARD + "\n")
    assert trial.finished() is None


def test_each_recipe_takes_the_value_that_is_best_for_it_on_other_prompts(study, capsys, monkeypatch):
    gains = {("whole", 1e-4): 0.0, ("whole", 3e-4): 0.25, ("broken", 1e-4): -0.25, ("broken", 3e-4): -0.5}

    def train(trials, workers):
        for trial in trials:
            (trial.out / "runs").mkdir(parents=True, exist_ok=True)
            run = make_run(trial.out / "runs", trial.name, gain=gains[trial.name, trial.config.optimizer.lr])
            Run(run).save_config(trial.config)
            Provenance.of(trial.source, trial.config).save(run)
            (run / "report.html").touch()

    monkeypatch.setattr("flowgrpo.runs.study.train", train)
    others, per_update = (
        "asset:mini-sd3/prompts/train.jsonl.gz",
        bill_of(load_config("whole.yaml"))["network_evaluations_per_update"],
    )
    grid = ["--grid", "optimizer.lr", "1e-4", "3e-4", "1e-4", "--grid-prompts", others, "--grid-seeds", "7", "8"]
    assert main([*study, *grid, "--evaluations", str(4 * per_update)]) == 0
    told = capsys.readouterr().out
    assert told.index("| takes |") < told.index("| against whole") and "seeds 7 8" in told
    chosen = json.loads(Path("out/grid.json").read_text())
    assert (chosen["key"], chosen["prompts"], chosen["metric"]) == ("optimizer.lr", others, "strict")
    assert {name: recipe["takes"] for name, recipe in chosen["recipes"].items()} == {"whole": "3e-4", "broken": "1e-4"}
    start = np.mean(BEFORE)
    assert chosen["recipes"]["broken"]["scores"] == pytest.approx({"1e-4": start - 0.25, "3e-4": start - 0.5})
    settings = [Run(run).settings for run in Path("out/runs").iterdir()]
    assert sorted((config["seed"], config["optimizer"]["lr"]) for config in settings) == [(3, 1e-4), (3, 3e-4)]
    for value in ("1e-4", "3e-4"):
        assert Path(f"out/grid/{value}/compare.html").is_file()
        tried = [Run(run).settings for run in Path(f"out/grid/{value}/runs").iterdir()]
        assert [config["evaluation"]["prompts"] for config in tried] == [others] * 4
        assert sorted(config["seed"] for config in tried) == [7, 7, 8, 8]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--grid", "optimizer.lr", "1e-4", "1e-4", "--grid-prompts", "p.jsonl"], "needs at least two values"),
        (["--grid", "optimizer.lr", "1e-4", "1e-3"], "--grid needs --grid-prompts"),
        (["--grid-prompts", "p.jsonl"], "--grid-prompts go with --grid"),
        (["--grid-seeds", "7"], "--grid-seeds go with --grid"),
        (
            ["--grid", "optimizer.lr", "1e-4", "1e-3", "--grid-prompts", "copy.jsonl"],
            "1 of the --grid-prompts are prompts on which",
        ),
        (["--grid", "optimizer.lr", "1e-4", "1.0e-4", "--grid-prompts", "p.jsonl"], "is the same with 1e-4 and 1.0e-4"),
        (["--grid", "seed", "1", "2", "--grid-prompts", "p.jsonl"], "is the same with 1 and 2"),
        (["--grid", "updates", "3", "4", "--grid-prompts", "p.jsonl"], "is the same with 3 and 4"),
        (["--grid", "evaluation.prompts", "a", "b", "--grid-prompts", "p.jsonl"], "is the same with a and b"),
        (["--grid", "evaluation.metric", "bright", "strict", "--grid-prompts", "p.jsonl"], "changes what is measured of whole"),
        (["--grid", "evaluation.steps", "3", "4", "--grid-prompts", "p.jsonl"], "changes what is measured of whole"),
        (
            ["--grid", "optimizer.lr", "1e-4", "1e-3", "--grid-prompts", "p.jsonl", "--grid-seeds", "3"],
            "seed 3 is in --seeds and in",
        ),
        (
            ["--grid", "optimizer.lr", "1e-4", "1e-3", "--grid-prompts", "p.jsonl", "optimizer.lr=1e-5"],
            "optimizer.lr is given twice",
        ),
        (["--grid", "optimizer.lt", "1e-4", "1e-3", "--grid-prompts", "p.jsonl"], "unknown key 'lt'"),
        (["--grid", "optimizer.lr", "1e-4", "x", "--grid-prompts", "p.jsonl"], "optimizer.lr"),
        (
            ["--grid", "optimizer.lr", "1e-4", "1e-3", "--grid-prompts", "asset:mini-sd3/prompts/held_out.jsonl.gz"],
            "by other prompts",
        ),
        (["--grid", "optimizer.lr", "1e-4", "1e-3", "--grid-prompts", "q.jsonl"], "q.jsonl"),
    ],
)
def test_a_grid_that_can_not_choose_is_refused_before_anything_is_trained(study, capsys, options, words):
    Path("p.jsonl").write_text('{"prompt": "a prompt that is nowhere else"}\n')
    compared = load_prompts("asset:mini-sd3/prompts/held_out.jsonl.gz")[3]
    Path("copy.jsonl").write_text(json.dumps(compared.metadata) + "\n" + Path("p.jsonl").read_text())
    assert main([*study, *options]) == 2
    assert words in capsys.readouterr().err and not Path("out").exists()


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_a_signal_ends_the_children(number, code, study, capsys, monkeypatch):
    children: list[subprocess.Popen] = []
    begin = Trial.begin
    monkeypatch.setattr(Trial, "begin", lambda *arguments: children.append(begin(*arguments)) or children[-1])

    previous = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        assert main(study) == code
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert f"{number.name} ended the study; the same command goes on" in capsys.readouterr().err
    assert [child.returncode for child in children] == [-signal.SIGTERM]
