"""The picture of docs/howto/fleet_size.md, from the seconds that stand there: `python tools/fleet_size.py`."""

import re
from pathlib import Path

import numpy as np

from flowgrpo.config.run import load_config
from flowgrpo.pages.plot import Line, Panel, figure
from flowgrpo.training.fleet_size.measured import seconds_of, work_of
from flowgrpo.training.fleet_size.table import TURN, rows_of
from flowgrpo.training.fleet_size.work import Assumptions

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "fleet_size.md"
CARDS = (8, 16, 32, 64, 128, 256, 512)
PROMPTS = (48, 480)


def seconds_on_the_page() -> str:
    """The block of JSON."""
    found = re.search(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"{PAGE} says no seconds"
    return found[1]


def panel(prompts: int, file: Path) -> Panel:
    config = load_config(["sd3.5-medium", "flow_grpo", "pickscore"], [f"rollout.prompts_per_update={prompts}"])
    curves: dict[str, list[float]] = {}
    for name, assumed in (("", Assumptions()), (", one trainer", Assumptions(trainers=1))):
        for row in rows_of(work_of(config, seconds_of(str(file), 1), assumed), CARDS, assumed):
            if not (name and row.way == TURN):
                curves.setdefault(row.way + name, []).append(3600.0 / row.seconds)
    cards = np.array(CARDS, dtype=float)
    lines = [Line(name, cards, *[np.array(values)] * 3) for name, values in curves.items()]
    return Panel(f"Updates an hour, {prompts} prompts an update", "cards", lines)


def main() -> None:
    file = ROOT / "build" / "h200.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(seconds_on_the_page())
    picture = figure([panel(prompts, file) for prompts in PROMPTS], rate=False)
    (ROOT / "docs" / "drawings" / "fleet_size.svg").write_text(picture)


if __name__ == "__main__":
    main()
