"""Texts and rows from files, exactly: prompts, captions, and whatever else is a table or JSON lines.

A text is UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is not part of it; `.gz` is unpacked. Lines end in LF, CR LF or
CR and nowhere else: a form feed, U+0085 and U+2028 are characters like any other. Blank lines are counted, but are no rows.

    .txt      a prompt a line, without the blanks and tabs around it
    .csv      a header and rows of as many cells, separated by commas; cells with a comma, a quotation mark or a line break stand
              in double quotes. Cells are kept as they are, line breaks and blanks included
    .tsv      the same with tabs
    .jsonl    an object a line
    .json     a list of objects

JSON is read strictly: no NaN or infinity, no key twice, no half of a surrogate pair. What is not exactly so is a UserError that
names the file and the line.
"""

import csv
import gzip
import io
import json
import math
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flowgrpo.core.errors import UserError, short

Row = dict[str, Any]
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
"""Encodings by the byte order mark that a file begins with."""
STRAY = {"\0": "a zero byte", "\ufeff": "a byte order mark, as where files were put together"}
"""What no text holds, but at its very beginning."""
LINE_END = re.compile(r"\r\n|\r|\n")
SEPARATORS = ",;\t|"
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json")
KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, or one of these and .gz"


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of any of these kinds, whether they hold a prompt or not."""
    match _kind(path):
        case ".txt":
            return [{"prompt": line.strip(" \t")} for _, line in lines_of(path)]
        case ".csv":
            return table(path)
        case ".tsv":
            return table(path, csv.excel_tab)
        case ".jsonl":
            return json_lines(path)
        case ".json":
            return _json_list(path)
    raise UserError(f"the name of {path} must end in {KINDS}")


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next(iter(suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:]), "")


def text_of(path: Path) -> str:
    """All of a text file."""
    if not os.path.isfile(path):
        raise UserError(f"{short(path)}: no such file")
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = _unpacked(content, path)
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(LINE_END.findall(content[: error.start].decode(encoding, "replace"))) + 1
        raise UserError(f"{path}, line {line}: is not text in {encoding.upper()}; save the file as UTF-8") from error
    for character, meaning in STRAY.items():
        if character in text:
            line = len(LINE_END.findall(text[: text.index(character)])) + 1
            raise UserError(f"{path}, line {line}: holds {meaning}; save the file as UTF-8 without it")
    return text


def _unpacked(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be unpacked ({error}); it is damaged or no gzip file: get or pack it anew") from error


def lines_of(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    return [(number, line) for number, line in enumerate(LINE_END.split(text_of(path)), 1) if line.strip(" \t")]


def json_of(text: str, where: str) -> Any:
    """What a JSON text holds; `where` is the file, and the line if it is one of many."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_finite)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from error
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f"the key '{_twice([key for key, _ in pairs])}' is there twice")
    return row


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON; write null, or leave it out")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


def json_lines(path: Path, keys: Sequence[str] = ()) -> list[Row]:
    """The objects of a file with one a line, which must all have these keys."""
    return [_object(json_of(line, f"{path}, line {n}"), f"{path}, line {n}", keys) for n, line in lines_of(path)]


def _json_list(path: Path) -> list[Row]:
    rows = json_of(text_of(path), str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold a list of objects, [{{...}}, ...]")
    return [_object(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _object(value: Any, where: str, keys: Sequence[str] = ()) -> Row:
    if not isinstance(value, dict) or not all(key in value for key in keys):
        wanted = f" with {', '.join(keys)}" if keys else ', such as {"prompt": "a red circle"}'
        raise UserError(f"{where}: must be an object{wanted}")
    return value


def table(path: Path, dialect: type[csv.Dialect] = csv.excel, missing: str | None = None) -> list[dict[str, str]]:
    """The rows of a file of delimited values, by the names in its first line.

    `missing` stands for cells that a row ends without; with None such a row is refused.
    """
    reader = csv.reader(io.StringIO(text_of(path), newline=""), dialect, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; put a cell with quotation marks in double quotes") from error
    if not lines:
        return []
    names = _header(path, lines[0][1])
    return [_cells(path, number, names, cells, missing) for number, cells in lines[1:]]


def _header(path: Path, names: list[str]) -> list[str]:
    if len(names) == 1 and any(separator in names[0] for separator in SEPARATORS):
        raise UserError(f"{path}, line 1: its only column is '{names[0]}'; separate columns by a comma, or by a tab in a .tsv")
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise UserError(f"{path}, line 1: column {number} has no name; name it, or take it out of all lines")
        if name != name.strip():
            raise UserError(f"{path}, line 1: the column '{name}' begins or ends with a blank; take it away")
    if len(set(names)) < len(names):
        raise UserError(f"{path}, line 1: the column '{_twice(names)}' is there twice; rename one")
    return names


def _cells(path: Path, number: int, names: list[str], cells: list[str], missing: str | None) -> dict[str, str]:
    if missing is not None:
        cells = cells + [missing] * (len(names) - len(cells))
    if len(cells) != len(names):
        cure = "put a cell with a comma or tab in it in double quotes" if len(cells) > len(names) else "write empty cells too"
        raise UserError(f"{path}, line {number}: the row has {len(cells)} cells and the header {len(names)}; {cure}")
    return dict(zip(names, cells, strict=True))


def _twice(names: Sequence[str]) -> str:
    """The first that is there a second time."""
    return next(name for i, name in enumerate(names) if name in names[:i])
