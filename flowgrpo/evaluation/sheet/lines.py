"""The folder of a sheet: settings.json and scores.jsonl, a line per sample, which an interrupted run goes on from."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.digests import digest
from flowgrpo.core.errors import UserError
from flowgrpo.core.identity import files_in
from flowgrpo.core.paths import locate
from flowgrpo.core.pin import PIN, pinned
from flowgrpo.core.whole import read_lines, write_lines
from flowgrpo.data.media import CLIPS
from flowgrpo.data.prompts import digest_of_prompts, is_file
from flowgrpo.evaluation.sheet.source import Item, index_of
from flowgrpo.scoring.identity import identity

Kind = Literal["image", "video", "text"]
KINDS: tuple[Kind, ...] = ("image", "video", "text")
Key = tuple[str, str, int]
SCORES, EARLIER = "scores.jsonl", "earlier.jsonl"


@dataclass(frozen=True)
class Line:
    """A sample and its scores; `content` is its path, relative to the sheet's folder, or the text itself.

    A reward that has no score yet, or failed, is not in `scores`; what failed is forgotten on reading, and tried again.
    `sha256` is that of the file that was scored.
    """

    kind: Kind
    content: str
    prompt: str
    scores: dict[str, float]
    errors: dict[str, str]
    sha256: str | None = None

    def as_json(self) -> str:
        read = {} if self.sha256 is None else {"sha256": self.sha256}
        errors = {"errors": self.errors} if self.errors else {}
        return json.dumps({self.kind: self.content, **read, "prompt": self.prompt, "scores": self.scores, **errors})

    @classmethod
    def parse(cls, text: str) -> Self:
        row = json.loads(text)
        kind = next(kind for kind in KINDS if kind in row)
        return cls(kind, row[kind], row["prompt"], row["scores"], {}, row.get("sha256"))


def blank(item: Item, folder: Path) -> Line:
    """A line without scores; `folder` is the sheet's, resolved."""
    if isinstance(item.content, str):
        return Line("text", item.content, item.prompt, {}, {})
    kind = item.kind or ("video" if item.content.suffix.lower() in CLIPS else "image")
    return Line(kind, os.path.relpath(item.content, folder), item.prompt, {}, {})


def started(items: Sequence[Item], known: Mapping[Key, Line], folder: Path) -> list[Line]:
    """For each sample the line that an earlier run has left, or a blank one."""
    lines = [blank(item, folder) for item in items]
    return [known.get(key, line) for key, line in zip(_keys(lines), lines, strict=True)]


def known_lines(folder: Path) -> dict[Key, Line]:
    """What earlier runs have written, of files that have not changed since."""
    return {key: line for name in (EARLIER, SCORES) for key, line in _read(folder / name).items()}


def _read(path: Path) -> dict[Key, Line]:
    try:
        lines = [Line.parse(text) for text in read_lines(path)]
    except (ValueError, KeyError, StopIteration, TypeError) as error:
        raise UserError(f"{path} has a line that `flowgrpo score` has not written; choose another --out") from error
    return {key: line for key, line in zip(_keys(lines), lines, strict=True) if _holds(path.parent, line)}


def _holds(folder: Path, line: Line) -> bool:
    """Whether the file that was scored is still what it was; a sheet outlives its pictures."""
    path = folder / line.content
    return line.kind == "text" or not os.path.isfile(path) or digest(path) == line.sha256


def _keys(lines: Iterable[Line]) -> Iterator[Key]:
    """Sample, prompt, and how often both have come before."""
    seen: Counter[tuple[str, str]] = Counter()
    for line in lines:
        same = (line.content, line.prompt)
        yield (*same, seen[same])
        seen[same] += 1


def write_sheet(folder: Path, lines: Iterable[Line], known: Mapping[Key, Line]) -> list[Line]:
    """Write scores.jsonl line by line, and return all lines. Until its end earlier.jsonl keeps what was known."""
    earlier, finished = folder / EARLIER, []
    write_lines(earlier, (line.as_json() for line in known.values()))
    with (folder / SCORES).open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(line.as_json() + "\n")
            file.flush()
            finished.append(line)
    earlier.unlink()
    return finished


def settings_of(source: str, prompts: str | None, rewards: Mapping[str, RewardConfig], items: Sequence[Item]) -> dict[str, Any]:
    """What scores depend on beside the samples: the source, files with rows, files that rows name, and what the rewards are."""
    index = index_of(source)
    rows = [*([index] if index else []), *([locate(prompts)] if prompts and is_file(prompts) else [])]
    made = {prompts: digest_of_prompts(prompts, conditions=False)} if prompts and not is_file(prompts) else {}
    return {
        "source": str(locate(source).absolute()),
        "rows": {str(path.absolute()): digest(path) for path in rows} | made | files_in([_apart(item.row) for item in items]),
        "rewards": {label: identity(config) for label, config in rewards.items()},
    }


def _apart(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its sample."""
    return {key: value for key, value in row.items() if key not in KINDS}


def check_settings(folder: Path, settings: Mapping[str, Any], known: Mapping[Key, Line]) -> None:
    """Refuse to mix scores of differing settings in one sheet. Rewards that have scored nothing so far may change."""
    scored = sorted({label for line in known.values() for label in line.scores})
    if not scored:
        return
    old = pinned(folder)
    if old is None:
        raise UserError(f"{folder} holds scores without {PIN}; choose another --out")
    if lacking := [label for label in scored if label not in settings["rewards"]]:
        raise UserError(f"{folder} holds scores of '{lacking[0]}' too; name it in --rewards as well, or choose another --out")
    changed = [f"the reward '{label}'" for label in scored if old["rewards"][label] != settings["rewards"][label]]
    changed += [name for part, name in (("source", "the source"), ("rows", "a file of rows")) if old[part] != settings[part]]
    if changed:
        raise UserError(f"{changed[0]} has changed since {folder} was begun (see its {PIN}); choose another --out")
