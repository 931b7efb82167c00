"""Rewards that score in processes of their own, beside the rollout."""

from dataclasses import replace
from typing import Any

import torch

from flowgrpo.config.sections import FleetConfig, RewardConfig
from flowgrpo.core.processes import Processes
from flowgrpo.core.section import checked
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.scoring.asking import ask
from flowgrpo.scoring.scorer import Reward, find_reward, load_reward
from flowgrpo.training.fleet.on_ray import OnRay, cards, packed, unpacked
from flowgrpo.training.fleet.pool import Pool


class Judges:
    """A reward as this trainer's share of its processes: whoever of them has nothing to do is asked."""

    def __init__(self, label: str, reward: RewardConfig, fleet: FleetConfig, trainers: Processes) -> None:
        actors = fleet.rewards[label]
        assert reward.use is not None, "`FleetConfig` refuses a reward with a server"
        card = find_reward(reward.use)[1]
        self.card = replace(card, check=_check) if card.check else card
        gpus = cards(actors.gpus, trainers.device)
        kind, tree = f"actor of reward '{label}'", reward.model_dump(mode="json")
        self.count = trainers.part(actors.actors)
        self.pool: Pool[bytes, Any] = Pool(
            kind, lambda number: OnRay(kind, Judge, (label, tree), gpus, fleet.patience), self.count
        )

    def __call__(self, samples: Samples) -> list[float]:
        scores: list[float] = self.pool.submit(packed(samples)).result()
        return scores

    def check(self, prompt: Prompt) -> None:
        """Errors: UserError for a prompt that it can't use."""
        self.pool.submit(packed(prompt)).result()

    def close(self) -> None:
        self.pool.close()


def _check(reward: Reward, prompt: Prompt) -> None:
    assert isinstance(reward, Judges)
    reward.check(prompt)


class Judge:
    """Scores samples, in a process of its own; of a prompt it says whether it can be used."""

    def __init__(self, label: str, tree: dict[str, Any]) -> None:
        config = checked(RewardConfig, tree, f"rewards.{label}")
        assert config.use is not None
        self.label = label
        self.reward, self.card = load_reward(config.use, config.arguments), find_reward(config.use)[1]

    def answer(self, asked: bytes) -> list[float]:
        content = unpacked(asked, torch.device("cpu"))
        if isinstance(content, Prompt):
            assert self.card.check
            self.card.check(self.reward, content)
            return []
        scores: list[float] = ask(f"reward '{self.label}'", self.reward, content).tolist()
        return scores
