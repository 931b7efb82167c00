"""Training that is poisoned or dead is said: NaN anywhere is an error with a remedy, updates without a step are counted."""

import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowgrpo.cli.main import main
from flowgrpo.core.paths import locate
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.training.collect import Collector
from flowgrpo.training.learn import Learner
from flowgrpo.training.rollout import Transitions
from flowgrpo.training.weights import TrainedWeights

SMALL = ["rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=8", "evaluation=null", "policy.steps=2"]
CALL = ["call.height=32", "call.width=32", "call.max_sequence_length=1", "call.guidance_scale=1.0"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a red circle"}\n{"prompt": "a blue square"}\n')
    return tmp_path


def broken(folder: Path, part: str, factor: float, asset: str = "mini-sd3") -> str:
    """A model with one tensor multiplied."""
    shutil.copytree(locate(f"asset:{asset}"), folder)
    (file,) = (folder / part).glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("weight") and ("decoder.conv_in" in name or part != "vae"))
    save_file({**tensors, name: tensors[name].float() * factor}, file, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("part", ["vae", "transformer"])
def test_pixels_that_are_no_numbers_end_every_command_that_makes_them(part, home, capsys):
    model = broken(home / "m", part, 3e37)
    assert main(["sample", model, *CALL, "--prompts", "p.jsonl", "--steps", "2", "--out", "s"]) == 2
    assert "not finite numbers" in capsys.readouterr().err and not list(home.glob("s/*.png"))
    assert main(["train", "mini/flow_grpo", *SMALL, f"policy.model={model}", "updates=1"]) == 2
    assert "set policy.dtype to bf16 or fp32" in capsys.readouterr().err
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    ("recipe", "asset", "part"),
    [
        ("mini/flow_grpo", "mini-sd3", "vae"),
        ("mini-amused/trajectory", "mini-amused", "transformer"),
        ("mini-mdlm/trajectory", "mini-mdlm", "."),
    ],
)
def test_weights_that_are_no_numbers_are_named_when_they_are_loaded(recipe, asset, part, home, capsys):
    model = broken(home / "m", part, float("nan"), asset)
    assert main(["train", recipe, f"policy.model={model}", "updates=1"]) == 2
    assert f"model '{model}': the weights '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "asset", "part"), [("mini/cps", "mini-sd3", "transformer"), ("mini-mdlm/gdpo", "mini-mdlm", ".")]
)
def test_a_file_of_weights_that_was_cut_is_one_sentence(recipe, asset, part, home, capsys):
    model = broken(home / "m", part, 1.0, asset)
    (file,) = Path(model, part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-999])
    assert main(["train", recipe, f"policy.model={model}", "updates=1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"flowgrpo: model '{model}' can't be loaded")


def test_a_prediction_that_becomes_nan_in_training_names_its_step_and_leaves_no_checkpoint(home, capsys, monkeypatch):
    def predict(self, states, prompts, step):
        return original(self, states, prompts, step) * (float("nan") if step == 1 else 1.0)

    original = DiffusersPolicy.predict
    monkeypatch.setattr(DiffusersPolicy, "predict", predict)
    assert main(["train", "mini/flow_grpo", *SMALL, "updates=1"]) == 2
    assert "prediction at step 1 is not a finite number" in capsys.readouterr().err
    assert not list(home.rglob("checkpoint-*"))


ALIKE = "def alike(samples):\n    return [float(p.std() > 0.02) for p in samples.images]\n"


def summary(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_updates_without_an_optimizer_step_are_counted_said_and_an_alarm(home, capsys):
    (home / "alike.py").write_text(ALIKE)
    reward = "rewards={alike: {use: 'alike.py:alike'}}"
    assert main(["train", "mini/flow_grpo", *SMALL, reward, "updates=4", "sentinels.idle=3"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out.strip().splitlines()[-1])
    why = "in every group all samples have the same reward"
    assert found["alarms"] == [f"3 updates in a row had no optimizer step: {why}"] and found["updates"] == 4
    assert captured.err.count(f"update 0 had no optimizer step: {why}") == 1
    run = Path(found["run"])
    assert [json.loads(line)["optimizer_steps"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0] * 4
    assert "3 updates in a row" in (run / "report.html").read_text()
    assert main(["train", "mini/flow_grpo", *SMALL, reward, "updates=9", "sentinels={idle: 2, stop: true}"]) == 0
    assert summary(capsys)["updates"] == 2


def test_a_selection_that_keeps_nothing_is_said_too(home, capsys):
    (home / "none.py").write_text(
        "import numpy as np\nfrom flowgrpo.objective.selection import Selection\n\n\nclass Nothing(Selection):\n"
        "    def choose(self, tree, advantage, update, rng):\n        return np.zeros(len(advantage), bool)\n"
    )
    assert main(["train", "mini/flow_grpo", *SMALL, "selection=['none.py:Nothing']", "updates=2", "sentinels.idle=2"]) == 0
    assert summary(capsys)["alarms"] == ["2 updates in a row had no optimizer step: no transition was kept to train on"]


def test_a_step_that_the_scaler_leaves_out_is_none(home, capsys, monkeypatch):
    def take(self, update):
        self.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**10)
        self.scaler.scale(torch.ones(1))
        next(iter(self.parameters.values())).grad.fill_(float("inf"))
        self.scaler.unscale_(self.optimizer)
        return original(self, update)

    original = TrainedWeights.step
    monkeypatch.setattr(TrainedWeights, "step", take)
    assert main(["train", "mini/flow_grpo", *SMALL, "optimizer.steps_per_update=1", "updates=1"]) == 0
    (file,) = home.rglob("metrics.jsonl")
    assert json.loads(file.read_text())["optimizer_steps"] == 0


def test_the_first_of_two_steps_is_not_kept_when_the_second_is_not_finite(home, capsys, monkeypatch):
    def step(self, totals, update):
        totals.all_finite = totals.finite and len(totals.norms) == 0
        original(self, totals, update)

    original = Learner._step
    monkeypatch.setattr(Learner, "_step", step)
    options = ["rollout.micro_batch=4", "optimizer.steps_per_update=2", "updates=2"]
    assert main(["train", "mini/flow_grpo", *SMALL, *options]) == 2
    assert "nothing of this update is kept" in capsys.readouterr().err
    assert not list(home.rglob("checkpoint-*"))


def test_the_transitions_of_an_update_are_gone_when_the_next_one_begins(home, monkeypatch):
    alive = []

    def rollout(*arguments):
        gc.collect()
        alive.append(sum(isinstance(thing, Transitions) for thing in gc.get_objects()))
        return original(*arguments)

    original = Collector.roll_out
    monkeypatch.setattr(Collector, "roll_out", rollout)
    assert main(["train", "mini/flow_grpo", *SMALL, "updates=3", "ema={decay: 0.5}"]) == 0
    assert alive == [0, 0, 0]
