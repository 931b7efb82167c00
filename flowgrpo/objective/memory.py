"""What earlier updates left of every prompt, for baselines that compare with the past."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

Record = tuple[float, ...]
"""What a baseline keeps of a prompt; only the baseline knows what the numbers are."""


@dataclass(frozen=True)
class Memory:
    """`records` by the label of what was credited and the index of the prompt, which the baseline `whose` made. It never changes:
    an update makes another one, which counts once the update is whole."""

    records: Mapping[str, Mapping[int, Record]] = field(default_factory=dict)
    whose: str = ""

    def of(self, label: str) -> Mapping[int, Record]:
        return self.records.get(label, {})

    def with_news(self, label: str, news: Mapping[int, Record]) -> Self:
        return replace(self, records={**self.records, label: {**self.of(label), **news}})

    def state(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = {label: {f"{key}": list(record) for key, record in rows.items()} for label, rows in self.records.items()}
        return {"whose": self.whose, "records": rows}

    @classmethod
    def loaded(cls, state: Mapping[str, Any], whose: str) -> Self:
        """The inverse of `state`; nothing where the records are another baseline's."""
        if state.get("whose") != whose:
            return cls(whose=whose)
        rows = state["records"].items()
        return cls({label: {int(key): tuple(record) for key, record in row.items()} for label, row in rows}, whose)
