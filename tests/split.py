"""Train tiny random models in teams of processes that divide the sequences: `torchrun tests/split.py TASK.json`.

The task: the folder `out`, folders of `models` by name, how many processes are a `team`, and what to do. To `out` are written, of
each of its `networks` a gradient, of each of its `cases` what an update ends with.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from flowgrpo.core.errors import UserError
from flowgrpo.core.keys import torch_generator
from flowgrpo.core.processes import Processes
from flowgrpo.policies import tiny
from flowgrpo.policies._weights import digest_of_weights
from flowgrpo.policies.tiny.asked import config_of, prompt_of
from trainers import picture_trainer

NETWORKS = ["chronoedit", "flux", "flux2", "qwenimage", "wan", "wan22_5b", "wan_i2v"]
"""Tiny pipelines whose networks can be divided."""
COMMON = ["optimizer.eps=1e-2", "rollout.group_size=4", "rollout.micro_batch=4"]
KL = ["objective.kl.coefficient=0.1", "ema={decay: 0.5}"]
CASES = {
    "wan": ("wan", ["policy.lora=null", *KL, "policy.runtime.gradient_checkpointing=2"]),
    "wan22": ("wan22", [*KL, "policy.dtype=bf16"]),
    "flux": ("flux", [*KL, "rollout.prompts_per_update=3", "optimizer.steps_per_update=3", "old={rate: 0.5}"]),
}
PROMPTS = ["1+2=:", "7:", "4+4=:"]
CPU = torch.device("cpu")


class Counted:
    """A reward that knows how many samples it was asked of."""

    def __init__(self):
        self.asked = 0

    def __call__(self, samples):
        self.asked += len(samples)
        pixels = samples.videos if samples.kind == "videos" else samples.images
        return pixels.flatten(1).mean(1).tolist()


def trainer_of(case, models, reward, **named):
    of, more = CASES[case]
    return picture_trainer(models, *COMMON, *more, of=of, prompts=PROMPTS, reward=reward, **named)


def gradients(name, folder, out, processes=None):
    """(what is predicted, the gradient of a linear function of it by parameter) for two samples, all weights."""
    entry = tiny.pipelines()[name]
    config = config_of(entry, folder).model_copy(update={"lora": None})
    policy = config.build_split(CPU, 0, processes) if processes else config.build(CPU, 0)
    prompts = [prompt_of(entry, out)] * 2
    predicted = policy.predict(policy.start(prompts, [("k", 0), ("k", 1)]), prompts, 1)
    direction = torch.randn(predicted.shape, generator=torch_generator(("direction",)))
    (predicted * direction).sum().backward()
    sums = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in policy.trainable().items()}
    if processes:
        processes.sum(list(sums.values()))
    return predicted.detach(), sums


REFUSED = {
    "a network that was not compared": ("sd3", 2, {}, "not one of the networks whose sequences can be divided"),
    "a control net": ("qwen_controlnet", 2, {}, "has a controlnet, which answers for whole sequences"),
    "a cache of the first step": ("flux2_klein_kv", 2, {}, "keeps of its first step whole sequences"),
    "a text of 15 tokens": ("flux", 2, {"max_sequence_length": 15}, "2 processes can't divide evenly"),
    "two heads": ("flux", 4, {}, "2 attention heads, which 4 processes can't divide"),
    "an attention of another kind": (
        "flux",
        2,
        {"attention": "_native_math"},
        "'_native_math' is not made for divided sequences",
    ),
}
"""By what is wrong: the pipeline, the team, changes of its call or its attention, and words of the sentence."""


def refusal(case, models, out):
    """What a team that can't is told."""
    name, team, changes, _ = REFUSED[case]
    entry, changes = tiny.pipelines()[name], {**changes}
    config = config_of(entry, Path(models[name]))
    runtime = config.runtime.model_copy(update={"attention": changes.pop("attention", None)})
    config = config.model_copy(update={"call": {**config.call, **changes}, "runtime": runtime})
    prompts = [prompt_of(entry, out)]
    try:
        policy = config.build_split(CPU, 0, Processes.of(Accelerator(cpu=True), team))
        policy.predict(policy.start(prompts, [("k", 0)]), prompts, 0)
    except UserError as error:
        return str(error)
    return "it is not refused"


def pictures(policy, prompts):
    """What held-out prompts would be answered with, by content."""
    samples = policy.generate(prompts, [0] * len(prompts), policy.config.steps)
    return digest_of_weights({"pictures": samples.decoded})


def main(file):
    task = json.loads(Path(file).read_text())
    out = Path(task["out"])
    processes = Processes.of(Accelerator(cpu=True), task["team"])
    number = torch.distributed.get_rank()
    for name in task["networks"]:
        folder = out / f"{name} of {number}"
        folder.mkdir()
        predicted, sums = gradients(name, Path(task["models"][name]), folder, processes)
        if processes.is_main:
            save_file({"predicted": predicted.contiguous(), **sums}, out / f"{name}.safetensors")
    for case in task["cases"]:
        reward = Counted()
        trainer = trainer_of(case, task["models"], reward, processes=processes)
        metrics, _, scored = trainer.update()
        parameters = {name: value.detach() for name, value in trainer.weights.parameters.items()}
        same = {"weights": digest_of_weights(parameters), "pictures": pictures(trainer.policy, trainer.order(0, {}))}
        told = processes.gather_all([{"asked": reward.asked, "team": processes.rank, "same": same}])
        if processes.is_main:
            save_file(parameters, out / f"{case} trained.safetensors")
            rows = {"metrics": metrics, "processes": told, "total": scored.total.tolist()}
            (out / f"{case}.json").write_text(json.dumps(rows))
    for case in task["refused"]:
        folder = out / f"{case} {number}"
        folder.mkdir()
        (folder / "said").write_text(refusal(case, task["models"], folder))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
