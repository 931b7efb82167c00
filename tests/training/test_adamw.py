"""Moments of 8 bits: their state goes through a checkpoint bit for bit, and a step is AdamW's but for their rounding."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowgrpo.config.bill import memory_of
from flowgrpo.config.run import load_config
from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.training import adamw
from flowgrpo.training.weights import TrainedWeights

CPU = torch.device("cpu")
torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
SHAPES = {"large": (32, 256), "small": (10,)}
"""A tensor of fewer than 4096 numbers keeps moments of 32 bits."""


def made(bits, scaled=False):
    config = load_config("mini/flow_grpo", [f"optimizer.bits={bits}", "optimizer.lr=0.01", "optimizer.warmup=0", "ema=null"])
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}
    policy = SimpleNamespace(trainable=lambda: weights, device=CPU, needs_loss_scaling=scaled)
    return TrainedWeights(policy, config, Processes.alone())


def step(weights, number):
    """With gradients that differ from weight to weight and from step to step."""
    weights.backward(
        sum((p * torch.linspace(-1, 2, p.numel()).reshape(p.shape)).square().sum() for p in weights.parameters.values())
    )
    weights.end_block()
    weights.gradient_norm()
    assert weights.step(number)


@torchao
@pytest.mark.parametrize("scaled", [False, True], ids=["fp32", "fp16"])
def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(scaled, tmp_path):
    whole, half = made(8, scaled), made(8, scaled)
    for number in range(4):
        step(whole, number)
    for number in range(2):
        step(half, number)
    tensors, facts = half.state()
    assert tensors["optimizer"]["large|exp_avg.codes"].dtype == torch.uint8
    assert tensors["optimizer"]["small|exp_avg"].dtype == torch.float32
    for kind, values in tensors.items():
        save_file({name: value.detach().contiguous() for name, value in values.items()}, tmp_path / kind)
    resumed = made(8, scaled)
    resumed.load({kind: load_file(tmp_path / kind) for kind in tensors}, facts)
    for number in range(2, 4):
        step(resumed, number)
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name])
    for name, value in whole.state()[0]["optimizer"].items():
        assert torch.equal(value, resumed.state()[0]["optimizer"][name])


@torchao
def test_steps_are_those_of_32_bits_but_for_rounding():
    exact, rounded, begun = made(32), made(8), made(32)
    for number in range(3):
        step(exact, number)
        step(rounded, number)
    for name, start in begun.parameters.items():
        moved, other = (weights.parameters[name] - start for weights in (exact, rounded))
        assert (moved - other).norm() <= (0.2 if name == "large" else 1e-4) * moved.norm()
    assert exact.optimizer.param_groups[0]["lr"] == pytest.approx(float(rounded.optimizer.param_groups[0]["lr"]))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(adamw, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"optimizer.bits: 8 needs torchao; install it with pip install 'flowgrpo\[quantisation\]'"
    ):
        made(8)
    monkeypatch.setattr(adamw, "find_spec", lambda name: True)
    monkeypatch.setattr(adamw, "lacks", lambda device: "a C++ compiler")
    with pytest.raises(UserError, match="8 compiles its step, which needs a C\\+\\+ compiler; set it to 32"):
        made(8)


def test_memory_counts_a_byte_and_a_scale_for_256():
    plain, few = (memory_of(load_config("sd3.5-medium/flow_grpo", [f"optimizer.bits={bits}"]))["update"] for bits in (32, 8))
    assert few["optimizer"] == int(2 * (1 + 4 / 256) * (plain["optimizer"] // 8))
    assert {key: value for key, value in few.items() if key != "optimizer"} == {
        k: v for k, v in plain.items() if k != "optimizer"
    }
