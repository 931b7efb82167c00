"""A slow reward of this process scores beside the next rollout: the same numbers, in the same order, and its errors."""

import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowgrpo.cli.main import main
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.beside import Beside

SMALL = [
    *("rollout.prompts_per_update=6", "rollout.group_size=4", "rollout.micro_batch=8", "updates=2", "evaluation=null"),
    "optimizer.steps_per_update=1",
]
REWARD = """
import threading

import torch

calls = []


def bright(samples):
    calls.append((threading.current_thread() is threading.main_thread(), samples.prompts[0]))
    return samples.images.mean((1, 2, 3)).tolist()


def fails(samples):
    calls.append(samples.prompts[0])
    if len(calls) == 3:
        raise RuntimeError("no more")
    return samples.images.mean((1, 2, 3)).tolist()


def draws(samples):
    return (samples.images.mean((1, 2, 3)) + torch.rand(len(samples))).tolist()


def seeds(samples):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (samples.images.mean((1, 2, 3)) + torch.rand(len(samples))).tolist()
"""


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)


def trained(capsys, *options):
    assert main(["train", "mini/flow_grpo", *SMALL, *options]) == 0
    run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(run / "checkpoint-000002" / "pytorch_lora_weights.safetensors")
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows], weights


def test_numbers_are_those_of_a_reward_that_waits(capsys):
    found = [
        trained(capsys, f"rewards={{a: {{use: 'mine.py:bright', beside: {beside}}}, b: {{use: 'scene:soft'}}}}")
        for beside in ("false", "true")
    ]
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())


def samples(*prompts):
    return Samples(list(prompts), [{}] * len(prompts), list(range(len(prompts))), torch.rand(len(prompts), 3, 4, 4))


class Slow:
    """Scores a block when it may."""

    def __init__(self):
        self.may, self.seen = threading.Event(), []

    def __call__(self, asked):
        self.seen.append((asked.prompts[0], threading.current_thread() is threading.main_thread()))
        if asked.prompts[0] != "first":
            assert self.may.wait(30)
        return [0.5] * len(asked)


@pytest.fixture
def slow(monkeypatch):
    reward = Slow()
    scorer = Scorer({"slow": RewardConfig(use="mine.py:bright", beside=True), "other": RewardConfig(use="mine.py:bright")})
    monkeypatch.setitem(scorer.rewards, "slow", reward)
    return reward, Beside(scorer)


def test_the_first_block_is_scored_alone_and_the_next_ones_beside_in_order(slow):
    reward, beside = slow
    with beside:
        ways = [beside.scores(samples(name)) for name in ("first", "second", "third")]
        assert reward.seen[0] == ("first", False) and ("third", False) not in reward.seen
        reward.may.set()
        found = [way() for way in ways]
    assert reward.seen == [("first", False), ("second", False), ("third", False)]
    assert all(list(scores) == ["slow", "other"] and scores["slow"].tolist() == [0.5] for scores in found)


def test_what_was_not_begun_is_dropped_when_an_update_ends_early(slow):
    reward, beside = slow
    with pytest.raises(KeyboardInterrupt), beside:
        for name in ("first", "second", "third"):
            beside.scores(samples(name))
        raise KeyboardInterrupt
    reward.may.set()
    beside.worker.shutdown()
    assert [name for name, _ in reward.seen] in (["first", "second"], ["first"])


def test_its_error_is_a_sentence_and_ends_the_run(capsys):
    assert main(["train", "mini/flow_grpo", *SMALL, "rewards={a: {use: 'mine.py:fails', beside: true}}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "reward 'a' raised RuntimeError: no more" in error and "go on with --resume" in error


@pytest.mark.parametrize("use", ["mine.py:draws", "mine.py:seeds"])
def test_a_reward_that_uses_torchs_random_state_must_wait(use, capsys):
    before = torch.random.default_generator
    assert main(["train", "mini/flow_grpo", *SMALL, f"rewards={{a: {{use: '{use}', beside: true}}}}"]) == 2
    assert "reward 'a' uses torch's global random state" in capsys.readouterr().err
    assert torch.random.default_generator is before
    trained(capsys, f"rewards={{a: {{use: '{use}'}}}}")


def test_a_served_reward_is_beside_anyway():
    with pytest.raises(ValueError, match="a server always scores beside"):
        RewardConfig(url="http://localhost:1", beside=True)
    with pytest.raises(UserError):
        Scorer({"a": RewardConfig(use="mine.py:absent", beside=True)})


def test_beside_a_served_reward_the_others_still_wait():
    class Rewards:
        rewards, served, threaded, at_once = {"here": None, "there": None}, ["there"], [], 1
        calls, looks = [], False

        def __call__(self, asked, labels):
            self.calls.append((*labels, threading.current_thread() is threading.main_thread()))
            return dict.fromkeys(labels, 0.0)

    rewards = Rewards()
    beside = Beside(rewards)
    with beside:
        assert list(beside.scores(samples("a"))()) == ["here", "there"]
    assert rewards.calls == [("there", False), ("here", True)]
