"""Which row of a prompt file belongs to which sample: by the file that it names, else by its place."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from flowgrpo.core.errors import UserError, short
from flowgrpo.core.paths import locate
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.evaluation.sheet.item import Item
from flowgrpo.evaluation.sheet.order import uncertain

FEW, LONG = 3, 80
NAMED = "name each row's file in a column 'image'"


def paired(items: Sequence[Item], source: str, in_rows: bool) -> list[Item]:
    """With the rows of a prompt file on top of their own; every sample has one row, and every row one sample.

    Where rows name no file, the first belongs to the first sample, and so on. Samples that are `in_rows` themselves have an
    order; files have that of their names, which must be certain. What does not fit is a UserError with names and counts.
    """
    prompts = load_prompts(source, conditions=False)
    names = [_name(prompt) for prompt in prompts]
    if unnamed := [prompt.index + 1 for prompt, name in zip(prompts, names, strict=True) if not name]:
        if len(unnamed) < len(prompts):
            raise UserError(
                f"{source}: {len(unnamed)} of {len(prompts)} rows name no file, the first is row {unnamed[0]}; {NAMED}"
            )
        _check_places(items, prompts, source, in_rows)
        rows = list(range(len(items)))
    else:
        rows = _by_name(items, names, source)
    return [replace(item, row={**item.row, **prompts[row].metadata}) for item, row in zip(items, rows, strict=True)]


def _name(prompt: Prompt) -> str:
    return str(prompt.metadata.get("video") or prompt.metadata.get("image") or "")


def _check_places(items: Sequence[Item], prompts: Sequence[Prompt], source: str, in_rows: bool) -> None:
    if len(prompts) != len(items):
        raise UserError(f"{source} has {len(prompts)} rows for {len(items)} samples; give each sample its row, or {NAMED}")
    if in_rows:
        return
    paths = [Path(item.content) for item in items]
    if len(folders := {path.parent for path in paths}) > 1:
        raise UserError(f"{source} names no files, and the samples lie in {len(folders)} folders, which have no order; {NAMED}")
    if pair := uncertain(paths):
        one, other = (path.name for path in pair)
        raise UserError(f"{source} names no files, and it is not certain which of '{one}' and '{other}' comes first; {NAMED}")


def _by_name(items: Sequence[Item], names: Sequence[str], source: str) -> list[int]:
    """For each sample the row that names it: from the folder of the prompt file, or by the end of its path, the longest."""
    folder = locate(source).absolute().parent
    exact, ends = defaultdict(list), defaultdict(list)
    for row, name in enumerate(names):
        exact[os.path.normpath(folder / name)].append(row)
        ends[PurePath(name).parts].append(row)
    found = []
    for item in items:
        path = Path(item.content)
        tails = (ends[path.parts[start:]] for start in range(len(path.parts)) if path.parts[start:] in ends)
        found.append(exact.get(os.path.normpath(path.absolute())) or next(tails, []))
    _check_names(items, names, found, source)
    return [row for (row,) in found]


def _check_names(items: Sequence[Item], names: Sequence[str], found: Sequence[list[int]], source: str) -> None:
    if twice := [rows for rows in found if len(rows) > 1]:
        numbers = ", ".join(str(row + 1) for row in twice[0])
        files = counted(len(twice), "file")
        raise UserError(f"{source} has several rows for {files}: rows {numbers} name '{names[twice[0][0]]}'; leave one of them")
    if lacking := [str(item.content) for item, rows in zip(items, found, strict=True) if not rows]:
        raise UserError(f"{source} has no row for {counted(len(lacking), 'sample')} of {len(items)} ({few(lacking)}); add it")
    uses = Counter(row for (row,) in found)
    if shared := [row for row, count in uses.items() if count > 1]:
        fits = [str(item.content) for item, (row,) in zip(items, found, strict=True) if row == shared[0]]
        raise UserError(
            f"{source}, row {shared[0] + 1}: '{names[shared[0]]}' fits {len(fits)} files ({few(fits)}); write more of the path"
        )
    if left := [f"row {row + 1}: {name}" for row, name in enumerate(names) if row not in uses]:
        raise UserError(
            f"{source} has {counted(len(left), 'row')} of {len(names)} with no sample of their own ({few(left)}); "
            "take them out, or mend the names"
        )


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def few(names: Sequence[str]) -> str:
    rest = f", and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(short(name, LONG) for name in names[:FEW]) + rest
