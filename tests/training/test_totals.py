"""The sums of an update stay on the device until the update ends."""

import pytest
import torch

from flowgrpo.core.processes import Processes
from flowgrpo.objective.loss import Terms
from flowgrpo.training.learn import Totals

READS = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__")


def added(totals, *log_ratios, loss=1.0):
    ratio = torch.tensor(log_ratios)[:, None]
    ones = torch.ones_like(ratio)
    terms = Terms(loss=ratio, log_ratio=ratio, clipped=(ratio > 0.5).float(), kl=ratio.abs(), auxiliary=0.5 * ratio.abs())
    totals.add(terms, ones, ones, torch.tensor(loss, requires_grad=True))


def test_totals_are_sums_over_batches_and_the_largest_ratio_of_each_step(monkeypatch):
    totals = Totals()
    with monkeypatch.context() as patched:
        for name in READS:
            patched.setattr(torch.Tensor, name, lambda *_: pytest.fail("the host waits for the device between batches"))
        totals.begin()
        added(totals, 0.25, -0.5, loss=2.0)
        added(totals, 0.125)
        totals.begin()
        added(totals, 1.0, loss=3.0)
    totals.norms = [1.0, 3.0]
    found = totals.metrics(Processes.alone())
    assert totals.finite and found["loss"] == 3.0 and found["grad_norm"] == 2.0 and found["optimizer_steps"] == 2
    assert (found["ratio/first_log_abs_max"], found["ratio/log_abs_max"]) == (0.5, 1.0)
    assert found["ratio/clip_fraction"] == 0.25 and found["kl"] == 1.875 / 4 and "auxiliary" not in found
    assert totals.metrics(Processes.alone(), auxiliary=True)["auxiliary"] == 0.5 * 1.875 / 4


def test_a_loss_that_is_no_number_is_remembered_and_nothing_added_is_nothing():
    totals = Totals()
    assert totals.finite and totals.metrics(Processes.alone())["loss"] == 0.0
    totals.begin()
    added(totals, 0.0, loss=float("nan"))
    added(totals, 0.0)
    assert not totals.finite
