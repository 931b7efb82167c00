"""What models make and rewards judge."""

from typing import Literal

Kind = Literal["images", "videos", "texts"]
Reads = Literal["images", "videos", "texts", "latents"]
"""What a reward looks at: a sample, or the state that it is decoded from."""
