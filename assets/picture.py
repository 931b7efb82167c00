"""The README's picture: the same prompts and seeds before (upper row) and after (lower row) a run.

python assets/picture.py RUN OUT.png
"""

import json
import sys
from pathlib import Path

from PIL import Image

COLUMNS, SIDE, GAP = 12, 72, 6


def picture(run: Path) -> Image.Image:
    """Of the run's held-out pictures every other one, whatever they score: two prompts per task type."""
    index = json.loads((run / "samples" / "index.json").read_text())
    rows = index[:: max(1, len(index) // COLUMNS)][:COLUMNS]
    width = (SIDE + GAP) * len(rows) + GAP
    canvas = Image.new("RGB", (width, 2 * (SIDE + GAP) + GAP), "white")
    for column, row in enumerate(rows):
        for line, when in enumerate(("before", "after")):
            tile = Image.open(run / "samples" / row[when]["image"]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            canvas.paste(tile, (GAP + column * (SIDE + GAP), GAP + line * (SIDE + GAP)))
        print(row["prompt"])
    return canvas


if __name__ == "__main__":
    picture(Path(sys.argv[1])).save(sys.argv[2])
