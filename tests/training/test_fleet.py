"""A run whose groups are rolled out, and scored, by other processes is that of a lone process."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowgrpo.cli.main import main
from flowgrpo.config.run import load_config
from flowgrpo.config.sections import FleetConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.processes import Processes
from flowgrpo.runs.folder import RunFolder
from flowgrpo.training.fleet import on_ray
from flowgrpo.training.fleet.on_ray import cards, connect, spare_cards
from trainers import picture_trainer, roll_out_here, text_trainer, with_rollers

MANY_BLOCKS = ["rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=4"]
METHODS = {
    "flow_grpo": (picture_trainer, "pipelines", {"method": "flow_grpo"}),
    "adapters in bf16": (picture_trainer, "pipelines", {"method": "flow_grpo"}, "policy.dtype=bf16", "ema={decay: 0.5}"),
    "completions": (picture_trainer, "pipelines", {"method": "dense_grpo"}),
    "an average makes the samples": (picture_trainer, "pipelines", {"method": "nft"}),
    "learned values": (picture_trainer, "pipelines", {"method": "learned_value"}),
    "texts": (text_trainer, "mdlm", {"method": "trajectory"}),
}


@pytest.fixture
def here(monkeypatch):
    roll_out_here(monkeypatch.setattr)


def updated(trainer, count):
    """The metrics of so many updates, but for seconds."""
    rows = [trainer.update()[0] for _ in range(count)]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


def assert_same_state(one, other):
    tensors, facts = one.state()
    others, other_facts = other.state()
    assert facts == other_facts
    for kind in tensors:
        for name, value in tensors[kind].items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(others[kind][name])), (kind, name)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("what", METHODS)
def test_groups_that_others_roll_out_train_the_same_bits(what, request):
    make, model, named, *more = METHODS[what]
    alone, trained = (make(request.getfixturevalue(model), *MANY_BLOCKS, *more, **named) for _ in range(2))
    fleet = with_rollers(trained)
    assert updated(fleet, 2) == updated(alone, 2)
    assert_same_state(fleet, alone)


@pytest.mark.usefixtures("here")
def test_with_lag_a_rollout_has_the_weights_before_the_update_before(pipelines):
    untrained = picture_trainer(pipelines, *MANY_BLOCKS)
    fleet = with_rollers(picture_trainer(pipelines, *MANY_BLOCKS), lag=1)
    metrics = updated(fleet, 1)
    blocks, _ = fleet.collect(fleet.clock())
    untrained.updates = 1
    expected, _ = untrained.collect(untrained.clock())
    for ours, theirs in zip(blocks, expected, strict=True):
        for one, other in zip(ours.rollout.transitions, theirs.rollout.transitions, strict=True):
            assert torch.equal(one.next_states, other.next_states)
            assert torch.equal(one.log_prob, other.log_prob)
    assert metrics[0]["staleness"] == 0


@pytest.mark.usefixtures("here")
def test_with_lag_the_ratio_sees_the_update_between(pipelines):
    metrics = updated(with_rollers(picture_trainer(pipelines, *MANY_BLOCKS), lag=1), 3)
    assert [row["staleness"] for row in metrics] == [0, 1, 1]
    assert [row["ratio/first_log_abs_max"] > 0.0 for row in metrics] == [False, True, True]


@pytest.mark.usefixtures("here")
def test_with_lag_two_updates_and_two_after_a_pause_are_four(pipelines):
    four = with_rollers(picture_trainer(pipelines, *MANY_BLOCKS), lag=1)
    begun, resumed = (with_rollers(picture_trainer(pipelines, *MANY_BLOCKS), lag=1) for _ in range(2))
    first = updated(begun, 2)
    tensors, facts = begun.state()
    assert set(tensors) == set(begun.kinds)
    resumed.load({kind: {name: value.clone() for name, value in some.items()} for kind, some in tensors.items()}, facts)
    assert updated(four, 4) == first + updated(resumed, 2)
    assert_same_state(four, resumed)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["fleet.lag=1"], "fleet.lag: 1 rolls out beside the learning, which needs processes that do"),
        (["fleet.rewards.stricter=1"], "fleet.rewards.stricter is no reward (did you mean 'strict'?"),
        (["fleet.rewards.strict=0"], "fleet.rewards.strict"),
        (["fleet.rollout=2", "fleet.lag=1", "rollout.refill=1"], "rollout.refill waits for that"),
        (["rewards.strict={url: 'http://127.0.0.1:9'}", "fleet.rewards.strict=1"], "has a server of its own"),
    ],
)
def test_a_fleet_that_can_not_be_is_refused(settings, sentence):
    with pytest.raises(UserError) as refused:
        load_config(["mini", "flow_grpo"], settings)
    assert sentence in str(refused.value)


def test_a_cluster_that_is_not_there_is_said_in_a_sentence(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray cluster at {address} .*; start it with ray start, or unset RAY_ADDRESS"):
        connect(Processes.alone())


def test_ray_that_was_joined_before_is_left_alone(monkeypatch):
    import ray

    left = []
    context = SimpleNamespace(gcs_address="here:1")
    for name, value in {
        "is_initialized": lambda: True,
        "init": lambda **options: None,
        "get_runtime_context": lambda: context,
        "shutdown": lambda: left.append(1),
    }.items():
        monkeypatch.setattr(ray, name, value)
    connect(Processes.alone())()
    assert not left
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    connect(Processes.alone())()
    assert left == [1]


def test_an_actor_has_the_cards_that_are_asked_for_or_one_where_the_trainer_has_one():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [cards(None, cpu), cards(None, gpu), cards(0.0, gpu), cards(0.5, cpu)] == [0.0, 1.0, 0.0, 0.5]


def test_without_ray_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"a fleet needs Ray; run: pip install 'flowgrpo\[fleet\]'"):
        connect(Processes.alone())


@pytest.mark.parametrize(
    ("fleet", "few"), [({"rollout": 1}, "fleet.rollout"), ({"rollout": 2, "rewards": {"strict": 1}}, "fleet.rewards.strict")]
)
def test_each_trainer_has_its_share(fleet, few):
    made = FleetConfig.model_validate(fleet)
    assert made.lacks(1) is None
    assert made.lacks(2) == f"{few} must be at least 2: each of the 2 processes that train has its share"


def test_the_cards_of_trainers_are_not_given_to_others():
    assert spare_cards(None, 4, 1) == "1,2,3"
    assert spare_cards("4,6,7", 3, 2) == "7"
    assert spare_cards(None, 1, 1) == ""


def test_processes_of_ray_train_and_score_the_same_bits(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def brightness(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    small = [
        *("rewards.bright={use: 'mine.py:brightness'}", "rollout.prompts_per_update=4", "rollout.group_size=4"),
        *("rollout.micro_batch=8", "evaluation=null", "updates=2", "ema=null"),
    ]
    fleet = ["fleet.rollout=1", "fleet.rewards.bright=1"]
    for output, settings in (("alone", []), ("fleet", fleet)):
        assert main(["train", "mini", "flow_grpo", *small, *settings, f"output={output}"]) == 0, capsys.readouterr().err
    alone, together = (RunFolder.newest(output, "mini-flow_grpo") for output in ("alone", "fleet"))
    timeless = [
        [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in run.metrics]
        for run in (alone, together)
    ]
    assert timeless[0] == timeless[1]
    weights = [(run.checkpoints[-1] / "state" / "trainable.safetensors").read_bytes() for run in (alone, together)]
    assert weights[0] == weights[1]
