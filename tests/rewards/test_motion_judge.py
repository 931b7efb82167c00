"""The motion judge is proved before it is trusted: drawn clips, as they are and after a round trip through mini-wan's own VAE."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

import flowgrpo.assets
from flowgrpo.assets.clips import FRAMES, SHAPES, is_held_out, row, rows, sample_clip, sample_row
from flowgrpo.assets.scenes import Object, Scene, draw
from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards.motion import MOTIONS, facts, soft, strict
from flowgrpo.rewards.motion import Path as Track
from flowgrpo.rewards.scene import COLORS, Found

CLIPS = 60


def clip_of(places, shape="circle", color="red", radii=5.0, background="white"):
    """[F, 32, 32, 3] of one object at these places."""
    radii = np.broadcast_to(radii, len(places))
    scenes = [Scene((Object(shape, color, r, x, y),), background) for r, (x, y) in zip(radii, places, strict=True)]
    return np.stack([draw(scene) for scene in scenes])


def line(dx, dy, frames=FRAMES):
    """From the middle by that much in all."""
    return [(16 + t * dx, 16 + t * dy) for t in np.linspace(-0.5, 0.5, frames)]


def samples_of(clips, metadata):
    videos = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3) / 255.0
    return Samples(["p"] * len(clips), [metadata] * len(clips), list(range(len(clips))), videos)


def asked(motion, speed=None, background=None, shape="circle", color="red"):
    return {**row(shape, color, motion, speed), **({"background": background} if background else {})}


@pytest.fixture(scope="module")
def decoded() -> list[tuple[np.ndarray, dict]]:
    """Clips after a round trip through the VAE, with what is true of them."""
    folder = Path(flowgrpo.assets.__file__).parent / "mini-wan"
    vae = AutoencoderKLWan.from_pretrained(folder, subfolder="vae", dtype=torch.float32)
    rng = np.random.default_rng(1)
    stated = [sample_row(rng) for _ in range(CLIPS)]
    videos = torch.from_numpy(np.stack([sample_clip(rng, s) for s in stated])).permute(0, 4, 1, 2, 3) / 127.5 - 1.0
    with torch.no_grad():
        made = vae.decode(vae.encode(videos).latent_dist.mode()).sample
    frames = ((made + 1.0) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy()
    return list(zip(frames, stated, strict=True))


def wrong_variants(stated):
    """The row with a single fact changed, once for each kind of fact."""
    shape, color, motion = (
        next(v for v in known if v != stated[k]) for k, known in (("shape", SHAPES), ("color", COLORS), ("motion", MOTIONS))
    )
    yield {**stated, "shape": shape}
    yield {**stated, "color": color}
    yield {**stated, "motion": motion}
    if "speed" in stated:
        yield {**stated, "speed": "slowly" if stated["speed"] == "quickly" else "quickly"}
    yield {**stated, "background": "black"}


def test_true_captions_are_accepted_and_single_errors_rejected_after_the_vae(decoded):
    accepted = [min(facts(clip, stated)) == 1.0 for clip, stated in decoded]
    rejected = [min(facts(clip, wrong)) < 1.0 for clip, stated in decoded for wrong in wrong_variants(stated)]
    assert np.mean(accepted) >= 0.75
    assert np.mean(rejected) >= 0.97


def test_every_drawn_clip_is_what_its_caption_says_and_no_other():
    rng = np.random.default_rng(0)
    for stated in [sample_row(rng) for _ in range(CLIPS)]:
        clip = sample_clip(rng, stated)
        assert min(facts(clip, stated)) == 1.0, stated
        assert all(min(facts(clip, wrong)) < 1.0 for wrong in wrong_variants(stated)), stated


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_motion_is_told_from_all_others(motion):
    rng = np.random.default_rng(MOTIONS.index(motion))
    clip = sample_clip(rng, asked(motion))
    assert [m for m in MOTIONS if min(facts(clip, asked(m))) == 1.0] == [motion]


def test_soft_falls_with_the_angle_and_strict_needs_its_eighth():
    turned = [clip_of(line(12 * np.cos(a), 12 * np.sin(a))) for a in np.deg2rad([0, 15, 40, 80, 180])]
    samples = samples_of(turned, asked("right"))
    scores = soft(samples)
    assert strict(samples) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert scores[0] == scores[1] == 1.0 and 1.0 > scores[2] > scores[3] > scores[4] > 0.5


@pytest.mark.parametrize(
    ("distance", "speeds"), [(1.5, set()), (5.0, {"slowly"}), (8.5, {"slowly"}), (10.5, {"quickly"}), (15.0, {"quickly"})]
)
def test_speed_is_the_length_of_the_path(distance, speeds):
    clip = clip_of(line(distance, 0))
    assert {s for s in ("slowly", "quickly") if min(facts(clip, asked("right", s))) == 1.0} == speeds


@pytest.mark.parametrize("background", ["white", "gray", "black"])
def test_a_background_is_a_fact_too(background):
    samples = samples_of([clip_of(line(10, 0), background=background)] * 3, asked("right"))
    samples = replace(samples, metadata=[asked("right", background=name) for name in ("white", "gray", "black")])
    assert strict(samples) == [float(name == background) for name in ("white", "gray", "black")]


def test_what_comes_back_or_jumps_neither_stays_nor_moves():
    there_and_back = clip_of([(16 + x, 16) for x in (-6, -3, 0, 3, 6, 3, 0, -3, -6)])
    jump = clip_of([(9, 16)] * 4 + [(23, 16)] * 5)
    for clip in (there_and_back, jump):
        assert all(min(facts(clip, asked(motion))) < 1.0 for motion in MOTIONS)


def test_growing_is_no_staying_and_no_moving():
    clip = clip_of(line(0, 0), radii=np.linspace(4.0, 7.8, FRAMES))
    assert strict(samples_of([clip], asked("grows"))) == [1.0]
    assert strict(samples_of([clip], asked("still"))) == [0.0]
    moving = clip_of(line(10, 0), radii=np.linspace(4.0, 7.8, FRAMES))
    assert all(min(facts(moving, asked(motion))) < 1.0 for motion in MOTIONS)


def test_a_second_object_is_too_many():
    two = clip_of(line(10, 0))
    two[:, 2:8, 2:8] = COLORS["blue"]
    samples = samples_of([two], asked("right"))
    assert strict(samples) == [0.0] and soft(samples) == [0.0]


def test_noise_and_blank_clips_score_nothing():
    samples = samples_of([clip_of(line(10, 0))], asked("right", background="gray"))
    for nothing in samples.meaningless():
        assert strict(nothing) == [0.0] and soft(nothing) == [0.0]


def test_a_path_is_fitted_through_what_is_seen():
    seen = [Found("circle", "red", 8.0 * 2.0**t, 4.0 + 10.0 * t, 9.0 - 2.0 * t) for t in (0.0, 0.25, 1.0)]
    path = Track.through([0.0, 0.25, 1.0], seen)
    assert (path.dx, path.dy, path.growth) == pytest.approx((10.0, -2.0, np.log(2.0)))
    assert path.stray == pytest.approx(0.0, abs=1e-9) and path.length == pytest.approx(104**0.5)


def test_large_clips_are_judged_like_small_ones():
    clip = clip_of(line(10, 0))
    large = clip.repeat(4, axis=1).repeat(4, axis=2)
    assert facts(large, asked("right", "quickly")) == pytest.approx(facts(clip, asked("right", "quickly")), abs=0.05)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"motion": "lefft"}, "unknown motion 'lefft' .*did you mean 'left'"),
        ({"speed": "quick"}, "unknown speed 'quick' .*did you mean 'quickly'"),
    ],
)
def test_a_misspelt_fact_is_refused(changes, says):
    with pytest.raises(UserError, match=says):
        strict(samples_of([clip_of(line(10, 0))], {**asked("right"), **changes}))


def test_one_frame_has_no_motion():
    with pytest.raises(UserError, match="at least 2 frames, not 1"):
        soft(samples_of([clip_of([(16, 16)])], asked("left")))


def test_held_out_is_a_quarter_and_every_pair_of_facts_is_trained_on():
    combinations = {(r["shape"], r["color"], r["motion"]): is_held_out(r) for r in rows()}
    assert sum(combinations.values()) == len(combinations) / 4
    trained = [c for c, held_out in combinations.items() if not held_out]
    assert {(s, c) for s, c, _ in trained} == {(s, c) for s in SHAPES for c in COLORS}
    assert {(s, m) for s, _, m in trained} == {(s, m) for s in SHAPES for m in MOTIONS}
    assert {(c, m) for _, c, m in trained} == {(c, m) for c in COLORS for m in MOTIONS}
