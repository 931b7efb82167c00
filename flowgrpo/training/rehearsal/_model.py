"""The model of a rehearsal: a tiny random one of the recipe's class, or the recipe's own where that lies on this disk."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import diffusers
import torch
import transformers
from transformers import AutoTokenizer

from flowgrpo.config.recipes import Recipe
from flowgrpo.config.tree import without
from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import locate
from flowgrpo.core.plugins import meant
from flowgrpo.policies import tiny
from flowgrpo.policies.tiny.mdlm import LANGUAGE

Tree = dict[str, Any]
GUIDANCE = ("guidance", "cfg", "negative_prompt")
"""In the names of what is kept of a recipe's call; all else is the builder's."""
ON_A_GPU = ("offload", "quantisation", "quantise_encoders", "attention", "compile")
BYTES = 4
"""About as many make one id of a real vocabulary."""
WIDE = 32
"""Calls of so many pixels are of classes that take no fewer."""
LORA = {"rank": 2, "alpha": 4}


@dataclass
class Model:
    """`pictures` are (height, width), or (frames, height, width), of what a prompt row names, by column; `notes` what to know."""

    policy: Tree
    notes: list[str]
    pictures: dict[str, Any] = field(default_factory=dict)
    what: str = "with random weights"

    @classmethod
    def made_for(cls, recipe: Recipe, policy: Tree, folder: Path) -> Self:
        """In an empty folder. `policy` is the recipe's section with overrides. Errors: UserError where no builder is known."""
        name = next((about.tiny for about in reversed(recipe.about.values()) if about.tiny), None)
        if name is None or policy.get("model") != recipe.tree.get("policy", {}).get("model"):
            return cls._own(policy)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if name in LANGUAGE:
            LANGUAGE[name](folder)
            return cls._language(policy, folder)
        entry = tiny.pipelines().get(name)
        if entry is None:
            hint = f"{meant(name, [*tiny.pipelines(), *LANGUAGE])}the builders are in flowgrpo/policies/tiny"
            raise UserError(f"about: tiny: no tiny model is called '{name}' ({hint})")
        pipe = entry.build()
        with _quiet():
            pipe.save_pretrained(folder)
        return cls._pipeline(policy, folder, type(pipe).__name__, entry)

    @classmethod
    def _own(cls, policy: Tree) -> Self:
        model = str(policy.get("model", ""))
        if not locate(model).exists():
            raise UserError(
                f"--tiny does not know how a model like '{model}' is made; say it in the model's file: "
                "about: {tiny: NAME}, with the name of a builder of flowgrpo/policies/tiny"
            )
        return cls(policy, [f"the weights are those of {model}, and the run is much too short for them"], what="of two updates")

    @classmethod
    def _pipeline(cls, policy: Tree, folder: Path, kind: str, entry: Any) -> Self:
        given = policy.get("call") or {}
        call = {key: value for key, value in entry.call.items() if not _guides(key)}
        call |= {key: value for key, value in given.items() if _guides(key)}
        if "num_frames" in call:
            call["num_frames"] = min(call["num_frames"], given.get("num_frames", call["num_frames"]))
        if "sizes" in given and {"height", "width"} <= {*call}:
            height, width = call.pop("height"), call.pop("width")
            call["sizes"] = [[height, width], [height, width // 2 if width < WIDE else 2 * width]]
        runtime = {key: value for key, value in (policy.get("runtime") or {}).items() if key not in ON_A_GPU} | {"compile": "off"}
        section = without(policy, "revision", "size") | {"model": str(folder), "call": call, "runtime": runtime}
        stands = f"{kind} with random weights stands for {policy['model']}"
        notes = [f"{stands}; it reads a prompt byte by byte, and cuts what the real one may take whole"]
        if policy.get("dtype") == "fp16" and not torch.cuda.is_available():
            section["dtype"] = "bf16"
            notes.append("a CPU does not compute in fp16: it is bf16 here")
        return cls(_adapted({"lora": LORA, **section}), notes, entry.conditions)

    @classmethod
    def _language(cls, policy: Tree, folder: Path) -> Self:
        """Ids are bytes, so prompts need more of them."""
        changes = {
            "model": str(folder),
            "trust_remote_code": False,
            "prompt_length": BYTES * policy["prompt_length"],
            "mask_id": AutoTokenizer.from_pretrained(folder).mask_token_id,
            "compile": "off",
        }
        section = without(policy, "revision", "parameters") | changes
        said = (
            f"MiniMdlm with random weights stands for {policy['model']}, whose class is code that comes with its weights; it is "
            "asked in the same way"
        )
        return cls(_adapted(section), [said])


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing said of parts that a tiny pipeline leaves out, and no bars."""
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(level)
        transformers.utils.logging.enable_progress_bar()


def _guides(key: str) -> bool:
    return any(word in key for word in GUIDANCE)


def _adapted(policy: Tree) -> Tree:
    """With an adapter as small as the model, if it has one."""
    lora = policy.get("lora")
    return {**policy, "lora": lora and {**lora, **LORA}}
