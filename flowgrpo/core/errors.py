"""Exceptions that mean: the user can mend this."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
INSTALLED = (*(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib")), str(PACKAGE), "<")


class UserError(Exception):
    """Bad input. Its text is one sentence that says what is wrong and what to do; the command line exits with 2."""


class Unavailable(UserError):
    """What judges can't be reached: another sample would fare no better."""


class NotFinite(UserError):
    """A NaN or an infinity where a number must be. What was trained may be its cause, so it is not worth keeping."""


@contextmanager
def user_code(what: str, but: type[Exception] = UserError) -> Iterator[None]:
    """Inside runs code that users write. Whatever it raises, `sys.exit` included, becomes one sentence with file and line.

    Exceptions of the class `but` pass.
    """
    try:
        yield
    except (UserError, but):
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{what} raised {said(error)}") from error


def said(error: BaseException) -> str:
    """What an exception in a user's own code says, and which line of theirs led to it: `KeyError: 'x' (my_reward.py, line 3)`."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(INSTALLED)]
    frame = (theirs or frames)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})"


def short(name: object, most: int = 200) -> str:
    """A name in a sentence; of one that is very long its beginning and its end."""
    text = str(name)
    return text if len(text) <= most else f"{text[: most // 3]}...{text[-most // 2 :]}"
