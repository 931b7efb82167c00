"""Pictures as files in memory, read and written as `data.media` says. H, W height and width, F frames."""

import io

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.data.media import rounded, still

FORMATS = ("PNG", "JPEG", "WEBP")
FAST = 1


def png(picture: Tensor) -> bytes:
    """[3, H, W] in [0, 1], rounded to 8 bits a channel."""
    buffer = io.BytesIO()
    Image.fromarray(rounded(picture)).save(buffer, "PNG", compress_level=FAST)
    return buffer.getvalue()


def pixels_of(data: bytes) -> int:
    """As many as the head of the file says; 0 where it can't be read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            return file.width * file.height
    except Exception:
        return 0


class Reader:
    """Reads pictures of strangers, at most `pixels` pixels in all: a small file can hold a picture of any size."""

    def __init__(self, pixels: int) -> None:
        self.pixels = self.left = pixels

    def clip(self, frames: list[bytes]) -> Tensor:
        """uint8 [F, 3, H, W]."""
        pictures = [self.picture(frame) for frame in frames]
        if len({picture.shape for picture in pictures}) > 1:
            raise UserError("the frames of a clip must have one size")
        return torch.stack(pictures)

    def picture(self, data: bytes) -> Tensor:
        """uint8 [3, H, W]. A UserError says what is wrong with the file, whatever it is."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                return self._pixels(file)
        except UserError:
            raise
        except UnidentifiedImageError as error:
            raise UserError("this is not a PNG, JPEG or WebP file") from error
        except Exception as error:
            raise UserError(f"this picture can't be read ({error})") from error

    def _pixels(self, file: Image.Image) -> Tensor:
        size = file.width * file.height
        if size > self.left:
            raise UserError(
                f"this picture has {file.width} x {file.height} pixels, and {self.left} of the request's {self.pixels} are left; "
                "send fewer, or start the server with a larger --max-pixels"
            )
        try:
            pixels = still(file)
        except UserError as error:
            raise UserError(f"this picture {error}") from error
        self.left -= size
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
