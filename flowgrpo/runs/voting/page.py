"""The page on which people vote: it never learns which candidate is on which side."""

from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any

from flowgrpo.pages.site import HOST, Reply, Request, Site, data, page, picture, script
from flowgrpo.pages.templates import render
from flowgrpo.runs.voting.ballot import Pair
from flowgrpo.runs.voting.result import result
from flowgrpo.runs.voting.votes import Votes

SIDES = ("left", "right")


class Booth:
    """Answers what the page asks; one vote at a time."""

    def __init__(self, votes: Votes) -> None:
        self.votes, self.lock = votes, Lock()

    def __call__(self, request: Request) -> Reply | None:
        with self.lock:
            match request.path.strip("/").split("/"), request.sent:
                case [""], None:
                    return page(render("runs/voting/vote.html.jinja"))
                case ["vote.js"], None:
                    return script(files(__package__).joinpath("vote.js").read_text(encoding="utf-8"))
                case ["next"], None:
                    return data(self._next())
                case ["sample", id, ("left" | "right") as side], None if id in self.votes.ballot.by_id:
                    sample = self.votes.ballot.by_id[id].samples[SIDES.index(side)]
                    return None if sample.kind == "text" else picture(Path(sample.content))
                case ["vote"], dict(sent):
                    self.votes.cast(sent.get("pair"), sent.get("choice"))
                    return data(self._next())
                case ["undo"], dict():
                    self.votes.undo()
                    return data(self._next())
        return None

    def _next(self) -> dict[str, Any]:
        """The next pair and the one behind it, or at the end what came of it."""
        pairs = [pair for pair, _ in zip(self.votes.open, range(2), strict=False)]
        counts = {"done": len(self.votes.standing), "of": len(self.votes.ballot.pairs)}
        if not pairs:
            return {**counts, "result": render("runs/voting/result.html.jinja", found=result(self.votes))}
        return {**counts, **_asked(pairs[0]), "then": [_asked(pair) for pair in pairs[1:]]}


def _asked(pair: Pair) -> dict[str, Any]:
    return {"pair": pair.id, "prompt": pair.prompt, "sides": [_side(pair, side) for side in SIDES]}


def _side(pair: Pair, side: str) -> dict[str, str]:
    sample = pair.samples[SIDES.index(side)]
    return {"text": sample.content} if sample.kind == "text" else {"address": f"/sample/{pair.id}/{side}"}


def vote(votes: Votes, host: str = HOST, port: int = 0) -> Site:
    """The page, until it is closed. Errors: UserError where the address can't be listened at."""
    return Site(Booth(votes), host, port)
