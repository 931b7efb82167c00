"""PickScore v1 (Kirstain et al. 2023, arXiv 2305.01569): which picture would people pick for a prompt?

The temperature times the cosine of the embeddings of a CLIP ViT-H/14 that was fine-tuned on picks, as published: about 20.
Flow-GRPO divides by 26; that changes nothing for one reward, and `weight: 0.0385` does it where several are added.
Pinned to commits. Tested with tiny random weights only.
"""

from pathlib import Path

from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from flowgrpo.core.errors import UserError
from flowgrpo.rewards._clip import Preprocessing, write_vocabulary
from flowgrpo.rewards._hub import check_vocabulary, fetch_folder, reading
from flowgrpo.rewards._preference import Preference, captions_ladder
from flowgrpo.scoring.card import card
from flowgrpo.scoring.twins import Arguments, randomised, tiny

MODEL, MODEL_FILES = "yuvalkirstain/PickScore_v1", ("config.json", "model.safetensors")
PROCESSOR, PROCESSOR_FILES = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", ("vocab.json", "merges.txt")


def save_tiny(folder: Path) -> None:
    """A model of random weights, and CLIP's own vocabulary, which open_clip brings."""
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=tower, vision_config={**tower, "image_size": 32, "patch_size": 16}, projection_dim=16)
    randomised(CLIPModel(config), ("pickscore",)).save_pretrained(folder)
    write_vocabulary(folder)


def _tiny(folder: Path, arguments: Arguments) -> Arguments:
    save_tiny(folder)
    return {**arguments, "model": str(folder), "processor": str(folder), "revision": None}


@tiny(_tiny)
@card(
    reads="images",
    differentiable=True,
    range=(-100.0, 100.0),
    better="people would rather pick the picture for its prompt; mostly 17 to 24",
    licence="MIT",
    source="PickScore, arXiv 2305.01569",
    ladder=captions_ladder,
)
class PickScore(Preference):
    """`model` is a folder with the files of PickScore_v1, `processor` one with the vocabulary of its CLIP.

    `revision` is that of the model. A prompt beyond 77 tokens is cut.
    """

    def __init__(
        self,
        model: str | None = None,
        processor: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        batch: int = 16,
    ) -> None:
        super().__init__(device, batch)
        folder = fetch_folder(MODEL, MODEL_FILES, model, "model", revision)
        words = fetch_folder(PROCESSOR, PROCESSOR_FILES, processor, "processor")
        with reading(folder, "a folder with PickScore's model"):
            network, info = CLIPModel.from_pretrained(folder, dtype="float32", use_safetensors=True, output_loading_info=True)
        if wrong := sorted(info["missing_keys"]) + sorted(info["unexpected_keys"]):
            raise UserError(f"{folder} is not PickScore's model: '{wrong[0]}' is missing or has no place")
        with reading(words, "a folder with CLIP's vocabulary"):
            self.tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"))
        check_vocabulary(words, len(self.tokenizer), network.config.text_config.vocab_size)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.prepare = Preprocessing(network.config.vision_config.image_size)

    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        words = self.tokenizer(prompts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(self.device)
        seen = self.network(pixel_values=self.prepare(pictures), **words)
        return self.network.logit_scale.exp() * (seen.image_embeds * seen.text_embeds).sum(-1)
