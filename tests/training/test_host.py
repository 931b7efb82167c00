"""States that wait for the update in main memory: the same numbers, and one batch at a time on the device."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowgrpo.cli.main import main
from flowgrpo.config.bill import memory_of
from flowgrpo.config.run import load_config
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._counting import GPU, shapes_only
from flowgrpo.sampling.laws.gaussian import GaussianLaw
from flowgrpo.training.host import ahead
from flowgrpo.training.rollout import Transitions

SMALL = [
    *("rollout.prompts_per_update=4", "rollout.group_size=4", "rollout.micro_batch=8", "updates=2", "evaluation=null"),
    "rewards={soft: {use: 'scene:soft'}, bright: {use: 'bright.py:bright'}}",
]
WAYS = {
    "a reference that is kept over epochs": ["objective.kl={coefficient: 0.04}", "optimizer.epochs=2"],
    "old predictions of a selection": ["objective.surrogate=kl_mask", "selection=[{type: best_worst, keep: 2}]"],
}


@pytest.mark.parametrize("name", WAYS)
def test_numbers_are_those_of_states_on_the_device(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bright.py").write_text("def bright(samples):\n    return samples.images.mean((1, 2, 3)).tolist()\n")
    found = []
    for keep in ("device", "host"):
        assert main(["train", "mini/flow_grpo", *SMALL, *WAYS[name], f"rollout.keep={keep}"]) == 0
        run = Path(json.loads(capsys.readouterr().out.strip().splitlines()[-1])["run"])
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        weights = load_file(run / "checkpoint-000002" / "pytorch_lora_weights.safetensors")
        found.append(([{key: value for key, value in row.items() if "seconds" not in key} for row in rows], weights))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())


def transitions():
    rows, one, prompt = torch.arange(2), torch.ones(2), Prompt(0, "a")
    law, x, places = GaussianLaw(one, one, one, one, one, one, one, one), torch.randn(2, 3), [(0, 1), (0, 2)]
    return Transitions(0, [prompt, prompt], x, rows, places, law, x + 1.0, one[:, None], one[:, None], prediction=x + 2.0)


def test_what_is_large_leaves_the_device_and_comes_back():
    with shapes_only(torch.float32, casts=False):
        made = transitions()
        waiting = made.on_host()
        assert {t.device.type for t in made.tensors()} == {"cuda"} and {t.device.type for t in waiting.tensors()} == {"cpu"}
        assert waiting.log_prob.device.type == waiting.parent.device.type == "cuda" and waiting.reference is None
        assert {t.device for t in waiting.on(GPU).tensors()} == {GPU}


def test_a_selection_takes_from_where_the_states_wait():
    apart = transitions().on(torch.device("meta")).take([1])
    assert {t.device.type for t in apart.tensors()} == {"meta"} and apart.parent.tolist() == [0]


def test_the_next_batch_comes_while_one_is_worked_on():
    asked = []

    class Batch:
        def __init__(self, number):
            self.number = number

        def on(self, device):
            asked.append(self.number)
            return self

        def tensors(self):
            return []

    seen = [(batch.number, list(asked)) for batch in ahead([Batch(i) for i in range(3)], torch.device("cpu"))]
    assert seen == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])]
    assert list(ahead([], torch.device("cpu"))) == []


def test_plan_takes_the_waiting_states_off_the_device(capsys):
    there, away = (memory_of(load_config("sd3.5-medium/flow_grpo", [f"rollout.keep={keep}"])) for keep in ("device", "host"))
    assert there["update"]["latents"] == 48 * away["update"]["latents"]
    assert there["update"]["activations"] == away["update"]["activations"]
