"""The README's picture: the same prompts and seeds before (upper row) and after (lower row) a run.

python assets/picture.py RUN OUT.png
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

COLUMNS, SIDE, GAP, BAR = 12, 72, 6, 4
RIGHT, WRONG = (18, 128, 74), (196, 50, 10)


def picture(run: Path) -> Image.Image:
    """Of the run's held-out pictures every other one, whatever they score: two prompts per task type.

    The bar below a picture is green where the metric is 1, red elsewhere.
    """
    index = json.loads((run / "samples" / "index.json").read_text())
    metric = json.loads((run / "held_out.json").read_text())["metric"]
    rows = index[:: max(1, len(index) // COLUMNS)][:COLUMNS]
    height = SIDE + BAR + GAP
    canvas = Image.new("RGB", ((SIDE + GAP) * len(rows) + GAP, 2 * height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, row in enumerate(rows):
        for line, when in enumerate(("before", "after")):
            tile = Image.open(run / "samples" / row[when]["image"]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            x, y = GAP + column * (SIDE + GAP), GAP + line * height
            canvas.paste(tile, (x, y))
            color = RIGHT if row[when]["scores"][metric] == 1.0 else WRONG
            draw.rectangle((x, y + SIDE, x + SIDE - 1, y + SIDE + BAR - 1), fill=color)
        print(row["prompt"])
    return canvas


if __name__ == "__main__":
    picture(Path(sys.argv[1])).save(sys.argv[2])
