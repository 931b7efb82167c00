"""The one exception that means: the user can mend this."""

import traceback
from pathlib import Path


class UserError(Exception):
    """Bad input. Its text is one sentence that says what is wrong and what to do; the command line exits with 2."""


class Unavailable(UserError):
    """What judges can't be reached: another sample would fare no better."""


def said(error: BaseException) -> str:
    """What an exception in a user's own code says, and where it was raised: `KeyError: 'x' (my_reward.py, line 3)`."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"
