"""`flowgrpo score`: what is read, what is written, and what an interrupted or repeated run does."""

import json
import os
import re
import weakref
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from flowgrpo.assets.scenes import draw, sample_metadata, sample_scene, wrong_variants
from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.data.media import read
from flowgrpo.data.prompts import load_prompts
from flowgrpo.evaluation.sheet.lines import Line
from flowgrpo.evaluation.sheet.page import SHOWN
from flowgrpo.evaluation.sheet.score import score
from flowgrpo.evaluation.sheet.source import Item, read_source
from flowgrpo.evaluation.sheet.stream import Loaded, batches
from flowgrpo.scoring.card import UNSTATED
from flowgrpo.scoring.chosen import chosen_rewards, with_arguments

REWARDS = '''
from pathlib import Path

from flowgrpo.core.errors import UserError

LOG = Path(__file__).with_name("calls.txt")


def brightness(samples):
    """Also writes down every batch that it sees: how many, of which size, of which prompts."""
    with LOG.open("a") as file:
        file.write(f"{len(samples)} {tuple(samples.images.shape[2:])} {'|'.join(samples.prompts)}\\n")
    return samples.images.mean((1, 2, 3)).tolist()


def dislikes_black(samples):
    values = samples.images.mean((1, 2, 3)).tolist()
    return [1.0 / value for value in values]


def nothing_good(samples):
    raise UserError("this reward never works")


def motion(samples):
    return (samples.videos[:, 1:] - samples.videos[:, :-1]).abs().mean((1, 2, 3, 4)).tolist()


def words(samples):
    return [len(text.split()) for text in samples.texts]


def not_a_number(samples):
    return [float("nan")] * len(samples)


class Broken:
    def __init__(self):
        raise OSError("no weights")


class Above:
    def __init__(self, level, scale=1.0):
        self.level, self.scale = level, scale

    def __call__(self, samples):
        return (self.scale * (samples.images.mean((1, 2, 3)) > self.level)).tolist()
'''


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, with my_reward.py and three grey pictures in pictures/ : levels 0.2, 0.4, 0.6."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_reward.py").write_text(REWARDS)
    for name, level in (("a.png", 51), ("b.png", 102), ("c.png", 153)):
        grey(tmp_path / "pictures" / name, level)
    return tmp_path


def grey(path, level, size=(8, 8)):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size, (level,) * 3).save(path)


def run(*arguments, source="pictures", rewards="my_reward.py:brightness", out="out"):
    return main(["score", source, "--rewards", rewards, "--out", out, *arguments])


def lines(out="out"):
    with open(f"{out}/scores.jsonl") as file:
        return [json.loads(line) for line in file]


def scores(label="my_reward.py:brightness", out="out"):
    return [line["scores"].get(label) for line in lines(out)]


def calls(desk):
    return [line.split(" ", 1) for line in (desk / "calls.txt").read_text().splitlines()]


def test_a_folder_becomes_lines_a_summary_and_a_page(desk, capsys):
    assert run() == 0
    assert [line["image"] for line in lines()] == ["../pictures/a.png", "../pictures/b.png", "../pictures/c.png"]
    assert scores() == pytest.approx([0.2, 0.4, 0.6])
    assert all(line.keys() == {"image", "sha256", "prompt", "scores"} for line in lines())
    reward = json.loads((desk / "out/summary.json").read_text())["rewards"]["my_reward.py:brightness"]
    assert reward["mean"] == pytest.approx(0.4) and (reward["n"], reward["failed"]) == (3, 0)
    assert (reward["min"], reward["max"]) == pytest.approx((0.2, 0.6))
    assert reward["ci95"] == pytest.approx([0.2, 0.6]) and reward["seconds_per_sample"] > 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["means"] == {"my_reward.py:brightness": pytest.approx(0.4)} and last["samples"] == 3
    assert "<h1" in (desk / "out/report.html").read_text()


def test_prompts_of_a_generator_are_pinned_by_what_they_are(desk, capsys):
    assert run("--prompts", "ocr:test?count=3") == 0
    assert run("--prompts", "ocr:test?count=3&seed=0") == 2
    assert "choose another --out" in capsys.readouterr().err
    assert run("--prompts", "ocr:test?count=3") == 0
    assert [line["prompt"] for line in lines()] == [prompt.text for prompt in load_prompts("ocr:test?count=3")]
    assert run("--prompts", "ocr:test?count=4", out="four") == 2
    assert "has 4 rows for 3 samples" in capsys.readouterr().err


def test_drawn_scenes_get_exactly_what_is_true_of_them(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i, tag in enumerate(("single_object", "colors", "position", "color_attr") * 2):
        metadata = sample_metadata(rng, tag)
        Image.fromarray(draw(sample_scene(rng, metadata))).save(tmp_path / f"{i}.png")
        rows.append({**(metadata if i < 4 else wrong_variants(rng, metadata)[0]), "image": f"{i}.png"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = str(tmp_path / "out")
    assert run(source=str(tmp_path / "rows.jsonl"), rewards="scene:strict,scene:soft", out=out) == 0
    assert scores("scene:strict", out) == [1.0] * 4 + [0.0] * 4
    assert scores("scene:soft", out)[:4] == [1.0] * 4 and all(0 < score < 1 for score in scores("scene:soft", out)[4:])
    assert [line["prompt"] for line in lines(out)] == [row["prompt"] for row in rows]


def test_formats_and_sizes_mix(desk):
    for i, name in enumerate(("d.jpg", "e.webp", "f.bmp", "g.gif", "deep/h.JPEG")):
        grey(desk / "pictures" / name, 51 * (i + 1), size=(16 + 8 * i, 8))
    assert run() == 0
    assert [line["image"].rpartition("/")[2] for line in lines()] == [
        "a.png",
        "b.png",
        "c.png",
        "d.jpg",
        "h.JPEG",
        "e.webp",
        "f.bmp",
        "g.gif",
    ]
    assert scores() == pytest.approx([0.2, 0.4, 0.6, 0.2, 1.0, 0.4, 0.6, 0.8], abs=0.01)


def test_a_glob_names_some(desk):
    grey(desk / "elsewhere/d.png", 0)
    (desk / "pictures/deep").symlink_to(desk / "elsewhere")
    grey(desk / "pictures/.hidden.png", 0)
    assert [item.content.name for item in read_source("pictures")] == ["a.png", "b.png", "c.png", "d.png"]
    assert run(source="pictures/[ab].png") == 0 and len(lines()) == 2
    assert run(source="pictures/**/*.png", out="all") == 0 and len(lines("all")) == 4
    assert run(source="pictures/a.png", out="one") == 0 and len(lines("one")) == 1


def test_rewards_come_from_files_modules_entry_points_and_yaml(desk, monkeypatch):
    (desk / "their_rewards.py").write_text(REWARDS)
    info = desk / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowgrpo.rewards]\nbright = their_rewards:brightness\n")
    monkeypatch.syspath_prepend(desk)
    (desk / "run.yaml").write_text("rewards:\n  half: {use: 'my_reward.py:Above', arguments: {level: 0.5}, weight: 0.3}\n")
    rewards = "my_reward.py:brightness,their_rewards:brightness,bright,run.yaml"
    assert run(rewards=rewards) == 0
    for line in lines():
        mine, module, entry, half = line["scores"].values()
        assert mine == module == entry and half == (mine > 0.5)
    assert list(lines()[0]["scores"]) == [*rewards.split(",")[:3], "half"]


def test_arguments_can_be_set(desk):
    rewards = with_arguments(
        chosen_rewards("my_reward.py:Above,text:Length"), ["text:Length.target=5", "my_reward.py:Above.level=0.3"]
    )
    assert rewards["text:Length"].arguments == {"target": 5} and rewards["my_reward.py:Above"].arguments == {"level": 0.3}
    assert run("rewards.my_reward.py:Above.arguments.level=0.3", rewards="my_reward.py:Above") == 0
    assert scores("my_reward.py:Above") == [0.0, 1.0, 1.0]


def test_a_config_with_bases_gives_its_rewards():
    assert chosen_rewards("quickstart.yaml")["strict"].use == "scene:strict"


@pytest.mark.parametrize(
    ("names", "arguments", "complaint"),
    [
        ("a,a", [], "'a' is named twice"),
        ("a", ["b.level=1"], "must look like rewards.LABEL.arguments.KEY=VALUE .*known: a"),
        ("a", ["a.level"], "must look like section.key=value"),
        ("bare.yaml", [], "has no section 'rewards'"),
    ],
)
def test_rewards_that_make_no_sense_are_refused(desk, names, arguments, complaint):
    (desk / "bare.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match=complaint):
        with_arguments(chosen_rewards(names), arguments)


def test_prompts_in_order_by_name_and_beside(desk):
    (desk / "in_order.txt").write_text("one\ntwo\nthree\n")
    (desk / "by_name.csv").write_text("prompt,image,place\nthird,c.png,3\nfirst,a.png,1\nsecond,pictures/b.png,2\n")
    for name in "abc":
        (desk / f"pictures/{name}.txt").write_text(f"beside {name}\n")
    assert [item.prompt for item in read_source("pictures")] == ["beside a", "beside b", "beside c"]
    assert [item.prompt for item in read_source("pictures", "in_order.txt")] == ["one", "two", "three"]
    named = read_source("pictures", "by_name.csv")
    assert [(item.prompt, item.row["place"]) for item in named] == [("first", "1"), ("second", "2"), ("third", "3")]


def test_text_is_metadata_of_a_picture_and_else_the_sample(desk):
    rows = [{"image": "pictures/a.png", "text": "OPEN"}, {"text": "a b c", "prompt": "count"}]
    (desk / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture, text = read_source("rows.jsonl")
    assert picture.content == desk / "pictures/a.png" and picture.row["text"] == "OPEN"
    assert text.content == "a b c" and text.prompt == "count"
    assert run(source="rows.jsonl", rewards="my_reward.py:brightness,my_reward.py:words") == 0
    judged = lines()[1]
    assert "reads samples.images" in judged.pop("errors")["my_reward.py:brightness"]
    assert judged == {"text": "a b c", "prompt": "count", "scores": {"my_reward.py:words": 3.0}}


def test_samples_and_scores_of_earlier_commands_are_sources(desk):
    (desk / "pictures/samples.jsonl").write_text('{"prompt": "grey", "image": "b.png", "seed": 0}\n')
    assert run() == 0
    assert [(line["image"], line["prompt"]) for line in lines()] == [("../pictures/b.png", "grey")]
    assert run(source="out/scores.jsonl", out="elsewhere/again") == 0
    assert lines("elsewhere/again") == [{**lines()[0], "image": "../../pictures/b.png"}]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "p"}, "row 2: must have an 'image' or a 'video'"),
        ({"image": 3}, "row 2: must have an 'image'"),
        ({"image": "a.png", "prompt": 3}, "row 2: the prompt must be a text"),
    ],
)
def test_rows_that_are_no_samples_are_refused(tmp_path, row, complaint):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "fine"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=complaint):
        read_source(str(tmp_path / "rows.jsonl"))


def clip(levels, size=(16, 16)):
    return [Image.new("RGB", size, (level,) * 3) for level in levels]


def test_clips_have_all_their_frames(tmp_path):
    first, *rest = clip([0, 100, 200])
    for name in ("a.gif", "a.webp"):
        first.save(tmp_path / name, save_all=True, append_images=rest, lossless=True)
        assert read(tmp_path / name).shape == (3, 16, 16, 3)
        assert read(tmp_path / name)[:, 0, 0, 0].tolist() == [0, 100, 200]
        with pytest.raises(UserError, match="has 3 frames or pages, and one picture is wanted"):
            read(tmp_path / name, "image")
    film = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (16, 16))
    for blue in (0, 128, 255):
        film.write(np.full((16, 16, 3), (blue, 0, 0), np.uint8))
    film.release()
    frames = read(tmp_path / "a.mp4")
    assert frames.shape == (3, 16, 16, 3)
    assert frames[:, 8, 8, 2].tolist() == pytest.approx([0, 128, 255], abs=12) and frames[..., 0].max() < 40


def test_a_row_says_whether_a_file_is_a_clip(desk):
    first, *rest = clip([0, 51])
    first.save(desk / "x.gif", save_all=True, append_images=rest)
    (desk / "rows.jsonl").write_text('{"video": "x.gif"}\n{"image": "x.gif"}\n{"video": "pictures/a.png"}\n')
    assert run(source="rows.jsonl", rewards="my_reward.py:motion,my_reward.py:brightness") == 0
    moving, still, short = lines()
    assert moving["video"] == "../x.gif" and moving["scores"] == {"my_reward.py:motion": pytest.approx(0.2)}
    assert still["image"] == "../x.gif" and "one picture is wanted" in still["errors"]["my_reward.py:brightness"]
    assert "is one picture, and a clip is wanted" in short["errors"]["my_reward.py:motion"]
    assert "NaN" not in (desk / "out/scores.jsonl").read_text()


def test_the_picture_is_seen_as_a_person_sees_it(tmp_path):
    picture = Image.new("RGB", (4, 2), "black")
    picture.paste("white", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    pixels = read(tmp_path / "turned.png")
    assert pixels.shape == (4, 2, 3) and pixels[:, 0, 0].tolist() == [255, 255, 0, 0]


def test_bad_files_take_no_other_with_them(desk):
    (desk / "pictures/b.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(desk / "pictures/cut.png")
    whole = (desk / "pictures/cut.png").read_bytes()
    (desk / "pictures/cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(desk / "pictures/deep.png")
    (desk / "pictures/film.mp4").write_bytes(b"no film")
    assert run() == 0
    assert [bool(line["scores"]) for line in lines()] == [True, False, True, False, False, False]
    errors = [line.get("errors", {}).get("my_reward.py:brightness", "") for line in lines()]
    assert "b.png can't be read" in errors[1] and "cut.png can't be read" in errors[3]
    assert "deep.png has pixels of mode I;16" in errors[4] and "film.mp4 has no frame" in errors[5]
    summary = json.loads((desk / "out/summary.json").read_text())
    assert summary["failed"] == 4 and summary["rewards"]["my_reward.py:brightness"]["n"] == 2
    assert "What failed" in (desk / "out/report.html").read_text()


def test_a_reward_that_fails_on_one_sample_scores_the_others(desk):
    grey(desk / "pictures/black.png", 0)
    label = "my_reward.py:dislikes_black"
    assert run(rewards=f"{label},my_reward.py:brightness") == 0
    assert scores(label) == pytest.approx([5.0, 2.5, None, 1 / 0.6]) and scores() == pytest.approx([0.2, 0.4, 0.0, 0.6])
    assert "raised ZeroDivisionError" in lines()[2]["errors"][label]


def test_pictures_of_one_size_go_in_full_batches_and_lines_stay_in_order(desk):
    for i in range(20):
        grey(desk / f"many/{i:02d}.png", 10 * i, size=(8, 8) if i % 2 else (4, 12))
    assert run("--batch", "6", source="many") == 0
    assert scores() == pytest.approx([10 * i / 255 for i in range(20)])
    sizes = [int(count) for count, _ in calls(desk)]
    assert sum(sizes) == 20 and max(sizes) <= 6 and len(sizes) <= 7


def test_a_clip_counts_as_its_frames():
    def sample(row, *shape):
        return Loaded(row, Item("", {}), Line("image", "", "", {}, {}), np.zeros(shape, np.uint8))

    stream = [sample(0, 4, 4, 3), sample(1, 3, 4, 4, 3), sample(2, 4, 4, 3), sample(3, 9, 4, 4, 3), sample(4, 3, 4, 4, 3)]
    assert [[one.row for one in batch] for batch in batches(stream, 5)] == [[0, 2], [1], [3], [4]]


def test_no_more_than_a_batch_of_pictures_is_held():
    held = set()

    def stream():
        for row in range(40):
            one = Loaded(row, Item("", {}), Line("image", "", "", {}, {}), np.zeros((8, 8 + row % 3, 3), np.uint8))
            held.add(row)
            weakref.finalize(one, held.discard, row)
            yield one
            del one
            assert len(held) <= 6

    assert sum(map(len, batches(stream(), 6))) == 40


def test_a_cut_run_goes_on_where_it_was(desk):
    assert run() == 0
    whole = (desk / "out/scores.jsonl").read_text()
    (desk / "out/scores.jsonl").write_text(whole[: whole.index("c.png") + 2])
    (desk / "calls.txt").unlink()
    assert run() == 0
    assert (desk / "out/scores.jsonl").read_text() == whole
    assert [int(count) for count, _ in calls(desk)] == [1]


def test_a_run_that_is_killed_while_it_goes_on_loses_nothing(desk):
    rewards = chosen_rewards("my_reward.py:brightness")
    assert run() == 0
    whole = (desk / "out/scores.jsonl").read_text()
    first, _, third = whole.splitlines(keepends=True)
    (desk / "out/earlier.jsonl").write_text(first + third)
    (desk / "out/scores.jsonl").write_text(first[:10])
    (desk / "calls.txt").unlink()
    score("pictures", None, rewards, desk / "out", 16)
    assert (desk / "out/scores.jsonl").read_text() == whole and not (desk / "out/earlier.jsonl").exists()
    assert [int(count) for count, _ in calls(desk)] == [1]


def test_the_same_command_again_scores_only_what_is_new_changed_or_failed(desk):
    (desk / "pictures/b.png").write_text("no picture")
    assert run() == 0 and scores()[1] is None
    grey(desk / "pictures/b.png", 102)
    grey(desk / "pictures/c.png", 204)
    grey(desk / "pictures/ab.png", 255)
    (desk / "calls.txt").unlink()
    assert run() == 0
    assert scores() == pytest.approx([0.2, 1.0, 0.4, 0.8]) and [int(count) for count, _ in calls(desk)] == [3]


def test_the_same_picture_under_the_same_prompt_keeps_its_own_metadata(tmp_path):
    rng = np.random.default_rng(0)
    right = sample_metadata(rng, "colors")
    Image.fromarray(draw(sample_scene(rng, right))).save(tmp_path / "a.png")
    rows = [{**row, "image": "a.png", "prompt": ""} for row in (right, *wrong_variants(rng, right), right)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [1.0, *[0.0] * (len(rows) - 2), 1.0]
    out = str(tmp_path / "out")
    assert run(source=str(tmp_path / "rows.jsonl"), rewards="scene:strict", out=out) == 0
    assert scores("scene:strict", out) == expected
    whole = (tmp_path / "out/scores.jsonl").read_text()
    (tmp_path / "out/scores.jsonl").write_text(whole[: len(whole) // 2])
    assert run(source=str(tmp_path / "rows.jsonl"), rewards="scene:strict", out=out) == 0
    assert scores("scene:strict", out) == expected


def test_a_reward_can_be_added(desk):
    assert run() == 0
    (desk / "calls.txt").unlink()
    both = "my_reward.py:brightness,my_reward.py:Above"
    assert run("rewards.my_reward.py:Above.arguments.level=0.5", rewards=both) == 0
    assert scores("my_reward.py:Above") == [0.0, 0.0, 1.0] and scores() == pytest.approx([0.2, 0.4, 0.6])
    assert not (desk / "calls.txt").exists()


def test_a_sheet_does_not_mix_settings(desk, capsys):
    above = "my_reward.py:Above"

    def complaint(*arguments, **others):
        assert run(*arguments, **{"rewards": above, **others}) == 2
        return capsys.readouterr().err

    assert run(f"rewards.{above}.arguments.level=0.5", rewards=above) == 0
    assert f"the reward '{above}' has changed since" in complaint(f"rewards.{above}.arguments.level=0.1")
    assert "holds scores of 'my_reward.py:Above' too" in complaint(rewards="my_reward.py:brightness")
    assert "the source has changed" in complaint(f"rewards.{above}.arguments.level=0.5", source="pictures/*.png")
    (desk / "my_reward.py").write_text(REWARDS + "# edited\n")
    assert "has changed since" in complaint(f"rewards.{above}.arguments.level=0.5")
    (desk / "out/settings.json").unlink()
    assert "without settings.json" in complaint(f"rewards.{above}.arguments.level=0.5")
    assert scores(above) == [0.0, 0.0, 1.0]


WEIGHED = """
from pathlib import Path

def scale():
    from their_scale import scale
    return scale

class Weighed:
    def __init__(self, weights):
        self.weight = float(Path(weights).read_text())

    def __call__(self, samples):
        return (self.weight * scale() * samples.images.mean((1, 2, 3))).tolist()
"""


@pytest.fixture
def weighed(desk, monkeypatch):
    """A reward that depends on a file of weights and on a module beside its own, and the command that asks it."""
    monkeypatch.syspath_prepend(desk)
    (desk / "weighed.py").write_text(WEIGHED)
    (desk / "their_scale.py").write_text("scale = 2.0\n")
    (desk / "weights.txt").write_text("1.0")
    return lambda **where: run("--set", "weighed.py:Weighed.weights=weights.txt", rewards="weighed.py:Weighed", **where)


@pytest.mark.parametrize(("name", "text"), [("weights.txt", "3.0"), ("their_scale.py", "scale = 3.0\n")])
def test_what_a_reward_names_or_imports_belongs_to_it(weighed, desk, capsys, name, text):
    assert weighed() == 0 and scores("weighed.py:Weighed") == pytest.approx([0.4, 0.8, 1.2])
    (desk / name).write_text(text)
    grey(desk / "pictures/d.png", 204)
    assert weighed() == 2 and "the reward 'weighed.py:Weighed' has changed since" in capsys.readouterr().err
    new = {"weights.txt": 6.0, "their_scale.py": 3.0}[name]
    assert weighed(out="other") == 0 and scores("weighed.py:Weighed", "other")[-1] == pytest.approx(0.8 * new)


@pytest.mark.parametrize("seconds", [-1000, 0, 1000])
def test_a_file_that_was_replaced_is_scored_again_whatever_its_time(desk, seconds):
    old = (desk / "pictures/a.png").stat()
    assert run() == 0 and scores()[0] == pytest.approx(0.2)
    grey(desk / "pictures/a.png", 204)
    os.utime(desk / "pictures/a.png", ns=(old.st_atime_ns, old.st_mtime_ns + seconds * 10**9))
    assert run() == 0 and scores() == pytest.approx([0.8, 0.4, 0.6])
    assert [int(count) for count, _ in calls(desk)] == [3, 1]


def test_a_server_that_serves_another_reward_is_not_taken_for_the_former(desk, capsys, monkeypatch):
    class Server:
        count = 1

        def __init__(self, *_):
            self.health = SimpleNamespace(fingerprint=(desk / "served").read_text())
            self.card = UNSTATED

        def __call__(self, samples):
            return [float(self.health.fingerprint)] * len(samples)

    monkeypatch.setattr("flowgrpo.scoring.scorer.Served", Server)
    monkeypatch.setattr("flowgrpo.scoring.identity.Served", Server)
    (desk / "run.yaml").write_text("rewards:\n  there: {url: 'http://127.0.0.1:1'}\n")
    (desk / "served").write_text("1")
    assert run(rewards="run.yaml") == 0 and scores("there") == [1.0] * 3
    (desk / "served").write_text("2")
    assert run(rewards="run.yaml") == 2 and "the reward 'there' has changed since" in capsys.readouterr().err


def test_changed_rows_are_noticed(desk, capsys):
    (desk / "rows.jsonl").write_text('{"image": "pictures/a.png"}\n')
    assert run(source="rows.jsonl") == 0
    (desk / "rows.jsonl").write_text('{"image": "pictures/a.png", "text": "OPEN"}\n')
    assert run(source="rows.jsonl") == 2 and "a file of rows has changed" in capsys.readouterr().err


def test_a_file_that_a_row_names_belongs_to_the_rows(desk, capsys):
    (desk / "reference.txt").write_text("1")
    (desk / "rows.jsonl").write_text('{"image": "pictures/a.png", "reference": "reference.txt"}\n')
    assert run(source="rows.jsonl") == 0
    grey(desk / "pictures/a.png", 204)
    assert run(source="rows.jsonl") == 0 and scores() == pytest.approx([0.8])
    (desk / "reference.txt").write_text("2")
    assert run(source="rows.jsonl") == 2 and "a file of rows has changed" in capsys.readouterr().err


def test_what_scored_nothing_may_be_mended_and_tried_again(desk, capsys):
    assert run(rewards="my_reward.py:nothing_good") == 2
    err = capsys.readouterr().err
    assert err == "flowgrpo: nothing could be scored; the first sample: this reward never works\n"
    (desk / "my_reward.py").write_text(
        REWARDS.replace('raise UserError("this reward never works")', "return [1.0] * len(samples)")
    )
    assert run(rewards="my_reward.py:nothing_good") == 0 and scores("my_reward.py:nothing_good") == [1.0] * 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"rewards": "my_reward.py:britghness"}, "did you mean 'brightness'"),
        ({"rewards": "my_reward.py:brightness,my_reward.py:Above"}, "missing a required argument: 'level'"),
        ({"rewards": "my_reward.py:Broken"}, r"can't be made: it raised OSError: no weights \(my_reward.py, line"),
        ({"rewards": "statistics:diversity"}, "compares the samples of a prompt"),
        ({"source": "nowhere"}, "no pictures or clips in 'nowhere'"),
        ({"source": "nowhere.jsonl"}, "no such file"),
    ],
)
def test_what_can_not_work_stops_at_once(desk, capsys, arguments, complaint):
    assert run(**arguments) == 2
    err = capsys.readouterr().err
    assert re.search(complaint, err) and err.count("\n") == 1
    assert not (desk / "out").exists()


def test_an_interruption_says_how_to_go_on(desk, capsys):
    (desk / "stop.py").write_text("def stop(samples):\n    raise KeyboardInterrupt\n")
    assert run(rewards="stop.py:stop") == 2
    assert capsys.readouterr().err == "flowgrpo: interrupted; the same command goes on\n"


def test_the_page_stands_alone_and_orders_without_scripts(desk):
    for name in "abc":
        (desk / f"pictures/{name}.txt").write_text("<script>alert(1)</script>")
    rewards = "my_reward.py:brightness,my_reward.py:Above,text:xml_answer"
    assert run("rewards.my_reward.py:Above.arguments.level=0.5", rewards=rewards) == 0
    page = (desk / "out/report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "http" not in page
    assert page.count("src='data:image/png;base64,") == 3 and page.count("type=radio") == 2
    orders = re.findall(r"<figure class='card in in0 in1' style='--at0:(\d);--at1:(\d)'>", page)
    assert [at for at, _ in orders] == ["2", "1", "0"] and orders[2][1] == "0"
    assert "reads samples.texts" in page


def test_the_page_shows_the_ends_and_says_what_it_leaves_out(desk):
    rows = [{"text": "<i> " * (i + 1)} for i in range(60)]
    (desk / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(source="rows.jsonl", rewards="my_reward.py:words") == 0
    page = (desk / "out/report.html").read_text()
    assert page.count("<figure class='card") == 2 * SHOWN and f"{60 - 2 * SHOWN} samples in between not shown" in page
    assert "<i>" not in page and "<pre>&lt;i&gt; </pre>" in page


def test_no_reward_at_all_is_refused(desk, capsys):
    assert main(["score", str(desk), "--rewards", ",", "--out", "out"]) == 2
    assert "--rewards names no reward" in capsys.readouterr().err
