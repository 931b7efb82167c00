"""GenEval's rules over hand-made detections, and the detectors that ship."""

import urllib.error

import pytest
import torch
from PIL import ImageColor
from safetensors.torch import save_file
from torchvision.models import get_model, get_model_weights

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._colors import CSS, Crop, crop, nearest_color
from flowgrpo.rewards._detectors import Detection, Torchvision
from flowgrpo.rewards.objects import Graded, Soft, Strict, relations
from flowgrpo.scoring.catalogue import climb
from flowgrpo.scoring.exemplars import photos, written
from flowgrpo.scoring.scorer import Scorer

SOURCE = """
from pathlib import Path


class Scripted:
    def __init__(self, found, log=None):
        self.found, self.log = found, log

    def __call__(self, images):
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{len(images)} ")
        return [self.found] * len(images)


def red_is_masked(images):
    return [[("cup", 0.8, (0.0, 0.0, 100.0, 100.0), picture[0] > 0.9)] for picture in images]


def float_mask(images):
    return [[("cup", 0.8, (0.0, 0.0, 9.0, 9.0), picture[0])] for picture in images]


def one_list(images):
    return [[]]


def purple(crop):
    return "purple"


def number(crop):
    return 7
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugins") / "detectors.py"
    path.write_text(SOURCE)
    return path


def samples(picture, *rows):
    return Samples(["p"] * len(rows), list(rows), [0] * len(rows), torch.stack([picture] * len(rows)))


def painted(*patches):
    """[3, 100, 100], grey, with (colour, (left, top, right, bottom)) patches."""
    picture = torch.full((3, 100, 100), 0.5)
    for color, (left, top, right, bottom) in patches:
        picture[:, top:bottom, left:right] = torch.tensor(ImageColor.getrgb(color)).view(3, 1, 1) / 255
    return picture


@pytest.fixture
def scores(plugins):
    def both(found, row, picture=None, **arguments):
        given = {"detector": f"{plugins}:Scripted", "arguments": {"found": found}, **arguments}
        shown = samples(painted() if picture is None else picture, row)
        return Strict(**given)(shown) + Soft(**given)(shown)

    return both


def box(x, y, width=10.0, height=10.0):
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


HERE = box(50.0, 50.0)
LEFT, RIGHT = (10, 10, 40, 90), (60, 10, 90, 90)


def stated(tag, *include, exclude=()):
    clauses = [dict(zip(("class", "count"), pair, strict=True)) for pair in exclude]
    return {"tag": tag, "include": list(include), "exclude": clauses, "prompt": "p"}


def some(name, count=1, **more):
    return {"class": name, "count": count, **more}


def test_single_object_needs_a_confidence_above_the_threshold(scores):
    row = stated("single_object", some("dog"))
    assert scores([("dog", 0.31, HERE)], row) == [1.0, 1.0]
    assert scores([("dog", 0.3, HERE)], row) == [0.0, 0.0]
    assert scores([("cat", 0.9, HERE)], row) == [0.0, 0.0]
    assert scores([("dog", 0.3, HERE)], row, threshold=0.2) == [1.0, 1.0]


def graded(plugins, found, row, picture=None):
    reward = Graded(detector=f"{plugins}:Scripted", arguments={"found": found})
    return reward(samples(painted() if picture is None else picture, row))[0]


def test_graded_says_how_far_a_number_is_off(plugins):
    row = stated("counting", some("dog", 3), exclude=[("dog", 4)])
    dogs = [graded(plugins, [("dog", 0.95, HERE)] * count, row) for count in (0, 1, 2, 3, 4, 6, 9)]
    assert dogs == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0, 2 / 3, 0.0, 0.0])


def test_graded_asks_for_colour_and_place_where_the_number_is_right(plugins):
    red = stated("colors", some("cup", color="red"))
    cup = ("cup", 0.9, tuple(map(float, LEFT)))
    assert graded(plugins, [], red) == 0.0
    assert graded(plugins, [cup], red, painted(("blue", LEFT))) == 0.5
    assert graded(plugins, [cup], red, painted(("red", LEFT))) == 1.0
    assert graded(plugins, [cup, cup], red, painted(("red", LEFT))) == 0.0
    beside = stated("position", some("dog"), some("cat", position=["left of", 0]))
    dog, cat = ("dog", 0.9, box(80.0, 50.0)), ("cat", 0.9, box(20.0, 50.0))
    assert graded(plugins, [dog], beside) == pytest.approx(1 / 3)
    assert graded(plugins, [dog, cat], beside) == 1.0
    assert graded(plugins, [("dog", 0.9, cat[2]), ("cat", 0.9, dog[2])], beside) == pytest.approx(2 / 3)
    assert graded(plugins, [dog], stated("", some("dog"), exclude=[("cat", 1)])) == 1.0
    assert graded(plugins, [dog, cat], stated("", some("dog"), exclude=[("cat", 1)])) == 0.5


def test_two_objects_are_both_needed_and_more_of_them_do_no_harm(scores):
    row = stated("two_object", some("dog"), some("cat"))
    assert scores([("dog", 0.5, HERE), ("cat", 0.5, HERE), ("cat", 0.4, HERE)], row) == [1.0, 1.0]
    assert scores([("dog", 0.5, HERE)], row) == [0.0, 0.5]


@pytest.mark.parametrize("confidences, expected", [([0.95], [0, 0.5]), ([0.95, 0.91], [1, 1]), ([0.95] * 3, [0, 0.5])])
def test_counting_is_exact(scores, confidences, expected):
    row = stated("counting", some("dog", 2), exclude=[("dog", 3)])
    unsure = [("dog", 0.9, HERE)] * 5
    assert scores([("dog", score, HERE) for score in confidences] + unsure, row) == expected


def test_counting_has_a_threshold_of_its_own(scores):
    row = stated("counting", some("dog", 2), exclude=[("dog", 3)])
    assert scores([("dog", 0.5, HERE)] * 2, row) == [0.0, 0.5]
    assert scores([("dog", 0.5, HERE)] * 2, row, counting_threshold=0.4) == [1.0, 1.0]


def test_at_most_sixteen_of_a_class_are_seen(scores):
    row = stated("counting", some("dog", 16), exclude=[("dog", 17)])
    assert scores([("dog", 0.95, HERE)] * 20, row) == [1.0, 1.0]
    assert scores([("dog", 0.95, HERE)] * 20, row, max_objects=20) == [0.0, 0.5]
    assert scores([("dog", 0.95, HERE)] * 20, row, max_objects=15) == [0.0, 0.5]


def test_the_colour_is_that_of_the_most_confident_object(scores):
    picture = painted(("red", LEFT), ("blue", RIGHT))
    found = [("car", 0.4, RIGHT), ("car", 0.8, LEFT)]
    red, blue = (stated("colors", some("car", color=color)) for color in ("red", "blue"))
    assert scores(found, red, picture) == [1.0, 1.0]
    assert scores(found, blue, picture) == [0.0, 0.5]


def test_all_objects_that_count_must_have_the_colour(scores):
    picture = painted(("red", LEFT), ("blue", RIGHT))
    found = [("car", 0.4, RIGHT), ("car", 0.8, LEFT)]
    assert scores(found, stated("colors", some("car", 2, color="red")), picture) == [0.0, 0.5]
    assert scores(found[1:], stated("colors", some("car", 2, color="red")), picture) == [0.0, 0.0]


def test_colours_belong_to_their_objects(scores):
    found = [("car", 0.5, LEFT), ("cup", 0.5, RIGHT)]
    row = stated("color_attr", some("car", color="pink"), some("cup", color="green"))
    assert scores(found, row, painted(("hotpink", LEFT), ("seagreen", RIGHT))) == [1.0, 1.0]
    assert scores(found, row, painted(("seagreen", LEFT), ("hotpink", RIGHT))) == [0.0, 0.5]


@pytest.mark.parametrize("relation, x, y", [("left of", -1, 0), ("right of", 1, 0), ("above", 0, -1), ("below", 0, 1)])
def test_a_position_holds_beyond_the_margin(scores, relation, x, y):
    """Sizes of 10 + 10 make a margin of 2, so of an offset d counts (d - 2) / d, which exceeds 1/2 from d = 4 on."""
    row = stated("position", some("dog"), some("cat", position=[relation, 0]))
    for distance, expected in ((4.0, [0, 2 / 3]), (4.1, [1, 1]), (-4.1, [0, 2 / 3])):
        cat = box(50.0 + distance * x, 50.0 + distance * y)
        assert scores([("dog", 0.5, HERE), ("cat", 0.5, cat)], row) == pytest.approx(expected)


def test_a_position_must_hold_for_every_pair_and_needs_its_target(scores):
    row = stated("position", some("dog", 2), some("cat", position=["left of", 0]))
    cat, far, near = ("cat", 0.5, HERE), ("dog", 0.5, box(90.0, 50.0)), ("dog", 0.5, box(10.0, 50.0))
    assert scores([cat, far, far], row) == [1.0, 1.0]
    assert scores([cat, far, near], row) == pytest.approx([0.0, 2 / 3])
    assert scores([cat, far], row) == pytest.approx([0.0, 1 / 3])


def test_relations_by_hand():
    """Diagonally (d - 2) / (d sqrt(2)) must exceed 1/2: from d = 6.83 on, then two relations hold at once."""
    assert relations(box(6.8, 6.8), box(0, 0)) == set()
    assert relations(box(6.9, 6.9), box(0, 0)) == {"right of", "below"}
    assert relations(box(-20, 1), box(0, 0)) == {"left of"}
    assert relations(box(0, -20, 4, 30), box(0, 0)) == {"above"}
    assert relations(HERE, HERE) == set()


def test_two_rewards_of_the_same_detector_look_once(plugins, tmp_path):
    made_with = {"found": [("dog", 0.5, HERE)], "log": str(tmp_path / "passes")}
    arguments = {"detector": f"{plugins}:Scripted", "arguments": made_with}
    scorer = Scorer({label: RewardConfig(use=f"objects:{label}", arguments=arguments) for label in ("Strict", "Soft")})
    scorer(samples(painted(), *[stated("single_object", some("dog"))] * 9))
    assert (tmp_path / "passes").read_text() == "8 1 "


def test_every_css_colour_has_its_name():
    for name, shades in CSS.items():
        for shade in shades.split():
            pixels = torch.tensor(ImageColor.getrgb(shade)).view(3, 1, 1).expand(3, 4, 4) / 255
            assert nearest_color(Crop("cup", pixels, torch.ones(4, 4, dtype=torch.bool))) == name, shade


def test_a_mask_says_what_is_the_object_else_the_middle_of_the_box(plugins, scores):
    row = stated("colors", some("cup", color="red"))
    picture = painted(("blue", (0, 0, 100, 100)), ("red", (0, 0, 20, 100)))
    assert Strict(f"{plugins}:red_is_masked")(samples(picture, row)) == [1.0]
    whole = [("cup", 0.8, (0.0, 0.0, 100.0, 100.0))]
    assert scores(whole, row, picture) == [0.0, 0.5]
    assert scores(whole, row, painted(("red", (25, 25, 75, 75)))) == [1.0, 1.0]


def test_a_crop_stays_inside_the_picture_and_has_a_pixel():
    picture = painted(("red", (99, 99, 100, 100)))
    assert crop(picture, Detection("cup", 0.5, (90.0, 90.0, 140.0, 140.0))).pixels.shape == (3, 10, 10)
    assert crop(picture, Detection("cup", 0.5, (-5.0, -5.0, -1.0, -1.0))).pixels.shape == (3, 1, 1)
    assert nearest_color(crop(picture, Detection("cup", 0.5, (120.0, 120.0, 140.0, 140.0)))) == "red"


def test_another_judge_of_colours(plugins, scores):
    row = stated("colors", some("cup", color="purple"))
    assert scores([("cup", 0.8, HERE)], row, colors=f"{plugins}:purple") == [1.0, 1.0]
    with pytest.raises(UserError, match="must return a name for a crop, not 7"):
        scores([("cup", 0.8, HERE)], row, colors=f"{plugins}:number")


@pytest.mark.parametrize("place, color", [((20.0, 140.0, 60.0, 200.0), "orange"), ((130.0, 165.0, 210.0, 215.0), "black")])
def test_the_sleeve_and_the_visor_in_the_photograph_have_their_colours(scores, place, color):
    row = stated("colors", some("part", color=color))
    assert scores([("part", 0.8, place)], row, photos("astronaut").images[0]) == [1.0, 1.0]


BAD_ROWS = [
    ({"prompt": "p"}, "nothing is included or excluded"),
    (stated("colors", some("cup", color="gray")), "'gray' is none of GenEval's colours"),
    (stated("counting", some("cup", 0)), r"include\.0\.count"),
    (stated("", {"count": 1}), r"include\.0\.class: Field required"),
    (stated("", some("cup", size="large")), r"include\.0\.size: Extra inputs"),
    (stated("", some("cup", position=["left of", 0])), r"include\.0\.position must point to another clause"),
    (stated("", some("cup"), some("dog", position=["left of", 2])), r"include\.1\.position must point to another clause"),
    (stated("", some("cup"), some("dog", position=["beside", 0])), r"include\.1\.position\.0"),
]


@pytest.mark.parametrize("row, said", BAD_ROWS)
def test_rows_that_state_no_objects_are_refused(scores, row, said):
    with pytest.raises(UserError, match=said):
        scores([], row)


BAD_DETECTIONS = [
    ("dog", 0.5),
    ("dog", 0.5, (1.0, 2.0, 3.0)),
    ("dog", 0.5, (9.0, 0.0, 1.0, 1.0)),
    ("dog", 0.5, (0.0, 0.0, float("inf"), 1.0)),
    ("dog", float("nan"), HERE),
    (3, 0.5, HERE),
]


@pytest.mark.parametrize("found", BAD_DETECTIONS)
def test_what_is_no_detection_is_refused(scores, found):
    with pytest.raises(UserError, match=r"the detector found .*, which is not"):
        scores([found], stated("single_object", some("dog")))


def test_detectors_that_do_not_detect_are_refused(plugins):
    row = stated("single_object", some("cup"))
    with pytest.raises(UserError, match="a tensor of bool"):
        Strict(f"{plugins}:float_mask")(samples(painted(), row))
    with pytest.raises(UserError, match="a list for each of 2 pictures, not 1"):
        Strict(f"{plugins}:one_list")(samples(painted(), row, row))
    with pytest.raises(UserError, match=r"unknown detector 'face' .*did you mean 'faces'"):
        Strict("face")
    with pytest.raises(UserError, match="can't be made with arguments"):
        Strict("faces", {"size": 3})
    with pytest.raises(UserError, match=r"thresholds of confidence lie in \[0, 1\)"):
        Strict(threshold=1.0)


def test_a_class_that_the_detector_can_not_find_is_refused():
    with pytest.raises(UserError, match=r"can't find any 'bench' .*known: face"):
        Strict("faces")(samples(painted(), stated("single_object", some("bench"))))


def test_the_face_in_the_photographs_is_found_once():
    pictures = photos("astronaut", "coffee", "chelsea", "rocket").images
    row = stated("counting", some("face"), exclude=[("face", 2)])
    assert Strict("faces")(Samples(["p"] * 4, [row] * 4, [0] * 4, pictures)) == [1.0, 0.0, 0.0, 0.0]


def test_lines_of_text_are_counted():
    rows = [stated("counting", some("text", n), exclude=[("text", n + 1)]) for n in (2, 3, 4)]
    assert Strict("text")(samples(written("one\ntwo\nthree"), *rows)) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["objects:Strict", "objects:Soft"])
def test_a_face_climbs_the_ladder(name):
    found = climb(name)
    assert found.right and found.means == [0.0, 1.0]


RANDOM = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """Of a real architecture; random biases make scores and classes differ. What is found is arbitrary."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = get_model(RANDOM, weights=None, weights_backbone=None).eval()
        for level in network.head.classification_head.module_list:
            torch.nn.init.normal_(level[-1].bias, std=3.0)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(network.state_dict(), folder / "random.pt")
    save_file(network.state_dict(), folder / "random.safetensors")
    return network, folder


@pytest.mark.parametrize("name", ["random.pt", "random.safetensors"])
def test_random_weights_in_a_file_find_what_torchvision_finds_with_them(random_weights, name):
    network, folder = random_weights
    picture = photos("coffee").images
    [found] = Torchvision(RANDOM, weights=str(folder / name), device="cpu")(picture)
    with torch.inference_mode():
        [theirs] = network(list(picture))
    categories = get_model_weights(RANDOM).DEFAULT.meta["categories"]
    assert len(found) > 100 and [one.score for one in found] == theirs["scores"].tolist()
    assert [list(one.box) for one in found] == theirs["boxes"].tolist()
    assert [one.name.split()[-1] for one in found] == [categories[i].split()[-1] for i in theirs["labels"].tolist()]


def test_random_weights_judge_a_picture(random_weights):
    weights = {"model": RANDOM, "weights": str(random_weights[1] / "random.pt"), "device": "cpu"}
    picture = photos("coffee").images
    best = max(Torchvision(**weights)(picture)[0], key=lambda found: found.score)
    row = stated("single_object", some(best.name))
    for threshold, expected in ((best.score - 0.01, 1.0), (best.score, 0.0)):
        assert Strict("torchvision", weights, threshold=threshold)(samples(picture[0], row)) == [expected]


def test_torchvisions_classes_are_those_of_geneval(random_weights):
    detector = Torchvision(RANDOM, weights=str(random_weights[1] / "random.pt"), device="cpu")
    assert len(detector.classes) == 80 and {"computer mouse", "tv remote", "computer keyboard", "bench"} < detector.classes


def test_wrong_weights_of_torchvision_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"none of torchvision's detectors .*did you mean 'ssdlite320_mobilenet_v3_large'"):
        Torchvision("ssdlite320_mobilenet")
    with pytest.raises(UserError, match=r"is not a state dict of torchvision's ssdlite320_mobilenet_v3_large .*Missing key"):
        Torchvision(RANDOM, weights=str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match="FileNotFoundError"):
        Torchvision(RANDOM, weights=str(tmp_path / "none.pt"))


def test_weights_that_can_not_be_downloaded_bring_their_address(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(UserError, match=r"can't be fetched .*no network.*ssdlite320_mobilenet_v3_large_coco.*'weights'"):
        Torchvision(RANDOM)
