"""What a rollout with merged adapters would do to the first log-ratio: `python tools/merged_adapters.py`.

mini-sd3 with a LoRA of rank 32 that has left 0, six random steps, one thread. The same states are evaluated as the update does,
with adapters beside the weights, and with adapters added to them. Printed for both types: the largest log-ratio, the part of it
that `OnPolicyCheck` allows for rounding, and the seconds of the fastest of some passes.
"""

import sys
import time

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.all import AllSteps
from flowgrpo.training.on_policy import tolerance
from flowgrpo.training.rollout import Transitions, rollout

CALL = {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 1}
PROMPTS = [Prompt(i, text) for i, text in enumerate(("a red circle", "a blue square", "two green circles"))]
STEPS, GROUP, REPEATS = 6, 8, 5


def built(dtype: str) -> DiffusersPolicy:
    lora = AttentionLora(rank=32, alpha=64)
    config = DiffusersConfig(model="asset:mini-sd3", steps=STEPS, call=CALL, lora=lora, dtype=dtype)
    policy: DiffusersPolicy = config.build(torch.device("cpu"), seed=0)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(weight.data, std=0.01, generator=torch.Generator().manual_seed(1))
    return policy


def evaluated(policy: DiffusersPolicy, transitions: list[Transitions]) -> tuple[list[Tensor], float]:
    """The predictions, and the seconds that they took."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        found = [policy.predict(t.states, t.prompts, t.step) for t in transitions]
        seconds.append(time.perf_counter() - begin)
    return found, min(seconds)


@torch.no_grad()
def row(dtype: str) -> str:
    policy = built(dtype)
    shape = AllSteps(kernel=FlowSde(noise_level=0.7)).shape(Draw(STEPS, GROUP))
    transitions = rollout(policy, PROMPTS, [shape] * 3, (0, 0), 3 * GROUP, keep_predictions=False).transitions
    beside, slow = evaluated(policy, transitions)
    for layer in (module for module in policy.pipe.transformer.modules() if isinstance(module, BaseTunerLayer)):
        layer.merge()
    merged, fast = evaluated(policy, transitions)
    ratios, shares = [], []
    for t, one, other in zip(transitions, beside, merged, strict=True):
        x = t.states[t.parent]
        log_prob, log_prob_merged = (t.law.log_prob(x, v[t.parent], t.next_states) for v in (one, other))
        ratio = (log_prob - log_prob_merged).abs()
        ratios.append(float(ratio.max()))
        shares.append(float((ratio / tolerance(t.law, x, one[t.parent], t.next_states, policy.unit_roundoff)).max()))
    return (
        f"{dtype}: log-ratio up to {max(ratios):.1e}, {max(shares):.0%} of what rounding explains; "
        f"{slow:.3f} s beside, {fast:.3f} s merged"
    )


def main() -> int:
    torch.set_num_threads(1)
    print(*map(row, ("fp32", "bf16")), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
