"""What the rewards share that predict people's preferences with a network.

B pictures, D dimensions of an embedding.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from flowgrpo.core.errors import UserError
from flowgrpo.data.samples import Samples
from flowgrpo.rewards._package import device_of
from flowgrpo.scoring.exemplars import captioned, photos


class Preference(ABC):
    """Scores `batch` pictures at a time, in float32 on `device` ("auto": the GPU where there is one); with their gradient, where
    they have one."""

    def __init__(self, device: str, batch: int) -> None:
        if batch < 1:
            raise UserError(f"batch is the number of pictures that are scored at a time, at least 1, not {batch}")
        self.device, self.batch = device_of(device), batch

    @abstractmethod
    def score(self, pictures: Tensor, prompts: list[str]) -> Tensor:
        """[B] for pictures [B, 3, H, W] in [0, 1] on the device."""

    def __call__(self, samples: Samples) -> list[float] | Tensor:
        pictures, prompts, size = samples.images, samples.prompts, self.batch
        starts = range(0, len(samples), size)
        with torch.inference_mode(not pictures.requires_grad):
            scores = torch.cat([self.score(pictures[i : i + size].to(self.device), prompts[i : i + size]) for i in starts])
        return scores if pictures.requires_grad else scores.tolist()


class Head(nn.Module):
    """The head of the LAION aesthetic predictor, which ImageReward took over: linear layers, no activations between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """[B, D] -> [B]."""
        return self.layers(embeddings).squeeze(-1)


def captions_ladder() -> list[Samples]:
    """Photographs under each other's captions, and under their own."""
    right = photos()
    return [captioned(right, right.prompts[1:] + right.prompts[:1]), right]
