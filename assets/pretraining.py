"""What the scripts that make the miniature picture models share: words, scenes, and how training goes.

B batch, T text tokens.
"""

import argparse
import copy
import gzip
import json
import math
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from flowgrpo.assets.scenes import OPENINGS, RELATIONS, TAGS, draw, is_held_out, sample_metadata, sample_scene
from flowgrpo.data.rows import read_rows
from flowgrpo.data.samples import Samples
from flowgrpo.rewards.scene import BACKGROUNDS, COLORS, strict

TEXT_TOKENS = 16
WORDS = [
    *("a", "photo", "picture", "drawing", "of", "circle", "square", "triangle", "circles", "squares", "triangles"),
    *("small", "large", "two", "three", "four", "and", "on", "background"),
]


def arguments(doc: str | None, name: str, autoencoder_steps: int, steps: int) -> argparse.Namespace:
    """What such a script is called with; seed and threads are set."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, default=Path(name))
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="only print the accuracy of a finished model")
    parser.add_argument("--scenes", type=int, default=60_000)
    parser.add_argument("--autoencoder-steps", type=int, default=autoencoder_steps)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    torch.manual_seed(found.seed)
    return found


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges build every word of the captions whole."""
    words = sorted({*WORDS, *COLORS, *BACKGROUNDS, *" ".join([*OPENINGS, *RELATIONS]).split()})
    letters = sorted(set("".join(words)))
    vocabulary = [*letters, *(f"{c}</w>" for c in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = apply_merges([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    vocabulary += [a + b for a, b in merges]
    vocabulary = list(dict.fromkeys([*vocabulary, "<|startoftext|>", "<|endoftext|>"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(f"{a} {b}" for a, b in merges) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=TEXT_TOKENS,
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def apply_merges(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: the earliest merge first. A merge that is added later leaves earlier words as they are."""
    while True:
        pairs = [(merges.index(pair), i) for i, pair in enumerate(pairwise(pieces)) if pair in merges]
        if not pairs:
            return pieces
        _, i = min(pairs)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]


def text_encoder(tok: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tok),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_TOKENS,
            projection_dim=width,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
    )


def scenes(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """([count, 32, 32, 3] uint8, captions); without the held-out combinations."""
    rng = np.random.default_rng(seed)
    pixels, captions = np.empty((count, 32, 32, 3), np.uint8), list[str]()
    while len(captions) < count:
        metadata = sample_metadata(rng, str(rng.choice(TAGS)))
        if not is_held_out(metadata):
            pixels[len(captions)] = draw(sample_scene(rng, metadata))
            captions.append(metadata["prompt"])
    return pixels, captions


def images_of(pixels: np.ndarray) -> Tensor:
    """[B, 3, 32, 32] in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, step / 100) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def near_objects(images: Tensor) -> Tensor:
    """Weights [B, 1, 32, 32] of mean 1, seven times as large within two pixels of an object; the corner is background."""
    objects = (images - images[:, :, :1, :1]).abs().sum(1, keepdim=True) > 0.05
    weights = 1.0 + 6.0 * F.max_pool2d(objects.float(), 5, stride=1, padding=2)
    return weights / weights.mean()


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One optimizer step at this learning rate, with gradients clipped to norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of the weights."""
    for a, p in zip(average.parameters(), model.parameters(), strict=True):
        a.lerp_(p, 1.0 - min(0.998, (1 + step) / (10 + step)))


def save_half(pipeline: type[DiffusionPipeline], components: dict[str, Any], out: Path) -> None:
    """The pipeline of these components, weights in half precision."""
    stored = {name: copy.deepcopy(part).half() if isinstance(part, nn.Module) else part for name, part in components.items()}
    partial = out.with_name(out.name + ".partial")
    pipeline(**stored).save_pretrained(partial, safe_serialization=True)
    shutil.copytree(partial, out, dirs_exist_ok=True)
    shutil.rmtree(partial)
    for weights in out.rglob("*.safetensors"):
        weights.chmod(0o644)


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As packed JSONL."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def print_accuracy(
    draw_pictures: Callable[[list[str], list[torch.Generator], float], Tensor], prompts: Path, guidance_scales: Sequence[float]
) -> None:
    """A table of the strict judge's mean by task type and guidance scale; prompt i is drawn with seed 1000 + i."""
    rows = read_rows(prompts)
    tags = np.array([row["tag"] for row in rows])
    print(f"| guidance | {' | '.join([*TAGS, 'all'])} |\n|{'---|' * (len(TAGS) + 2)}")
    for guidance_scale in guidance_scales:
        scores = []
        for i in range(0, len(rows), 100):
            chunk = rows[i : i + 100]
            texts = [row["prompt"] for row in chunk]
            generators = [torch.Generator().manual_seed(1000 + i + j) for j in range(len(chunk))]
            images = draw_pictures(texts, generators, guidance_scale)
            scores += strict(Samples(texts, chunk, list(range(len(chunk))), images))
        means = [np.mean(np.array(scores)[tags == tag]) for tag in TAGS] + [np.mean(scores)]
        print(f"| {guidance_scale} | {' | '.join(f'{100 * mean:.0f} %' for mean in means)} |", flush=True)
