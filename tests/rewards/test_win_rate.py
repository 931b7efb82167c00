"""Win rates inside a group."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards.win_rate import WinRate


def samples(brightness, group):
    images = torch.tensor(brightness).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    return Samples(["p"] * len(group), [{}] * len(group), group, images)


SOURCE = """
def bright(samples):
    return samples.images.mean((1, 2, 3)).tolist()


def brighter(a, b):
    return [1.0 if x > y else 0.0 if x < y else 0.5 for x, y in zip(bright(a), bright(b))]


def the_first(a, b):
    return [1.0] * len(a)


def short(a, b):
    return [1.0]


def nan(a, b):
    return [float("nan")] * len(a)


def lost(samples):
    return [float("nan")] * len(samples)
"""


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    path = tmp_path_factory.mktemp("judges") / "judges.py"
    path.write_text(SOURCE)
    return path


def test_win_rates_by_hand(judges):
    group = [7, 7, 3, 7, 3]
    found = samples([0.1, 0.5, 0.9, 0.5, 0.2], group)
    assert WinRate(f"{judges}:brighter")(found) == [0.0, 0.75, 1.0, 0.75, 0.0]
    assert WinRate(f"{judges}:bright", margin=0.0)(found) == [0.0, 0.75, 1.0, 0.75, 0.0]
    assert WinRate(f"{judges}:bright", margin=0.45)(found) == [0.5, 0.5, 1.0, 0.5, 0.0]


def test_a_judge_that_prefers_a_place_says_nothing(judges):
    assert WinRate(f"{judges}:the_first")(samples([0.1, 0.2, 0.9], [0, 0, 0])) == [0.5] * 3


def test_all_tied_and_lone_samples_have_one_half(judges):
    assert WinRate(f"{judges}:brighter")(samples([0.3] * 4, [0] * 4)) == [0.5] * 4
    assert WinRate(f"{judges}:brighter")(samples([0.3, 0.9], [0, 1])) == [0.5] * 2


@given(st.lists(st.integers(0, 9), min_size=2, max_size=9))
def test_the_mean_of_a_group_is_one_half(judges, values):
    rates = WinRate(f"{judges}:brighter")(samples([v / 10 for v in values], [0] * len(values)))
    assert sum(rates) / len(rates) == pytest.approx(0.5)


def test_a_score_that_is_no_number_wins_nothing(judges):
    with pytest.raises(UserError, match="returned nan, which wins against nothing"):
        WinRate(f"{judges}:lost", margin=0.0)(samples([0.0, 1.0, 0.5], [0, 0, 0]))


@pytest.mark.parametrize("name", ["short", "nan"])
def test_bad_verdicts_are_refused(judges, name):
    with pytest.raises(UserError, match=r"a number in \[0, 1\] for each of 3 pairs|1 scores for 3 samples"):
        WinRate(f"{judges}:{name}")(samples([0.1, 0.2, 0.3], [0] * 3))
