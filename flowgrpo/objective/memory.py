"""What earlier updates left of every prompt, for baselines that compare with the past."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Record = tuple[float, ...]
"""What a baseline keeps of a prompt; only the baseline knows what the numbers are."""


@dataclass(frozen=True)
class Memory:
    """`records` by the label of what was credited and the index of the prompt. It never changes: an update makes another one,
    which counts once the update is whole."""

    records: Mapping[str, Mapping[int, Record]] = field(default_factory=dict)

    def of(self, label: str) -> Mapping[int, Record]:
        return self.records.get(label, {})

    def with_news(self, label: str, news: Mapping[int, Record]) -> Self:
        return type(self)({**self.records, label: {**self.of(label), **news}})

    def state(self) -> dict[str, dict[str, list[float]]]:
        """As JSON has it."""
        return {label: {f"{prompt}": list(record) for prompt, record in rows.items()} for label, rows in self.records.items()}

    @classmethod
    def loaded(cls, state: Mapping[str, Mapping[str, Any]]) -> Self:
        """The inverse of `state`."""
        return cls({label: {int(key): tuple(record) for key, record in rows.items()} for label, rows in state.items()})
