"""Real processes compute each sequence together, and a run is the one of a lone process to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from conftest import REPLAYED
from flowgrpo.policies import tiny
from flowgrpo.policies.diffusers._runtime import denoisers
from flowgrpo.policies.diffusers._table import DIVIDED
from split import CASES, NETWORKS, Counted, gradients, trainer_of

ROUNDED = {"wan": 1e-3, "flux": 1e-3, "wan22": 5e-2}
"""How far an update may be from a lone process's, relative to the update; bf16 rounds more."""


def launched(file, processes):
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).parents[1] / "split.py"
    done = subprocess.run([*command, str(script), str(file)], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def models(saved):
    return {name: str(saved(name)) for name in {*NETWORKS, *(of for of, _ in CASES.values())}}


def made_by(processes, team, models, out, **task):
    file = out / "task.json"
    file.write_text(json.dumps({"out": str(out), "models": models, "team": team, "networks": [], "cases": [], **task}))
    launched(file, processes)
    return out


@pytest.fixture(scope="module")
def two(models, tmp_path_factory):
    """What a team of two made."""
    return made_by(2, 2, models, tmp_path_factory.mktemp("two"), networks=NETWORKS, cases=[*CASES])


@pytest.fixture(scope="module")
def four(models, tmp_path_factory):
    """What two teams of two made."""
    return made_by(4, 2, models, tmp_path_factory.mktemp("four"), cases=["flux"])


def test_all_networks_that_can_be_divided_are_compared():
    compared = {type(module).__name__ for name in NETWORKS for module in denoisers(tiny.pipelines()[name].build()).values()}
    assert compared == DIVIDED


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_of_the_gradient_add_up_to_the_whole(name, models, two, tmp_path):
    predicted, whole = gradients(name, Path(models[name]), tmp_path)
    found = load_file(two / f"{name}.safetensors")
    assert apart(found.pop("predicted"), predicted) < 1e-5
    assert found.keys() == whole.keys() and len(whole) > 10
    size = sum(float(g.double().square().sum()) for g in whole.values()) ** 0.5
    for key, gradient in whole.items():
        assert float((found[key] - gradient).double().norm()) < 1e-4 * max(float(gradient.double().norm()), 1e-3 * size), key


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
    after, now = load_file(out / f"{case} trained.safetensors"), trainer.weights.parameters
    moved = sum(float((before[name] - now[name]).double().square().sum()) for name in now) ** 0.5
    missed = sum(float((after[name] - now[name]).double().square().sum()) for name in now) ** 0.5
    assert missed <= ROUNDED[case] * moved > 0


@pytest.mark.parametrize(("made", "case"), [("two", "wan"), ("two", "wan22"), ("two", "flux"), ("four", "flux")])
def test_a_team_scores_once_and_all_hold_the_same(made, case, alone, request):
    told = json.loads((request.getfixturevalue(made) / f"{case}.json").read_text())["processes"]
    assert len({json.dumps(row["same"]) for row in told}) == 1
    assert [row["team"] for row in told] == [i // 2 for i in range(len(told))]
    assert all(bool(row["asked"]) == (i % 2 == 0) for i, row in enumerate(told))
    assert sum(row["asked"] for row in told) == 4 * len(alone[case][2][2].prompts)
