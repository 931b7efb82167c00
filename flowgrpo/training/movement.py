"""How far the policy has moved since a prompt's last visit, for baselines that forget by it.

P prompts of a block; D decisions of an answer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.core.processes import Processes
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies._finite import numbers
from flowgrpo.policies.protocol import Answering, Policy
from flowgrpo.sampling.likelihood.one_step import OneStep
from flowgrpo.training.collect import UpdateBlock
from flowgrpo.training.rollout import leaves_of


@dataclass(frozen=True)
class Answer:
    """An outcome, and what the policy that made it said of it: `log_prob` [D] and `decisions` [D], as in `Law`."""

    outcome: Tensor
    log_prob: Tensor
    decisions: Tensor


class Movement:
    """Keeps the last answer to every prompt, the first of its group. A visit has moved by the mean over the answer's ids of
    |log p now - log p then|, each id on an empty canvas: one network evaluation for the last answer and one for the next.

    `answers` are by the index of the prompt; `evaluations` are this process's so far.
    """

    def __init__(self, policy: Answering, device: torch.device, processes: Processes, seed: int) -> None:
        self.posing = policy.posing_by(OneStep(prompt_mask=0.0))
        self.device, self.processes, self.seed = device, processes, seed
        self.answers: dict[int, Answer] = {}
        self.fresh: dict[int, Answer] = {}
        self.evaluations = 0

    @classmethod
    def of(cls, config: Config, policy: Policy, processes: Processes) -> "Movement | None":
        """None where nobody asks."""
        if not config.advantage.forgets_by_movement:
            return None
        assert isinstance(policy, Answering), "`Config` asks this of a policy"
        return cls(policy, policy.device, processes, config.seed)

    def __call__(self, blocks: Iterable[UpdateBlock]) -> dict[int, float]:
        """How far it has moved, in every process, by the index of each prompt that had an answer. The new answers wait for
        `take_in`."""
        rows = self.processes.gather([row for block in blocks for row in self._of_block(block)])
        self.fresh = {index: answer for index, answer, _ in rows}
        return {index: moved for index, _, moved in rows if moved is not None}

    def _of_block(self, block: UpdateBlock) -> list[tuple[int, Answer, float | None]]:
        """[(index of the prompt, its new answer, how far it has moved)]"""
        rolled = block.rollout
        rows = {place: row for row, place in enumerate(leaves_of(rolled.shapes))}
        first = [rows[group, shape.outcomes[0]] for group, shape in enumerate(rolled.shapes)]
        news = self._answers(rolled.finals[first], rolled.prompts)
        known = [prompt for prompt in rolled.prompts if prompt.index in self.answers]
        before = [self.answers[prompt.index] for prompt in known]
        now = self._answers(torch.stack([answer.outcome for answer in before]).to(self.device), known) if known else []
        moved = {p.index: _distance(a.log_prob, b) for p, a, b in zip(known, now, before, strict=True)}
        return [(p.index, answer, moved.get(p.index)) for p, answer in zip(rolled.prompts, news, strict=True)]

    @torch.no_grad()
    def _answers(self, outcomes: Tensor, prompts: list[Prompt]) -> list[Answer]:
        """These outcomes as the policy finds them now."""
        keys = [(self.seed, "movement", prompt.index) for prompt in prompts]
        (posed,) = self.posing(outcomes, prompts, keys, keys)
        prediction = numbers(self.posing.predict(posed.states, prompts, posed.step), posed.step)[posed.parent]
        self.evaluations += len(posed.states)
        log_prob = posed.law.log_prob(posed.states[posed.parent], prediction, outcomes)
        columns = outcomes, log_prob, posed.law.decisions(outcomes, outcomes)
        return [Answer(*row) for row in zip(*(column.cpu() for column in columns), strict=True)]

    def take_in(self) -> None:
        """Keep the answers that were measured last."""
        self.answers |= self.fresh
        self.fresh = {}

    def state(self) -> dict[str, Tensor]:
        if not self.answers:
            return {}
        columns = {name: torch.stack([vars(answer)[name] for answer in self.answers.values()]) for name in Answer.__annotations__}
        return {"prompt": torch.tensor([*self.answers]), **columns}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        rows = zip(*(state[name] for name in Answer.__annotations__), strict=True) if state else ()
        self.answers = dict(zip(state["prompt"].tolist() if state else [], (Answer(*row) for row in rows), strict=True))


def _distance(log_prob: Tensor, before: Answer) -> float:
    """The mean over the decisions of an answer."""
    return float(((log_prob - before.log_prob).abs() * before.decisions).sum() / before.decisions.sum())
