"""Prompts from a dataset of the Hugging Face Hub: `hub:OWNER/NAME[/CONFIG]:COLUMN[?key=value&...]`, by the library `datasets`.

COLUMN becomes `prompt`; the other columns stay in the row where JSON can hold their values, pictures as files. Keys:

    split       train where none is named
    revision    a commit of the dataset; without one it is taken as it is today
    count       how many rows; only what holds the first so many is fetched
    fields      which columns stay, by commas, each NAME or NEW:NAME to call it NEW; empty keeps the prompt alone
    after       a text that follows each prompt after a blank line: in which form to answer (%2B is a +, %26 a &)

Rows that are equal are kept once. A picture is saved as PNG, under a name by its content, and stands in the row as
`picture:NAME`: in a column that is named like one (`image`), or is called so by `fields` (`image:source_img`), it is what the
model works from.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from flowgrpo.core.errors import UserError
from flowgrpo.core.paths import PICTURE, pictures
from flowgrpo.core.plugins import nearest
from flowgrpo.data.prompts import plain
from flowgrpo.data.prompts._generators import check_count, options_of
from flowgrpo.data.rows import Row

if TYPE_CHECKING:
    from PIL.Image import Image

SOURCE = re.compile(r"hub:(?P<dataset>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/:?]+))?:(?P<column>[^?]+)(?:\?(?P<options>.*))?")
FORM = "hub:OWNER/NAME[/CONFIG]:COLUMN[?split=train&revision=COMMIT&count=100&fields=answer]"
TEXTS = ("split", "revision", "fields", "after")
KEYS = (*TEXTS, "count")
REHEARSE = "`--tiny` rehearses a recipe without it"


def rows(source: str) -> list[Row]:
    """Errors: UserError where the source has another form, or its dataset can't be had."""
    match = SOURCE.fullmatch(source)
    if match is None:
        raise UserError(f"'{source}' must have the form {FORM}")
    options = options_of(match["options"] or "", source, KEYS, texts=TEXTS)
    check_count(options, source)
    count = options.get("count")
    with _reached(source.partition("?")[0]):
        dataset = _dataset(match["dataset"], match["config"], options)
        fields = _fields(options.get("fields"), match["column"], _columns(dataset), source)
        examples = _distinct(dataset.select_columns(sorted(set(fields.values()))), fields, "fields" in options, source)
        rows = [_followed(row, options.get("after")) for row in islice(examples, count)]
    if count is not None and len(rows) < count:
        raise UserError(f"{source}: there are only {len(rows)} different rows; ask for fewer than {count}")
    return rows


@contextmanager
def _reached(source: str) -> Iterator[None]:
    """What goes wrong inside is of the library, the hub, the network, or a split that isn't there."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        get = "run: pip install 'flowgrpo[hub]'"
        raise UserError(f"the prompts '{source}' need the package '{error.name}'; {get} ({REHEARSE})") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {shorten(str(error), 200, placeholder=' ...')}"
        raise UserError(f"the prompts '{source}' can't be had from the hub ({reason}); {REHEARSE}") from error


def _dataset(name: str, config: str | None, options: Mapping[str, Any]) -> Any:
    """All of it, or a stream where rows are counted."""
    import datasets

    split, revision = options.get("split", "train"), options.get("revision")
    return datasets.load_dataset(name, config, split=split, revision=revision, streaming="count" in options)


def _columns(dataset: Any) -> list[str]:
    """A stream does not always know them before its first row."""
    return list(dataset.column_names or next(iter(dataset)))


def _fields(wanted: Any, column: str, columns: list[str], source: str) -> dict[str, str]:
    """Columns by what a row calls them."""
    if wanted is None:
        named = {name: name for name in columns if name != column}
    else:
        pairs = [field.rpartition(":") for field in wanted.split(",") if field]
        named = {new or name: name for new, _, name in pairs}
    fields = {"prompt": column} | {new: name for new, name in named.items() if new != "prompt"}
    if missing := [name for name in fields.values() if name not in columns]:
        raise UserError(f"{source}: the dataset has no column '{missing[0]}' ({nearest(missing[0], columns)})")
    return fields


def _distinct(examples: Iterable[Mapping[str, Any]], fields: Mapping[str, str], strict: bool, source: str) -> Iterable[Row]:
    seen: set[str] = set()
    for number, example in enumerate(examples, 1):
        row = {new: _kept(example[name]) for new, name in fields.items()}
        if unfit := [name for name, value in row.items() if not plain(value)]:
            if strict or "prompt" in unfit:
                raise UserError(f"{source}, row {number}: JSON can't hold its '{fields[unfit[0]]}'; leave it out of fields")
            row = {name: value for name, value in row.items() if name not in unfit}
        text = json.dumps(row, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield row


def _followed(row: Row, after: Any) -> Row:
    return row if after is None else {**row, "prompt": f"{str(row['prompt']).strip()}\n\n{after}"}


def _kept(value: Any) -> Any:
    """The value, with pictures saved."""
    from PIL.Image import Image

    if isinstance(value, list):
        return [_kept(item) for item in value]
    return _saved(value) if isinstance(value, Image) else value


def _saved(picture: "Image") -> str:
    rgb = picture.convert("RGB")
    name = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()[:32] + ".png"
    path = pictures() / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}.{name}")
        rgb.save(partial)
        partial.replace(path)
    return PICTURE + name
