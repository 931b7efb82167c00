"""`flowgrpo score`: files through rewards into a folder with scores.jsonl, summary.json and report.html."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from flowgrpo.config import RewardConfig, checked, read_tree, with_overrides
from flowgrpo.errors import UserError
from flowgrpo.paths import find_config
from flowgrpo.section import Section
from flowgrpo.sheet.lines import check_settings, known_lines, settings_of, started, write_lines, write_settings
from flowgrpo.sheet.page import write_page
from flowgrpo.sheet.source import read_source
from flowgrpo.sheet.stream import Judge, scored
from flowgrpo.sheet.summary import summarise


class Chosen(Section):
    """The rewards by label."""

    rewards: dict[str, RewardConfig] = Field(min_length=1)


def chosen_rewards(names: str, arguments: Sequence[str]) -> dict[str, RewardConfig]:
    """`a,b`: rewards as a config names them, each its own label, or YAML files whose section `rewards` is taken.

    `arguments` are `label.key=value`.
    """
    tree: dict[str, Any] = {}
    for name in filter(None, names.split(",")):
        is_file = name.endswith((".yaml", ".yml"))
        found = read_tree(find_config(name)).get("rewards") if is_file else {name: {"use": name}}
        if not isinstance(found, dict):
            raise UserError(f"{name} has no section 'rewards'")
        if twice := found.keys() & tree.keys():
            raise UserError(f"the reward '{min(twice)}' is named twice")
        tree |= found
    rewards = checked(Chosen, {"rewards": tree}, "--rewards").rewards
    for argument in arguments:
        rewards = _with(rewards, argument)
    return rewards


def _with(rewards: Mapping[str, RewardConfig], argument: str) -> dict[str, RewardConfig]:
    """Labels may hold dots: the longest that fits is meant."""
    fitting = [label for label in rewards if argument.startswith(f"{label}.")]
    if not fitting:
        raise UserError(
            f"--set {argument} must look like label.key=value with the label of a reward (known: {', '.join(rewards)})"
        )
    label = max(fitting, key=len)
    tree = with_overrides(rewards[label].model_dump(), [f"arguments.{argument.removeprefix(f'{label}.')}"])
    return {**rewards, label: checked(RewardConfig, tree, f"--set {argument}")}


def score(source: str, prompts: str | None, rewards: Mapping[str, RewardConfig], out: Path, batch: int) -> dict[str, Any]:
    """What summary.json holds. What `out` holds of an interrupted run is kept, and what failed in it is tried again."""
    items, folder = read_source(source, prompts), out.resolve()
    settings, known = settings_of(source, prompts, rewards), known_lines(folder)
    check_settings(folder, settings, known)
    judge = Judge(rewards)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, settings)
    finished = write_lines(folder, scored(items, started(items, known, folder), judge, batch), known)
    if not any(line.scores for line in finished):
        raise UserError(f"nothing could be scored; the first sample: {next(iter(finished[0].errors.values()))}")
    facts = summarise(finished, judge)
    (folder / "summary.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    write_page(folder, source, finished, facts, settings)
    return facts
