"""`--tiny`: the same recipe on a tiny random model of the same class, so that all of a run is tried out in a minute and nothing
is downloaded.

Plan, kernel, credit, advantages, selection, objective and optimizer stay, and so do the rewards. What weighs something is
replaced: the model and the sizes of its call, the weights of rewards, prompts from a hub; and there are as few prompts, samples
and steps as the recipe's parts allow.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowgrpo.config.recipes import Layer, Recipe, Words, name_of, read_recipe
from flowgrpo.config.run import Config
from flowgrpo.config.tree import with_overrides
from flowgrpo.scoring.twins import twin
from flowgrpo.training.rehearsal._fewer import editions
from flowgrpo.training.rehearsal._model import Model
from flowgrpo.training.rehearsal._prompts import few_prompts

Tree = dict[str, Any]
LOTS, DRAWN, DRAWN_ON_THE_WAY = "lots", "flowgrpo.scoring.twins:lots", "flowgrpo.scoring.twins:lots_of_latents"
"""The label and the names of the reward that is added."""
REPLACED = ("policy", "rewards", "rollout.prompts=", "evaluation.prompts=", "advantage.baseline")
"""How overrides begin of what is replaced."""


def rehearsed(source: Words, overrides: Sequence[str] = ()) -> Config:
    """The config of the rehearsal of a recipe. The model, weights and prompts that it names are made in `OUTPUT/tiny/RECIPE`.

    Overrides are a part of the recipe; those of updates, prompts and samples have the last word on how many there are. Errors:
    UserError, also where it is not known how a tiny model is made.
    """
    recipe = read_recipe(source)
    config = recipe.checked(Config, overrides)
    tree = with_overrides(recipe.tree, overrides)
    folder = Path(config.output).expanduser() / "tiny" / name_of(source)
    model = Model.made_for(recipe, tree["policy"], folder / "model")
    notes = [f"a rehearsal {model.what}: no number of it means anything", *model.notes]
    tree["policy"] = model.policy
    notes += _put_prompts(tree, recipe, folder / "prompts", model.pictures)
    notes += _put_twins(tree, folder / "rewards")
    if not config.objective.surrogate.needs_gradient:
        notes.append(_put_lots(tree, DRAWN_ON_THE_WAY if config.shape().scored else DRAWN))
    baseline = config.advantage.baseline.rehearsed().model_dump(mode="json")
    tree["advantage"] = {**(tree.get("advantage") or {}), "baseline": baseline}
    tree["rehearsal"] = notes
    last = [override for override in overrides if not override.startswith(REPLACED)]
    for edition in editions(tree):
        smaller = replace(recipe, layers=[Layer(Path("--tiny"), edition)])
        if _fits(edition, last):
            break
    return smaller.checked(Config, last)


def _fits(tree: Tree, overrides: Sequence[str]) -> bool:
    try:
        Config.model_validate(with_overrides(tree, overrides))
    except ValidationError:
        return False
    return True


def _put_prompts(tree: Tree, recipe: Recipe, folder: Path, pictures: Tree) -> list[str]:
    """What there is to know of prompts."""
    rows = next((about.rows for about in reversed(recipe.about.values()) if about.rows), ())
    notes = []
    for section in ("rollout", "evaluation"):
        if (source := (tree.get(section) or {}).get("prompts")) is None:
            continue
        prompts = few_prompts(source, rows, folder, pictures)
        tree[section] = {**tree[section], "prompts": prompts}
        notes += [f"example rows stand for the prompts {source.partition('?')[0]}"] if prompts.startswith(str(folder)) else []
    return list(dict.fromkeys(notes))


def _put_twins(tree: Tree, folder: Path) -> list[str]:
    """Rewards without weights of others; what there is to know of them."""
    rewards, notes = {}, []
    for label, reward in tree["rewards"].items():
        given = reward.get("arguments") or {}
        arguments = twin(reward["use"], given, folder / label) if reward.get("use") else given
        rewards[label] = {**reward, "arguments": arguments}
        if arguments != given:
            notes.append(f"reward '{label}' ({reward['use']}) judges at random: it is a tiny twin")
    tree["rewards"] = rewards
    return notes


def _put_lots(tree: Tree, drawn: str) -> str:
    """`drawn` tells all samples apart; what there is to know of it."""
    added = next(label for label in (LOTS, f"{LOTS}_of_a_rehearsal") if label not in tree["rewards"])
    tree["rewards"] = {**tree["rewards"], added: {"use": drawn}}
    return f"reward '{added}' is added and draws lots, so that there is something to train where all others are equal"
