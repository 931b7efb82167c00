"""`flowgrpo vote RUN... [--out FILE] [--export FILE] [--result] [--json] [--host ADDRESS] [--port N]`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from flowgrpo.cli import _site
from flowgrpo.core.errors import UserError
from flowgrpo.core.whole import require_writable, write_lines

if TYPE_CHECKING:
    from flowgrpo.runs.voting.votes import Votes


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run folders: one is compared with its untrained model, several with one another too",
    )
    parser.add_argument("--out", metavar="FILE", help="the file of the votes; it goes on where it stopped (RUN/votes.jsonl)")
    parser.add_argument("--export", metavar="FILE", help="write the votes as JSONL rows of prompt, chosen and rejected")
    parser.add_argument("--result", action="store_true", help="only say what the votes so far are worth")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    _site.arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    from flowgrpo.runs.run import Run
    from flowgrpo.runs.voting.ballot import ballot
    from flowgrpo.runs.voting.result import result
    from flowgrpo.runs.voting.summary import as_json, as_text
    from flowgrpo.runs.voting.votes import Votes

    file = Path(arguments.out or Path(arguments.runs[0], "votes.jsonl"))
    for path, option in ((file, "--out"), (Path(arguments.export or file), "--export")):
        _require_file(path, option)
    votes = Votes(file, ballot([Run(path) for path in arguments.runs]))
    if not arguments.result:
        _ask(votes, arguments.host, arguments.port)
    if arguments.export:
        _export(votes, Path(arguments.export))
    print((as_json if arguments.json else as_text)(result(votes), votes))
    return 0


def _require_file(path: Path, option: str) -> None:
    if path.is_dir():
        raise UserError(f"{option} = {path} is a folder; name a file in it")
    require_writable(path.parent, option)


def _ask(votes: "Votes", host: str, port: int) -> None:
    from flowgrpo.runs.voting.page import vote

    votes.file.parent.mkdir(parents=True, exist_ok=True)
    with votes.held(), vote(votes, host, port) as site:
        print(f"vote at {site.url}; votes go into {votes.file}; Ctrl-C ends and says the result", flush=True)
        site.wait()


def _export(votes: "Votes", file: Path) -> None:
    rows = votes.preferences(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_lines(file, map(json.dumps, rows))
