"""`flowgrpo score`: files through rewards into a folder with scores.jsonl, summary.json and report.html."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgrpo.config.sections import RewardConfig
from flowgrpo.core.errors import UserError
from flowgrpo.core.pin import write_pin
from flowgrpo.core.whole import write_json
from flowgrpo.evaluation.sheet.lines import Line, check_settings, known_lines, settings_of, started, write_sheet
from flowgrpo.evaluation.sheet.page import write_page
from flowgrpo.evaluation.sheet.source import read_source
from flowgrpo.evaluation.sheet.stream import Judge, scored
from flowgrpo.evaluation.sheet.summary import summarise


def score(
    source: str, prompts: str | None, rewards: Mapping[str, RewardConfig], out: Path, batch: int
) -> tuple[dict[str, Any], list[Line]]:
    """What summary.json holds, and every sample's line.

    What `out` holds of an interrupted run is kept, and what failed in it is tried again.
    """
    items, folder = read_source(source, prompts), out.resolve()
    settings, known = settings_of(source, prompts, rewards, items), known_lines(folder)
    check_settings(folder, settings, known)
    judge = Judge(rewards)
    folder.mkdir(parents=True, exist_ok=True)
    write_pin(folder, settings)
    finished = write_sheet(folder, scored(items, started(items, known, folder), judge, batch), known)
    if not any(line.scores for line in finished):
        raise UserError(f"nothing could be scored; the first sample: {next(iter(finished[0].errors.values()))}")
    facts = summarise(finished, judge)
    write_json(folder / "summary.json", facts, indent=1)
    write_page(folder, source, finished, facts, settings)
    return facts, finished
