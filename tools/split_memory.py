"""What a process keeps for the backward pass where a team divides the sequence: run with `torchrun --nproc-per-node 2`.

One prediction by mini-wan, for clips of several lengths, by each process alone and by all of them together. Counted are the bytes
of all tensors that autograd saves, those that share memory once, and of weights none.
"""

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from flowgrpo.config.run import load_config
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import load_prompts
from flowgrpo.policies.protocol import Policy

FRAMES = (3, 9, 15)
SAMPLES = 4
MIB = 2**20


def saved(policy: Policy, prompt: str) -> float:
    """MiB of one prediction."""
    weights = {p.untyped_storage().data_ptr() for module in vars(policy)["modules"].values() for p in module.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    prompts = load_prompts(prompt)[:1] * SAMPLES
    states = policy.start(prompts, [("memory", i) for i in range(SAMPLES)])
    with saved_tensors_hooks(note, lambda tensor: tensor):
        prediction = policy.predict(states, prompts, 0)
    assert prediction.requires_grad
    return sum(size for _, size in kept.values()) / MIB


def main() -> None:
    accelerator = Accelerator(cpu=True)
    alone, together = (Processes.of(accelerator, team) for team in (1, accelerator.num_processes))
    if alone.is_main:
        print(f"| frames | each alone, MiB | {together.team} together, MiB of each | ratio |\n|---|---|---|---|")
    for frames in FRAMES:
        config = load_config(["mini-wan", "flow_grpo"], ["policy.lora=null", f"policy.call.num_frames={frames}"])
        whole = saved(config.policy.build(alone.device, config.seed), config.rollout.prompts)
        part = saved(config.policy.build_split(alone.device, config.seed, together), config.rollout.prompts)
        largest = max(alone.gather([part]))
        if alone.is_main:
            print(f"| {frames} | {whole:.2f} | {largest:.2f} | {largest / whole:.2f} |")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
