"""How well cheap completions stand in for exact ones: gains of the same transitions, by correlation and by cost.

P prompts, G group, C trained transitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from flowgrpo.config import Config
from flowgrpo.credit import ScoredTree
from flowgrpo.credit.gain import Gain
from flowgrpo.errors import UserError
from flowgrpo.policies.protocol import Policy
from flowgrpo.prompts import Prompt
from flowgrpo.sampling.completion import Completion
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.keys import numpy_generator
from flowgrpo.sampling.rollout import rollout
from flowgrpo.sampling.shape import Shape
from flowgrpo.scored import group_rewards
from flowgrpo.scoring import Scorer

EXACT = Completion()
CANDIDATES = {
    "exact": EXACT,
    **{f"ode, {n} step{'s' if n > 1 else ''}": Completion(steps=n) for n in (1, 2, 3)},
    **{f"dpmpp_2m, {n} steps": Completion(steps=n, kernel=DpmPp2m()) for n in (2, 3)},
    "exact, every 2nd state": Completion(every=2),
}


@dataclass(frozen=True)
class Quality:
    """`gains` and `centred`: correlations with the exact gains, raw and after removing the mean of each prompt's step.

    Costs are per sample (member of a group): network evaluations and scored pictures.
    """

    completion: str
    gains: float
    centred: float
    network_evaluations: float
    pictures: float


def measure(config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer) -> list[Quality]:
    """Every candidate completes the states of the very same trajectories: same prompts, same noise."""
    group_size = config.rollout.group_size
    exact, shape = _gains(config, policy, prompts, scorer, EXACT)
    if exact.std() == 0.0:
        raise UserError("no transition changed the reward; give more --prompts, a stronger noise level or a finer reward")
    steps = np.array([shape.nodes[i].step for i in shape.trained])
    found = []
    for name, completion in CANDIDATES.items():
        gains, own = _gains(config, policy, prompts, scorer, completion)
        found.append(
            Quality(
                name,
                _correlation(gains, exact),
                _correlation(_centred(gains, steps), _centred(exact, steps)),
                own.network_evaluations / group_size,
                len(own.leaves) / group_size,
            )
        )
    return found


def _gains(
    config: Config, policy: Policy, prompts: Sequence[Prompt], scorer: Scorer, completion: Completion
) -> tuple[np.ndarray, Shape]:
    """[P, C] gains under a completion, and the shape that they belong to."""
    plan = config.rollout.plan.model_copy(update={"completion": completion})
    shape = plan.shape(config.policy.steps, config.rollout.group_size, 0, numpy_generator((config.seed, "plan", 0)))
    size, trained = config.rollout.prompts_per_block, list(shape.trained)
    if complaint := Gain().complaint(shape):
        raise UserError(f"this plan has no gains to measure: {complaint}")
    blocks = [
        rollout(policy, prompts[i : i + size], shape, (config.seed, "completions"), config.rollout.micro_batch, False)
        for i in range(0, len(prompts), size)
    ]
    rows = chain.from_iterable(group_rewards(shape, scorer(block.samples)) for block in blocks)
    totals = [np.sum([scorer.weights[label] * values for label, values in row.items()], axis=0) for row in rows]
    return np.stack([Gain().assign(ScoredTree(shape, total)).value[trained] for total in totals]), shape


def _centred(gains: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """[P, C] minus the mean over the group's transitions at the same step, which is what an advantage sees."""
    out = gains.copy()
    for step in np.unique(steps):
        out[:, steps == step] -= gains[:, steps == step].mean(1, keepdims=True)
    return out


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) if a.std() and b.std() else 0.0
