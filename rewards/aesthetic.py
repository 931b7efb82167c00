"""LAION's aesthetic predictor (improved-aesthetic-predictor): how much would people like the look of a picture?

Linear layers on the unit image embedding of OpenAI's CLIP ViT-L/14, fitted to ratings from 1 to 10. The prompt is not read.
The author's file is in a repository of code; it is fetched from a copy on the hub, pinned to a commit like the CLIP weights.
Tested with tiny random weights only.
"""

from pathlib import Path

import torch
from torch import Tensor

from flowgrpo.data.samples import Samples
from flowgrpo.rewards._clip import OpenClip, save_tiny
from flowgrpo.rewards._hub import fetch, reading, tensors
from flowgrpo.rewards._preference import Head, Preference
from flowgrpo.scoring.card import EVERYTHING, card
from flowgrpo.scoring.exemplars import blurred, photos
from flowgrpo.scoring.twins import Arguments, randomised, tiny

CLIP = "ViT-L-14-quickgelu"
WIDTH = 768
REPO, FILE = "camenduru/improved-aesthetic-predictor", "sac+logos+ava1-l14-linearMSE.pth"


def _ladder() -> list[Samples]:
    return [blurred(photos(), 8.0), photos()]


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    torch.save(randomised(Head(WIDTH), ("aesthetic",)).state_dict(), folder / "head.pth")
    clip = save_tiny(folder / "clip", WIDTH)
    return {**arguments, "checkpoint": str(folder / "head.pth"), "clip": str(clip), "revision": None}


@tiny(_tiny)
@card(
    reads="images",
    differentiable=True,
    range=EVERYTHING,
    better="people would rate the picture's look higher; about 1 to 10, most pictures have 4 to 7",
    licence="Apache-2.0; CLIP: MIT",
    source="github.com/christophschuhmann/improved-aesthetic-predictor",
    ladder=_ladder,
)
class Aesthetic(Preference):
    """`checkpoint` is the path of the head's file, `clip` that of CLIP's weights as open_clip saves them, or of its folder."""

    def __init__(
        self,
        checkpoint: str | None = None,
        clip: str = "openai",
        revision: str | None = None,
        device: str = "auto",
        batch: int = 32,
    ) -> None:
        super().__init__(device, batch)
        path = fetch(REPO, FILE, checkpoint, "checkpoint", revision)
        head = Head(WIDTH)
        with reading(path, "the head of the aesthetic predictor"):
            head.load_state_dict(tensors(path))
        self.head = head.eval().requires_grad_(False).to(self.device)
        self.clip = OpenClip(CLIP, clip, self.device, argument="clip")

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        return self.head(self.clip.images(pictures))
