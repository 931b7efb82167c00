"""All rows of a prompt file before any is drawn: does the policy take them, and does it take them whole?"""

import sys
from collections.abc import Iterable, Sequence

from flowgrpo.core.errors import UserError
from flowgrpo.data.prompts import Prompt
from flowgrpo.policies import PolicyConfig


def check_prompts(policy: PolicyConfig, prompts: Sequence[Prompt], source: str) -> list[str] | None:
    """What `PolicyConfig.check` says, with the name of the file or benchmark `source`."""
    try:
        notes = policy.check(prompts)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    return None if notes is None else [f"{source}: {note}" for note in notes]


def unchecked(source: str) -> str:
    """What to say in place of None."""
    return f"{source}: it is not known whether the model cuts prompts, since its files are not on this disk"


def tell(notes: Iterable[str]) -> None:
    """On standard error, a line each."""
    for note in notes:
        print(f"flowgrpo: {note}", file=sys.stderr)
