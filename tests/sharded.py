"""Train tiny random models in processes that share the weights out: `torchrun tests/sharded.py TASK.json`.

The task: the folder `out`, folders of models by name, and of a `given` case the checkpoint of a lone process. What each case ends
with is written to `out`.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from flowgrpo.core.lockstep import Lockstep
from flowgrpo.core.parts import own
from flowgrpo.core.processes import Processes
from flowgrpo.policies._sharded import Sharding
from flowgrpo.runs.checkpoint import load_state, save_state
from trainers import picture_trainer, roll_out_here, text_trainer, with_rollers

COMMON = ["optimizer.eps=1e-2", "rollout.group_size=4", "rollout.micro_batch=4"]
UNEQUAL = ["rollout.prompts_per_update=3"]
"""One process has two groups, and the other one."""
ALONE = [*UNEQUAL, "optimizer.steps_per_update=3"]
"""In each step a process has nothing to do."""
ONE = ["rollout.prompts_per_update=1"]
"""A process has nothing to do from the beginning."""
AGAIN = ["policy.runtime.gradient_checkpointing=2"]
KL = ["objective.kl.coefficient=0.1", "ema={decay: 0.5}"]
HALF = "half"
"""The update goes back through one side of guidance, and takes the other from its rollout."""
FLEET = "fleet"
"""Another process rolls out for each."""
PICTURES = {
    "sd3": ("sd3", [*UNEQUAL, *AGAIN]),
    "flux": ("flux", [*ALONE, *KL, "old={rate: 0.5}"]),
    "wan": ("wan", ["policy.lora=null", *ONE, *KL]),
    "wan22": ("wan22", ["policy.dtype=bf16"]),
    HALF: ("sd3", [*UNEQUAL, "policy.guidance_gradient=conditional", "policy.call.guidance_scale=4.5"]),
    FLEET: ("sd3", ["policy.lora=null", *UNEQUAL, *KL, "old={rate: 0.5}"]),
}
PROMPTS = ["1+2=:", "7:", "4+4=:"]


def brightness(samples):
    pixels = samples.videos if samples.kind == "videos" else samples.images
    return pixels.flatten(1).mean(1).tolist()


def trainer_of(case, task, **named):
    shared = ["distributed.type=shard"] if "sharding" in named else []
    if case in PICTURES:
        of, more = PICTURES[case]
        trainer = picture_trainer(task["models"], *COMMON, *shared, *more, of=of, prompts=PROMPTS, reward=brightness, **named)
        if case == HALF:
            trainer.learner.check = None
        return trainer
    more = [*ALONE, "policy.lora=null", "policy.gradient_checkpointing=true"]
    return text_trainer(task["models"]["mdlm"], *COMMON, *shared, *more, prompts=PROMPTS, **named)


def held(trainer):
    """Bytes that this process has of the networks' weights and of the moments of those that are trained."""
    moments = [value for state in trainer.weights.optimizer.state.values() for value in state.values()]
    networks = trainer.policy.modules if "modules" in vars(trainer.policy) else {"model": trainer.policy.model}
    weights = [p for network in networks.values() for p in network.parameters()]
    return {"weights": sum(own(w).nbytes for w in weights), "moments": sum(own(m).nbytes for m in moments)}


def main(file):
    task = json.loads(Path(file).read_text())
    out = Path(task["out"])
    processes = Processes.of(Accelerator(cpu=True))
    roll_out_here(setattr)
    for case in task["cases"]:
        processes.lockstep = None
        sharding = Sharding(processes, task["cards"])
        trainer = trainer_of(case, task, processes=processes, sharding=sharding)
        if case == FLEET:
            trainer = with_rollers(trainer, count=2)
        if case in task["given"]:
            trainer.load(*load_state(Path(task["given"][case]), trainer.kinds))
        metrics, _, scored = trainer.update()
        told = processes.gather([held(trainer)])
        tensors, facts = trainer.state()
        save_state(out / case / "checkpoint" / "state", tensors, facts, processes)
        write = trainer.policy.export()
        if processes.is_main:
            (out / case / "export").mkdir()
            write(out / case / "export")
            (out / case / "told.json").write_text(json.dumps({"metrics": metrics, "held": told, "total": scored.total.tolist()}))
    assert isinstance(processes.lockstep, Lockstep) and torch.distributed.is_initialized()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
