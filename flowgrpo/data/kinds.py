"""What models make and rewards judge."""

from typing import Literal

Kind = Literal["images", "videos", "texts"]
