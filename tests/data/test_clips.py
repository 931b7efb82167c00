"""A clip on its way from the model to a page: shown, kept without loss, read again, played."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from flowgrpo.data.media import FRAME, PIXELATED, address, frames_of, read, save_sample
from flowgrpo.data.records import Record, write_records
from flowgrpo.data.samples import Samples
from flowgrpo.evaluation.sheet.source import read_source
from flowgrpo.pages.pictures import PICTURE, Sample, sample
from flowgrpo.runs.report import write_report
from flowgrpo.runs.run import Run


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def samples_of(made):
    return Samples(["p"] * len(made), [{}] * len(made), list(range(len(made))), made)


def played(page):
    """The pictures and clips of a page, as a browser decodes them."""
    found = re.findall(r"(?:src|href)='data:image/(\w+);base64,([^']+)'", page)
    return [(form, Image.open(io.BytesIO(base64.b64decode(data)))) for form, data in found]


def test_a_clip_is_shown_as_its_frames():
    made = noise(2, 5, 3, 8, 12)
    shown = samples_of(made).shown()
    assert [len(frames) for frames in shown] == [5, 5] and shown[0][0].size == (12, 8)
    assert np.abs(np.asarray(shown[1][3]) / 255.0 - made[1, 3].permute(1, 2, 0).numpy()).max() <= 1 / 255


@pytest.mark.parametrize("size", [(32, 32), (40, 200)])
def test_what_is_kept_is_read_again_without_loss(tmp_path, size):
    shown = samples_of(noise(1, 4, 3, *size)).shown()[0]
    assert save_sample(shown, tmp_path, "00001") == {"video": "00001.webp"}
    assert (read(tmp_path / "00001.webp") == np.stack([np.asarray(frame) for frame in shown])).all()


def test_kept_clips_can_be_scored(tmp_path):
    made = save_sample(samples_of(noise(1, 4, 3, 8, 8)).shown()[0], tmp_path, "00000")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"prompt": "p", **made}) + "\n")
    (item,) = read_source(str(tmp_path))
    assert item.kind == "video" and read(item.content, item.kind).shape == (4, 8, 8, 3)


def test_a_page_plays_a_clip_in_its_order_and_for_ever(tmp_path):
    made = save_sample(samples_of(noise(1, 4, 3, 16, 16)).shown()[0], tmp_path, "a")
    shown = sample(tmp_path, made)
    ((form, clip),) = played(f"src='{shown.address}'")
    assert form == "webp" and clip.n_frames == 4 and clip.info["loop"] == 0
    assert shown.few
    for i, frame in enumerate(frames_of(tmp_path / "a.webp")):
        clip.seek(i)
        clip.load()
        assert clip.info["duration"] == FRAME
        assert (np.asarray(clip.convert("RGB")) == np.asarray(frame)).all()


def test_frames_that_repeat_are_seen_as_long(tmp_path):
    made = noise(1, 3, 3, 8, 8)[:, [0, 0, 1, 2, 2, 2]]
    save_sample(samples_of(made).shown()[0], tmp_path, "a")
    shown = frames_of(tmp_path / "a.webp")
    assert len(shown) == 6 and [shown[i] == shown[i + 1] for i in range(5)] == [True, False, False, True, True]


def test_a_large_clip_becomes_smaller_on_a_page():
    frames = samples_of(noise(1, 3, 3, 2 * PICTURE, PICTURE)).shown()[0]
    data, small = address(frames, PICTURE)
    ((_, clip),) = played(f"src='{data}'")
    assert not small and max(clip.size) == PICTURE > PIXELATED and clip.n_frames == 3


def test_pictures_and_texts_are_kept_as_ever(tmp_path):
    picture = samples_of(noise(1, 3, 8, 8)).shown()[0]
    assert save_sample(picture, tmp_path, "a") == {"image": "a.png"} and save_sample("words", tmp_path, "b") == {"text": "words"}
    assert sample(tmp_path, {"image": "a.png"}).address.startswith("data:image/png;")
    assert sample(tmp_path, {"text": "<words>"}) == Sample("<words>") and sample(tmp_path, {"video": "gone.webp"}) is None


def test_the_report_plays_before_beside_after(tmp_path):
    clips = samples_of(noise(2, 4, 3, 8, 8)).shown()
    for when, clip in zip(("before", "after"), clips, strict=True):
        folder = tmp_path / "samples" / when
        folder.mkdir(parents=True)
        shown = save_sample(clip, folder, "0000")
        write_records(folder / "scores.jsonl", [Record(0, 0, 1, {"prompt": "it moves"}, shown, {"strict": 1.0})])
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"update": 0, "reward": 0.1}) + "\n")
    node = {"id": 0, "parent": None, "step": 0, "kernel": None, "stochastic": False, "trained": False, "value": 1.0}
    node |= {"advantage": None, "turning": False, "image": "samples/before/0000.webp", "text": None}
    (tmp_path / "tree.json").write_text(json.dumps({"prompt": "it moves", "nodes": [node]}))
    found = played(write_report(Run(tmp_path)).read_text())
    assert [(form, clip.n_frames) for form, clip in found] == [("webp", 4)] * 3
