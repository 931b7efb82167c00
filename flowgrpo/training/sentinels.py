"""Sentinels against reward hacking: does what is not trained on part from what is?

U updates; the first W stand against the last W.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowgrpo.config.sections import RewardConfig, SentinelConfig
from flowgrpo.core.rounding import rounding
from flowgrpo.runs.folder import Alarm

IDLE = "optimizer steps"
Ends = tuple[np.ndarray, np.ndarray]


class Sentinels:
    """Follow a run. `raised` are the alarms by label; `stop` says that one of them ends the run."""

    def __init__(self, config: SentinelConfig, rewards: Mapping[str, RewardConfig]) -> None:
        self.config, self.rewards = config, rewards
        self.history: list[Mapping[str, Any]] = []
        self.raised: dict[str, Alarm] = {}

    def see(self, metrics: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that an update raises; rows of metrics that are no update are passed over."""
        if "reward" not in metrics:
            return []
        self.history.append(metrics)
        sentences = alarms(self.history, self.config, self.rewards) | self._idle()
        fresh = {label: Alarm(metrics["update"], words) for label, words in sentences.items() if label not in self.raised}
        self.raised |= fresh
        return list(fresh.values())

    @property
    def idle(self) -> int:
        """The updates without an optimizer step since the last that had one."""
        steps = [row["optimizer_steps"] for row in self.history]
        return next((i for i, count in enumerate(reversed(steps)) if count), len(steps))

    def _idle(self) -> dict[str, str]:
        if self.idle < self.config.idle:
            return {}
        return {IDLE: f"{self.idle} updates in a row had no optimizer step: {why_idle(self.history[-1])}"}

    @property
    def stop(self) -> bool:
        return self.config.stop and bool(self.raised)


def why_idle(metrics: Mapping[str, Any]) -> str:
    """Why an update trained nothing."""
    if metrics["advantage/zero_variance_groups"] == 1.0:
        return "in every group all samples have the same reward"
    if not metrics["advantage/trained_share"]:
        return "no transition was kept to train on"
    return "scaled gradients overflow; set policy.dtype to bf16"


def alarms(history: Sequence[Mapping[str, Any]], config: SentinelConfig, rewards: Mapping[str, RewardConfig]) -> dict[str, str]:
    """A sentence for each watched label that gives cause; `history` are the metrics of the updates so far."""
    if len(history) < 2 * config.window:
        return {}
    ends = {label: _ends([row[f"reward/{label}"] for row in history], config.window) for label in rewards}
    return _parted(ends, config, rewards) | _drifted(ends, config)


def _parted(ends: Mapping[str, Ends], config: SentinelConfig, rewards: Mapping[str, RewardConfig]) -> dict[str, str]:
    rises = {label: np.sign(reward.weight) * _rise(*ends[label]) for label, reward in rewards.items() if reward.weight}
    best = max(rises, key=lambda label: rises[label])
    if rises[best] <= config.sigmas:
        return {}
    return {
        label: f"'{label}' falls ({_change(ends[label])}) while '{best}' improves ({_change(ends[best])})"
        for label in config.panel
        if _rise(*ends[label]) < -config.sigmas
    }


def _drifted(ends: Mapping[str, Ends], config: SentinelConfig) -> dict[str, str]:
    means = {label: [end.mean() for end in ends[label]] for label in config.drift}
    return {
        label: f"'{label}' has drifted by more than {config.drift[label]:.0%} ({_change(ends[label])})"
        for label, (first, last) in means.items()
        if abs(last - first) > max(config.drift[label] * abs(first), rounding(np.array([first, last])))
    }


def _ends(values: Sequence[float], window: int) -> Ends:
    return np.array(values[:window]), np.array(values[-window:])


def _rise(first: np.ndarray, last: np.ndarray) -> float:
    """Welch's statistic: the change of the mean in standard errors; 0 where the means are equal but for rounding."""
    rise = last.mean() - first.mean()
    if abs(rise) <= rounding(np.concatenate([first, last])):
        return 0.0
    error = np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / len(first))
    return float(rise / error) if error > 0 else float(np.sign(rise) * np.inf)


def _change(ends: Ends) -> str:
    return f"{ends[0].mean():.3g} to {ends[1].mean():.3g}"
