"""The README's pictures and clips: the same prompts and seeds before (upper row) and after (lower row) a run.

python assets/picture.py RUN OUT.png, or OUT.webp of clips
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from flowgrpo.data.media import animate, frames_of
from flowgrpo.runs.folder import RunFolder, When

COLUMNS, CLIPS, SIDE, GAP, BAR = 12, 6, 72, 6, 4
RIGHT, WRONG = (18, 128, 74), (196, 50, 10)


def pictures(run: RunFolder) -> list[Image.Image]:
    """Held-out samples of the run, evenly spread over its report, whatever they score: as many frames as the clips have, 1 for
    pictures.

    The bar below a sample is green where the metric is 1, red elsewhere.
    """
    if not run.held_out:
        sys.exit(f"{run} holds no evaluated run; name a folder of a run that has ended")
    metric = run.held_out["metric"]
    lines: tuple[When, ...] = ("before", "after")
    kept = [[record for record in run.records(when) if record.shown] for when in lines]
    pairs = list(zip(*kept, strict=True))
    columns = CLIPS if "video" in pairs[0][0].shown else COLUMNS
    rows = pairs[:: max(1, len(pairs) // columns)][:columns]
    height = SIDE + BAR + GAP
    still = Image.new("RGB", ((SIDE + GAP) * len(rows) + GAP, 2 * height + GAP), "white")
    draw = ImageDraw.Draw(still)
    tiles = []
    for column, pair in enumerate(rows):
        for line, (when, record) in enumerate(zip(lines, pair, strict=True)):
            x, y = GAP + column * (SIDE + GAP), GAP + line * height
            (file,) = record.shown.values()
            tiles.append(((x, y), frames_of(run.samples(when) / file)))
            color = RIGHT if record.scores[metric] == 1.0 else WRONG
            draw.rectangle((x, y + SIDE, x + SIDE - 1, y + SIDE + BAR - 1), fill=color)
        print(pair[0].prompt)
    return [_frame(still, tiles, t) for t in range(max(len(frames) for _, frames in tiles))]


def _frame(still: Image.Image, tiles: list[tuple[tuple[int, int], list[Image.Image]]], t: int) -> Image.Image:
    canvas = still.copy()
    for place, frames in tiles:
        canvas.paste(frames[min(t, len(frames) - 1)].resize((SIDE, SIDE), Image.Resampling.NEAREST), place)
    return canvas


if __name__ == "__main__":
    made, out = pictures(RunFolder(sys.argv[1])), Path(sys.argv[2])
    if len(made) > 1:
        animate(made, out, lossless=False)
    else:
        made[0].save(out, lossless=True)
