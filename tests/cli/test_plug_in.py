"""The README's own reward works everywhere, however it is named."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from flowgrpo.cli.main import main
from flowgrpo.data.prompts import load_prompts

README = (Path(__file__).parents[2] / "README.md").read_text()
USES = ["my_reward.py:brightness", "my_reward:brightness", "bright"]
SKIES = """
def skies(split, count=4, seed=0):
    return [{"prompt": f"a {split} sky, number {i}"} for i in range(count)]
"""
SMALL = ["rollout.prompts_per_update=2", "rollout.group_size=2", "updates=1", "evaluation=null"]


@pytest.fixture(autouse=True)
def theirs(tmp_path, monkeypatch):
    """A folder with the README's my_reward.py, also installed under the entry point `bright`."""
    for name, text in re.findall(r"```python\n# (my_\w+\.py)\n(.*?)```", README, re.DOTALL):
        (tmp_path / name).write_text(text)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    groups = {"rewards": "bright = my_reward:brightness", "prompts": "skies = my_prompts:skies"}
    (info / "entry_points.txt").write_text("".join(f"[flowgrpo.{group}]\n{entry}\n" for group, entry in groups.items()))
    (tmp_path / "my_prompts.py").write_text(SKIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    for module in ("my_reward", "my_prompts"):
        sys.modules.pop(module, None)


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("use", ["skies", "my_prompts:skies", "my_prompts.py:skies"])
def test_it_makes_prompts(use):
    assert [prompt.text for prompt in load_prompts(f"{use}:test?count=2")] == ["a test sky, number 0", "a test sky, number 1"]
    assert load_prompts(use)[3].text == "a train sky, number 3"


@pytest.mark.parametrize("use", USES)
def test_it_scores(use, capsys):
    Path("pictures").mkdir()
    Image.new("RGB", (8, 8), (51, 51, 51)).save("pictures/a.png")
    assert main(["score", "pictures", "--rewards", use, "--out", "out"]) == 0
    assert last_line(capsys)["means"] == {use: pytest.approx(0.2)}


@pytest.mark.parametrize("use", USES)
def test_it_trains(use, capsys):
    assert main(["train", "mini/flow_grpo", *SMALL, f"rewards={{own: {{use: '{use}'}}}}"]) == 0
    run = Path(last_line(capsys)["run"])
    assert 0 < json.loads((run / "metrics.jsonl").read_text())["reward/own"] < 1


@pytest.mark.parametrize("use", USES)
def test_it_evaluates(use, capsys):
    assert main(["eval", "mini_scenes", "quickstart", "--rewards", use, "--limit", "2", "--out", "out"]) == 0
    assert f"| {use} " in capsys.readouterr().out
    figures = json.loads(Path("out/summary.json").read_text())["models"][0]["figures"]
    assert 0 < figures[use] < 1 and "strict" in figures


@contextmanager
def served(use: str) -> Iterator[str]:
    command = [sys.executable, "-m", "flowgrpo", "serve-reward", use, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            yield re.findall(r"http://\S+", server.stdout.readline())[0]
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("use", USES)
def test_it_is_served(use, capsys):
    with served(use) as url:
        assert requests.get(f"{url}/health", timeout=10).json()["name"] == use
        Path("pictures").mkdir()
        to_pil_image(torch.full((3, 8, 8), 0.2)).save("pictures/a.png")
        Path("served.yaml").write_text(f"rewards: {{own: {{url: '{url}'}}}}\n")
        assert main(["score", "pictures", "--rewards", "served.yaml", "--out", "out"]) == 0
    assert last_line(capsys)["means"] == {"own": pytest.approx(0.2)}
