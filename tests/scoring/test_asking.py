"""What a reward does to its samples stays with it, and what it returns is one number per sample."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.asking import Spoilt, ask
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.scoring.serving.batch import Received, score

LISTS = """
def harmful(samples):
    samples.prompts.clear()
    samples.group.reverse()
    for row in samples.metadata:
        row["deep"]["list"].clear()
        row.pop("x")
    samples.metadata.clear()
    if samples.kind == "texts":
        samples.texts[:] = ["?"] * 4
    return [0.0] * 4
"""
PIXELS = """
import numpy as np
import torch

{function}

def seen(samples):
    return samples.images.mean((1, 2, 3)).tolist()
"""
IN_PLACE = [
    "samples.images.mul_(2).sub_(1)",
    "samples.images[0, 0, 0, 0] = 0.5",
    "samples.images.data.mul_(2)",
    "samples.images.numpy()[:] *= 2",
    "np.asarray(samples.images)[0, 0, 0] = 7",
    "torch.from_dlpack(samples.images).add_(1)",
    "samples.images[:] = samples.images.flip(0)",
    "torch.clamp(samples.images, 0.4, 0.6, out=samples.images)",
    "samples.images.mul_(2); raise ValueError('later')",
]


def pictures():
    return Samples(list("aabb"), [{} for _ in range(4)], [0, 0, 1, 1], torch.rand(4, 3, 8, 8))


def scorer_of(tmp_path, source, *names):
    file = tmp_path / "mine.py"
    file.write_text(source)
    return Scorer({name: RewardConfig(use=f"{file}:{name}") for name in names})


@pytest.mark.parametrize("made", [torch.rand(4, 3, 8, 8), list("wxyz")], ids=["pictures", "texts"])
def test_lists_and_rows_belong_to_the_reward_that_gets_them(tmp_path, made):
    row = {"x": 1, "deep": {"list": [1]}}
    samples = Samples(list("aabb"), [row] * 4, [0, 0, 1, 1], made)
    assert scorer_of(tmp_path, LISTS, "harmful")(samples)["harmful"].tolist() == [0.0] * 4
    assert samples.prompts == list("aabb") and samples.group == [0, 0, 1, 1]
    assert samples.metadata == [{"x": 1, "deep": {"list": [1]}}] * 4
    assert samples.kind == "images" or samples.texts == list("wxyz")


@pytest.mark.parametrize("statement", IN_PLACE)
def test_a_reward_that_changes_pixels_is_named_and_ends_it_all(tmp_path, statement):
    function = f"def harmful(samples):\n    {statement}\n    return [0.0] * len(samples)\n"
    scorer = scorer_of(tmp_path, PIXELS.format(function=function), "harmful", "seen")
    for asked in (scorer, scorer.attempt):
        with pytest.raises(Spoilt, match=r"reward 'harmful' changes its samples in place.*samples.images.clone"):
            asked(pictures())


@pytest.mark.parametrize("call", ["requires_grad_()", "unsqueeze_(0)[0]", "transpose_(2, 3)"])
def test_a_reward_may_change_the_form_of_what_it_gets(tmp_path, call):
    function = f"def turned(samples):\n    return samples.images.{call}[:, 0, 0, 0]"
    scorer = scorer_of(tmp_path, PIXELS.format(function=function), "turned", "seen")
    samples = pictures()
    assert scorer(samples)["seen"].tolist() == pytest.approx(samples.images.mean((1, 2, 3)).tolist())
    assert samples.images.shape == (4, 3, 8, 8) and not samples.images.requires_grad


def test_served_samples_that_a_reward_changes_have_an_error(tmp_path):
    scorer = scorer_of(
        tmp_path, "def harmful(samples):\n    samples.images.zero_()\n    return [0.0] * len(samples)\n", "harmful"
    )
    ((found,),) = score(scorer, [[Received("p", {}, 0, torch.ones(3, 8, 8, dtype=torch.uint8))]])
    assert found.score is None and "changes its samples in place" in str(found.error)


VALUES = [0.0, 1.0, 0.5, 2.0]
FINE = {
    "list": VALUES,
    "tuple": tuple(VALUES),
    "fractions": [Fraction(value) for value in VALUES],
    "numpy scalars": [np.float32(value) for value in VALUES],
    "tensors": [torch.tensor(value) for value in VALUES],
    "tensors of one": [torch.tensor([value]) for value in VALUES],
    **{
        f"torch {dtype}": torch.tensor(VALUES, dtype=dtype)
        for dtype in (torch.float64, torch.float32, torch.half, torch.bfloat16)
    },
    **{f"numpy {dtype}": np.array(VALUES, dtype) for dtype in ("f8", "f4", "f2")},
    "a torch column": torch.tensor(VALUES)[:, None],
    "a numpy column": np.array(VALUES)[:, None],
    "with a graph": torch.tensor(VALUES, requires_grad=True),
}


@pytest.mark.parametrize("found", FINE.values(), ids=FINE)
def test_numbers_come_in_many_types(found):
    assert ask("it", lambda samples: found, pictures()).tolist() == VALUES


@pytest.mark.parametrize("make", [torch.tensor, np.array, list])
def test_booleans_and_integers_are_numbers(make):
    assert ask("it", lambda samples: make([True, False, True, True]), pictures()).tolist() == [1.0, 0.0, 1.0, 1.0]
    assert ask("it", lambda samples: make([3, 2, 1, 0]), pictures()).tolist() == [3.0, 2.0, 1.0, 0.0]


STRANGE = {
    "dict": {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0},
    "set": {1.0, 2.0, 3.0, 4.0},
    "str": "1234",
    "bytes": b"1234",
    "generator": (value for value in VALUES),
    "None": None,
    "float": 1.0,
    "strings": ["1", "2", "3", "4"],
    "nested": [[value] for value in VALUES],
    "nested dicts": [{"score": value} for value in VALUES],
    "None inside": [1.0, None, 1.0, 1.0],
    "complex": [1j] * 4,
    "torch complex": torch.zeros(4, dtype=torch.complex64),
    "numpy complex": np.zeros(4, complex),
    "numpy strings": np.array(["1", "2", "3", "4"]),
    "numpy objects": np.array([{}, {}, {}, {}]),
    "torch 0-d": torch.tensor(1.0),
    "numpy 0-d": np.array(1.0),
    "torch row": torch.tensor([VALUES]),
    "numpy row": np.array([VALUES]),
    "torch matrix": torch.zeros(4, 2),
    "numpy matrix": np.zeros((4, 2)),
}


@pytest.mark.parametrize("found", STRANGE.values(), ids=STRANGE)
def test_what_is_no_number_per_sample_is_refused(found):
    with pytest.raises(UserError, match=r"^it returned .* must return a list, tuple, numpy array or tensor with one number"):
        ask("it", lambda samples: found, pictures())


@pytest.mark.parametrize("found", [VALUES[:3], torch.tensor(VALUES * 2), np.array([]), np.zeros((3, 1))[:, 0]])
def test_a_wrong_length_is_named(found):
    with pytest.raises(UserError, match=rf"^it returned {len(found)} scores for 4 samples$"):
        ask("it", lambda samples: found, pictures())


def test_a_reward_that_leaves_does_not_end_the_program():
    def leaves(samples):
        raise SystemExit(0)

    with pytest.raises(UserError, match=r"it raised SystemExit: 0 \(test_asking.py, line"):
        ask("it", leaves, pictures())


def test_rewards_of_one_pass_share_their_work_and_do_not_see_what_one_has_changed(tmp_path):
    source = """
seen = []

def first(samples):
    seen.append(samples)
    return [float(row["x"]) for row in samples.metadata]

def harmful(samples):
    assert samples is seen[-1]
    samples.metadata[0]["x"] = 9
    samples.images.requires_grad_()
    return first(samples)

def last(samples):
    assert not samples.images.requires_grad
    return first(samples)
"""
    samples = Samples(list("aabb"), [{"x": i} for i in range(4)], [0, 0, 1, 1], torch.rand(4, 3, 8, 8))
    found = scorer_of(tmp_path, source, "first", "harmful", "last")(samples)
    assert [values.tolist() for values in found.values()] == [[0, 1, 2, 3], [9, 1, 2, 3], [0, 1, 2, 3]]
