"""The detectors of the hub on tiny random networks of the same classes, saved to disk and loaded as published ones are.

What they find means nothing; that it is read, named and judged as it should be is what is tested.
"""

import pytest
import torch

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import load_prompts
from flowgrpo.data.prompts.geneval import CLASSES
from flowgrpo.data.samples import Samples
from flowgrpo.rewards import _hub_detectors, objects
from flowgrpo.rewards._detectors import Detection, detected, load_detector
from flowgrpo.rewards._hub_detectors import Mask2Former, Owlv2

PICTURES = torch.rand((2, 3, 48, 80), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    return _hub_detectors.tiny_mask2former(tmp_path_factory.mktemp("mask2former"), {})["model"]


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory):
    return _hub_detectors.tiny_owlv2(tmp_path_factory.mktemp("owlv2"), {})["model"]


@pytest.fixture(autouse=True)
def everything_is_reported(monkeypatch):
    """Random networks are sure of nothing."""
    monkeypatch.setattr(_hub_detectors, "LEAST", 0.0)


def test_mask2former_finds_genevals_classes_with_masks(mask2former):
    detector = Mask2Former(mask2former)
    assert detector.classes == {*CLASSES}
    for picture in detected(detector, PICTURES):
        assert picture and all(isinstance(one, Detection) for one in picture)
        for one in picture:
            left, top, right, bottom = one.box
            assert 0 <= left <= right < 80 and 0 <= top <= bottom < 48
            assert one.mask.shape == (48, 80) and one.mask.any()
            assert not one.mask[:, int(right) + 1 :].any() and one.mask[int(top)].any()


def test_owlv2_looks_for_what_it_is_told(owlv2):
    detector = Owlv2(owlv2, names=["red cube", "cat"])
    found = [one for picture in detected(detector, PICTURES) for one in picture]
    assert {one.name for one in found} <= detector.classes == {"red cube", "cat"}
    assert found and all(0.0 <= one.score <= 1.0 for one in found)
    assert Owlv2(owlv2).classes == {*CLASSES}


def test_of_boxes_of_one_class_that_share_most_one_stays(owlv2):
    detector = Owlv2(owlv2, names=["cat", "dog"])
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
    found = detector._read(boxes, torch.tensor([0.5, 0.9, 0.3, 0.2]), torch.tensor([0, 0, 1, 0]))
    assert [(one.name, round(one.score, 2)) for one in found] == [("cat", 0.9), ("dog", 0.3), ("cat", 0.2)]


@pytest.mark.parametrize("detector", ["mask2former", "owlv2"])
def test_the_reward_judges_generated_prompts_with_it(detector, request):
    prompts = load_prompts("geneval:train?count=40")
    reward = objects.Soft(detector, {"model": request.getfixturevalue(detector)}, threshold=0.0, counting_threshold=0.0)
    for prompt in prompts:
        reward.judge.read(prompt.metadata)
    rows = [prompt.metadata for prompt in prompts[:2]]
    scores = reward(Samples([row["prompt"] for row in rows], rows, [0, 1], PICTURES))
    assert all(0.0 <= score <= 1.0 for score in scores)


def test_a_class_that_a_detector_does_not_know_is_refused(owlv2):
    reward = objects.Strict("owlv2", {"model": owlv2, "names": ["cat"]})
    with pytest.raises(UserError, match="can't find any 'dog'"):
        reward.judge.read({"include": [{"class": "dog", "count": 1}]})


@pytest.mark.parametrize("use", ["mask2former", "owlv2"])
def test_what_can_not_be_loaded_is_one_sentence(use, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"can't be loaded .* as argument 'model'") as refused:
        load_detector(use, {"model": str(tmp_path)})
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="can't be loaded"):
        load_detector(use, {"model": "nobody/nothing"})
    with pytest.raises(UserError, match="an overlap above 0"):
        Owlv2("nobody/nothing", overlap=0.0)
