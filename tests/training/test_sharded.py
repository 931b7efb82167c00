"""Real processes share the weights out, and a run is the one of a lone process: rollouts to the bit, updates to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flowgrpo.config.run import load_config
from flowgrpo.config.sections import DistributedConfig
from flowgrpo.core.errors import UserError
from flowgrpo.runs.checkpoint import load_state, save_state
from sharded import FLEET, PICTURES, trainer_of

CASES = [*PICTURES, "mdlm"]
GIVEN = ["flux", FLEET]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]


@pytest.fixture(scope="module")
def task(saved, mdlm, tmp_path_factory):
    out = tmp_path_factory.mktemp("sharded")
    return {"out": str(out), "models": {**{of: str(saved(of)) for of, _ in PICTURES.values()}, "mdlm": str(mdlm)}}


@pytest.fixture(scope="module")
def alone(task):
    """By case: a trainer after an update, what it was before, and how the update went."""
    made = {}
    for case in CASES:
        trainer = trainer_of(case, task)
        before = {name: value.detach().clone() for name, value in trainer.weights.parameters.items()}
        made[case] = trainer, before, trainer.update()
    return made


@pytest.fixture(scope="module")
def two(task, alone):
    """What two processes made: the first update of each case, and the second of those that go on from a lone process."""
    given = {case: str(Path(task["out"]) / "given" / case) for case in GIVEN}
    for case, folder in given.items():
        save_state(Path(folder) / "state", *alone[case][0].state())
    file = Path(task["out"]) / "task.json"
    file.write_text(json.dumps({**task, "cases": CASES, "cards": 2, "given": given}))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = Path(__file__).parents[1] / "sharded.py"
    done = subprocess.run([*TORCHRUN, str(script), str(file)], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return {case: Path(task["out"]) / case for case in CASES}


def apart(one, other):
    """How far these tensors are from those."""
    return sum(float((one[name].detach().double() - other[name].detach().double()).square().sum()) for name in one) ** 0.5


@pytest.mark.parametrize("case", CASES)
def test_rollouts_are_the_same_to_the_bit_and_updates_to_rounding(case, alone, two):
    trainer, before, (metrics, _, scored) = alone[case]
    if case in GIVEN:
        before = {name: value.detach().clone() for name, value in trainer.weights.parameters.items()}
        metrics, _, scored = trainer.update()
    told = json.loads((two[case] / "told.json").read_text())
    assert np.array_equal(told["total"], scored.total, equal_nan=True)
    assert told["metrics"]["ratio/first_log_abs_max"] == metrics["ratio/first_log_abs_max"]
    assert told["metrics"]["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-4)
    after = load_file(two[case] / "checkpoint/state/trainable.safetensors")
    assert apart(after, trainer.weights.parameters) <= 1e-2 * apart(before, trainer.weights.parameters) > 0
    for kind in trainer.weights.kinds:
        assert (two[case] / "checkpoint/state" / f"{kind}.safetensors").is_file()


@pytest.mark.parametrize("case", ["wan", "mdlm"])
def test_a_process_holds_half_of_the_blocks_and_of_their_moments(case, alone, two):
    trainer = alone[case][0]
    blocks = {"wan": ".blocks.", "mdlm": ".layers."}[case]
    sizes = {name: p.nbytes for name, p in trainer.weights.parameters.items()}
    inside, rest = (sum(size for name, size in sizes.items() if (blocks in name) == shared) for shared in (True, False))
    assert inside > 0
    for held in json.loads((two[case] / "told.json").read_text())["held"]:
        assert held["weights"] == pytest.approx(rest + inside / 2, rel=0.01)
        assert held["moments"] == pytest.approx(2 * (rest + inside / 2), rel=0.01)


@pytest.mark.parametrize("case", CASES)
def test_a_lone_process_goes_on_with_the_same_bits(case, task, two):
    trainer, checkpoint = trainer_of(case, task), two[case] / "checkpoint"
    trainer.load(*load_state(checkpoint, trainer.kinds))
    tensors, _ = trainer.state()
    for kind, values in tensors.items():
        on_disk = load_file(checkpoint / "state" / f"{kind}.safetensors")
        assert on_disk.keys() == values.keys()
        assert all(torch.equal(on_disk[name], value) for name, value in values.items())
    steps = {float(value) for name, value in tensors["optimizer"].items() if name.endswith("|step")}
    assert steps == {trainer.weights.steps} and trainer.weights.steps > 0


@pytest.mark.parametrize("case", ["sd3", "wan", "mdlm"])
def test_what_was_trained_is_exported_whole(case, task, two):
    made = trainer_of(case, task)
    made.load(*load_state(two[case] / "checkpoint", made.kinds))
    sampler = made.config.policy.build_sampler(torch.device("cpu"), two[case] / "export")
    assert same(made.policy, sampler, made.order(0, {}))


def same(policy, sampler, prompts):
    """Whether both make the same of these prompts."""
    one, other = (made.generate(prompts, [0] * len(prompts), policy.config.steps).outputs for made in (policy, sampler))
    return one == other if isinstance(one, list) else torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["policy.dtype=fp16", "distributed.type=shard"], "take bf16"),
        (["distributed.type=hybrid"], "distributed.cards"),
        (["distributed.cards=2"], "distributed.cards"),
    ],
)
def test_what_can_not_lie_so_is_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        load_config(["mini", "flow_grpo"], overrides)


def test_processes_that_are_no_multiple_of_the_cards_are_refused():
    with pytest.raises(UserError, match="no multiple"):
        DistributedConfig(type="hybrid", cards=2).shared_by(3)
