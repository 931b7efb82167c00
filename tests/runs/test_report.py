"""report.html: one file that opens offline, whatever the run folder holds."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from flowgrpo.core.errors import UserError
from flowgrpo.data.records import Record, write_records
from flowgrpo.runs.report import write_report
from flowgrpo.runs.run import Run

RECORD = Record(0, 0, 1, {"prompt": "<b>a & b</b>"}, {"image": "000.png"}, {"strict": 1.0, "soft": 0.25})


@pytest.fixture
def run(tmp_path):
    for when in ("before", "after"):
        (tmp_path / "samples" / when).mkdir(parents=True)
    for name in ("samples/before/000.png", "samples/after/000.png", "samples/leaf.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    rows = [{"update": u, "reward": 0.1 * u, "reward/strict": 0.2, "seconds/rollout": 1.5} for u in range(3)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"update": 1, "held_out/strict": 0.3}])
    )
    (tmp_path / "config.yaml").write_text("seed: 0 # <tag>\n")
    by_tag = {"counting": {"before": 0.1, "after": 0.2, "n": 5}}
    held_out = {"metric": "strict", "before": 0.4, "after": 0.553, "ci95": [0.09, 0.21], "n": 300, "by_tag": by_tag}
    (tmp_path / "held_out.json").write_text(json.dumps(held_out))
    for when in ("before", "after"):
        write_records(Run(tmp_path).scores_file(when), [RECORD])
    node = {"kernel": "flow_sde", "trained": True, "value": None, "advantage": 0.5, "turning": False, "image": None}
    node |= {"stochastic": True, "text": None}
    nodes = [
        {**node, "id": 0, "parent": None, "step": 0, "kernel": None, "advantage": None},
        {**node, "id": 1, "parent": 0, "step": 1, "value": 0.25, "image": "samples/leaf.png", "turning": True},
        {**node, "id": 2, "parent": 0, "step": 1, "advantage": -0.5, "value": 0.5, "image": "samples/leaf.png"},
        {
            **node,
            "id": 3,
            "parent": 1,
            "step": 2,
            "kernel": "ode",
            "stochastic": False,
            "advantage": None,
            "value": 1.0,
            "image": "samples/leaf.png",
        },
        {**node, "id": 4, "parent": 1, "step": 2, "value": 0.0, "image": "samples/leaf.png"},
    ]
    (tmp_path / "tree.json").write_text(json.dumps({"prompt": "a tree", "nodes": nodes}))
    return tmp_path


def test_the_whole_report(run):
    page = write_report(Run(run)).read_text()
    assert "40.0%" in page and "55.3%" in page and "+9.0%" in page and "300 held-out prompts" in page
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page and "<b>a" not in page and "&lt;tag&gt;" in page
    assert not re.search(r"(src|href)='(?!data:)", page) and "http" not in page
    assert page.count("<path") == 4
    assert [page.count(f"<path class={kind}") for kind in ("up", "down", "ode")] == [2, 1, 1]
    assert page.count("<image") == 4 and page.count("<rect class=turn") == 1 and "0.25" in page


def test_missing_pieces_are_left_out(run):
    for name in ("held_out.json", "tree.json", "config.yaml", "samples/before/scores.jsonl"):
        (run / name).unlink()
        assert "Training" in write_report(Run(run)).read_text()
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="nothing to report"):
        write_report(Run(run))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_pictures_that_changed_come_first(run):
    worse = replace(RECORD, row=1, metadata={"prompt": "now worse", "tag": "counting"})
    gone = replace(RECORD, row=2, metadata={"prompt": "cut short"}, shown={"image": "gone.png"})
    write_records(Run(run).scores_file("before"), [RECORD, worse, gone])
    write_records(Run(run).scores_file("after"), [RECORD, replace(worse, scores={"strict": 0.0, "soft": 0.25})])
    page = write_report(Run(run)).read_text()
    order = [page.index(f"<figcaption>{text}") for text in ("now worse", "&lt;b&gt;a", "cut short")]
    assert order == sorted(order) and "0 of 3 better, 1 worse" in page
    assert page.count("<img") == 4 and page.count("alt='now worse, after training'") == 1


def test_an_interval_with_zero_proves_nothing(run):
    assert "no proven change" not in write_report(Run(run)).read_text()
    change(run / "held_out.json", lambda held_out: held_out.update(ci95=[-0.02, 0.3]))
    assert "no proven change" in write_report(Run(run)).read_text()


def test_a_score_that_is_no_rate_is_not_shown_in_percent(run):
    write_records(Run(run).scores_file("after"), [replace(RECORD, scores={"strict": 0.5, "soft": 0.25})])
    page = write_report(Run(run)).read_text()
    assert "0.400" in page and "0.553" in page and "40.0%" not in page


def test_numbers_that_are_null_or_not_finite_are_skipped(run):
    rows = [{"update": 0, "reward": None, "kl": float("nan")}, {"update": 1, "reward": 0.5, "kl": 0.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(Run(run)).read_text()
    assert "last nan" not in page and "KL to the reference" in page and "gradient norm" not in page


def test_independent_chains_have_a_row_each(run):
    def cut(tree):
        del tree["nodes"][0], tree["nodes"][-1]
        for node, parent in zip(tree["nodes"], (None, None, 1), strict=True):
            node["parent"] = parent

    change(run / "tree.json", cut)
    page = write_report(Run(run)).read_text()
    leaves = re.findall(r"<image x=[\d.]+ y=([\d.]+) width=44", page)
    assert page.count("<path") == 1 and len(set(leaves)) == 2


def test_a_broken_line_is_named(run):
    (run / "metrics.jsonl").write_text('{"update": 0, "rew\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1 is damaged"):
        write_report(Run(run))
