"""Make mini-sd3: a StableDiffusion3Pipeline of 3 million parameters, trained from scratch on drawn scenes.

    python assets/mini-sd3/train.py --out DIR

B batch, T text tokens, latents [B, 8, 8, 8].
"""

import argparse
import copy
import json
import math
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from flowgrpo.assets.scenes import OPENINGS, RELATIONS, TAGS, Metadata, caption, draw, is_held_out, sample_metadata, sample_scene
from flowgrpo.rewards.scene import BACKGROUNDS, COLORS, strict
from flowgrpo.samples import Samples

TEXT_TOKENS = 16
CHANNELS = 8
SHIFT = 2.0
WORDS = [
    *("a", "photo", "picture", "drawing", "of", "circle", "square", "triangle", "circles", "squares", "triangles"),
    *("small", "large", "two", "three", "four", "and", "on", "background"),
]


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


def text_encoder(tok: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tok),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_TOKENS,
            projection_dim=64,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
    )


def pipeline(folder: Path) -> StableDiffusion3Pipeline:
    tok = tokenizer(folder / "tokenizer")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 48),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=32,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=5,
        attention_head_dim=28,
        num_attention_heads=4,
        joint_attention_dim=128,
        caption_projection_dim=112,
        pooled_projection_dim=128,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=text_encoder(tok),
        tokenizer=tok,
        text_encoder_2=text_encoder(tok),
        tokenizer_2=tok,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def scenes(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """([count, 32, 32, 3] uint8, captions); without the held-out combinations."""
    rng = np.random.default_rng(seed)
    pixels, captions = np.empty((count, 32, 32, 3), np.uint8), []
    while len(captions) < count:
        metadata = sample_metadata(rng, str(rng.choice(TAGS)))
        if not is_held_out(metadata):
            pixels[len(captions)] = draw(sample_scene(rng, metadata))
            captions.append(metadata["prompt"])
    return pixels, captions


def images_of(pixels: np.ndarray) -> Tensor:
    """[B, 3, 32, 32] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def learning_rate(step: int, steps: int, peak: float) -> float:
    return peak * min(1.0, step / 100) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def near_objects(images: Tensor) -> Tensor:
    """Weights [B, 1, 32, 32] of mean 1, seven times as large within two pixels of an object; the corner is background."""
    objects = (images - images[:, :, :1, :1]).abs().sum(1, keepdim=True) > 0.05
    weights = 1.0 + 6.0 * F.max_pool2d(objects.float(), 5, stride=1, padding=2)
    return weights / weights.mean()


def train_vae(vae: AutoencoderKL, pixels: np.ndarray, steps: int, rng: np.random.Generator) -> None:
    """Absolute and squared error, mostly near objects, and a weak KL."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        set_rate(optimizer, learning_rate(step, steps, 3e-3))
        images = images_of(pixels[rng.integers(0, len(pixels), 32)])
        posterior = vae.encode(images).latent_dist
        error = vae.decode(posterior.sample()).sample - images
        loss = (near_objects(images) * (error.abs() + 2.0 * error.square())).mean() + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"vae {step} loss {loss.item():.4f} mse {error.square().mean().item():.5f}", flush=True)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray) -> Tensor:
    """[N, 8, 8, 8], not yet scaled."""
    return torch.cat([vae.encode(images_of(pixels[i : i + 256])).latent_dist.mode() for i in range(0, len(pixels), 256)])


class Conditioned(nn.Module):
    """The transformer with both text encoders, trained together."""

    def __init__(self, pipe: StableDiffusion3Pipeline) -> None:
        super().__init__()
        self.transformer, self.first, self.second = pipe.transformer, pipe.text_encoder, pipe.text_encoder_2

    def forward(self, latents: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Velocity [B, 8, 8, 8]; `sigma` [B], `ids` [B, T]. One zero token stands where SD3 has T5's."""
        encoded = [encoder(ids, output_hidden_states=True) for encoder in (self.first, self.second)]
        text = torch.cat([e.hidden_states[-2] for e in encoded], dim=-1)
        text = torch.cat([text, torch.zeros_like(text[:, :1])], dim=1)
        pooled = torch.cat([e.text_embeds for e in encoded], dim=-1)
        return self.transformer(latents, encoder_hidden_states=text, pooled_projections=pooled, timestep=sigma * 1000.0).sample


def train_transformer(pipe: StableDiffusion3Pipeline, latents: Tensor, ids: Tensor, steps: int, batch: int, out: Path) -> None:
    """Rectified flow: velocity x1 - x0 at a logit-normal noise level; a tenth of the captions empty; EMA weights."""
    model = Conditioned(pipe)
    average = copy.deepcopy(model)
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    begin = time.time()
    for step in range(steps):
        set_rate(optimizer, learning_rate(step, steps, 2e-3))
        rows = torch.randint(len(latents), (batch,))
        clean, noise = latents[rows], torch.randn(batch, *latents.shape[1:])
        u = torch.sigmoid(torch.randn(batch))
        sigma = SHIFT * u / (1.0 + (SHIFT - 1.0) * u)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1))
        text = torch.where(torch.rand(batch, 1) < 0.1, empty, ids[rows])
        loss = F.mse_loss(model(noisy, sigma, text), noise - clean)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(p, 1.0 - min(0.998, (1 + step) / (10 + step)))
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - begin:.0f} s", flush=True)
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            save(pipe, average, out)


def save(pipe: StableDiffusion3Pipeline, average: Conditioned, out: Path) -> None:
    """The pipeline with averaged weights in half precision."""
    parts = {"transformer": average.transformer, "text_encoder": average.first, "text_encoder_2": average.second}
    half = {name: copy.deepcopy(part).half() for name, part in parts.items()}
    half["vae"] = copy.deepcopy(pipe.vae).half()
    partial = out.with_name(out.name + ".partial")
    StableDiffusion3Pipeline(**{**pipe.components, **half}).save_pretrained(partial, safe_serialization=True)
    shutil.copytree(partial, out, dirs_exist_ok=True)
    shutil.rmtree(partial)
    for weights in out.rglob("*.safetensors"):
        weights.chmod(0o644)


@torch.no_grad()
def accuracy(folder: Path, prompts: list[Metadata], steps: int, guidance: float) -> dict[str, float]:
    """Strict accuracy per task type."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    scores = []
    for i in range(0, len(prompts), 100):
        rows = prompts[i : i + 100]
        images = pipe(
            [row["prompt"] for row in rows],
            height=32,
            width=32,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=1,
            generator=[torch.Generator().manual_seed(1000 + i + j) for j in range(len(rows))],
            output_type="pt",
        ).images
        scores += strict(Samples([row["prompt"] for row in rows], list(rows), list(range(len(rows))), made_images=images))
    tags = [row["tag"] for row in prompts]
    found = {tag: float(np.mean([s for s, t in zip(scores, tags, strict=True) if t == tag])) for tag in TAGS}
    return {**found, "all": float(np.mean(scores))}


def print_accuracy(folder: Path) -> None:
    prompts = [json.loads(line) for line in (folder / "prompts" / "held_out.jsonl").read_text().splitlines()]
    print(f"| guidance | {' | '.join([*TAGS, 'all'])} |\n|{'---|' * (len(TAGS) + 2)}")
    for guidance in (1.0, 2.0, 3.0, 4.5, 6.0):
        found = accuracy(folder, prompts, 8, guidance)
        print(f"| {guidance} | {' | '.join(f'{100 * value:.0f} %' for value in found.values())} |", flush=True)


def write_prompts(folder: Path) -> None:
    """`held_out.jsonl` (50 prompts per task type) and `train.jsonl`: no caption is in both, whatever it opens with."""
    rng = np.random.default_rng(7)
    files: dict[str, list[Metadata]] = {"held_out": [], "train": []}
    for tag in TAGS:
        captions = {caption(row): row for row in (sample_metadata(rng, tag) for _ in range(600))}
        order = rng.permutation(list(captions))
        held_out, train = order[: max(13, len(order) // 4)], order[max(13, len(order) // 4) :]
        files["held_out"] += openings(rng, [captions[c] for c in held_out], 50)
        files["train"] += openings(rng, [captions[c] for c in train], 100)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def openings(rng: np.random.Generator, rows: list[Metadata], count: int) -> list[Metadata]:
    """At most `count` different prompts: rows under different openings."""
    every = [{**row, "prompt": opening + caption(row)} for row in rows for opening in OPENINGS]
    return [every[i] for i in rng.permutation(len(every))[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("mini-sd3"))
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="only print the accuracy of a finished model")
    parser.add_argument("--scenes", type=int, default=60_000)
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if arguments.evaluate:
        print_accuracy(arguments.evaluate)
        return
    write_prompts(arguments.out / "prompts")
    pixels, captions = scenes(arguments.scenes, arguments.seed)
    pipe = pipeline(arguments.out)
    train_vae(pipe.vae, pixels, arguments.vae_steps, np.random.default_rng(arguments.seed))
    latents = encode(pipe.vae, pixels)
    pipe.vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1.0 / latents.std().item())
    latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    ids = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    train_transformer(pipe, latents, ids, arguments.steps, arguments.batch, arguments.out)
    print_accuracy(arguments.out)


if __name__ == "__main__":
    main()
