"""All rows of a prompt file before any is drawn: does the policy take them, and does it take them whole?"""

import sys
from collections.abc import Iterable, Mapping, Sequence

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import PolicyConfig


def check_files(policy: PolicyConfig, files: Mapping[str, Sequence[Prompt]]) -> list[str] | None:
    """What `PolicyConfig.check` says of the rows of each file or benchmark, with its name; None where that can't be known yet."""
    notes: list[str] = []
    for source, prompts in files.items():
        try:
            said = policy.check(prompts)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        if said is None:
            return None
        notes += [f"{source}: {note}" for note in said]
    return notes


def tell(notes: Iterable[str] | None) -> None:
    """On standard error, a line each."""
    unknown = "whether prompts are cut is not known, since the model's files are not on this disk"
    for note in [unknown] if notes is None else notes:
        print(f"flowgrpo: {note}", file=sys.stderr)
