"""Films through PyAV (FFmpeg), strictly. H, W pixels."""

from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream

from flowgrpo.core.errors import UserError

UNEVEN = 1.5
"""So many times as long as the shortest a frame may be seen."""

av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)  # of two films that are damaged alike, FFmpeg says the same


def film(path: Path) -> Generator[np.ndarray, None, None]:
    """uint8 [H, W, 3], frame by frame. A UserError where one is damaged or missing, at the latest after the last."""
    times: list[float] = []
    corrupt, failure = False, ""
    with av.logging.Capture() as said, _opened(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # what another thread says is not heard here
        stated = stream.frames or _estimated(container, stream)
        try:
            for packet in container.demux(stream):
                corrupt = corrupt or packet.is_corrupt
                for frame in packet.decode():
                    times.append(frame.time or 0.0)
                    corrupt = corrupt or frame.is_corrupt
                    yield _seen(frame)
        except av.FFmpegError as error:
            failure = str(error)
    if not times:
        raise UserError("has no frame that can be read")
    if said or corrupt or failure:
        raise UserError(f"is damaged ({said[0][2].strip() if said else failure or 'a frame is corrupt'}); make it anew")
    _refuse_other_counts(len(times), stated)
    _refuse_other_rates(times)


def _refuse_other_counts(count: int, stated: int) -> None:
    if stated == 0:
        raise UserError("does not say how many frames it has, so that a cut would not be noticed; save it as MP4")
    if count != stated:
        raise UserError(f"has {count} frames where its header says {stated} (cut, damaged, or of no constant rate); make it anew")


def _refuse_other_rates(times: Sequence[float]) -> None:
    """A frame that is seen longer than others would count as one of them. Containers round times, and cameras waver a little."""
    durations = np.diff(times)
    if len(durations) and durations.max() > UNEVEN * durations.min():
        shortest, longest = 1000 * durations.min(), 1000 * durations.max()
        raise UserError(f"has frames of {shortest:.0f} to {longest:.0f} ms; write it anew with a constant rate")


def _opened(path: Path) -> InputContainer:
    try:
        container = av.open(str(path.absolute()))
    except av.FFmpegError as error:
        raise UserError("has no frame that can be read") from error
    if not container.streams.video:
        container.close()
        raise UserError("has no frame that can be read")
    return container


def _estimated(container: InputContainer, stream: VideoStream) -> int:
    """Frames by duration and rate, which is what Matroska states; 0 where it does not."""
    return round(Fraction(container.duration or 0, av.time_base) * (stream.average_rate or 0))


def _seen(frame: VideoFrame) -> np.ndarray:
    """As a player shows it on a white page: turned, and what is transparent on white."""
    turns, rest = divmod(frame.rotation, 90)
    if rest:
        raise UserError(f"is turned by {frame.rotation} degrees; turn it by a multiple of 90")
    if not any(component.is_alpha for component in frame.format.components):
        return np.rot90(frame.to_ndarray(format="rgb24"), turns)
    pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = pixels[..., 3:]
    return np.rot90(((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8), turns)
