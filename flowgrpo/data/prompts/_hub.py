"""Prompts from a dataset of the Hugging Face Hub: `hub:OWNER/NAME[/CONFIG]:COLUMN[?key=value&...]`, by the library `datasets`.

COLUMN becomes `prompt`; the other columns stay in the row where JSON can hold their values, pictures as files. Keys:

    split       train where none is named
    revision    a commit of the dataset; without one it is taken as it is today
    count       how many rows; only what holds the first so many is fetched
    fields      which columns stay, by commas, each NAME or NEW:NAME to call it NEW; empty keeps the prompt alone
    after       a text that follows each prompt after a blank line: in which form to answer

Rows that are equal are kept once. A picture is saved as PNG, under a name by its content, and stands in the row as
`picture:NAME`: in a column that is named like one (`image`), or is called so by `fields` (`image:source_img`), it is what the
model works from.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from itertools import islice
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
KEYS = ("split", "revision", "count", "fields", "after")
REHEARSE = "`--tiny` rehearses a recipe without it"


def rows(source: str) -> list[Row]:
    """Errors: UserError where the source has another form, or its dataset can't be had."""
    parts = SOURCE.fullmatch(source)
    if parts is None:
        raise UserError(f"'{source}' must have the form {FORM}")
    options = options_of(parts["options"] or "", source, KEYS)
    check_count(options, source)
    count = options.get("count")
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError(
            f"the prompts '{source}' need the package 'datasets'; run: pip install 'flowgrpo[hub]' ({REHEARSE})"
        ) from error
    try:
        found = datasets.load_dataset(
            parts["dataset"],
            parts["config"],
            split=str(options.get("split", "train")),
            revision=str(options["revision"]) if "revision" in options else None,
            streaming=count is not None,
        )
        fields = _fields(options.get("fields"), parts["column"], _columns(found), source)
        kept = _distinct(found.select_columns(sorted(set(fields.values()))), fields, "fields" in options, source)
        rows = [_followed(row, options.get("after")) for row in islice(kept, count)]
    except UserError:
        raise
    except Exception as error:  # the hub, the network, what serves them, or a split that isn't there
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the prompts '{source}' can't be had from the hub ({type(error).__name__}: {said}); {REHEARSE}"
        ) from error
    if count is not None and len(rows) < count:
        raise UserError(f"{source}: there are only {len(rows)} different rows; ask for fewer than {count}")
    return rows


def _columns(found: Any) -> list[str]:
    """A stream does not always know them before its first row."""
    return list(found.column_names or next(iter(found)))


def _fields(wanted: Any, column: str, columns: list[str], source: str) -> dict[str, str]:
    """Columns by what a row calls them."""
    if wanted is None:
        named = {name: name for name in columns if name != column}
    else:
        pairs = [field.rpartition(":") for field in str(wanted).split(",") if field]
        named = {new or name: name for new, _, name in pairs}
    fields = {"prompt": column} | {new: name for new, name in named.items() if new != "prompt"}
    if missing := [name for name in fields.values() if name not in columns]:
        raise UserError(f"{source}: the dataset has no column '{missing[0]}' ({nearest(missing[0], columns)})")
    return fields


def _distinct(found: Iterable[Mapping[str, Any]], fields: Mapping[str, str], strict: bool, source: str) -> Iterable[Row]:
    seen: set[str] = set()
    for number, example in enumerate(found, 1):
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
