"""Every reward that ships says what it is, and those that can run here climb their ladders."""

import pytest

from flowgrpo.scoring.catalogue import Climb, climb, describe, shipped, table
from flowgrpo.scoring.scorer import find_reward

FETCHED = {"aesthetic", "clip_score", "hps", "image_reward", "pickscore", "reference:Lpips"}
"""What fetches its weights when it is made."""


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_reward_states_its_range_licence_and_source(name):
    _, card = find_reward(name)
    low, high = card.range
    assert low < high and card.better and card.licence and card.source
    assert describe(name).startswith(f"{name}\n") and f"licence: {card.licence}" in describe(name)


@pytest.mark.parametrize("name", [name for name in shipped() if find_reward(name)[1].ladder and name not in FETCHED])
def test_a_reward_with_a_ladder_climbs_it(name):
    found = climb(name)
    assert found.right and "| yes " in table([found]), found


@pytest.mark.parametrize("name", sorted(FETCHED - {"reference:Lpips"}))
def test_a_reward_of_the_hub_says_which_file_it_lacks(name):
    assert "can't be fetched from the hub" in climb(name).remark


def test_a_wrong_order_is_marked(tmp_path):
    (tmp_path / "backwards.py").write_text(
        "from flowgrpo.scoring.card import card\n"
        "from flowgrpo.scoring.exemplars import blurred, photos\n"
        "@card(reads='images', range=(0, 1), better='darker', licence='none', source='a test',\n"
        "      ladder=lambda: [photos('coffee'), photos('rocket')])\n"
        "def bright(samples):\n"
        "    return samples.images.mean((1, 2, 3)).tolist()\n"
    )
    found = climb(f"{tmp_path}/backwards.py")
    assert not found.right and found.means[0] > found.means[1] and "**no**" in table([found])


def test_a_reward_without_a_ladder_must_tell_pictures_apart(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def constant(samples):\n    return [1.0] * len(samples)\n\n"
        "def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n"
    )
    assert "| not constant " in table([climb(f"{tmp_path}/mine.py:bright")])
    assert not climb(f"{tmp_path}/mine.py:constant").right


def test_what_could_not_run_says_why():
    assert table([Climb("x", [], False, False, 0.0, "no weights")]) == "not run: x: no weights"
