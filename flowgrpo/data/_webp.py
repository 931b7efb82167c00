"""A lossless WebP that stores every frame. Encoders of animations leave out a frame that equals the one before.

Chunks of RFC 9649: a name of four letters, the length of the data, the data, and a byte where the length is odd.
"""

import io
from collections.abc import Sequence

from PIL import Image

ANIMATION, NO_BLENDING = bytes([0b10, 0, 0, 0]), bytes([0b10])
BACKGROUND, FOR_EVER = b"\xff" * 4, b"\0\0"


def animation(frames: Sequence[Image.Image], duration: int) -> bytes:
    """Of RGB frames of one size, each seen for `duration` milliseconds, again and again."""
    size = b"".join(_24_bits(side - 1) for side in frames[0].size)
    header = _24_bits(0) * 2 + size + _24_bits(duration) + NO_BLENDING
    chunks = [_chunk(b"VP8X", ANIMATION + size), _chunk(b"ANIM", BACKGROUND + FOR_EVER)]
    chunks += [_chunk(b"ANMF", header + _picture(frame)) for frame in frames]
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def is_animation(content: bytes) -> bool:
    """Also of one frame."""
    return content[8:16] == b"WEBPVP8X" and bool(content[20] & ANIMATION[0])


def _picture(frame: Image.Image) -> bytes:
    """The chunk that is all of a still WebP, behind the 12 bytes that say so."""
    buffer = io.BytesIO()
    frame.save(buffer, "webp", lossless=True, method=6)
    return buffer.getvalue()[12:]


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)


def _24_bits(number: int) -> bytes:
    return number.to_bytes(3, "little")
