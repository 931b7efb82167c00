"""The gradient of a step is the exact sum of its blocks', rounded once, so it is the same for any order and any share of them."""

from itertools import permutations
from types import SimpleNamespace

import pytest
import torch

from flowgrpo.config.bill import bill_of
from flowgrpo.config.run import load_config
from flowgrpo.core import processes as crossing
from flowgrpo.core.processes import Processes
from flowgrpo.training.weights import TrainedWeights

CPU = torch.device("cpu")
BLOCKS = (1e8, 1.0, -1e8, 0.5)
SEVERAL = ["rollout.micro_batch=12", "optimizer.max_grad_norm=1e9"]


def weights(more=(), processes=None):
    """One weight, in a run whose steps have several blocks."""
    weight = torch.nn.Parameter(torch.zeros(1))
    policy = SimpleNamespace(trainable=lambda: {"weight": weight}, device=CPU, needs_loss_scaling=False)
    return TrainedWeights(policy, load_config("mini/flow_grpo", [*SEVERAL, *more]), processes or Processes.alone()), weight


def add(made, weight, blocks):
    for gradient in blocks:
        made.backward((gradient * weight).sum())
        made.end_block()


@pytest.mark.parametrize("blocks", [*permutations(BLOCKS)])
def test_blocks_add_up_exactly_in_any_order(blocks):
    made, weight = weights()
    add(made, weight, blocks)
    assert float(made.gradient_norm()) == 1.5 and weight.grad.tolist() == [1.5]


def test_a_step_begins_with_no_sum():
    made, weight = weights(["optimizer.lr=0.01"])
    for _ in range(2):
        add(made, weight, BLOCKS)
        assert float(made.gradient_norm()) == 1.5
        made.step(0)
    assert made.gradient_norm() == 0


def test_sums_that_need_not_be_exact_take_no_memory():
    made, weight = weights(["optimizer.exact_sums=false"])
    add(made, weight, (0.5, 2.0))
    assert made.sums is None and float(made.gradient_norm()) == 2.5
    exact, plain = (bill_of(load_config("sd3.5-medium/flow_grpo", more)) for more in ([], ["optimizer.exact_sums=false"]))
    update = [bill["memory_bytes"]["update"] for bill in (exact, plain)]
    assert update[0]["gradients"] == 3 * update[1]["gradients"] == 3 * update[0]["trained weights"]


def test_a_step_of_one_block_needs_no_sum():
    config = load_config("mini/flow_grpo", ["rollout.micro_batch=144", "optimizer.steps_per_update=1"])
    assert config.blocks_per_step == 1 and not config.sums_blocks
    assert load_config("mini/flow_grpo", ["rollout.micro_batch=12"]).sums_blocks
    assert load_config("mini flow_grpo dapo", ["rollout.micro_batch=144", "optimizer.steps_per_update=1"]).sums_blocks


def test_tensors_cross_processes_a_bucket_at_a_time(monkeypatch):
    crossed = []
    monkeypatch.setattr(crossing, "BUCKET", 4)
    monkeypatch.setattr(crossing, "all_reduce", lambda flat, group: (crossed.append(len(flat)), flat.mul_(2)))
    tensors = [torch.full((size,), float(size)) for size in (1, 3, 1, 6, 2)]
    Processes(0, 2, CPU).sum(tensors)
    assert crossed == [4, 1, 6, 2] and [t.tolist() for t in tensors] == [[2.0 * n] * n for n in (1, 3, 1, 6, 2)]
