"""Rewards, judges and detectors whose weights are elsewhere have twins that load random weights from this disk."""

from dataclasses import replace

import pytest

from flowgrpo.rewards import _detectors
from flowgrpo.scoring.card import card_of
from flowgrpo.scoring.catalogue import shipped
from flowgrpo.scoring.exemplars import photos
from flowgrpo.scoring.scorer import find_reward, load_reward
from flowgrpo.scoring.twins import lots, twin

JUDGE = {"url": "http://nowhere.invalid/v1", "model": "judge"}
MADE = {
    "clip_score": {},
    "hps": {"version": "v2"},
    "aesthetic": {},
    "pickscore": {"batch": 3},
    "image_reward": {},
    "reference:Lpips": {},
    "vlm:Pointwise": {**JUDGE, "low": 0, "high": 4, "token": "NOT_SET"},
    "vlm:Questions": JUDGE,
    "checklist:Share": JUDGE,
    "checklist:Count": {**JUDGE, "category": "thing"},
    "objects:Soft": {"detector": "mask2former"},
    "objects:Strict": {"detector": "owlv2", "threshold": 0.2},
    "win_rate": {"judge": "vlm:Pairwise", "arguments": JUDGE},
}
ROW = {
    "reference": "asset:calibration/coffee.jpg",
    "questions": ["Is there a cup?", "Is it full?"],
    "categories": ["thing", "state"],
    "include": [{"class": "cup", "count": 1}],
}


def shown():
    pictures = photos()
    return replace(pictures, metadata=[ROW | row for row in pictures.metadata], group=[0, 0, 1, 1])


def scores(use, arguments, folder, samples):
    return load_reward(use, twin(use, arguments, folder))(samples)


@pytest.mark.parametrize("use", MADE)
def test_a_twin_scores_without_a_network_and_always_the_same(use, tmp_path):
    found = scores(use, MADE[use], tmp_path / "a", shown())
    assert found == scores(use, MADE[use], tmp_path / "b", shown())
    low, high = find_reward(use)[1].range
    assert len(found) == 4 and all(low <= score <= high for score in found)


@pytest.mark.parametrize("use", [use for use in MADE if not use.startswith("objects")])
def test_a_twin_tells_pictures_apart(use, tmp_path):
    assert len(set(scores(use, MADE[use], tmp_path, shown()))) > 1


@pytest.mark.parametrize("detector", ["torchvision", "mask2former", "owlv2"])
def test_detectors_have_twins_with_their_classes(detector, tmp_path):
    found = twin("objects:Soft", {"detector": detector}, tmp_path)
    assert {"person", "dog"} <= _detectors.load_detector(detector, found["arguments"]).classes


def test_rewards_inside_rewards_have_twins(tmp_path):
    frames = {"reward": "win_rate", "frames": 8, "arguments": {"judge": "hps", "margin": 0.0, "arguments": {"batch": 2}}}
    found = twin("video:FrameWise", frames, tmp_path)
    inside = found["arguments"]["arguments"]
    assert found["frames"] == 2 and inside["batch"] == 2 and inside["checkpoint"].startswith(str(tmp_path))
    clips = replace(shown(), outputs=shown().outputs[:, None].expand(-1, 3, -1, -1, -1))
    assert len(load_reward("video:FrameWise", found)(clips)) == 4


def test_what_needs_no_weights_is_as_it_is(tmp_path):
    for use in ("jpeg:compressibility", "ocr", "scene:strict", "objects:Soft"):
        assert "url" not in (found := twin(use, None, tmp_path / "none")) and not found.get("arguments")
    assert twin("video:FrameWise", {"reward": "ocr", "frames": 1}, tmp_path)["frames"] == 1


def test_a_subclass_has_the_twin_of_its_class(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from flowgrpo.scoring.twins import tiny\n\n\n"
        "@tiny(lambda folder, arguments: {**arguments, 'folder': str(folder)})\n"
        "class Base:\n    def __init__(self, folder):\n        self.folder = folder\n\n\n"
        "class Mine(Base):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    assert twin("mine.py:Mine", {"a": 1}, tmp_path / "x") == {"a": 1, "folder": str(tmp_path / "x")}
    assert (tmp_path / "x").is_dir()


def test_lots_depend_on_the_sample_alone():
    pictures = shown()
    drawn = lots(pictures)
    assert len(set(drawn)) == 4 and all(0.0 <= value <= 1.0 for value in drawn)
    assert lots(pictures.take([2, 0])) == [drawn[2], drawn[0]]
    assert lots(replace(pictures, outputs=["a", "b", "a", ""]))[0] == lots(replace(pictures, outputs=["a"] * 4))[3]


def test_lots_are_no_shipped_reward():
    assert not [name for name in shipped() if "lots" in name] and card_of(lots).better.startswith("nothing")
