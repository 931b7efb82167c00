"""Make mini-amused: an AmusedPipeline of 0.6 million parameters, trained from scratch on the drawn scenes of mini-sd3.

    python assets/mini-amused/train.py --out DIR

B batch, T text tokens, pictures of 8 x 8 ids, V = 256 ids and the mask.
"""

import copy
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
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
)
from flowgrpo.core.paths import locate

SIDE, CHANNELS, IDS, TEXT = 8, 8, 256, 48
PROMPTS = locate("asset:mini-sd3/prompts/held_out.jsonl.gz")


def pipeline(folder: Path) -> AmusedPipeline:
    tok = tokenizer(folder / "tokenizer")
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 24),
        layers_per_block=1,
        latent_channels=CHANNELS,
        num_vq_embeddings=IDS,
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    transformer = UVit2DModel(
        hidden_size=72,
        cond_embed_dim=TEXT,
        micro_cond_encode_dim=4,
        micro_cond_embed_dim=4 * 5,
        encoder_hidden_size=TEXT,
        vocab_size=IDS + 1,
        codebook_size=IDS,
        in_channels=32,
        block_out_channels=40,
        num_res_blocks=1,
        block_num_heads=4,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=144,
        sample_size=SIDE,
    )
    return AmusedPipeline(
        vqvae=vqvae,
        tokenizer=tok,
        text_encoder=text_encoder(tok, TEXT),
        transformer=transformer,
        scheduler=AmusedScheduler(mask_token_id=IDS),
    )


def train_vqvae(vqvae: VQModel, pixels: np.ndarray, steps: int, rng: np.random.Generator) -> None:
    """An autoencoder first; after a third of the steps its latents become a codebook, and straight-through estimates train it.

    Absolute and squared error, mostly near objects. Every 50 steps ids that no picture uses take the place of some latent.
    """
    optimizer = torch.optim.AdamW(vqvae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    used, live = torch.zeros(IDS), 0
    for step in range(steps):
        images = images_of(pixels[rng.integers(0, len(pixels), 64)])
        weights = near_objects(images)
        latents = vqvae.encode(images).latents
        if step == steps // 3:
            vqvae.quantize.embedding.weight.data = centres(codebook_sample(vqvae, pixels[:2000]), rng)
        quantized, commitment = latents, torch.zeros(())
        if step >= steps // 3:
            quantized, commitment, (_, _, ids) = vqvae.quantize(latents)
            used += torch.bincount(ids.flatten(), minlength=IDS)
            live = int((used > 0).sum())
            if step % 50 == 0 and step < steps * 0.8:
                revive(vqvae.quantize.embedding.weight.data, used, vectors(latents.detach()), rng)
        error = vqvae.decoder(vqvae.post_quant_conv(quantized)) - images
        loss = (weights * (2.0 * error.abs() + 8.0 * error.square())).mean() + commitment
        descend(optimizer, loss, learning_rate(step, steps, 4e-3))
        if step % 100 == 0:
            print(f"vqvae {step} loss {loss.item():.4f} mse {error.square().mean().item():.5f} ids in use {live}", flush=True)


def vectors(latents: Tensor) -> Tensor:
    """[B, C, h, w] -> [B h w, C]"""
    return latents.permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def codebook_sample(vqvae: VQModel, pixels: np.ndarray) -> Tensor:
    """Latents [N, C] of pictures, those near objects only."""
    images = images_of(pixels)
    busy = F.avg_pool2d(near_objects(images), 4).permute(0, 2, 3, 1).flatten() > 1.0
    return vectors(vqvae.encode(images).latents)[busy]


def centres(points: Tensor, rng: np.random.Generator, rounds: int = 20) -> Tensor:
    """k-means [IDS, C]."""
    found = points[torch.from_numpy(rng.permutation(len(points))[:IDS])]
    for _ in range(rounds):
        nearest = torch.cdist(points, found).argmin(1)
        count = torch.bincount(nearest, minlength=IDS)
        sums = torch.zeros_like(found).index_add_(0, nearest, points)
        found = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], found)
    return found


def revive(codebook: Tensor, used: Tensor, latents: Tensor, rng: np.random.Generator) -> None:
    dead = torch.nonzero(used == 0).flatten()
    codebook[dead] = latents[torch.from_numpy(rng.permutation(len(latents))[: len(dead)])]
    used.zero_()


@torch.no_grad()
def encode(vqvae: VQModel, pixels: np.ndarray) -> Tensor:
    """Ids [N, 8, 8]."""
    return torch.cat([_ids(vqvae, images_of(part)) for part in np.array_split(pixels, len(pixels) // 256)])


def _ids(vqvae: VQModel, images: Tensor) -> Tensor:
    return vqvae.quantize(vqvae.encode(images).latents)[2][2].view(len(images), SIDE, SIDE)


class Conditioned(nn.Module):
    """The transformer with its text encoder, trained together."""

    def __init__(self, pipe: AmusedPipeline) -> None:
        super().__init__()
        self.transformer, self.text_encoder = pipe.transformer, pipe.text_encoder

    def forward(self, ids: Tensor, text: Tensor) -> Tensor:
        """Logits [B, V, 8, 8]; `text` [B, T]. The conditions on size are those of a call of the pipeline."""
        encoded = self.text_encoder(text, output_hidden_states=True)
        return self.transformer(
            ids,
            encoder_hidden_states=encoded.hidden_states[-2],
            pooled_text_emb=encoded.text_embeds,
            micro_conds=torch.tensor([[32.0, 32.0, 0.0, 0.0, 6.0]]).expand(len(ids), -1),
        )


def train_transformer(pipe: AmusedPipeline, pictures: Tensor, text: Tensor, steps: int, batch: int, out: Path) -> None:
    """MaskGIT (arXiv 2202.04200): cross-entropy of masked ids, cos(pi u / 2) of them masked; a tenth of the captions empty."""
    model = Conditioned(pipe)
    average = copy.deepcopy(model)
    empty = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    begin = time.time()
    for step in range(steps):
        rows = torch.randint(len(pictures), (batch,))
        ids = pictures[rows]
        share = torch.cos(torch.rand(batch, 1, 1) * torch.pi / 2.0)
        masked = torch.rand(ids.shape) < share.clamp(min=1.0 / SIDE**2)
        words = torch.where(torch.rand(batch, 1) < 0.1, empty, text[rows])
        logits = model(ids.masked_fill(masked, IDS), words)
        loss = F.cross_entropy(logits.permute(0, 2, 3, 1)[masked], ids[masked])
        descend(optimizer, loss, learning_rate(step, steps, 3e-3))
        follow(average, model, step)
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - begin:.0f} s", flush=True)
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            parts = {"transformer": average.transformer, "text_encoder": average.text_encoder}
            save_half(AmusedPipeline, {**pipe.components, **parts}, out)


def evaluate(folder: Path) -> None:
    pipe = AmusedPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def pictures(prompts: list[str], generators: list[torch.Generator], guidance_scale: float) -> Tensor:
        seeded = generators[0]
        return pipe(prompts, num_inference_steps=8, guidance_scale=guidance_scale, generator=seeded, output_type="pt").images

    print_accuracy(pictures, PROMPTS, (1.0, 2.0, 3.0, 4.5))


def main() -> None:
    given = arguments(__doc__, "mini-amused", autoencoder_steps=3000, steps=6000)
    if given.evaluate:
        evaluate(given.evaluate)
        return
    pixels, captions = scenes(given.scenes, given.seed)
    pipe = pipeline(given.out)
    train_vqvae(pipe.vqvae, pixels, given.autoencoder_steps, np.random.default_rng(given.seed))
    pictures = encode(pipe.vqvae, pixels)
    text = pipe.tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    train_transformer(pipe, pictures, text, given.steps, given.batch, given.out)
    evaluate(given.out)


if __name__ == "__main__":
    main()
