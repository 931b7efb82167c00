"""Pairs of pictures from files in place of a rollout: which rows can be trained, their states, and what they earn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from flowgrpo.config.run import Config
from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.data.media import look, read, size_of
from flowgrpo.data.prompts import Prompt, is_file
from flowgrpo.data.samples import Samples
from flowgrpo.policies.protocol import Encoding, Policy
from flowgrpo.sampling.plans.pairs import Pairs
from flowgrpo.scoring.card import card

LABEL = "chosen"


@card(reads="latents", range=(0.0, 1.0), better="chosen by people", licence="none", source="none", compares=True)
def chosen(samples: Samples) -> list[float]:
    """1 for the first sample of a group, 0 for others."""
    first = {group: i for i, group in reversed([*enumerate(samples.group)])}
    return [float(first[group] == i) for i, group in enumerate(samples.group)]


def judged_by_files(config: Config) -> Config:
    """What is trained: the run, with the choice in the files as its only reward. The others are of the evaluation."""
    return config.model_copy(update={"rewards": {LABEL: RewardConfig(use=f"{__name__}:{chosen.__name__}")}})


def with_pictures(prompts: Sequence[Prompt], source: str) -> tuple[list[Prompt], list[str]]:
    """The prompts whose row names two pictures that can be read; and what is wrong with those of the others.

    Paths are relative to the file `source`. Errors: UserError where a row names none, and where no pair is left.
    """
    folder = locate(source).parent if is_file(source) else locate("")
    whole: list[Prompt] = []
    broken: list[str] = []
    for prompt in prompts:
        where = f"{source}, row {prompt.index + 1}"
        names = [prompt.metadata.get(side) for side in Pairs.columns]
        for side, name in zip(Pairs.columns, names, strict=True):
            if not isinstance(name, str) or not name:
                raise UserError(f"{where}: '{side}' must name a picture, and is {'missing' if name is None else repr(name)}")
        pictures = tuple(folder / str(name) for name in names)
        try:
            for picture in pictures:
                look(picture, "image")
        except UserError as error:
            broken.append(f"{where}: {error}")
            continue
        whole.append(replace(prompt, pictures=pictures))
    if not whole:
        raise UserError(f"{source}: none of its {len(prompts)} pairs can be read ({broken[0]})")
    return whole, [f"{len(broken)} of {len(prompts)} pairs are left out", *broken] if broken else []


def require_pictures(policy: Policy, prompts: Sequence[Prompt]) -> None:
    """Errors: UserError where this policy can't be trained on the pictures of these prompts."""
    if not isinstance(policy, Encoding):
        raise UserError("rollout.plan 'pairs' needs a model that can make latents of pictures, and this one can't")
    for prompt in prompts:
        made = policy.picture_size([prompt])
        for picture in prompt.pictures:
            if (size := size_of(picture)) != made:
                (height, width), (tall, broad) = size, made
                raise UserError(f"{picture} has {width} x {height} pixels, and the model makes {broad} x {tall}; resize it")


def encoded(policy: Policy, prompts: Sequence[Prompt], members: Sequence[int]) -> Tensor:
    """Outcomes [B, ...]: of each of these prompts the picture with this number."""
    if not all(prompt.pictures for prompt in prompts):
        raise UserError("rollout.plan 'pairs' takes pictures from files, and only `flowgrpo train` reads them")
    assert isinstance(policy, Encoding), "`require_pictures` asks this before training"
    files = [prompt.pictures[member] for prompt, member in zip(prompts, members, strict=True)]
    pixels = torch.from_numpy(np.stack([read(file, "image") for file in files])).movedim(-1, 1)
    return policy.encode(pixels.float() / 255.0, prompts)
