"""The README's pictures and clips: the same prompts and seeds before (upper row) and after (lower row) a run.

python assets/picture.py RUN OUT.png, or OUT.webp of clips
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from flowgrpo.data.media import animate, frames_of

COLUMNS, CLIPS, SIDE, GAP, BAR = 12, 6, 72, 6, 4
RIGHT, WRONG = (18, 128, 74), (196, 50, 10)


def pictures(run: Path) -> list[Image.Image]:
    """Held-out samples of the run, evenly spread over its report, whatever they score: as many frames as the clips have, 1 for
    pictures.

    The bar below a sample is green where the metric is 1, red elsewhere.
    """
    index = json.loads((run / "samples" / "index.json").read_text())
    metric = json.loads((run / "held_out.json").read_text())["metric"]
    columns = CLIPS if "video" in index[0]["before"] else COLUMNS
    rows = index[:: max(1, len(index) // columns)][:columns]
    height = SIDE + BAR + GAP
    still = Image.new("RGB", ((SIDE + GAP) * len(rows) + GAP, 2 * height + GAP), "white")
    draw = ImageDraw.Draw(still)
    tiles = []
    for column, row in enumerate(rows):
        for line, when in enumerate(("before", "after")):
            x, y = GAP + column * (SIDE + GAP), GAP + line * height
            tiles.append(((x, y), frames_of(run / "samples" / (row[when].get("image") or row[when]["video"]))))
            color = RIGHT if row[when]["scores"][metric] == 1.0 else WRONG
            draw.rectangle((x, y + SIDE, x + SIDE - 1, y + SIDE + BAR - 1), fill=color)
        print(row["prompt"])
    return [_frame(still, tiles, t) for t in range(max(len(frames) for _, frames in tiles))]


def _frame(still: Image.Image, tiles: list[tuple[tuple[int, int], list[Image.Image]]], t: int) -> Image.Image:
    canvas = still.copy()
    for place, frames in tiles:
        canvas.paste(frames[min(t, len(frames) - 1)].resize((SIDE, SIDE), Image.Resampling.NEAREST), place)
    return canvas


if __name__ == "__main__":
    made, out = pictures(Path(sys.argv[1])), Path(sys.argv[2])
    if len(made) > 1:
        animate(made, out, lossless=False)
    else:
        made[0].save(out)
