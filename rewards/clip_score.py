"""CLIPScore (Hessel et al. 2021, arXiv 2104.08718): does a picture show what its prompt says?

max(cos, 0) of the embeddings of picture and prompt. The paper multiplies by 2.5, which only stretches the scale, and begins
captions with "A photo depicts"; neither is done here. The default weights are pinned to a commit; those of another model or
tag are taken at `main` unless `revision` names a commit. Tested with tiny random weights only.
"""

from pathlib import Path

from torch import Tensor

from flowgrpo.rewards._clip import OpenClip, save_tiny
from flowgrpo.rewards._preference import Preference, captions_ladder
from flowgrpo.scoring.card import card
from flowgrpo.scoring.twins import Arguments, tiny


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    return {**arguments, "pretrained": str(save_tiny(folder)), "revision": None}


@tiny(_tiny)
@card(
    reads="images",
    differentiable=True,
    range=(0.0, 1.0),
    better="the picture and its prompt are closer in CLIP's space; about 0.2 to 0.4 where they belong together",
    licence="Apache-2.0; OpenAI's weights: MIT",
    source="CLIPScore, arXiv 2104.08718",
    ladder=captions_ladder,
)
class ClipScore(Preference):
    """`model` is a name of open_clip, `pretrained` one of its tags or the path of a checkpoint; the default is the paper's.
    A folder in open_clip's own format says itself what model it holds.

    For a checkpoint that was trained with QuickGELU, such as OpenAI's, name a model that ends in `-quickgelu`.
    """

    def __init__(
        self,
        model: str = "ViT-B-32-quickgelu",
        pretrained: str = "openai",
        revision: str | None = None,
        device: str = "auto",
        batch: int = 32,
    ) -> None:
        super().__init__(device, batch)
        self.clip = OpenClip(model, pretrained, self.device, revision=revision)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        return self.clip.cosine(pictures, prompts).clamp(min=0.0)
