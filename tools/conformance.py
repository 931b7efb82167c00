"""Build every tiny pipeline, check it, and write the table of conformance: `python tools/conformance.py [NAME ...]`.

The table is flowgrpo/training/conformance/table.json. With names only these are checked and printed, and only their rows are new.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import diffusers
import torch

from flowgrpo.core.errors import UserError
from flowgrpo.policies import tiny
from flowgrpo.policies.tiny.asked import config_of, prompt_of
from flowgrpo.training.conformance import table
from flowgrpo.training.conformance.check import Verdict, check

PROCESSES = 2


def verdict(name: str) -> Verdict:
    entry = tiny.pipelines()[name]
    with tempfile.TemporaryDirectory() as folder:
        entry.build().save_pretrained(f"{folder}/pipeline")
        config = config_of(entry, Path(folder, "pipeline"))
        try:
            found = check(name, entry.kind, config, prompt_of(entry, Path(folder)))
        except UserError as error:
            found = Verdict(name, entry.kind, "", "", error=f"UserError: {error}")
    return found if found.passed else replace(found, error=entry.known or found.error)


def _quiet() -> None:
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()


def main(names: list[str]) -> None:
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), _quiet) as pool:
        rows = []
        for found in pool.map(verdict, names or tiny.pipelines()):
            print(f"{'pass' if found.passed else 'FAIL'}  {found.name}", file=sys.stderr)
            rows.append(found.row())
    fresh = {row["name"]: row for row in [*table.read(), *rows]}
    table.write([fresh[name] for name in tiny.pipelines()])
    print(table.text(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
