"""Films through OpenCV's FFmpeg, strictly. H, W pixels."""

import os
import re
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import cv2
import numpy as np

from flowgrpo.core.errors import UserError

DECODER = re.compile(r"\[\w[^@\]]* @ 0x[0-9a-f]+\] (.*)")
"""A line in which FFmpeg says what is wrong with a film; OpenCV hands on whatever could be made of it."""
_redirected = Lock()


def film(path: Path) -> Generator[np.ndarray, None, None]:
    """uint8 [H, W, 3], frame by frame. A UserError where one is damaged or missing, at the latest after the last."""
    said: list[str] = []
    with _overheard(said):
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        try:
            stated, count = capture.get(cv2.CAP_PROP_FRAME_COUNT), 0
            while (step := capture.read())[0]:
                count += 1
                yield cv2.cvtColor(step[1], cv2.COLOR_BGR2RGB)
        finally:
            capture.release()
    if count == 0:
        raise UserError("has no frame that can be read")
    if said:
        raise UserError(f"is damaged ({said[0]}); make it anew")
    if stated <= 0:
        raise UserError("does not say how many frames it has, so that a cut would not be noticed; save it as MP4")
    if count != stated:
        raise UserError(
            f"has {count} frames where its header says {stated:.0f} (cut, damaged, or of no constant rate); make it anew"
        )


@contextmanager
def _overheard(said: list[str]) -> Iterator[None]:
    """FFmpeg writes to the process's standard error, past Python; all else that is written there meanwhile goes on."""
    with _redirected, tempfile.TemporaryFile() as heard:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            heard.seek(0)
            for line in heard.read().decode(errors="replace").splitlines(keepends=True):
                if match := DECODER.match(line):
                    said.append(match[1])
                elif not line.startswith("[ WARN:"):
                    sys.stderr.write(line)
