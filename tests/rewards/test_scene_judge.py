"""The judge is proved before it is trusted: drawn scenes after a round trip through mini-sd3's own VAE."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

import flowgrpo.assets
from flowgrpo.assets.scenes import TAGS, draw, sample_metadata, sample_scene, wrong_variants
from flowgrpo.data.samples import Samples
from flowgrpo.rewards.scene import facts, soft, strict

SCENES = 100


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    folder = Path(flowgrpo.assets.__file__).parent / "mini-sd3"
    return AutoencoderKL.from_pretrained(folder, subfolder="vae", dtype=torch.float32)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, pixels: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    decoded = vae.decode(vae.encode(images).latent_dist.mode()).sample
    return ((decoded + 1.0) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("tag", TAGS)
def test_true_captions_are_accepted_and_single_errors_rejected(vae, tag):
    rng = np.random.default_rng(TAGS.index(tag))
    rows = [sample_metadata(rng, tag) for _ in range(SCENES)]
    pictures = round_trip(vae, np.stack([draw(sample_scene(rng, row)) for row in rows]))
    accepted = [all(facts(p, row)) for p, row in zip(pictures, rows, strict=True)]
    rejected = [not all(facts(p, wrong)) for p, row in zip(pictures, rows, strict=True) for wrong in wrong_variants(rng, row)]
    assert np.mean(accepted) >= 0.98
    assert np.mean(rejected) >= 0.98


def test_soft_is_the_share_of_facts_and_strict_needs_all():
    rng = np.random.default_rng(0)
    row = sample_metadata(rng, "color_attr")
    picture = draw(sample_scene(rng, row))
    first = {**row["include"][0], "color": next(c for c in ("red", "green", "blue") if c != row["include"][0]["color"])}
    wrong = {**row, "include": [first, row["include"][1]]}
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    right, bad = (Samples([row["prompt"]], [metadata], [0], image) for metadata in (row, wrong))
    assert strict(right) == [1.0] and soft(right) == [1.0]
    assert strict(bad) == [0.0] and 0.0 < soft(bad)[0] < 1.0


def test_noise_and_blank_pictures_hold_no_clean_object():
    row = sample_metadata(np.random.default_rng(0), "colors")
    images = torch.stack([torch.rand(3, 32, 32), torch.full((3, 32, 32), 0.5)])
    assert strict(Samples([row["prompt"]] * 2, [row] * 2, [0, 0], images)) == [0.0, 0.0]
