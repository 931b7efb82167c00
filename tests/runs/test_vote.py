"""`flowgrpo vote`: a blind comparison by people, driven as its page drives it."""

import io
import json
import math
import re
import socket
import subprocess
import sys

import numpy as np
import pytest
import requests
from PIL import Image

from conftest import interruptible
from flowgrpo.cli.main import main
from flowgrpo.core.errors import UserError
from flowgrpo.data.media import save_sample
from flowgrpo.data.prompts import load_prompts
from flowgrpo.data.records import Record, write_records
from flowgrpo.runs.run import Run
from flowgrpo.runs.voting.ballot import UNTRAINED, ballot
from flowgrpo.runs.voting.page import vote
from flowgrpo.runs.voting.result import bradley_terry, result, wilson
from flowgrpo.runs.voting.summary import as_text
from flowgrpo.runs.voting.votes import Votes
from flowgrpo.training.pairs import with_pictures

PROMPTS = ["a red circle", "<script>alert(1)</script>", "two squares & a 'line'", "a cat"]


def picture(file, colour, row):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (colour, row, 0)).save(file)


def made(folder, when, colour, prompts=PROMPTS, seed=7):
    records = []
    for row, prompt in enumerate(prompts):
        picture(folder / "samples" / when / f"{row:05d}-0.png", colour, row)
        records.append(Record(row, 0, seed + row, {"prompt": prompt}, {"image": f"{row:05d}-0.png"}, {"mine": 1.0}))
    write_records(Run(folder).scores_file(when), records)


@pytest.fixture
def make(tmp_path):
    def make(name, colour=10, before=0, **how):
        folder = tmp_path / name
        made(folder, "before", before, **how)
        made(folder, "after", colour, **how)
        (folder / "config.yaml").write_text("updates: 3\nevaluation: {prompts: p.txt, metric: mine}\n")
        return Run(folder)

    return make


def texts(run, when, words):
    write_records(
        run.scores_file(when), [Record(i, 0, i, {"prompt": "p"}, {"text": f"<i>{words} {i}"}, {}) for i in range(len(PROMPTS))]
    )


def get(site, path):
    return requests.get(site.url + path, timeout=10)


def post(site, path, sent):
    return requests.post(site.url + path, json=sent, timeout=10)


def red(site, pair, side):
    reply = get(site, f"sample/{pair}/{side}")
    assert reply.headers["Content-Type"] == "image/png"
    return Image.open(io.BytesIO(reply.content)).getpixel((0, 0))[0]


def test_a_vote_from_the_first_pair_to_the_result(make, tmp_path):
    run = make("my-run", colour=200)
    votes = Votes(tmp_path / "votes.jsonl", ballot([run]))
    with votes.held(), vote(votes) as site:
        seen = []
        while "pair" in (asked := get(site, "next").json()):
            pair = votes.ballot.by_id[asked["pair"]]
            seen.append(asked["prompt"])
            reds = [red(site, asked["pair"], side) for side in ("left", "right")]
            assert reds == [200 if side == "my-run" else 0 for side in (pair.left, pair.right)]
            assert post(site, "vote", {"pair": asked["pair"], "choice": "left" if pair.left == "my-run" else "right"}).ok
        assert sorted(seen) == sorted(PROMPTS)
        assert "my-run" in asked["result"] and "<td>4<td>0<td>0" in asked["result"]
    (duel,) = result(votes).duels
    assert (duel.one, duel.other, duel.wins, duel.votes) == ("my-run", UNTRAINED, 4, 4)
    rows = votes.preferences(tmp_path)
    assert [row["prompt"] for row in rows] == seen
    assert all(Image.open(tmp_path / row["chosen"]).getpixel((0, 0))[0] == 200 for row in rows)
    assert all(Image.open(tmp_path / row["rejected"]).getpixel((0, 0))[0] == 0 for row in rows)


def test_what_the_voter_is_sent_does_not_say_which_is_which(make, tmp_path):
    votes = Votes(tmp_path / "votes.jsonl", ballot([make("secret-a", 1), make("secret-b", 2)]))
    with votes.held(), vote(votes) as site:
        page, asked = get(site, ""), get(site, "next")
        sample = get(site, asked.json()["sides"][0]["address"][1:])
        for reply in (page, asked, sample, get(site, "vote.js")):
            assert not any(word in f"{reply.text} {reply.headers}" for word in ("secret", UNTRAINED, str(tmp_path), "samples/"))
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert "<script>alert" not in page.text


def test_sides_are_at_random_and_the_same_after_a_restart(make):
    run = make("a", prompts=[f"prompt {i}" for i in range(200)])
    first, second = ballot([run]), ballot([run])
    assert first == second
    lefts = sum(pair.left == UNTRAINED for pair in first.pairs)
    assert 60 < lefts < 140
    order = [pair.prompt for pair in first.pairs]
    assert order != sorted(order) and len(set(order)) == 200


def test_it_goes_on_where_it_stopped_and_a_cut_line_is_forgotten(make, tmp_path):
    file = tmp_path / "votes.jsonl"
    votes = Votes(file, ballot([make("a")]))
    first, second, *_ = votes.ballot.pairs
    with votes.held():
        votes.cast(first.id, "tie")
    with file.open("a") as stream:
        stream.write('{"pair": "' + second.id)
    again = Votes(file, votes.ballot)
    assert again.standing == {first.id: "tie"} and next(again.open) == second
    with again.held():
        again.cast(second.id, "left")
    assert Votes(file, votes.ballot).standing == {first.id: "tie", second.id: "left"}


def test_the_last_vote_can_be_taken_back_even_after_a_restart(make, tmp_path):
    votes = Votes(tmp_path / "votes.jsonl", ballot([make("a")]))
    first, second, *_ = votes.ballot.pairs
    votes.cast(first.id, "left")
    votes.cast(second.id, "skip")
    again = Votes(votes.file, votes.ballot)
    again.undo()
    assert next(again.open) == second
    again.undo()
    assert next(again.open) == first and Votes(votes.file, votes.ballot).standing == {}
    with pytest.raises(UserError, match="no vote to take back"):
        again.undo()


@pytest.mark.parametrize(
    "path, sent, sentence",
    [
        ("vote", {"pair": "0" * 16, "choice": "left"}, "no such pair"),
        ("vote", {"pair": ["x"], "choice": "left"}, "no such pair"),
        ("vote", {"choice": "left"}, "no such pair"),
        ("vote", {"pair": None, "choice": "both"}, "a vote is one of left, right, tie, skip"),
        ("vote", [1], "no such pair"),
        ("undo", {}, "no vote to take back"),
    ],
)
def test_what_is_no_vote_is_refused_and_not_written(make, tmp_path, path, sent, sentence):
    votes = Votes(tmp_path / "votes.jsonl", ballot([make("a")]))
    if isinstance(sent, dict) and sent.get("pair", "") is None:
        sent = {**sent, "pair": votes.ballot.pairs[0].id}
    with votes.held(), vote(votes) as site:
        reply = post(site, path, sent)
    assert reply.status_code == 400 and sentence in reply.json()["error"]
    assert not votes.file.exists()


def test_only_pages_of_this_machine_are_answered(make, tmp_path):
    votes = Votes(tmp_path / "votes.jsonl", ballot([make("a")]))
    pair = votes.ballot.pairs[0].id
    with votes.held(), vote(votes) as site:
        assert site.url.startswith("http://127.0.0.1:")
        assert requests.get(site.url, headers={"Host": "evil.example"}, timeout=10).status_code == 403
        form = requests.post(site.url + "vote", data=json.dumps({"pair": pair, "choice": "left"}), timeout=10)
        assert form.status_code == 400 and not votes.standing
        for path in ("sample/../../etc/passwd", f"sample/{pair}/middle", "votes.jsonl", "vote"):
            assert get(site, path).status_code == 404


def test_texts_are_compared_too(make, tmp_path):
    run = make("a")
    texts(run, "before", "old")
    texts(run, "after", "new")
    votes = Votes(tmp_path / "votes.jsonl", ballot([run]))
    with votes.held(), vote(votes) as site:
        asked = get(site, "next").json()
        assert {side["text"][:6] for side in asked["sides"]} == {"<i>old", "<i>new"}
        assert get(site, f"sample/{asked['pair']}/left").status_code == 404
        pair = votes.ballot.pairs[0]
        post(site, "vote", {"pair": pair.id, "choice": "left"})
    (row,) = votes.preferences(tmp_path)
    assert (row["chosen"], row["rejected"]) == (pair.samples[0].content, pair.samples[1].content)


def test_clips_play(make, tmp_path):
    run = make("a")
    for when, levels in (("before", (10, 20)), ("after", (30, 40))):
        frames = [Image.new("RGB", (8, 8), (level,) * 3) for level in levels]
        records = [Record(0, 0, 7, {"prompt": "p"}, save_sample(frames, run.samples(when), "00000-0"), {})]
        write_records(run.scores_file(when), records)
    votes = Votes(tmp_path / "votes.jsonl", ballot([run]))
    with votes.held(), vote(votes) as site:
        sides = get(site, "next").json()["sides"]
        replies = [get(site, side["address"][1:]) for side in sides]
    assert {reply.headers["Content-Type"] for reply in replies} == {"image/webp"}
    assert [Image.open(io.BytesIO(reply.content)).n_frames for reply in replies] == [2, 2]


# Who is compared with whom.


def test_several_runs_have_one_untrained_model_if_they_began_with_the_same(make):
    same, other = ballot([make("a", 1), make("b", 2)]), ballot([make("c", 1), make("d", 2, before=3)])
    assert same.candidates == (UNTRAINED, "a", "b") and len(same.pairs) == 3 * len(PROMPTS)
    assert other.candidates == (f"{UNTRAINED} (c)", f"{UNTRAINED} (d)", "c", "d")


def test_whoever_stops_early_has_compared_all_about_as_often(make):
    pairs = ballot([make("a", 1), make("b", 2)]).pairs
    for start in range(0, len(pairs), 3):
        assert len({frozenset((pair.left, pair.right)) for pair in pairs[start : start + 3]}) == 3


def test_what_is_the_same_on_both_sides_is_not_asked(make):
    run = make("a", 1)
    picture(run.samples("after") / "00001-0.png", 0, 1)
    found = ballot([run])
    assert len(found.pairs) == 3 and found.alike == 1


def test_votes_on_pictures_that_have_changed_do_not_count(make, tmp_path):
    run, file = make("a"), tmp_path / "votes.jsonl"
    votes = Votes(file, ballot([run]))
    votes.cast(votes.ballot.pairs[0].id, "left")
    picture(run.samples("after") / "00000-0.png", 77, 0)
    again = Votes(file, ballot([run]))
    assert again.strange + len(again.standing) == 1 and (again.strange == 1) == (votes.ballot.pairs[0].prompt == PROMPTS[0])


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda run: (run.path / "config.yaml").unlink(), "is not a run folder"),
        (lambda run: run.scores_file("after").unlink(), "no samples of after training yet; wait for its end"),
        (lambda run: (run.path / "config.yaml").write_text("evaluation: null\n"), ""),
        (lambda run: [run.scores_file(when).unlink() for when in ("before", "after")], "were they removed"),
        (lambda run: made(run.path, "after", 0), "made the same of every prompt"),
        (lambda run: made(run.path, "after", 5, seed=99), "no sample of the same prompt and seed in common"),
    ],
)
def test_where_nothing_can_be_compared_it_is_said(make, capsys, spoil, sentence):
    run = make("a")
    spoil(run)
    if sentence:
        assert main(["vote", str(run), "--result"]) == 2
        assert sentence in capsys.readouterr().err
    else:
        for when in ("before", "after"):
            run.scores_file(when).unlink()
        assert main(["vote", str(run), "--result"]) == 2
        assert "was trained without `evaluation`" in capsys.readouterr().err


def test_a_run_is_named_once(make, capsys):
    run = make("a")
    assert main(["vote", str(run), str(run)]) == 2
    assert "two of the runs are called a" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"pair": "x"}', '{"pair": "x", "choice": "both"}', '{"pair": 1, "choice": "left"}']
)
def test_a_damaged_file_of_votes_is_named(make, tmp_path, line):
    (tmp_path / "votes.jsonl").write_text(f'{{"pair": "x", "choice": "left"}}\n{line}\n')
    with pytest.raises(UserError, match=r"votes.jsonl, line 2 is no vote"):
        Votes(tmp_path / "votes.jsonl", ballot([make("a")]))


def test_two_can_not_vote_into_one_file(make, tmp_path):
    first, second = (Votes(tmp_path / "votes.jsonl", ballot([make(name)])) for name in "ab")
    with first.held(), pytest.raises(UserError, match="somebody votes into"), second.held():
        pass


def test_a_port_in_use_is_one_sentence(make, capsys):
    run = make("a")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["vote", str(run), "--port", str(port)]) == 2
    assert (
        capsys.readouterr().err
        == f"flowgrpo: port {port} of 127.0.0.1 is in use; choose another with --port, or 0 for any free one\n"
    )
    assert main(["vote", str(run), "--host", "no.such.host.invalid"]) == 2
    assert "can't listen at no.such.host.invalid" in capsys.readouterr().err


def test_the_command_exports_and_says_the_result(make, tmp_path, capsys):
    run = make("a", 1)
    votes = Votes(run.path / "votes.jsonl", ballot([run]))
    for pair, choice in zip(votes.ballot.pairs, ("left", "right", "tie", "skip"), strict=True):
        votes.cast(pair.id, choice)
    assert main(["vote", str(run), "--result", "--export", str(tmp_path / "out" / "prefs.jsonl")]) == 0
    assert "4 of 4 pairs" in (said := capsys.readouterr().out) and "1 could not be said" in said and "Wilson" in said
    rows = [json.loads(line) for line in (tmp_path / "out" / "prefs.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row.keys() == {"prompt", "chosen", "rejected"} for row in rows)
    assert all((tmp_path / "out" / row[side]).is_file() for row in rows for side in ("chosen", "rejected"))
    file = str(tmp_path / "out" / "prefs.jsonl")
    pairs, left_out = with_pictures(load_prompts(file), file)
    assert len(pairs) == 2 and not left_out, "what rollout.plan=pairs trains on"
    assert main(["vote", str(run), "--result", "--json"]) == 0
    (duel,) = json.loads(capsys.readouterr().out)["duels"]
    assert duel["wins"] + duel["losses"] == 2 and duel["ties"] == 1 and duel["rate"] == (duel["wins"] + 0.5) / 3


@pytest.mark.parametrize("option", ["--out", "--export"])
def test_a_folder_is_no_file_of_votes(make, tmp_path, capsys, option):
    assert main(["vote", str(make("a").path), "--result", option, str(tmp_path)]) == 2
    assert f"{option} = {tmp_path} is a folder; name a file in it" in capsys.readouterr().err


def test_a_vote_that_can_not_be_written_is_said_on_the_page_and_asked_again(make, tmp_path):
    votes = Votes(tmp_path / "votes.jsonl", ballot([make("a")]))
    with votes.held(), vote(votes) as site:
        votes.file.mkdir()
        pair = votes.ballot.pairs[0].id
        reply = post(site, "vote", {"pair": pair, "choice": "left"})
        assert reply.status_code == 500 and "can't be read or written (Is a directory)" in reply.json()["error"]
        assert get(site, "next").json()["pair"] == pair


def test_an_interrupt_ends_the_vote_with_its_result(make):
    run = make("a", 1)
    command = [sys.executable, "-m", "flowgrpo", "vote", str(run)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes, preexec_fn=interruptible)
    url = process.stdout.readline().split()[2].rstrip(";")
    asked = requests.get(url + "next", timeout=10).json()
    requests.post(url + "vote", json={"pair": asked["pair"], "choice": "tie"}, timeout=10)
    process.send_signal(2)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err and "1 of 4 pairs" in out and "50.0%" in out


# What votes say.


def test_wilsons_interval():
    """Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    known = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718)}
    for (wins, votes), ends in known.items():
        assert wilson(wins, votes) == pytest.approx(ends, abs=1e-4)
    low, high = wilson(7.5, 10)
    assert wilson(2.5, 10) == pytest.approx((1 - high, 1 - low))


def test_bradley_terry_of_two_is_the_log_odds():
    found = {one.candidate: one for one in bradley_terry(["a", "b"], np.array([[0.0, 2.0], [7.0, 0.0]]))}
    expected, error = math.log(7.5 / 2.5), math.sqrt(1 / 7.5 + 1 / 2.5)
    assert found["a"].strength == 0.0 and found["b"].strength == pytest.approx(expected, abs=1e-5)
    assert found["b"].ci95 == pytest.approx((expected - 1.959964 * error, expected + 1.959964 * error), abs=1e-4)


def test_bradley_terry_of_three_is_stationary_and_ordered():
    """At the maximum every candidate won as often as the model expects."""
    wins = np.array([[0.0, 3.0, 1.0], [9.0, 0.0, 4.5], [11.0, 7.5, 0.0]])
    found = bradley_terry(["a", "b", "c"], wins)
    assert [one.candidate for one in found] == ["c", "b", "a"]
    strength = np.array([{one.candidate: one.strength for one in found}[name] for name in "abc"])
    won = wins + 0.5 * (1 - np.eye(3))
    chance = 1 / (1 + np.exp(-np.subtract.outer(strength, strength)))
    assert won.sum(1) == pytest.approx(((won + won.T) * chance).sum(1), abs=1e-4)


def test_one_that_always_wins_has_a_finite_strength_and_one_without_votes_a_wide_interval():
    wins = np.zeros((3, 3))
    wins[1, 0] = 20
    found = {one.candidate: one for one in bradley_terry(["a", "b", "c"], wins)}
    assert 2 < found["b"].strength < 5
    assert found["c"].ci95[0] < 0 < found["c"].ci95[1] and np.diff(found["c"].ci95) > 4


def test_three_candidates_have_duels_and_strengths(make, tmp_path):
    votes = Votes(tmp_path / "votes.jsonl", ballot([make("a", 1), make("b", 2)]))
    better = [UNTRAINED, "a", "b"]
    for pair in votes.ballot.pairs:
        votes.cast(pair.id, "left" if better.index(pair.left) > better.index(pair.right) else "right")
    found = result(votes)
    assert [(duel.one, duel.other, duel.rate) for duel in found.duels] == [
        ("a", UNTRAINED, 1.0),
        ("b", UNTRAINED, 1.0),
        ("b", "a", 1.0),
    ]
    assert [one.candidate for one in found.strengths] == ["b", "a", UNTRAINED]
    assert f"The log-odds of winning against {UNTRAINED}." in (said := as_text(found, votes))
    assert re.search(r"untrained +\| 0 +\| +\|", said) and re.search(r"\| b +\| \+\d\.\d\d +\| \+\d", said)
