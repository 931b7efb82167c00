"""Answers that are given with the prompts, as terms of a loss.

C prompts; D decisions of an answer.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import fsum

import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt
from flowgrpo.objective import AdvantageConfig
from flowgrpo.objective.auxiliary.answers import Answers
from flowgrpo.objective.batch import LossInputs
from flowgrpo.policies.protocol import Answering, Policy, Posed
from flowgrpo.training.collect import UpdateBlock
from flowgrpo.training.required import answers_of, given
from flowgrpo.training.scored import Scored
from flowgrpo.training.weights import TrainedWeights


class GivenAnswers:
    """The terms of a config that are of given answers. Errors: UserError for an answer that does not fit."""

    def __init__(
        self, terms: Sequence[Answers], policy: Answering, advantage: AdvantageConfig, seed: int, prompts: Sequence[Prompt]
    ) -> None:
        self.terms, self.policy, self.advantage, self.seed = terms, policy, advantage, seed
        self.sums: list[tuple[Tensor, int]] = []
        for term in terms:
            policy.answers(prompts, [given(prompt, term) for prompt in prompts])

    @classmethod
    def of(cls, config: Config, policy: Policy, prompts: Sequence[Prompt]) -> "GivenAnswers | None":
        terms = answers_of(config)
        if not terms:
            return None
        assert isinstance(policy, Answering), "`Config` asks this of a policy"
        return cls(terms, policy, config.advantage, config.seed, prompts)

    def add(self, weights: TrainedWeights, block: UpdateBlock, scored: Scored, update: int, count: int) -> None:
        """Add the gradient of this block's part of the `count` prompts that share an optimizer step."""
        rewards = [scored.trained_on[slot, list(scored.shapes[slot].outcomes)] for slot in block.slots]
        for number, term in enumerate(self.terms):
            shares = [term.weight(row, self.advantage) for row in rewards]
            asked_of = zip(block.rollout.prompts, shares, strict=True)
            prompts = [replace(prompt, begun="") for prompt, share in asked_of if share]
            if not prompts:
                continue
            weight_C = torch.tensor([share for share in shares if share])
            answers = self.policy.answers(prompts, [given(prompt, term) for prompt in prompts])
            keys = [(self.seed, "given", number, update, prompt.index) for prompt in prompts]
            posing = self.policy.posing_by(term.likelihood)
            for posed in posing(answers, prompts, keys, keys):
                asked = [prompt for prompt in prompts for _ in range(posing.together)]
                prediction = posing.predict(posed.states, asked, posed.step)[posed.parent]
                loss_C = _loss(term, posed, prediction, answers)
                weights.backward(term.coefficient * (weight_C.to(loss_C) * loss_C).sum() / count)
                self.sums.append((loss_C.detach().sum(), len(prompts)))

    def metrics(self, processes: Processes) -> dict[str, float]:
        """The mean loss of all that was added since this was asked last."""
        sums = processes.gather([(float(loss), count) for loss, count in self.sums])
        self.sums = []
        return {"given": fsum(loss for loss, _ in sums) / max(1, sum(count for _, count in sums))}


def _loss(term: Answers, posed: Posed, prediction: Tensor, answers: Tensor) -> Tensor:
    """[C]: the mean over the decisions that count."""
    law = posed.law
    log_prob_CD, decisions_CD = law.log_prob(posed.states[posed.parent], prediction, answers), law.decisions(answers, answers)
    ones_C1 = torch.ones_like(law.tau)[:, None]
    inputs = LossInputs(
        log_prob_CD=log_prob_CD,
        log_prob_old_CD=log_prob_CD.detach(),
        advantage_C1=ones_C1,
        weight_CD=ones_C1,
        decisions_CD=decisions_CD,
        tau_C1=law.tau[:, None],
        dt_C1=law.dt[:, None],
        g_C1=law.g[:, None],
    )
    return inputs.mean_D(term.loss(inputs)).squeeze(1)
