"""What a process holds where weights are shared out, beside where each has all: run with `torchrun --nproc-per-node 2`.

All weights of small models are trained for one update on CPUs. Counted are the tensors of parameters, gradients and moments.
"""

import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from flowgrpo.config.run import Config, load_config
from flowgrpo.core.parts import own
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import load_prompts
from flowgrpo.policies._sharded import Sharding
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.trainer import Trainer

SMALL = ["evaluation=null", "ema=null", "rollout.prompts_per_update=2", "rollout.group_size=4", "rollout.micro_batch=4"]
MODELS = {
    "mini-sd3": (["mini", "flow_grpo"], ["policy.lora=null", "optimizer.steps_per_update=1"]),
    "mini-mdlm": (["mini-mdlm", "trajectory"], ["policy.lora=null", "optimizer.steps_per_update=1"]),
}
MIB = 2**20


def held(config: Config, processes: Processes, shared: bool) -> dict[str, float]:
    """MiB of this process after an update."""
    processes.lockstep = None
    device, seed = processes.device, config.seed
    if shared:
        policy = config.policy.build_sharded(device, seed, Sharding(processes, processes.count))
    else:
        policy = config.policy.build(device, seed)
    trainer = Trainer(config, policy, load_prompts(config.rollout.prompts), Scorer(config.rewards), processes)
    gradients: list[int] = []

    def noted(optimizer: Optimizer, *_: object) -> None:
        grads = (p.grad for group in optimizer.param_groups for p in group["params"])
        gradients.append(sum(own(grad).nbytes for grad in grads if grad is not None))

    trainer.weights.optimizer.register_step_pre_hook(noted)
    trainer.update()
    moments = [value for state in trainer.weights.optimizer.state.values() for value in state.values()]
    weights = sum(own(p).nbytes for p in policy.trainable().values())
    return {
        "parameters": weights / MIB,
        "gradients": gradients[0] / MIB,
        "optimizer": sum(own(m).nbytes for m in moments) / MIB,
    }


def main() -> None:
    processes = Processes.of(Accelerator(cpu=True))
    if processes.is_main:
        print("| model, MiB of a process | parameters | gradients | optimizer |\n|---|---|---|---|")
    for name, (recipe, overrides) in MODELS.items():
        for shared in (False, True):
            config = load_config(recipe, [*SMALL, *overrides, f"distributed.type={'shard' if shared else 'replicate'}"])
            mine = held(config, processes, shared)
            largest = {kind: max(row[kind] for row in processes.gather([mine])) for kind in mine}
            if processes.is_main:
                how = f"shared out over {processes.count}" if shared else "all on each"
                print(f"| {name}, {how} |", " | ".join(f"{value:.2f}" for value in largest.values()), "|")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
