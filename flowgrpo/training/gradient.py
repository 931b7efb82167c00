"""Rewards with the gradient of the samples that transitions lead to.

C transitions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowgrpo.config.run import Config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.objective.batch import LossInputs
from flowgrpo.policies._finite import numbers
from flowgrpo.policies.protocol import Policy
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.laws.matching import distance
from flowgrpo.scoring.scorer import Scorer
from flowgrpo.training.rollout import Transitions


@dataclass(frozen=True)
class RewardGradient:
    """Goes from the states that transitions leave to samples again, with a graph. Each step, and the decoder, is computed again
    in the backward pass, so that what is kept does not grow with the steps but by one state for each."""

    policy: Policy
    scorer: Scorer
    rewards: Mapping[str, RewardConfig]

    @classmethod
    def of(cls, config: Config, policy: Policy, scorer: Scorer) -> "RewardGradient | None":
        """None where no gradient of rewards is asked for. Errors: UserError for a reward that has none."""
        if not config.objective.surrogate.needs_gradient:
            return None
        scorer.require_differentiable()
        return cls(policy, scorer, config.rewards)

    def __call__(self, t: Transitions, reference: Tensor | None = None) -> LossInputs:
        """What the objective sees of these transitions; each is one decision without a density. `reference` [B, ...] is what
        another policy predicts at their states."""
        ones_C1, zeros_C1 = torch.ones_like(t.log_prob), torch.zeros_like(t.log_prob)
        prompts = [t.prompts[row] for row in t.parent.tolist()]
        x, first = self.finished(t, prompts)
        return LossInputs(
            log_prob_CD=zeros_C1,
            log_prob_old_CD=zeros_C1,
            advantage_C1=zeros_C1,
            weight_CD=ones_C1,
            decisions_CD=t.decisions,
            tau_C1=ones_C1,
            dt_C1=ones_C1,
            g_C1=ones_C1,
            kl_reference_CD=None if reference is None else distance(first, reference[t.parent]),
            reward_C1=self._total(self._samples(x, prompts, t.tails))[:, None],
        )

    def finished(self, t: Transitions, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """[C, ...]: the samples' states, at the ends of the tails; and what is predicted at their beginnings."""
        x, predictions = t.states[t.parent], []
        for moves in zip(*t.tails, strict=True):
            x, prediction = checkpoint(self._moved, x, moves, prompts, use_reentrant=False, preserve_rng_state=False)
            predictions.append(prediction)
        return x, predictions[0]

    def _moved(self, x: Tensor, moves: Sequence[Move], prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        """The next states, and what was predicted."""
        (step,) = {move.source for move in moves}
        prediction = numbers(self.policy.predict(x, prompts, step), step)
        return self.policy.law(moves, prompts).sample(x, prediction, [], []), prediction

    def _samples(self, x: Tensor, prompts: Sequence[Prompt], tails: Sequence[tuple[Move, ...]]) -> Samples:
        outputs = None
        if any(self.scorer.cards[label].reads != "latents" for label in self.scorer.trained):
            outputs = checkpoint(self._pixels, x, prompts, use_reentrant=False, preserve_rng_state=False)
        latents = self.policy.latents(x, prompts, [moves[-1].target for moves in tails])
        return Samples([p.text for p in prompts], [p.metadata for p in prompts], [p.index for p in prompts], outputs, latents)

    def _pixels(self, x: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        pixels = self.policy.decode(x, prompts).decoded
        assert isinstance(pixels, Tensor), "`Config` asks for latents"
        return pixels

    def _total(self, samples: Samples) -> Tensor:
        """[C]: the weighted sum."""
        terms = self.scorer.with_gradient(samples).items()
        weighted = [
            self.rewards[label].weight * _clipped(values.to(self.policy.device), self.rewards[label].clip)
            for label, values in terms
        ]
        return torch.stack(weighted).sum(0)


def _clipped(values: Tensor, clip: tuple[float, float] | None) -> Tensor:
    return values.clamp(*clip) if clip else values
