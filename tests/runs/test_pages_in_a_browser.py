"""The pages of `vote` and `watch` as a person meets them: a browser shows them, and is asked what it shows."""

import json

import pytest
from PIL import Image

import browser
from browser import Browser
from flowgrpo.core.pin import write_pin
from flowgrpo.data.records import Record, write_records
from flowgrpo.runs.run import Run
from flowgrpo.runs.voting.ballot import ballot
from flowgrpo.runs.voting.page import vote
from flowgrpo.runs.voting.votes import Votes

pytestmark = pytest.mark.skipif(browser.FOUND is None, reason="no Chromium on this machine")
PROMPTS = [f"prompt {i}" for i in range(11)] + ["<img src=x onerror='document.title=1'> & co"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "secret-run")
    for updates, when in ((0, "before"), (5, "latest"), (9, "after")):
        write_pin(run.samples(when), {"updates": updates})
        records = []
        for row, prompt in enumerate(PROMPTS):
            Image.new("RGB", (16, 16), (20 * updates, row, 0)).save(run.samples(when) / f"{row}.png")
            records.append(Record(row, 0, row, {"prompt": prompt}, {"image": f"{row}.png"}, {"strict": float(when != "before")}))
        write_records(run.scores_file(when), records)
    (run.path / "config.yaml").write_text("updates: 9\nevaluation: {every: 5, pictures: 12}\n")
    return run


def test_ten_votes_by_keyboard_and_the_result(page, run, tmp_path):
    votes = Votes(tmp_path / "votes.jsonl", ballot([run]))
    with votes.held(), vote(votes) as site:
        page.open(site.url)
        counted = "document.getElementById('count').textContent == '{} of 12'".format
        page.until(counted(0) + " && document.querySelectorAll('.side img').length == 2")
        assert "secret-run" not in page.js("document.documentElement.outerHTML")
        keys = [
            "ArrowLeft",
            "ArrowRight",
            "ArrowDown",
            "s",
            "t",
            "ArrowLeft",
            "ArrowLeft",
            "ArrowRight",
            "ArrowRight",
            "ArrowLeft",
        ]
        for i, key in enumerate(keys, 1):
            page.press(key)
            page.until(counted(i))
        page.press("u")
        page.until(counted(9))
        page.js("document.querySelector('nav button').click()")
        page.until(counted(10))
        choices = list(votes.standing.values())
        assert choices == ["left", "right", "tie", "skip", "tie", "left", "left", "right", "right", "left"]
        for i in (11, 12):
            page.press("ArrowDown")
            page.until(counted(i))
        page.until("document.getElementById('end').innerText.includes('secret-run')")
    lines = [json.loads(line) for line in votes.file.read_text().splitlines()]
    assert [line["choice"] for line in lines[8:12]] == ["right", "left", "undone", "left"]
    assert not page.console and page.js("document.title") == "flowgrpo vote"
    assert all(url.startswith((site.url, "data:")) for url in page.asked)


def test_the_page_follows_a_run(page, run):
    run.samples("after").rename(run.path / "aside")
    with run.locked(), run.watch() as site:
        page.open(site.url)
        page.until("document.body.innerText.includes('Getting ready: 12 samples')")
        page.until("[...document.querySelectorAll('.card img')].every((one) => one.naturalWidth == 16)")
        assert page.js("document.querySelectorAll('.card img').length") == 24
        page.js("document.querySelector('details').open = true; document.querySelector('.card img').kept = true")
        for update in range(3):
            run.append_metrics({"update": update, "reward": 0.5, "reward/strict": 0.1 * update, "seconds/rollout": 20.0})
        page.until("document.body.innerText.includes('Update 3 of 9, about 2 min of training left.')")
        assert page.js("document.querySelectorAll('.plots svg').length") >= 2
        assert page.js("document.querySelector('details').open && document.querySelector('.card img').kept") is True
        assert page.js("document.title") == "secret-run" and not page.console
        assert all(url.startswith((site.url, "data:")) for url in page.asked)
