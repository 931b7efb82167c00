"""A run while it trains, as a page that follows it."""

from importlib.resources import files
from statistics import median
from typing import Any, get_args

from flowgrpo.core.digests import digest_of
from flowgrpo.core.pin import pinned
from flowgrpo.pages.pictures import linked
from flowgrpo.pages.site import HOST, Reply, Request, Site, data, page, picture, script
from flowgrpo.pages.templates import render
from flowgrpo.runs.folder import Row, RunFolder, When
from flowgrpo.runs.report import duration, values

RECENT = 20
"""By so many updates it is estimated how long the others take."""
FOLLOWED = ("*.json", "*.jsonl", "config.yaml", "samples/*/scores.jsonl", "checkpoint-*")


def watch(run: RunFolder, host: str = HOST, port: int = 0) -> Site:
    """Errors: UserError for what is no run folder, or where the address can't be listened at."""
    return Site(Live(run), host, port)


class Live:
    """Answers what the page asks. A `version` is of all files that it shows."""

    def __init__(self, run: RunFolder) -> None:
        run.settings  # noqa: B018  is it a run folder?
        self.run = run

    def __call__(self, request: Request) -> Reply | None:
        match request.path.strip("/").split("/"):
            case [""]:
                return page(render("runs/watch.html.jinja", name=self.run.name))
            case ["watch.js"]:
                return script(files(__package__).joinpath("watch.js").read_text(encoding="utf-8"))
            case ["state"]:
                return self._state(request.query)
            case ["samples", when, name] if when in get_args(When):
                return picture(self.run.path / "samples" / when / name)
        return None

    def _state(self, known: str) -> Reply:
        """Nothing where that version is known already; 503 while a file of the run is being replaced."""
        try:
            version = _version(self.run)
            return Reply(b"", "text/plain", 204) if known == version else data({"version": version, "body": body(self.run)})
        except FileNotFoundError:
            return data({"error": "the run is writing"}, 503)


def body(run: RunFolder) -> str:
    """What changes of the page: progress, alarms, curves, the newest samples beside those of the untrained model."""
    progress = _progress(run)
    newest, made = _newest(run)
    held_out = None if progress["state"] == "training" else run.held_out
    shown = values(run, newest, held_out, lambda folder, made: linked(folder, made, f"/samples/{folder.name}/"))
    beside = f"Samples after {made} updates, beside the untrained model's" if made else "Samples of the untrained model"
    return render("runs/watch_body.html.jinja", **shown, **progress, title=beside, hint=_hint(run, made))


def _newest(run: RunFolder) -> tuple[When, int]:
    """Which samples are the newest, and after how many updates: a run that goes on after its end makes some between updates."""
    whens: tuple[When, When] = ("latest", "after")
    updates = {when: (pinned(run.samples(when)) or {}).get("updates", 0) for when in whens}
    newest: When = "after" if updates["after"] >= updates["latest"] else "latest"
    return newest, updates[newest]


def _progress(run: RunFolder) -> Row:
    """How far it is, in a sentence, as a share, and whether it goes on."""
    training, updates = run.is_training, run.settings.get("updates") or 0
    rows = [row for row in run.metrics if "reward" in row]
    words = f"update {len(rows)} of {updates}"
    if not training and (run.held_out is not None or len(rows) >= updates > 0):
        state, sentence = "finished", f"Finished after {len(rows)} updates."
    elif training is False:
        state, sentence = "stopped", f"Stopped at {words}; flowgrpo train ... --resume {run} goes on."
    elif not rows:
        state, sentence = "training", f"Getting ready{_evaluated(run)}."
    elif len(rows) >= updates:
        state, sentence = "training", "All updates are done; what it has learned is being evaluated."
    else:
        state, sentence = "training", f"{words.capitalize()}, about {duration(_seconds_left(rows, updates))} of training left."
    return {"state": state, "sentence": sentence, "share": min(1.0, len(rows) / updates) if updates else 0.0}


def _evaluated(run: RunFolder) -> str:
    count = len(run.records("before"))
    return f": {count} samples of the untrained model so far" if count else ""


def _seconds_left(rows: list[Row], updates: int) -> float:
    recent = [sum(v for k, v in row.items() if k.startswith("seconds/")) for row in rows[-RECENT:]]
    return median(recent) * (updates - len(rows))


def _hint(run: RunFolder, made: int) -> str:
    """Why there are no newer samples, and what would make some."""
    evaluation: dict[str, Any] = run.settings.get("evaluation") or {}
    if not evaluation:
        return "No samples: this run has no `evaluation`."
    if not evaluation.get("pictures"):
        return "No samples: evaluation.pictures is 0."
    if not evaluation.get("every") and not made:
        return "Samples are made before and after training; with evaluation.every=10 some are seen here on the way."
    return ""


def _version(run: RunFolder) -> str:
    stats = [(str(file), file.stat()) for pattern in FOLLOWED for file in sorted(run.path.glob(pattern))]
    return digest_of([run.is_training, *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)])
