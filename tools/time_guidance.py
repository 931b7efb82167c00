"""Time a train step with `guidance_gradient` full and conditional: `python tools/time_guidance.py [--states N] [--repeats N]`.

mini-sd3 with guidance on, one thread. A step is the prediction for N states, their log-probs, and the gradient; `conditional` is
timed as it is in an update's first optimizer step too, where the rollout has kept the other side. All take turns, and the fastest
step of each counts.
"""

import argparse
import sys
import time

import torch
from torch import Tensor

from flowgrpo.data.prompts import Prompt
from flowgrpo.policies.diffusers import AttentionLora, DiffusersConfig
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.plans import Draw
from flowgrpo.sampling.plans.fixed import FixedSteps
from flowgrpo.training.rollout import Transitions, rollout

CALL = {"height": 32, "width": 32, "guidance_scale": 4.5, "max_sequence_length": 1}
PROMPT = Prompt(0, "a red circle")


class Steps:
    """Train steps of one choice, all on the same transitions."""

    def __init__(self, gradient: str, states: int) -> None:
        lora = AttentionLora(rank=32, alpha=64)
        config = DiffusersConfig(model="asset:mini-sd3", steps=5, call=CALL, lora=lora, guidance_gradient=gradient)
        self.policy: DiffusersPolicy = config.build(torch.device("cpu"), seed=0)
        shape = FixedSteps(steps=(0,), kernel=FlowSde()).shape(Draw(5, states))
        block = rollout(self.policy, [PROMPT], [shape], (0, 0), states, keep_predictions=False, keep_against=True)
        self.transitions: Transitions = block.transitions[0]

    def seconds(self, against: Tensor | None = None) -> float:
        t, begin = self.transitions, time.perf_counter()
        asked = t.states, t.prompts, t.step
        prediction = self.policy.predict(*asked) if against is None else self.policy.predict_from(*asked, against)
        t.law.log_prob(t.states[t.parent], prediction[t.parent], t.next_states).mean().backward()
        return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("states", 48), ("repeats", 20)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    full, conditional = (Steps(gradient, given.states) for gradient in ("full", "conditional"))
    kept = conditional.transitions.against
    taken = [(full.seconds(), conditional.seconds(), conditional.seconds(kept)) for _ in range(given.repeats)]
    slow, fast, fastest = (min(times) for times in zip(*taken, strict=True))
    print(f"full {slow:.3f} s, conditional {fast:.3f} s, ratio {slow / fast:.2f}")
    print(f"conditional with what the rollout kept {fastest:.3f} s, ratio {slow / fastest:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
