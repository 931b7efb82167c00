"""How all commands are read: a mistake is one sentence, and `a.b=c` may stand anywhere after the command."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

from flowgrpo.core.errors import UserError
from flowgrpo.core.moved import GOES
from flowgrpo.core.plugins import nearest

OVERRIDE = re.compile(r"rewards\.[^=]*=|[^-=/\\][^=/\\]*=", re.DOTALL)
OVERRIDES = "overrides"
"""The argument of a command that takes any."""


class Parser(argparse.ArgumentParser):
    """Keeps its `arguments`."""

    def __init__(self, **how: Any) -> None:
        self.arguments: list[argparse.Action] = []
        super().__init__(**how)

    def add_argument(self, *names: Any, **how: Any) -> argparse.Action:
        self.arguments.append(super().add_argument(*names, **how))
        return self.arguments[-1]

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("flowgrpo").strip()
        raise UserError(f"{command + ': ' if command else ''}{message}; see `{self.prog} --help`")


def parse(parser: Parser, command: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """Left where they are, argparse would take overrides for further values of the option before them, or for nothing."""
    _require_said(command, argv)
    takes = any(argument.dest == OVERRIDES for argument in command.arguments)
    places = _overrides(command, argv) if takes else []
    arguments, rest = parser.parse_known_args([word for i, word in enumerate(argv) if i not in places])
    if rest:
        options = {option for argument in command.arguments for option in argument.option_strings}
        hint = f" ({nearest(rest[0].partition('=')[0], options)})" if rest[0].startswith("-") else ""
        command.error(f"it does not take '{rest[0]}'{hint}")
    if takes:
        arguments.overrides = [*arguments.overrides, *(argv[i] for i in places)]
    return arguments


def _require_said(command: Parser, argv: Sequence[str]) -> None:
    """Errors: UserError for a word or the value of an option that is empty: as a path it is the folder that one is in."""
    for before, word in pairwise(argv):
        option, sign, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if sign and not value.strip():
            command.error(f"what follows '{option}' is empty; is a variable of the shell not set?")


def _overrides(command: Parser, argv: Sequence[str]) -> list[int]:
    """Their places. What comes right after an option that must have a value is its value."""
    wanting = {option for each in command.arguments if each.nargs not in (0, "?") for option in each.option_strings}
    words = [i for i, word in enumerate(argv) if i and OVERRIDE.match(word) and not os.path.exists(word)]
    return [i for i in words if argv[i - 1] not in wanting]


def with_old_spelling(overrides: Sequence[str], old: Sequence[str]) -> list[str]:
    """And those of `--set`, which is read for one version more."""
    if old:
        print(f"flowgrpo: --set goes with version {GOES}; write {', '.join(old)} as --help says", file=sys.stderr)
    return [*old, *overrides]
