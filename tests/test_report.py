"""report.html: one file that opens offline, whatever the run folder holds."""

import json
import re

import pytest
from PIL import Image

from flowgrpo.errors import UserError
from flowgrpo.runs.report import write_report


@pytest.fixture
def run(tmp_path):
    (tmp_path / "samples" / "before").mkdir(parents=True)
    for name in ("samples/before/000.png", "samples/leaf.png"):
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    rows = [{"update": u, "reward": 0.1 * u, "reward/strict": 0.2, "seconds/rollout": 1.5} for u in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"update": 1, "held_out/strict": 0.3}]))
    (tmp_path / "config.yaml").write_text("seed: 0 # <tag>\n")
    by_tag = {"counting": {"before": 0.1, "after": 0.2, "n": 5}}
    held_out = {"metric": "strict", "before": 0.4, "after": 0.553, "ci95": [0.09, 0.21], "n": 300, "by_tag": by_tag}
    (tmp_path / "held_out.json").write_text(json.dumps(held_out))
    side = {"image": "before/000.png", "scores": {"strict": 1.0, "soft": 0.25}}
    (tmp_path / "samples" / "index.json").write_text(json.dumps([{"prompt": "<b>a & b</b>", "seed": 1, "before": side, "after": side}]))
    node = {"kernel": "flow_sde", "trained": True, "reward": None, "advantage": 0.5, "image": None}
    nodes = [
        {**node, "id": 0, "parent": None, "step": 0, "kernel": None, "advantage": None},
        {**node, "id": 1, "parent": 0, "step": 1},
        {**node, "id": 2, "parent": 0, "step": 1, "advantage": -0.5, "reward": 0.5, "image": "samples/leaf.png"},
        {**node, "id": 3, "parent": 1, "step": 2, "kernel": "ode", "advantage": None, "reward": 1.0, "image": "samples/leaf.png"},
        {**node, "id": 4, "parent": 1, "step": 2, "reward": 0.0, "image": "samples/leaf.png"},
    ]
    (tmp_path / "tree.json").write_text(json.dumps({"prompt": "a tree", "nodes": nodes}))
    return tmp_path


def test_the_whole_report(run):
    page = write_report(run).read_text()
    assert "40.0%" in page and "55.3%" in page and "+9.0%" in page and "300 held-out prompts" in page
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in page and "<b>a" not in page and "&lt;tag&gt;" in page
    assert not re.search(r"(src|href)='(?!data:)", page) and "http" not in page
    assert page.count("<path") == 4
    assert [page.count(f"<path class={kind}") for kind in ("up", "down", "ode")] == [2, 1, 1]
    assert page.count("<image") == 3


def test_missing_pieces_are_left_out(run):
    for name in ("held_out.json", "tree.json", "config.yaml", "samples/index.json"):
        (run / name).unlink()
        assert "Training" in write_report(run).read_text()
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="nothing to report"):
        write_report(run)
