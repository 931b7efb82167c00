"""What a run began from, and whether it may go on as it is asked to. A resumed run is the undisturbed one, or it is refused."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowgrpo.config.recipes import Words, name_of, read_recipe, words_of
from flowgrpo.config.run import Config, load_config
from flowgrpo.config.tree import with_overrides
from flowgrpo.core.digests import digest_of
from flowgrpo.core.errors import UserError
from flowgrpo.core.identity import named
from flowgrpo.core.section import checked
from flowgrpo.core.whole import write_json
from flowgrpo.data.prompts import digest_of_prompts
from flowgrpo.runs.folder import PREFIX, RunFolder
from flowgrpo.scoring.identity import identity

AUTO = "auto"
"""In place of a run: the newest with the same config, or a new one."""
MAY_CHANGE = (
    *("updates", "output", "tracker", "checkpoints", "sentinels", "evaluation.every", "evaluation.limit_between"),
    *("optimizer.lr", "optimizer.rates", "optimizer.warmup", "optimizer.decay_over"),
    *("fleet.rollout", "fleet.rewards", "fleet.gpus", "fleet.patience", "distributed.type", "distributed.cards"),
    *("distributed.context", "policy.size"),
)
"""What a run may go on with another value of."""


@dataclass(frozen=True)
class Provenance:
    """The recipe's name, its sections before any override, digests of its data and model, and of its rewards by label."""

    recipe: str
    sections: dict[str, Any]
    digests: dict[str, str]
    rewards: dict[str, str]

    @classmethod
    def of(cls, source: Words, config: Config) -> "Provenance":
        sections = json.loads(json.dumps(read_recipe(source).tree))
        return cls(name_of(source), sections, _digests(config), _rewards(config))

    def stands_for(self, config: Config) -> bool:
        """Whether what these digests are of is what the config names today."""
        return self.digests == _digests(config) and self.rewards == _rewards(config)

    def save(self, run: Path) -> None:
        write_json(run / "run.json", asdict(self), indent=1)

    @classmethod
    def load(cls, run: Path) -> "Provenance":
        """Errors: UserError where the folder is no run, or damaged."""
        file = run / "run.json"
        if not (run / "config.yaml").is_file() or not file.is_file():
            raise UserError(f"{run} is not a run folder (no config.yaml and run.json); name the folder of a run after --resume")
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}); a run without it can't go on, begin a new one") from error


@dataclass(frozen=True)
class Resumed:
    """A run that goes on: its folder, the config to go on with, and the checkpoint if one was named.

    Without one it goes on from the last, or where `automatic` from the last that can be read.
    """

    run: Path
    config: Config
    checkpoint: Path | None = None
    automatic: bool = False


def resumed(where: str, source: Words, overrides: Sequence[str]) -> Resumed:
    """`where` is a run folder, one of its checkpoints, or empty for the newest run of the recipe.

    The config is the run's own, with what may change taken from the recipe's file if it says something else by now, and from
    the overrides. Errors: UserError that names what may not change.
    """
    name, said = name_of(source), " ".join(words_of(source))
    path = Path(where) if where else RunFolder.newest(load_config(source, overrides).output, name).path
    run, _, provenance = _begun(path, name)
    edited = _differences(provenance.sections, json.loads(json.dumps(read_recipe(source).tree)))
    _refuse(run.path, edited, f"in {said}")
    tree = run.config.model_dump(mode="json")
    for key, (_, new) in edited.items():
        _set(tree, key, new)
    return going_on(path, name, checked(Config, with_overrides(tree, overrides), said))


def found_again(name: str, config: Config) -> Path | None:
    """The newest run of the recipe `name` in the config's output that has this config, but for what may change. Says which."""
    wanted = config.model_dump(mode="json")
    for run in RunFolder.of(config.output, name):
        if not _fixed(_differences(run.config.model_dump(mode="json"), wanted)):
            print(f"flowgrpo: --resume {AUTO} goes on with {run}", file=sys.stderr)
            return run.path
    print(f"flowgrpo: --resume {AUTO} begins anew: no run of '{name}' in {config.output} has this config", file=sys.stderr)
    return None


def going_on(path: Path, name: str, config: Config) -> Resumed:
    """A run of the recipe `name`, or one of its checkpoints, with this config.

    Errors: UserError that names what may not change.
    """
    run, checkpoint, provenance = _begun(path, name)
    _refuse(run.path, _differences(run.config.model_dump(mode="json"), config.model_dump(mode="json")), "here")
    now = _digests(config)
    for file, before in provenance.digests.items():
        if now.get(file) != before:
            raise UserError(
                f"{file} is not what it was when {run} began; a run goes on with the same data and code: bring it back"
            )
    for label, before in _rewards(config).items():
        if provenance.rewards.get(label) != before:
            print(
                f"flowgrpo: reward '{label}' is not what it was when {run} began; its scores are of two rewards", file=sys.stderr
            )
    return Resumed(run.path, config, checkpoint)


def _begun(path: Path, name: str) -> tuple[RunFolder, Path | None, Provenance]:
    """The run of a run folder or a checkpoint, that checkpoint, and what the run began from."""
    checkpoint = path if path.name.startswith(PREFIX) else None
    run = RunFolder(path.parent if checkpoint else path)
    if checkpoint and not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such checkpoint; --resume {run} goes on from the last one")
    provenance = Provenance.load(run.path)
    if provenance.recipe != name:
        raise UserError(f"{run} is a run of '{provenance.recipe}', not of '{name}'; name its own config, or begin a new run")
    return run, checkpoint, provenance


def _digests(config: Config) -> dict[str, str]:
    """Of the prompts, of the pictures and clips that their rows name (by size, and those that are trained by content), of what
    the policy names, and of the user's code in plans, kernels, credit and the like."""
    files = dict.fromkeys([config.rollout.prompts, *([config.evaluation.prompts] if config.evaluation else [])])
    tree = config.model_dump(mode="json")
    code = [name for name in _types(tree) if name.endswith(".py") or ":" in name]
    columns = {config.rollout.prompts: config.rollout.plan.columns}
    return {file: digest_of_prompts(file, columns=columns.get(file, ())) for file in files} | named(
        [tree["policy"], tree["teacher"], code]
    )


def _types(tree: Any) -> Iterator[str]:
    """The names of all components in a tree."""
    if isinstance(tree, dict):
        yield from [tree["type"]] if isinstance(tree.get("type"), str) else []
    for below in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _types(below)


def _rewards(config: Config) -> dict[str, str]:
    """Of their code and arguments, and of what these name."""
    found = {label: identity(reward) for label, reward in config.rewards.items()}
    return {label: digest_of({key: value for key, value in facts.items() if key != "flowgrpo"}) for label, facts in found.items()}


def _differences(old: Any, new: Any, at: str = "") -> dict[str, tuple[Any, Any]]:
    """By dotted key: what was there, and what is there now; None where nothing is."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {at: (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in {**old, **new}:
        found |= _differences(old.get(key), new.get(key), f"{at}.{key}" if at else f"{key}")
    return found


def _refuse(run: Path, differences: Mapping[str, tuple[Any, Any]], where: str) -> None:
    if fixed := _fixed(differences):
        old, new = (json.dumps(value) for value in differences[fixed[0]])
        raise UserError(
            f"{run} began with {fixed[0]} = {old}, and {where} it is {new}; a run goes on as it began: take the old value, or "
            f"begin a new run (what may change: {', '.join(MAY_CHANGE)})"
        )


def _fixed(differences: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [key for key in differences if not _may_change(key)]


def _may_change(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    """None: what is there by default."""
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    if value is None:
        tree.pop(last, None)
    else:
        tree[last] = value
