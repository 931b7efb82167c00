"""Real processes compute each sequence together, and a run is the one of a lone process to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import REPLAYED
from flowgrpo.cli.main import main
from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import DistributedConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers._runtime import denoisers
from flowgrpo.policies.diffusers._table import DIVIDED
from flowgrpo.runs.provenance import Provenance
from flowgrpo.runs.run import Run
from flowgrpo.training.run import Training
from split import CASES, CPU, NETWORKS, REFUSED, Counted, gradients, trainer_of

ROUNDED = {"wan": 1e-3, "flux": 1e-3, "wan22": 0.1}
"""How far an update may be from a lone process's, relative to the update; bf16 rounds more."""


SCRIPT = str(Path(__file__).parents[1] / "split.py")


def launched(processes, *command):
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def models(saved):
    names = {*NETWORKS, *(of for of, _ in CASES.values()), *(name for name, *_ in REFUSED.values())}
    return {name: str(saved(name)) for name in names}


def made_by(processes, team, models, out, **task):
    file = out / "task.json"
    nothing = {"networks": [], "cases": [], "refused": []}
    file.write_text(json.dumps({"out": str(out), "models": models, "team": team, **nothing, **task}))
    launched(processes, SCRIPT, str(file))
    return out


@pytest.fixture(scope="module")
def two(models, tmp_path_factory):
    """What a team of two made."""
    refused = [case for case, (_, team, *_) in REFUSED.items() if team == 2]
    return made_by(2, 2, models, tmp_path_factory.mktemp("two"), networks=NETWORKS, cases=[*CASES], refused=refused)


@pytest.fixture(scope="module")
def four(models, tmp_path_factory):
    """What two teams of two made."""
    refused = [case for case, (_, team, *_) in REFUSED.items() if team == 4]
    return made_by(4, 2, models, tmp_path_factory.mktemp("four"), cases=["flux"], refused=refused)


def test_all_networks_that_can_be_divided_are_compared():
    compared = {type(module).__name__ for name in NETWORKS for module in denoisers(tiny.pipelines()[name].build()).values()}
    assert compared == DIVIDED


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_of_the_gradient_add_up_to_the_whole(name, models, two, tmp_path):
    predicted, whole = gradients(name, Path(models[name]), tmp_path)
    found = load_file(two / f"{name}.safetensors")
    assert apart(found.pop("predicted"), predicted) < 1e-5
    assert found.keys() == whole.keys() and len(whole) > 10
    least = 1e-3 * joined(whole).norm()
    for key, gradient in whole.items():
        assert (found[key] - gradient).double().norm() < 1e-4 * max(gradient.double().norm(), least), key


def joined(tensors):
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)]).double()


def apart(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.fixture(scope="module")
def alone(models):
    """By case: a trainer after an update, what it was before, and how the update went."""
    made = {}
    for case in CASES:
        trainer = trainer_of(case, models, Counted())
        before = {name: value.detach().clone() for name, value in trainer.weights.parameters.items()}
        made[case] = trainer, before, trainer.update()
    return made


@pytest.mark.parametrize(("made", "case"), [("two", "wan"), ("two", "wan22"), ("two", "flux"), ("four", "flux")])
def test_an_update_of_teams_is_that_of_a_lone_process(made, case, alone, request):
    out = request.getfixturevalue(made)
    trainer, before, (metrics, _, scored) = alone[case]
    told = json.loads((out / f"{case}.json").read_text())
    np.testing.assert_allclose(told["total"], scored.total, rtol=1e-2 if case == "wan22" else 1e-5)
    assert told["metrics"]["ratio/first_log_abs_max"] <= REPLAYED
    assert told["metrics"]["network_evaluations"] == metrics["network_evaluations"]
    assert told["metrics"]["optimizer_steps"] == metrics["optimizer_steps"]
    before, after, now = map(joined, (before, load_file(out / f"{case} trained.safetensors"), trainer.weights.parameters))
    assert (after - now).norm() <= ROUNDED[case] * (before - now).norm() > 0


@pytest.mark.parametrize(("made", "case"), [("two", "wan"), ("two", "wan22"), ("two", "flux"), ("four", "flux")])
def test_a_team_scores_once_and_all_hold_the_same(made, case, alone, request):
    told = json.loads((request.getfixturevalue(made) / f"{case}.json").read_text())["processes"]
    assert len({json.dumps(row["same"]) for row in told}) == 1
    assert [row["team"] for row in told] == [i // 2 for i in range(len(told))]
    assert all(bool(row["asked"]) == (i % 2 == 0) for i, row in enumerate(told))
    assert sum(row["asked"] for row in told) == 4 * len(alone[case][2][2].prompts)


@pytest.mark.parametrize("case", REFUSED)
def test_a_team_that_can_not_is_told_so_in_each_process(case, two, four):
    _, team, _, words = REFUSED[case]
    for number in range(team):
        said = ({2: two, 4: four}[team] / f"{case} {number}" / "said").read_text()
        assert words in said and "distributed.context" in said


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (["mini", "flow_grpo"], ["distributed.type=shard"], "does not go with distributed.type: shard"),
        (["mini", "flow_grpo"], ["fleet.rollout=1"], "makes teams of those"),
        (["mini", "flow_grpo"], ["policy.runtime.compile=blocks"], "set it to off"),
        (["mini-wan", "draft"], [], "goes back through whole states"),
        (["mini-wan", "dense_grpo"], ["calibration={}"], "calibration asks the rewards in each process"),
        (["mini-wan", "flow_grpo"], ["rollout.plan.completion={type: learned}"], "learned reads whole sequences"),
        (["mini-mdlm", "trajectory"], [], "has no sequence that processes could divide"),
        (["mini", "flow_grpo"], [], "SD3Transformer2DModel is not one of the networks whose sequences can be divided"),
    ],
)
def test_what_needs_whole_sequences_is_refused(recipe, overrides, words):
    with pytest.raises(UserError, match=words):
        load_config(recipe, [*overrides, "distributed.context=2"])


def test_processes_are_teams_of_as_many_neighbours():
    distributed = DistributedConfig(context=2)
    assert [distributed.team(processes) for processes in (1, 2, 6)] == [1, 2, 2]
    with pytest.raises(UserError, match="no multiple"):
        distributed.team(3)
    config = load_config(["mini-wan", "flow_grpo"], ["distributed.context=2", "rollout.micro_batch=32"])
    assert config.blocks_per_step == 4
    assert [bill_of(config, processes)["idle_processes"] for processes in (2, 8, 12)] == [0, 0, 4]


def test_the_plan_halves_what_a_process_keeps_of_a_long_clip():
    alone, both = (
        bill_of(load_config(["wan2.1-1.3b", "flow_grpo", "ocr"], [f"distributed.context={team}"]), team)["memory_bytes"]
        for team in (1, 2)
    )
    for phase in ("rollout", "update"):
        assert both[phase]["activations"] == pytest.approx(alone[phase]["activations"] / 2, rel=1e-2)
        assert both[phase]["latents"] == alone[phase]["latents"]
        assert both[phase]["denoiser"] == alone[phase]["denoiser"]


class Told(Processes):
    """A process that hears of no other one."""

    def gather_all(self, items):
        return items


def test_the_first_of_a_team_speaks_for_it():
    first, second = (Told(rank, 4, CPU, team=2) for rank in (2, 3))
    assert (first.rank, first.count, first.speaks) == (second.rank, second.count, not second.speaks) == (1, 2, True)
    assert first.share([*"abcde"]) == second.share([*"abcde"]) == ["b", "d"]
    assert [one.gather([7]) for one in (first, second)] == [[7], []]
    asked = []
    assert [one.gather_made(lambda: asked.append(1) or [7]) for one in (first, second)] == [[7], []] and asked == [1]


def test_a_run_of_a_team_is_written_once_and_a_lone_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=4", "evaluation.limit=2"]
    options = ["train", "mini-wan", "dance_grpo", *small]
    launched(2, "-m", "flowgrpo", *options, "updates=1", "distributed.context=2")
    (run,) = Path("runs").iterdir()
    assert main([*options, "updates=2", "distributed.context=1", "--resume", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [0, 1] and rows[0]["network_evaluations"] == rows[1]["network_evaluations"]
    assert all(row["ratio/first_log_abs_max"] <= REPLAYED for row in rows)
    for when in ("before", "after"):
        lines = Run(run).scores_file(when).read_text().splitlines()
        assert len(lines) == len({(record.row, record.sample) for record in Run(run).records(when)}) == 2


@pytest.mark.parametrize(("override", "team"), [("context=2", 2), ("type=shard", 1)])
def test_a_policy_of_ones_own_is_not_divided(monkeypatch, override, team):
    monkeypatch.setattr("flowgrpo.training.run.Processes.of", lambda *_: Processes(0, 2, CPU, team=team))
    config = load_config(["mini-wan", "flow_grpo"], [f"distributed.{override}"])
    with pytest.raises(UserError, match="train\\(\\) was given another"):
        Training(config, Provenance("mini", {}, {}, {}), None, policy=object())()
