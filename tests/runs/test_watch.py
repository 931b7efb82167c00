"""`flowgrpo watch`: the report of a run while it trains, asked as its page asks."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import requests
from PIL import Image

from conftest import interruptible
from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.core.pin import write_pin
from flowgrpo.data.records import Record, write_records
from flowgrpo.runs.folder import Alarm
from flowgrpo.runs.run import Run

PROMPT = "<img src=x onerror=alert(1)> & more"


def kept(run, when, colour, updates=0):
    folder = run.samples(when)
    folder.mkdir(parents=True, exist_ok=True)
    write_pin(folder, {"updates": updates})
    Image.new("RGB", (4, 4), colour).save(folder / "00000-0.png")
    scores = {"strict": float(when != "before")}
    write_records(run.scores_file(when), [Record(0, 0, 5, {"prompt": PROMPT}, {"image": "00000-0.png"}, scores)])


def row(update):
    return {"update": update, "reward": 0.1 * update, "reward/strict": 0.2, "seconds/rollout": 3.0, "seconds/update": 1.0}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "my-run")
    run.path.mkdir()
    (run.path / "config.yaml").write_text("updates: 40\nevaluation: {every: 0, pictures: 8}\n")
    return run


@pytest.fixture
def site(run):
    with run.watch() as site:
        yield site


def state(site, known=""):
    return requests.get(f"{site.url}state?{known}", timeout=10)


def body(site):
    return state(site).json()["body"]


def test_a_run_that_begins_says_what_it_does(run, site):
    with run.locked():
        assert "Getting ready." in body(site)
        kept(run, "before", "red")
        assert "Getting ready: 1 samples of the untrained model so far" in body(site)


def test_progress_and_the_time_that_is_left(run, site):
    with run.locked():
        for update in range(10):
            run.append_metrics(row(update))
        assert "Update 10 of 40, about 2 min of training left." in body(site) and "width: 25.0%" in body(site)
        run.append_metrics({"update": 9, "held_out/strict": 0.5})
        assert "Update 10 of 40" in body(site) and "class=between" in body(site)
        for update in range(10, 40):
            run.append_metrics(row(update))
        assert "All updates are done" in body(site)
    assert "Finished after 40 updates." in body(site)


def test_a_run_that_nobody_trains_has_stopped(run, site):
    run.append_metrics(row(0))
    assert f"Stopped at update 1 of 40; flowgrpo train ... --resume {run} goes on." in body(site)
    with run.locked():
        assert "Update 1 of 40" in body(site)


def test_newest_samples_stand_beside_those_of_the_untrained_model(run, site):
    kept(run, "before", "red")
    assert "with evaluation.every=10 some are seen here" in body(site) and "Samples of the untrained model" in body(site)
    (run.path / "config.yaml").write_text("updates: 40\nevaluation: {every: 5, pictures: 8}\n")
    kept(run, "latest", "lime", 15)
    page = body(site)
    assert "Samples after 15 updates, beside the untrained model&#39;s" in page and "evaluation.every" not in page
    before, latest = (page.split(f"src='/samples/{when}/")[1].split("'")[0] for when in ("before", "latest"))
    for when, name, colour in (("before", before, (255, 0, 0)), ("latest", latest, (0, 255, 0))):
        reply = requests.get(f"{site.url}samples/{when}/{name}", stream=True, timeout=10)
        assert reply.headers["Content-Type"] == "image/png"
        assert Image.open(reply.raw).getpixel((0, 0)) == colour
    kept(run, "after", "blue", 40)
    assert "Samples after 40 updates" in body(site) and "samples/latest" not in body(site)


def test_a_run_that_goes_on_after_its_end_shows_what_is_new(run, site):
    for when, updates in (("before", 0), ("after", 40)):
        kept(run, when, "red", updates)
    for update in range(40):
        run.append_metrics(row(update))
    run.save_held_out({"metric": "strict", "before": 0.1, "after": 0.2, "ci95": [0.05, 0.15], "n": 1, "by_tag": {}})
    assert "Finished after 40 updates." in body(site) and "20.0%" in body(site) and "class=after" in body(site)
    (run.path / "config.yaml").write_text("updates: 80\nevaluation: {every: 5, pictures: 8}\n")
    with run.locked():
        assert "Update 40 of 80" in body(site) and "20.0%" not in body(site) and "class=after" not in body(site)
        kept(run, "latest", "lime", 45)
        assert "Samples after 45 updates" in body(site) and "samples/after" not in body(site)


def test_asking_whether_it_trains_keeps_nobody_from_training(run):
    stop = Event()

    def ask():
        while not stop.wait(0.01):
            run.is_training  # noqa: B018

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for _ in range(20):
                with run.locked():
                    assert run.is_training
        finally:
            stop.set()
        assert asking.result() is None


def test_a_picture_that_is_made_anew_has_a_new_address(run, site):
    kept(run, "before", "red")
    kept(run, "latest", "lime", 5)
    first = body(site)
    os.utime(run.samples("latest") / "00000-0.png", ns=(1, 1))
    assert first.count("/samples/latest/00000-0.png?") == 1 and "/samples/latest/00000-0.png?1'" in body(site)


def test_alarms_are_seen(run, site):
    run.append_metrics(row(0))
    run.save_alarms({"strict": Alarm(3, "strict falls while <soft> rises")})
    assert "Update 3: strict falls while &lt;soft&gt; rises." in body(site)


def test_prompts_can_not_change_the_page(run, site):
    kept(run, "before", "red")
    assert "<img src=x" not in body(site) and "&lt;img src=x" in body(site)
    assert "script-src 'self'" in requests.get(site.url, timeout=10).headers["Content-Security-Policy"]


def test_what_has_not_changed_is_not_sent_again(run, site):
    run.append_metrics(row(0))
    known = state(site).json()["version"]
    assert state(site, known).status_code == 204
    run.append_metrics(row(1))
    assert state(site, known).status_code == 200
    known = state(site).json()["version"]
    with run.locked():
        assert state(site, known).status_code == 200
    known = state(site).json()["version"]
    kept(run, "before", "red")
    assert state(site, known).status_code == 200


def test_a_damaged_file_is_said_and_the_page_goes_on(run, site):
    (run.path / "metrics.jsonl").write_text('{"update": 0, "rew\n')
    reply = state(site)
    assert reply.status_code == 400 and "metrics.jsonl, line 1 is damaged" in reply.json()["error"]
    (run.path / "metrics.jsonl").write_text(json.dumps(row(0)) + "\n")
    assert state(site).status_code == 200


def test_samples_of_nothing_and_other_files_are_not_served(run, site):
    kept(run, "before", "red")
    strange = ("samples/before/%2e%2e/%2e%2e/config.yaml", "samples/before/scores.jsonl", "samples/tree/0.png", "config.yaml")
    for path in strange:
        assert requests.get(site.url + path, timeout=10).status_code == 404
    assert requests.get(site.url, headers={"Host": "evil.example"}, timeout=10).status_code == 403


@pytest.mark.parametrize(
    "config, hint",
    [("updates: 4\n", "this run has no `evaluation`"), ("updates: 4\nevaluation: {pictures: 0}\n", "evaluation.pictures is 0")],
)
def test_why_there_are_no_samples_is_said(run, site, config, hint):
    (run.path / "config.yaml").write_text(config)
    assert hint in body(site)


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="not a run folder"):
        Run(tmp_path / "nothing").watch()


def test_watching_from_python_returns_at_once_and_shows_a_link(run):
    with run.watch() as first, run.watch() as second:
        assert first.url != second.url and first.url in first._repr_html_()
    with pytest.raises(requests.ConnectionError):
        requests.get(first.url, timeout=10)


def test_the_command_ends_with_an_interrupt(run):
    command = [sys.executable, "-m", "flowgrpo", "watch", str(run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, preexec_fn=interruptible)
    url = process.stdout.readline().split()[2].rstrip(";")
    assert "my-run" in requests.get(url, timeout=10).text
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
