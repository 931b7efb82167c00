"""Text in pictures: how close is what RapidOCR reads to what should stand there?

The reward of Flow-GRPO's task of writing text (arXiv 2505.05470), with another reader. Spaces and case do not count, as there.
Text beside the wanted one counts as mistakes, which Flow-GRPO forgives where the wanted text is read whole.
"""

import re
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._hub import reading
from flowgrpo.rewards._package import folder, package
from flowgrpo.rewards._pixels import pixels
from flowgrpo.scoring.card import card
from flowgrpo.scoring.exemplars import samples as exemplars
from flowgrpo.scoring.exemplars import written

DETECTION, RECOGNITION = "PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx"
LEAST = 128
"""Smaller pictures are enlarged to this side: text of few pixels is read better then."""
DETECTION_SIDE = 320
"""Where text is looked for, the shorter side has at least this; RapidOCR's 736 takes four times as long and reads no better."""
QUOTED = re.compile(r'"([^"]*)"')


def _ladder() -> list[Samples]:
    return [exemplars(written(text)[None], [{"text": "HELLO"}]) for text in ("GOODBYE", "HELP", "HELLO")]


@card(
    reads="images",
    range=(0.0, 1.0),
    better="1: reads exactly as wanted, 0: as many mistakes as the wanted text has characters, or more",
    licence="Apache-2.0 (RapidOCR, models PP-OCRv6)",
    source="RapidOCR; Flow-GRPO, arXiv 2505.05470",
    row='{"text": str}, or else the prompt has it in double quotes',
    ladder=_ladder,
    check=lambda _, prompt: _wanted(prompt.text, prompt.metadata),
)
class Ocr:
    """max(0, 1 - edit distance / length of the wanted text), both without spaces and in lower case.

    A row without "text" wants what stands in double quotes in its prompt, several quotes one after the other.
    """

    def __init__(self) -> None:
        package("onnxruntime")
        engine = package("rapidocr").RapidOCR
        models = folder("rapidocr") / "models"
        threads = torch.get_num_threads()
        with reading(models, f"a folder with {DETECTION} and {RECOGNITION}, which RapidOCR 3.10 ships"):
            self.engine = engine(
                params={
                    "Global.log_level": "critical",
                    "Global.use_cls": False,
                    "Det.model_path": str(models / DETECTION),
                    "Det.limit_side_len": DETECTION_SIDE,
                    "Rec.model_path": str(models / RECOGNITION),
                    "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                }
            )
            # RapidOCR loads its models when it first reads.
            self.read(pixels(written("loads the models")[None])[0])

    def __call__(self, samples: Samples) -> list[float]:
        wanted = [_wanted(prompt, row) for prompt, row in zip(samples.prompts, samples.metadata, strict=True)]
        return [_score(self.read(picture), text) for picture, text in zip(pixels(samples.images), wanted, strict=True)]

    def read(self, picture: np.ndarray) -> str:
        """All text of [H, W, 3] uint8 in reading order, normalised."""
        factor = max(1.0, LEAST / min(picture.shape[:2]))
        enlarged = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        lines = self.engine(cv2.cvtColor(enlarged, cv2.COLOR_RGB2BGR))
        return "" if lines.boxes is None else normalised("".join(in_reading_order(lines.boxes, lines.txts)))


def _wanted(prompt: str, row: dict[str, Any]) -> str:
    text = row.get("text", "".join(QUOTED.findall(prompt)))
    if not isinstance(text, str) or not normalised(text):
        raise UserError(f"the row of the prompt '{prompt}' must hold 'text', or the prompt the wanted text in double quotes")
    return normalised(text)


def _score(read: str, wanted: str) -> float:
    return max(0.0, 1.0 - edit_distance(read, wanted) / len(wanted))


def normalised(text: str) -> str:
    return "".join(text.split()).lower()


def in_reading_order(boxes: np.ndarray, texts: Sequence[str]) -> list[str]:
    """Texts of boxes [N, 4, 2] line by line, from left to right; a line is what has its middle above the foot of its highest."""
    left, top, foot = boxes[:, :, 0].min(1), boxes[:, :, 1].min(1), boxes[:, :, 1].max(1)
    middle = (top + foot) / 2
    lines: list[list[int]] = []
    for i in np.argsort(middle, kind="stable").tolist():
        if lines and middle[i] < foot[lines[-1][0]]:
            lines[-1].append(i)
        else:
            lines.append([i])
    return [texts[i] for line in lines for i in sorted(line, key=lambda i: left[i])]


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest characters to insert, delete or replace."""
    row = list(range(len(b) + 1))
    for i, character in enumerate(a, 1):
        above, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (character != other)))
    return row[-1]
