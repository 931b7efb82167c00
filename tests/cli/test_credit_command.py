"""`flowgrpo credit` and `fg.measure_credit`: what is measured is named, and what is wrong is one sentence."""

import json
import math
import xml.dom.minidom
from dataclasses import replace

import pytest
import torch

import flowgrpo as fg
from flowgrpo.cli.main import main
from flowgrpo.core.signals import Signals
from flowgrpo.runs.checkpoint import save_state
from flowgrpo.training.credit import estimate
from flowgrpo.training.credit.diagnostics import StepWorth
from flowgrpo.training.credit.gradients import Measurer
from flowgrpo.training.credit.measure import best_baseline, set_aside
from flowgrpo.training.credit.point import policies_at
from flowgrpo.training.credit.result import Credit, Estimate, Row
from flowgrpo.training.credit.schemes import base, named, standard

SMALL = ["rollout.group_size=4", "rollout.prompts_per_update=2", "optimizer.steps_per_update=1", "--prompts", "12"]


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(estimate, "RESAMPLES", 20)


def refused(capsys, *words: str) -> str:
    assert main(["credit", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("flowgrpo: ")
    return error


def test_schemes_are_measured_checked_and_written(tmp_path, capsys):
    words = ["mini", "flow_grpo", "mix_grpo", *SMALL]
    assert main(["credit", *words, "--updates", "2", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = found["rows"]
    assert (first["name"], second["name"], found["baseline"]) == ("flow_grpo", "mix_grpo", "flow_grpo")
    assert first["factor"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert first["evaluations"] == found["evaluations"] == 24
    assert any(row["along"] for row in found["rows"])
    assert found["check_prompts"] == 3 and [step["step"] for step in found["steps"]] == [0, 1]
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1.0)
    text = (tmp_path / "credit.md").read_text()
    assert found["sentence"] in text and "mean gradient of all schemes" in text
    assert json.loads((tmp_path / "credit.json").read_text())["rows"] == found["rows"]
    assert "flow_grpo" in xml.dom.minidom.parse(str(tmp_path / "credit.svg")).toxml()


def test_a_masked_model_is_measured_in_python():
    changes = {"rollout": {"prompts_per_update": 2, "group_size": 3}}
    recipes = [fg.recipe(f"mini-mdlm {method}", **changes) for method in ("trajectory", "mdpo")]
    found = fg.measure_credit("mini-mdlm", *recipes, updates=2, prompts=12)
    assert [row.steps for row in found.rows] == [2, 2] and found.sentence in str(found)
    assert "svg" in found._repr_html_() and all(row.evaluations > 0 for row in found.rows)


def test_a_standard_set_names_what_does_not_fit():
    schemes, left = standard(base("mini", []), 0.7)
    names, reasons = {scheme.name for scheme in schemes}, {one.name: one.reason for one in left}
    assert {
        "flow_grpo",
        "step 0, shared start",
        "step 1",
        "gain, b = 1",
        "gain, b* = 0.7",
        "value, 2 steps",
        "comb",
        "branch",
    } <= names
    assert reasons["terminal"] == "the same as flow_grpo here" and "1.09 times" in reasons["leave-one-out"]
    masked, left = standard(base("mini-mdlm", []), None)
    assert masked[0].name == "trajectory" and not any("shared start" in scheme.name for scheme in masked)
    _, left = standard(base("mini", ["rollout.group_size=5"]), None)
    assert any(one.name == "branch" for one in left)


def test_what_cannot_be_measured_is_one_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.py").write_text("def flat(samples):\n    return [0.5] * len(samples)\n")
    assert "'flow_gropo'" in refused(capsys, "mini", "flow_gropo")
    assert "trains policies of type diffusers" in refused(capsys, "mini-mdlm", "flow_grpo")
    assert "give --updates 2 or more" in refused(capsys, "mini", "flow_grpo", "--updates", "1")
    assert "too few for two updates of 12" in refused(capsys, "mini", "flow_grpo", "--prompts", "20")
    assert "named twice" in refused(capsys, "mini", "flow_grpo", "flow_grpo")
    assert "has other rewards than" in refused(capsys, "mini", "flow_grpo", "pref_grpo")
    assert "'dense' is not one of the schemes" in refused(capsys, "mini", "flow_grpo", "--reference", "dense")
    assert "is no checkpoint" in refused(capsys, "mini", "flow_grpo", "--checkpoint", str(tmp_path))
    (tmp_path / "by_prompt.py").write_text("def length(samples):\n    return [len(text) / 99 for text in samples.prompts]\n")
    silent = ["evaluation=null", "rewards={flat: {use: 'by_prompt.py:length'}}", *SMALL]
    assert "no transition changed the reward" in refused(capsys, "mini", "flow_grpo", *silent)
    flat = ["evaluation=null", "rewards={flat: {use: 'flat.py:flat'}}"]
    assert "a constant reward trains nothing" in refused(capsys, "mini", "flow_grpo", *flat)
    assert "there is no command 'completions'" in refused_command(capsys, "completions", "mini")


def refused_command(capsys, *words: str) -> str:
    assert main([*words]) == 2
    return capsys.readouterr().err


def test_a_checkpoint_is_that_of_its_model(capsys, tmp_path):
    """Its weights and the number of its updates count, and which prompts were seen to differ."""
    policy = fg.load_policy("mini")
    spread = {"steps": {}, "prompts": {"0": 1.0}}
    save_state(tmp_path / "checkpoint-000007" / "state", {"trainable": policy.trainable()}, {"updates": 7, "spread": spread})
    other = refused(capsys, "mini", "flow_grpo", "policy.lora.rank=4", "--checkpoint", str(tmp_path))
    assert "is of another model" in other and "differ in name or size" in other
    schemes = named("mini", ["flow_grpo"], [])
    with torch.no_grad():
        next(iter(policy.trainable().values())).add_(1.0)
    (same,), point = policies_at(schemes, tmp_path / "checkpoint-000007", torch.device("cpu"), policy)
    assert same is policy and (point.updates, point.spread) == (7, spread)
    again = fg.load_policy("mini").trainable()
    assert all(torch.equal(p, again[name]) for name, p in policy.trainable().items())


@pytest.mark.parametrize(("after", "code"), [(1, 2), (4, 0)])
def test_an_interrupt_keeps_what_is_done(after, code, monkeypatch, capsys):
    """Whole rounds of updates are used; before the second one nothing is known."""
    calls = []

    def counted(self, batch, number, whole=Measurer.__call__):
        whole(self, batch, number)
        calls.append(number)
        if len(calls) == after:
            Signals.current.asked = "SIGINT"

    monkeypatch.setattr(Measurer, "__call__", counted)
    assert main(["credit", "mini", "flow_grpo", "mix_grpo", *SMALL, "--updates", "5"]) == code
    output = capsys.readouterr()
    assert len(calls) == after
    assert ("Ended by SIGINT after 2 of 5 updates" in output.out) if code == 0 else ("nothing is known yet" in output.err)


def test_the_check_has_prompts_of_its_own():
    prompts = fg.load_prompts("asset:mini-sd3/prompts/train.jsonl.gz")[:40]
    aside, kept = set_aside(prompts, 24)
    assert len(aside) == 10 and len(kept) == 30 and not {p.index for p in aside} & {p.index for p in kept}
    assert [len(part) for part in set_aside(prompts, 38)] == [2, 38] and set_aside(prompts, 50)[0] == []


def test_the_best_baseline_counts_steps_by_what_they_decide():
    steps = [StepWorth(0, 2.0, 0.5, 0.25, 1.0, 0.5), StepWorth(1, 1.0, 0.9, 0.75, 1.0, 0.5)]
    assert best_baseline(steps) == pytest.approx(0.35)
    assert best_baseline([]) is None


def row(name: str, per_million: tuple[float, float, float], factor: tuple[float, float, float], needed: float = 3.0) -> Row:
    value, *interval = per_million
    many, (share, *ends) = Estimate(value, tuple(interval)), factor
    ratio = Estimate(share, tuple(ends))
    return Row(name, 8, 10.0, 1.0, 0.5, many, many, many, many, ratio, ratio, 1.0, 0.5, 0.0, needed)


def credit(*rows: Row) -> Credit:
    return Credit(
        model="m",
        point="p",
        rows=list(rows),
        left_out=[],
        steps=[],
        completions=[],
        notes=[],
        baseline="a",
        reference="r",
        updates=8,
        prompts=8,
        check_prompts=0,
        evaluations=1.0,
        sampler="s",
        length=0.0,
        scaled_length=0.0,
        sketch_error=0.0,
        ranks=None,
        ranks_scaled=None,
        seconds=1.0,
    )


def test_the_sentence_says_what_to_use_or_that_nothing_is_told_apart():
    plain = row("a", (4, 1, 9), (1, 1, 1))
    assert credit(plain, row("b", (8, 2, 9), (2, 1.5, 3))).sentence == (
        "For m and its reward use b: expected factor 2 [1.5, 3] over a."
    )
    without_end = credit(plain, row("b", (8, 2, 9), (60, 1.5, math.inf))).sentence
    assert without_end == "For m and its reward use b: expected factor above 1.5 over a."
    unsure = credit(plain, row("b", (8, 2, 9), (2, 0.5, math.inf))).sentence
    assert unsure.startswith("Nothing is told apart from a at this size: b has the highest factor, 2 [0.5, ∞]; about 16 more")
    assert "use a: b comes closest" in credit(plain, row("b", (1, 0.5, 2), (0.25, 0.1, 0.5))).sentence
    assert "Nothing is shown to be better" in credit(plain, row("b", (3, 0.5, 4), (0.8, 0.1, 1.5))).sentence
    noise = credit(replace(plain, per_million=Estimate(1.0, (-1.0, 2.0)), needed=1e4)).sentence
    assert "no scheme's signal is above its noise" in noise and "more than 100 times" in noise


def test_the_check_speaks_where_it_tells_schemes_apart():
    plain, better = row("a", (4, 1, 9), (1, 1, 1)), row("b", (8, 2, 9), (2, 1.5, 3))
    unsure, sure = (replace(better, found=Estimate(2.0, ends)) for ends in ((0.5, 9.0), (1.5, 9.0)))
    assert credit(plain, better).verdict == ""
    assert replace(credit(plain, unsure), ranks=1.0).verdict == "The check tells no scheme apart from a."
    assert replace(credit(plain, sure), ranks=0.5, ranks_scaled=-0.4).verdict.endswith("is 0.5, -0.4 as AdamW scales.")


def test_the_check_of_the_optimizer_s_steps_comes_first():
    plain, better = row("a", (4, 1, 9), (1, 1, 1)), row("b", (8, 2, 9), (2, 1.5, 3))
    other = replace(row("c", (3, 1, 9), (0.75, 0.5, 1.2)), found_scaled=Estimate(5.0, (2.0, 9.0)))
    assert credit(plain, better, other).sentence == (
        "For m and its reward use c: expected factor 5 [2, 9] over a, by the check of AdamW's steps (by cosines 0.75 [0.5, 1.2])."
    )
