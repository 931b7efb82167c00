"""How rewards are found, and what the scorer makes of their answers."""

import pytest
import torch

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards import scene
from flowgrpo.scoring.scorer import Scorer, load_reward

SAMPLES = Samples(["a", "b"], [{}, {}], [0, 1], torch.rand(2, 3, 8, 8))

SOURCE = """
def warmth(samples):
    return [1.0] * len(samples)


def one_number(samples):
    return 1.0


class Above:
    def __init__(self, level):
        self.level = level

    def __call__(self, samples):
        return (samples.images.mean((1, 2, 3)) > self.level).tolist()
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A user's module, installed as a distribution with an entry point."""
    (tmp_path / "their_rewards.py").write_text(SOURCE)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowgrpo.rewards]\nwarm = their_rewards:warmth\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "their_rewards.py"


def test_a_reward_is_found_by_name_module_file_and_entry_point(theirs):
    assert load_reward("scene:strict") is scene.strict
    for use in ("their_rewards:warmth", f"{theirs}:warmth", "warm"):
        assert load_reward(use)(SAMPLES) == [1.0, 1.0]


def test_a_class_is_constructed_with_its_arguments(theirs):
    scorer = Scorer({"bright": RewardConfig(use="their_rewards:Above", arguments={"level": -1.0})})
    assert scorer(SAMPLES)["bright"].tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match=r"unexpected keyword argument 'height'|missing a required argument: 'level'"):
        load_reward("their_rewards:Above", {"height": 1.0})
    with pytest.raises(UserError, match="takes no arguments"):
        load_reward("their_rewards:warmth", {"level": 1.0})


def test_names_that_are_not_there_bring_the_nearest(theirs):
    with pytest.raises(UserError, match="did you mean 'warmth'"):
        load_reward("their_rewards:warmht")
    with pytest.raises(UserError, match=r"unknown name 'scen'.*did you mean 'scene'"):
        load_reward("scen")


def test_one_number_for_all_samples_is_refused(theirs):
    with pytest.raises(UserError, match="'one' returned a value of type float, and must return a list"):
        Scorer({"one": RewardConfig(use="their_rewards:one_number")})(SAMPLES)


def test_a_file_that_does_not_import_says_where(tmp_path):
    (tmp_path / "mine.py").write_text("import json\nraise KeyError('token')\n")
    with pytest.raises(UserError, match=r"can't be imported: it raised KeyError: 'token' \(mine.py, line 2\)"):
        load_reward(f"{tmp_path / 'mine.py'}:reward")
