"""Several rewards become one number: normalised, clipped, weighted, gated.

P groups with N nodes; values are NaN where a node was not scored.
"""

from collections.abc import Mapping
from math import prod

import numpy as np

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.rounding import rounding
from flowgrpo.scoring.card import EVERYTHING, UNSTATED, Card


def summands(rewards: Mapping[str, np.ndarray], configs: Mapping[str, RewardConfig]) -> dict[str, np.ndarray]:
    """[P, N] for each reward that is no gate: normalised within its group, clipped, times all gates. What is trained is their
    weighted sum.

    Under a gate nothing may be negative, because a closed gate would help it. A reward without a weight, which scores samples
    only, counts as 0 where trained ones value a state on its way.
    """
    shaped = {label: _shaped(values, configs[label]) for label, values in rewards.items()}
    shaped = {label: values if configs[label].weight else np.nan_to_num(values) for label, values in shaped.items()}
    gates = [label for label in shaped if configs[label].gate]
    terms = {label: values for label, values in shaped.items() if label not in gates}
    if not gates:
        return terms
    for label, values in shaped.items():
        if (worst := np.nanmin(configs[label].weight * values)) < 0:
            raise UserError(
                f"reward '{label}' adds {worst:g} to a sum that '{gates[0]}' gates: a closed gate would help it; set "
                f"rewards.{label}.clip to [0, ...], or give the gate a weight instead"
            )
    factor = np.prod([shaped[label] for label in gates], axis=0)
    return {label: values * factor for label, values in terms.items()}


def weighted_sum(terms: Mapping[str, np.ndarray], configs: Mapping[str, RewardConfig]) -> np.ndarray:
    return np.sum([configs[label].weight * values for label, values in terms.items()], axis=0)


def sum_range(cards: Mapping[str, Card], configs: Mapping[str, RewardConfig]) -> tuple[float, float] | None:
    """What the weighted sum may be; None where a card does not say."""
    counting = {label: config for label, config in configs.items() if config.weight or config.gate}
    if any(cards[label] == UNSTATED and not config.clip for label, config in counting.items()):
        return None
    low = high = 0.0
    for label, config in counting.items():
        if not config.gate:
            least, most = sorted(config.weight * end for end in _range(cards[label], config))
            low, high = low + least, high + most
    if gates := [_range(cards[label], config)[1] for label, config in counting.items() if config.gate]:
        low, high = (prod(gates) * end if end else 0.0 for end in (min(low, 0.0), max(high, 0.0)))
    return low, high


def _range(card: Card, config: RewardConfig) -> tuple[float, float]:
    return config.clip or (card.range if config.normalise == "none" else EVERYTHING)


def sum_rounding(terms: Mapping[str, np.ndarray], configs: Mapping[str, RewardConfig]) -> np.ndarray:
    """[P]: how far apart the weighted sums of a group may be that are equal but for rounding; large terms may cancel."""
    return np.sum([abs(configs[label].weight) * rounding(values, axis=1) for label, values in terms.items()], axis=0)


def _shaped(values: np.ndarray, config: RewardConfig) -> np.ndarray:
    if config.normalise == "group":
        mean, spread = (statistic(values, axis=1, keepdims=True) for statistic in (np.nanmean, np.nanstd))
        least = rounding(values, axis=1)[:, None]
        values = np.where(spread > least, (values - mean) / np.maximum(spread, least), 0.0 * values)
    return np.clip(values, *config.clip) if config.clip else values
