"""Checkpoints that are written while training goes on hold what was trained when they were due, and a fault of theirs is said."""

import json
import re
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file

from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.core.parts import copies
from flowgrpo.policies import tiny
from flowgrpo.policies.amused import AmusedConfig
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.policies.masked import MaskedConfig
from flowgrpo.runs import checkpoint
from flowgrpo.runs.checkpoint import Writer
from flowgrpo.runs.run import Run
from flowgrpo.sampling.laws.gaussian import GaussianLaw

CPU = torch.device("cpu")
LORA = {"targets": ["q_proj", "v_proj"]}
RECIPE = [
    *("mini/flow_grpo", "rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=4", "updates=3"),
    *("ema.decay=0.5", "optimizer.lr=1e-3", "optimizer.steps_per_update=1", "evaluation=null"),
    "checkpoints={every: 1, keep_last: 9}",
]


def policy_of(name, lora, saved, mdlm):
    if name == "mdlm":
        more = {"lora": LORA} if lora else {}
        return MaskedConfig(model=str(mdlm), prompt_length=6, length=4, steps=4, sampler={"type": "threshold"}, **more)
    more = {} if lora else {"lora": None}
    if name == "amused":
        return AmusedConfig(model="asset:mini-amused", steps=3, length=64, **more)
    return DiffusersConfig(model=str(saved(name)), steps=3, call=tiny.pipelines()[name].call, **more)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("name", ["sd3", "wan22", "amused", "mdlm"])
def test_an_export_is_what_was_trained_when_it_was_asked_for(name, lora, saved, mdlm, tmp_path):
    config = policy_of(name, lora, saved, mdlm)
    policy = config.build(CPU, 0)
    for write, of in ((policy.export(), "before"), (None, "after")):
        (tmp_path / of).mkdir()
        for parameter in policy.trainable().values():
            parameter.data += 0.5
        (write or policy.export())(tmp_path / of)
    (tmp_path / "untrained").mkdir()
    config.build(CPU, 0).export()(tmp_path / "untrained")
    assert read(tmp_path / "before") == read(tmp_path / "untrained") != read(tmp_path / "after")


def read(folder):
    """The bytes of all tensors of all files."""
    tensors = {file.relative_to(folder): load_file(file) for file in folder.rglob("*.safetensors")}
    return {(file, key): value.numpy().tobytes() for file, values in tensors.items() for key, value in values.items()}


def test_copies_stay_as_they_are_and_a_tensor_of_two_names_is_copied_once():
    shared = torch.arange(3.0)
    kept = copies({"one": shared, "other": shared, "part": shared[:2]})
    shared += 1.0
    assert kept["one"].tolist() == [0.0, 1.0, 2.0] and kept["part"].tolist() == [0.0, 1.0]
    assert kept["one"].data_ptr() == kept["other"].data_ptr()


def test_one_thing_is_written_after_the_other_and_an_error_is_raised_once():
    writer, go, done = Writer(at_once=False), Event(), []

    def slow():
        go.wait(60)
        done.append("slow")
        raise UserError("the disk is full")

    writer(slow)
    writer.check()
    assert done == []
    go.set()
    with pytest.raises(UserError, match="full"):
        writer(lambda: done.append("next"))
    writer(lambda: done.append("last"))
    writer.settle()
    assert done == ["slow", "last"]


def train(folder, *more):
    return main(["train", *RECIPE, f"output={folder}", *more])


def files(run):
    return {file.relative_to(run): file for kept in Run(run).checkpoints for file in kept.rglob("*.safetensors")}


def test_checkpoints_are_the_same_to_the_bit_however_slow_the_disk_is(tmp_path, monkeypatch):
    assert train(tmp_path / "at_once", "checkpoints.background=false") == 0
    sync, overtaken = checkpoint._sync, []

    def slow_sync(path):
        """It waits until training has gone on."""
        (rows,) = (tmp_path / "background").glob("*/metrics.jsonl")
        if "000001.partial" in str(path) and not overtaken:
            for _ in range(600):
                if len(rows.read_text().splitlines()) > 1:
                    break
                Event().wait(0.1)
            overtaken.append(len(rows.read_text().splitlines()))
        sync(path)

    monkeypatch.setattr(checkpoint, "_sync", slow_sync)
    assert train(tmp_path / "background") == 0
    assert overtaken == [2]
    (one,), (other,) = ((tmp_path / name).iterdir() for name in ("at_once", "background"))
    assert len(Run(one).checkpoints) == 3 and files(one).keys() == files(other).keys()
    for name, file in files(one).items():
        ours, theirs = load_file(file), load_file(files(other)[name])
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ("trainer.json", "config.yaml", "README.md"):
        assert {file.relative_to(one) for file in one.rglob(name)} == {file.relative_to(other) for file in other.rglob(name)}


def test_a_disk_that_fills_meanwhile_ends_the_run_which_goes_on_from_the_last_checkpoint(tmp_path, capsys, monkeypatch):
    sync = checkpoint._sync

    def full(path):
        if "000002.partial" in str(path):
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(checkpoint, "_sync", full)
    assert train(tmp_path / "full") == 2
    (run,) = (tmp_path / "full").iterdir()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "checkpoint-000002 could not be written" in said and "No space left" in said and "--resume" in said
    assert Run(run).checkpoints[0].name == "checkpoint-000001"
    monkeypatch.setattr(checkpoint, "_sync", sync)
    assert main(["train", *RECIPE, f"output={tmp_path / 'full'}", "--resume", str(run)]) == 0
    assert [json.loads(line)["update"] for line in Path(run, "metrics.jsonl").read_text().splitlines()] == [0, 1, 2]


def test_numbers_that_are_not_finite_end_a_run_once_the_checkpoint_before_is_there(tmp_path, capsys, monkeypatch):
    sync, log_prob = checkpoint._sync, GaussianLaw.log_prob

    def slow_sync(path):
        if path.name == "trainer.json":
            Event().wait(1.0)
        sync(path)

    def poison(self, x, prediction, x_next):
        later = any((tmp_path / "nan").glob("*/metrics.jsonl"))
        return log_prob(self, x, prediction, x_next) * (float("nan") if later and prediction.requires_grad else 1.0)

    monkeypatch.setattr(checkpoint, "_sync", slow_sync)
    monkeypatch.setattr(GaussianLaw, "log_prob", poison)
    assert train(tmp_path / "nan") == 2
    (run,) = (tmp_path / "nan").iterdir()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    done = int(re.search(r"update (\d): the loss or its gradient is not finite", said)[1])
    assert done > 0 and f"checkpoint-{done:06d} is kept" in said and len(Run(run).checkpoints) == done
