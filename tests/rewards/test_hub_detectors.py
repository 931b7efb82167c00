"""The detectors of the hub on tiny random networks of the same classes, saved to disk and loaded as published ones are.

What they find means nothing; that it is read, named and judged as it should be is what is tested.
"""

import pytest
import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    SwinConfig,
)

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import load_prompts
from flowgrpo.data.prompts.geneval import CLASSES
from flowgrpo.data.samples import Samples
from flowgrpo.policies.tiny.parts import clip_tokenizer
from flowgrpo.rewards import _hub_detectors, objects
from flowgrpo.rewards._detectors import Detection, detected, load_detector
from flowgrpo.rewards._hub_detectors import Mask2Former, Owlv2

PICTURES = torch.rand((2, 3, 48, 80), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory):
    """The names as the published config may spell them."""
    spelt = {"motorcycle": "motorbike", "computer mouse": "mouse", "tv": "tvmonitor", "couch": "sofa"}
    swin = {"depths": [1] * 4, "num_heads": [1] * 4, "out_features": [f"stage{i}" for i in range(1, 5)]}
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(image_size=64, embed_dim=8, window_size=4, **swin),
        **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 32),
        **dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 16),
        **{"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 5},
        id2label={i: spelt.get(name, name) for i, name in enumerate(CLASSES)},
    )
    return saved(
        tmp_path_factory.mktemp("mask2former"),
        Mask2FormerForUniversalSegmentation(config),
        Mask2FormerImageProcessor(size={"height": 64, "width": 64}),
    )


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory):
    tokenizer = clip_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config={**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**sizes, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    pictures = Owlv2ImageProcessor(size={"height": 64, "width": 64})
    return saved(tmp_path_factory.mktemp("owlv2"), Owlv2ForObjectDetection(config), Owlv2Processor(pictures, tokenizer))


def saved(folder, *parts):
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)


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
