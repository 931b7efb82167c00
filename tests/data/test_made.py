"""Samples of what a program holds are what the same pictures are as files, or they are refused."""

import numpy as np
import pytest
import torch
from PIL import Image

import flowgrpo as fg
from flowgrpo.data.made import as_samples, require_whole
from flowgrpo.data.media import read

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 4, 3), np.uint8)
PICTURES = [Image.fromarray(pixels) for pixels in PIXELS]
TENSOR = torch.from_numpy(PIXELS).movedim(-1, 1)
CLIPS = PIXELS[:, None].repeat(3, 1)


@pytest.mark.parametrize(
    "made",
    [
        PICTURES,
        tuple(PICTURES),
        PIXELS,
        PIXELS[..., ::-1].copy()[..., ::-1],
        PIXELS / 255.0,
        (PIXELS / 255.0).astype(np.float32),
        TENSOR,
        TENSOR / 255.0,
    ],
    ids=["pictures", "a tuple", "uint8", "turned about", "doubles", "floats", "tensor of uint8", "tensor"],
)
def test_pictures_are_the_same_however_they_are_held(made):
    samples = as_samples(made, ["a", "b"])
    assert samples.images.dtype == torch.float32 and samples.prompts == ["a", "b"]
    torch.testing.assert_close(samples.images, TENSOR / 255.0)


@pytest.mark.parametrize(
    "made", [[[*map(Image.fromarray, clip)] for clip in CLIPS], CLIPS, torch.from_numpy(CLIPS).movedim(-1, 2)]
)
def test_clips_are_the_same_however_they_are_held(made):
    torch.testing.assert_close(as_samples(made).videos, torch.from_numpy(CLIPS).movedim(-1, 2) / 255.0)


def test_a_picture_is_seen_as_its_file_would_be(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    PICTURES[0].save(tmp_path / "turned.png", exif=turned)
    clear = Image.fromarray(np.concatenate([PIXELS[0], np.full((6, 4, 1), 100, np.uint8)], -1), "RGBA")
    for picture in (
        Image.open(tmp_path / "turned.png"),
        clear,
        clear.convert("P"),
        clear.convert("LA"),
        PICTURES[0].convert("CMYK"),
    ):
        picture.convert("RGBA" if picture.mode == "CMYK" else picture.mode).save(tmp_path / "saved.png", exif=picture.getexif())
        np.testing.assert_array_equal(
            as_samples([picture]).images.mul(255).round()[0].movedim(0, -1), read(tmp_path / "saved.png")
        )


def test_samples_of_one_prompt_are_a_group_and_a_row_brings_what_it_holds():
    assert as_samples(["x", "y", "z"], ["b", "a", "b"]).group == [0, 1, 0]
    rows = [
        fg.Prompt(7, "a cat", {"prompt": "a cat", "label": "cat"}),
        fg.Prompt(3, "a dog", {"prompt": "a dog", "label": "dog"}),
    ]
    samples = as_samples(PICTURES, rows)
    assert (samples.prompts, samples.group) == (["a cat", "a dog"], [0, 1])
    assert [row["label"] for row in samples.metadata] == ["cat", "dog"]
    alone = as_samples(["x", "y"])
    assert (alone.prompts, alone.group, alone.texts) == (["", ""], [0, 1], ["x", "y"])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([], "there are no samples"),
        (PICTURES[0], "this is one of type Image; give pictures"),
        (np.array(["a"]), "pixels are uint8, or floats in .*, and these are <U1"),
        ([1, None], "these are no samples: NoneType, int; give pictures"),
        ([PICTURES[0], "a text"], "these are no samples: Image, str"),
        ([[]], "these are no samples: list"),
        ([PICTURES[0], PICTURES[1].resize((2, 2))], "these have 2x2, 6x4; score each size by itself"),
        ([PICTURES[0].convert("F")], "has pixels of mode F"),
        (TENSOR[0], r"\[B, 3, H, W\] or \[B, F, 3, H, W\], and these are \[3, 6, 4\]"),
        (TENSOR.movedim(1, -1), r"these are \[2, 6, 4, 3\]"),
        (TENSOR[:0], r"these are \[0, 3, 6, 4\]"),
        (TENSOR.movedim(1, -1).numpy().transpose(0, 3, 1, 2), r"\[B, H, W, 3\] or .*, and these are \[2, 3, 6, 4\]"),
        (TENSOR.long(), "uint8, or floats in .*, and these are torch.int64"),
        (TENSOR.float(), r"lie in \[0, 1\], and these are from .* to 2\d"),
        (TENSOR / 127.5 - 1, r"lie in \[0, 1\], and these are from -"),
        (TENSOR / 255.0 * float("nan"), "these are from nan to nan"),
    ],
)
def test_what_is_no_sample_is_refused(made, words):
    with pytest.raises(fg.UserError, match=words):
        as_samples(made)


def test_every_sample_needs_its_own_prompt():
    with pytest.raises(fg.UserError, match="there are 2 samples and 1 prompts"):
        as_samples(PICTURES, ["a"])
    with pytest.raises(fg.UserError, match="a text or a row of load_prompts, and this is of type dict"):
        as_samples(PICTURES, ["a", {"prompt": "b"}])


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (fg.Samples(["a"], [{}], [0], TENSOR / 255.0), "1 prompts, 1 metadata, 1 group, 2 outputs"),
        (fg.Samples(["a", "b"], [{}], [0, 0], ["x", "y"]), "2 prompts, 1 metadata"),
        (fg.Samples(["a", "b"], [{}, {}], [0, 0], TENSOR), "floats in .*, and these are torch.uint8"),
        (fg.Samples(["a", "b"], [{}, {}], [0, 0], TENSOR / 127.5 - 1), r"lie in \[0, 1\]"),
    ],
)
def test_samples_that_are_made_wrong_by_hand_are_refused(samples, words):
    with pytest.raises(fg.UserError, match=words):
        require_whole(samples)
