"""Human Preference Score v2 and v2.1 (Wu et al. 2023, arXiv 2306.09341): which picture would people choose for a prompt?

The cosine of the embeddings of a CLIP ViT-H/14 that was fine-tuned on choices; tables of the paper multiply it by 100. As in
the published code, a picture that is not square is padded with black rather than cut. Pinned to a commit. Tested with tiny
random weights only.
"""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from flowgrpo.core.errors import UserError
from flowgrpo.core.plugins import nearest
from flowgrpo.rewards._clip import OpenClip, save_tiny
from flowgrpo.rewards._hub import fetch
from flowgrpo.rewards._preference import Preference, captions_ladder
from flowgrpo.scoring.card import card
from flowgrpo.scoring.twins import Arguments, tiny

REPO = "xswu/HPSv2"
FILES = {"v2": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    return {**arguments, "checkpoint": str(save_tiny(folder)), "revision": None}


@tiny(_tiny)
@card(
    reads="images",
    differentiable=True,
    range=(-1.0, 1.0),
    better="people would rather choose the picture for its prompt; mostly 0.2 to 0.35",
    licence="Apache-2.0",
    source="HPSv2, arXiv 2306.09341",
    ladder=captions_ladder,
)
class HPS(Preference):
    """`version` is "v2" or "v2.1"; `checkpoint` is the path of that version's file, or of a folder in open_clip's format."""

    def __init__(
        self,
        version: str = "v2.1",
        checkpoint: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        batch: int = 16,
    ) -> None:
        super().__init__(device, batch)
        if version not in FILES:
            raise UserError(f"there is no HPS '{version}' ({nearest(version, FILES)})")
        path = fetch(REPO, FILES[version], checkpoint, "checkpoint", revision)
        self.clip = OpenClip("ViT-H-14", str(path), self.device, argument="checkpoint")
        self.clip.prepare = replace(self.clip.prepare, fit="longest")

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        return self.clip.cosine(pictures, prompts)
