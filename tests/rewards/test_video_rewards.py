"""Rewards for clips: frame by frame, smoothness, dynamics."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import CALLS
from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.policies.diffusers import DiffusersConfig
from flowgrpo.rewards.video import FrameWise, dynamics, smoothness
from flowgrpo.scoring.scorer import load_reward

SOURCE = """
import json
from pathlib import Path


def bright(samples):
    return samples.images.mean((1, 2, 3)).tolist()


class Logged:
    def __init__(self, log):
        self.log = log

    def __call__(self, samples):
        with Path(self.log).open("a") as file:
            file.write(json.dumps([samples.group, samples.metadata, bright(samples)]) + "\\n")
        return bright(samples)


def nan(samples):
    return [float("nan")] * len(samples)
"""


@pytest.fixture(scope="module")
def rewards(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "frame_rewards.py"
    path.write_text(SOURCE)
    return path


def clips(brightness, group=None):
    """One clip a row, with frames of these shades."""
    made = torch.tensor(brightness)[..., None, None, None].expand(-1, -1, 3, 8, 8)
    rows = [{"number": i} for i in range(len(made))]
    return Samples(["p"] * len(made), rows, group or list(range(len(made))), made)


def one(frames):
    """A clip of grey frames [F, H, W]."""
    return Samples(
        ["p"], [{}], [0], torch.as_tensor(np.array(frames), dtype=torch.float32)[None, :, None].expand(-1, -1, 3, -1, -1)
    )


def disc(*columns, radius=8.0):
    """64 x 64 frames of a soft-edged disc at these columns."""
    y, x = np.mgrid[:64, :64]
    return one([0.1 + 0.8 * np.clip(radius - np.hypot(x - column, y - 32) + 0.5, 0.0, 1.0) for column in columns])


def test_a_clip_has_the_mean_or_the_least_of_its_frames(rewards):
    shown = clips([[0.25, 0.5, 0.75, 1.0], [0.5, 0.0, 0.5, 0.5]])
    assert FrameWise(f"{rewards}:bright")(shown) == pytest.approx([0.625, 0.375])
    assert FrameWise(f"{rewards}:bright", statistic="min")(shown) == pytest.approx([0.25, 0.0])


@pytest.mark.parametrize("frames, expected", [(1, 0.5), (2, 0.4), (5, 0.4), (99, 0.4)])
def test_frames_from_the_middles_of_equal_parts_are_judged(rewards, frames, expected):
    shown = clips([[0.2, 0.3, 0.5, 0.4, 0.6]])
    means = {1: 0.5, 2: (0.3 + 0.4) / 2}
    assert FrameWise(f"{rewards}:bright", frames=frames)(shown) == pytest.approx([means.get(frames, expected)])


def test_a_reward_sees_one_moment_of_every_clip_in_its_group(rewards, tmp_path):
    shown = clips([[0.0, 0.25], [0.5, 0.75], [1.0, 0.0]], group=[4, 4, 9])
    FrameWise(f"{rewards}:Logged", {"log": str(tmp_path / "log")})(shown)
    seen = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert seen == [[[4, 4, 9], shown.metadata, shades] for shades in ([0.0, 0.5, 1.0], [0.25, 0.75, 0.0])]


def test_win_rates_compare_the_same_moment_of_clips_of_one_prompt(rewards):
    arguments = {"judge": f"{rewards}:bright", "margin": 0.0}
    shown = clips([[0.1, 0.9, 0.9, 0.9], [0.2, 0.3, 0.4, 0.5], [0.9, 0.9, 0.9, 0.9]], group=[0, 0, 1])
    assert FrameWise("win_rate", arguments)(shown) == [0.75, 0.25, 0.5]


def test_what_frame_wise_can_not_use_is_refused(rewards):
    for arguments, said in (
        ({"reward": "video:smoothness"}, "judges videos, and FrameWise needs a reward of images"),
        ({"reward": "text:xml_answer"}, "judges texts"),
        ({"reward": f"{rewards}:bright", "statistic": "median"}, "unknown statistic 'median'"),
        ({"reward": f"{rewards}:bright", "frames": 0}, "at least 1 frame"),
        ({"reward": f"{rewards}:bright", "arguments": {"a": 1}}, "takes no arguments"),
    ):
        with pytest.raises(UserError, match=said):
            FrameWise(**arguments)
    with pytest.raises(UserError, match="returned nan"):
        FrameWise(f"{rewards}:nan")(clips([[0.5, 0.5]]))
    with pytest.raises(UserError, match=r"reads samples\.videos"):
        FrameWise(f"{rewards}:bright")(Samples(["p"], [{}], [0], torch.rand(1, 3, 8, 8)))


def test_a_still_clip_is_perfectly_smooth_and_has_no_dynamics():
    still = disc(*[30] * 5)
    assert smoothness(still) == [1.0] and dynamics(still) == [0.0]


def test_flicker_and_vibration_are_not_smooth_at_all():
    assert smoothness(clips([[0.0, 1.0, 0.0, 1.0]])) == [0.0]
    assert smoothness(disc(*[30, 36] * 3)) == [0.0]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_motion_at_constant_velocity_is_smooth_whatever_the_speed(step):
    assert smoothness(disc(*range(12, 12 + 7 * step, step)))[0] > 0.99


def test_a_disc_that_jumps_is_not_smooth():
    jumping, speeding = disc(10, 50, 20, 54, 12, 40), disc(10, 11, 14, 19, 26, 35)
    assert smoothness(jumping)[0] < 0.3 < 0.7 < smoothness(speeding)[0] < 0.95


def test_a_clip_is_as_smooth_backwards():
    assert smoothness(disc(10, 11, 14, 19, 26, 35)) == pytest.approx(smoothness(disc(35, 26, 19, 14, 11, 10)))


def test_differences_that_can_not_be_seen_do_not_count():
    steps = torch.randint(0, 4, (1, 5, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    assert smoothness(Samples(["p"], [{}], [0], 0.5 + steps)) == [1.0]


@pytest.mark.parametrize("step", [1, 3])
def test_dynamics_of_a_moving_bar_by_hand(step):
    """A white bar of 8 columns that moves by s of 64 changes 2 s / 64 of the picture."""
    frames = np.zeros((4, 32, 64))
    for t in range(4):
        frames[t, :, 8 + step * t : 16 + step * t] = 1.0
    assert dynamics(one(frames)) == [pytest.approx(2 * step / 64)]
    assert dynamics(clips([[0.0, 1.0, 0.0]])) == [1.0]


def test_large_clips_are_shrunk():
    pan = torch.linspace(0.0, 20.0, 700).sin().mul(0.5).add(0.5)
    large = [pan[t * 4 : t * 4 + 600].expand(300, 600).numpy() for t in range(4)]
    assert smoothness(one(large))[0] > 0.95 and 0.0 < dynamics(one(large))[0] < 0.2


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(3, 6), st.integers(2, 20), st.integers(2, 20))
def test_scores_are_shares_for_any_clip(seed, frames, height, width):
    made = torch.rand(2, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
    shown = Samples(["p"] * 2, [{}] * 2, [0, 1], made)
    assert all(0.0 <= score <= 1.0 for score in smoothness(shown) + dynamics(shown))


def test_clips_that_are_too_short_are_refused():
    with pytest.raises(UserError, match="at least 3 frames, not 2"):
        smoothness(clips([[0.1, 0.2]]))
    with pytest.raises(UserError, match="at least 2 frames, not 1"):
        dynamics(clips([[0.1]]))
    with pytest.raises(UserError, match=r"reads samples\.videos"):
        smoothness(Samples(["p"], [{}], [0], torch.rand(1, 3, 8, 8)))


def test_clips_of_a_video_pipeline_are_judged(pipelines):
    config = DiffusersConfig(model=str(pipelines["wan"]), steps=2, call=CALLS["wan"])
    clips = config.build_sampler(torch.device("cpu"), None).generate([Prompt(0, "a"), Prompt(1, "b")], [0, 1], 2)
    assert clips.videos.shape == (2, 5, 3, 16, 16)
    for use, arguments in {"video:smoothness": {}, "video:FrameWise": {"reward": "jpeg:compressibility"}}.items():
        scores = load_reward(use, arguments)(clips)
        assert len(set(scores)) == 2 and np.isfinite(scores).all()
