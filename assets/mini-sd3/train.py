"""Make mini-sd3: a StableDiffusion3Pipeline of 3 million parameters, trained from scratch on drawn scenes.

    python assets/mini-sd3/train.py --out DIR

B batch, T text tokens, latents [B, 8, 8, 8].
"""

import copy
import time
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

from flowgrpo.assets.pretraining import (
    arguments,
    descend,
    follow,
    images_of,
    learning_rate,
    near_objects,
    print_accuracy,
    save_half,
    scenes,
    text_encoder,
    tokenizer,
    write_rows,
)
from flowgrpo.assets.scenes import OPENINGS, TAGS, Metadata, caption, sample_metadata

CHANNELS = 8
SHIFT = 2.0


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
        text_encoder=text_encoder(tok, 64),
        tokenizer=tok,
        text_encoder_2=text_encoder(tok, 64),
        tokenizer_2=tok,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def train_vae(vae: AutoencoderKL, pixels: np.ndarray, steps: int, rng: np.random.Generator) -> None:
    """Absolute and squared error, mostly near objects, and a weak KL."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        images = 2.0 * images_of(pixels[rng.integers(0, len(pixels), 32)]) - 1.0
        posterior = vae.encode(images).latent_dist
        error = vae.decode(posterior.sample()).sample - images
        loss = (near_objects(images) * (error.abs() + 2.0 * error.square())).mean() + 1e-6 * posterior.kl().mean()
        descend(optimizer, loss, learning_rate(step, steps, 3e-3))
        if step % 100 == 0:
            print(f"vae {step} loss {loss.item():.4f} mse {error.square().mean().item():.5f}", flush=True)


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: np.ndarray) -> Tensor:
    """[N, 8, 8, 8], not yet scaled."""
    return torch.cat(
        [vae.encode(2.0 * images_of(part) - 1.0).latent_dist.mode() for part in np.array_split(pixels, len(pixels) // 256)]
    )


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
        rows = torch.randint(len(latents), (batch,))
        clean, noise = latents[rows], torch.randn(batch, *latents.shape[1:])
        u = torch.sigmoid(torch.randn(batch))
        sigma = SHIFT * u / (1.0 + (SHIFT - 1.0) * u)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1))
        text = torch.where(torch.rand(batch, 1) < 0.1, empty, ids[rows])
        loss = F.mse_loss(model(noisy, sigma, text), noise - clean)
        descend(optimizer, loss, learning_rate(step, steps, 2e-3))
        follow(average, model, step)
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - begin:.0f} s", flush=True)
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            save(pipe, average, out)


def save(pipe: StableDiffusion3Pipeline, average: Conditioned, out: Path) -> None:
    """The pipeline with averaged weights."""
    parts = {"transformer": average.transformer, "text_encoder": average.first, "text_encoder_2": average.second}
    save_half(StableDiffusion3Pipeline, {**pipe.components, **parts}, out)


def evaluate(folder: Path) -> None:
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)

    def pictures(prompts: list[str], generators: list[torch.Generator], guidance_scale: float) -> Tensor:
        return pipe(
            prompts,
            height=32,
            width=32,
            num_inference_steps=8,
            guidance_scale=guidance_scale,
            max_sequence_length=1,
            generator=generators,
            output_type="pt",
        ).images

    print_accuracy(pictures, folder / "prompts" / "held_out.jsonl.gz", (1.0, 2.0, 3.0, 4.5, 6.0))


def write_prompts(folder: Path) -> None:
    """`held_out.jsonl.gz` (50 prompts per task type) and `train.jsonl.gz`: no caption is in both, whatever it opens with."""
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
        write_rows(folder / f"{name}.jsonl.gz", rows)


def openings(rng: np.random.Generator, rows: list[Metadata], count: int) -> list[Metadata]:
    """At most `count` different prompts: rows under different openings."""
    every = [{**row, "prompt": opening + caption(row)} for row in rows for opening in OPENINGS]
    return [every[i] for i in rng.permutation(len(every))[:count]]


def main() -> None:
    given = arguments(__doc__, "mini-sd3", autoencoder_steps=1500, steps=4000)
    if given.evaluate:
        evaluate(given.evaluate)
        return
    write_prompts(given.out / "prompts")
    pixels, captions = scenes(given.scenes, given.seed)
    pipe = pipeline(given.out)
    train_vae(pipe.vae, pixels, given.autoencoder_steps, np.random.default_rng(given.seed))
    latents = encode(pipe.vae, pixels)
    pipe.vae.register_to_config(shift_factor=latents.mean().item(), scaling_factor=1.0 / latents.std().item())
    latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    ids = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    train_transformer(pipe, latents, ids, given.steps, given.batch, given.out)
    evaluate(given.out)


if __name__ == "__main__":
    main()
