"""Make mini-wan: a WanPipeline of 0.2 million parameters, trained from scratch on moving scenes.

    python assets/mini-wan/train.py --out DIR --scenes 3000 --batch 32 --threads 1

B batch, T text tokens, clips [B, 3, 9, 32, 32], latents [B, 8, 5, 4, 4].
"""

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from flowgrpo.assets.clips import is_held_out, rows, sample_clip, sample_row
from flowgrpo.assets.pretraining import arguments, descend, follow, learning_rate, near_objects, save_half, write_rows
from flowgrpo.assets.scenes import Metadata
from flowgrpo.data.rows import read_rows
from flowgrpo.data.samples import Samples
from flowgrpo.rewards.motion import strict

CHANNELS = 8
WIDTH = 32
TEXT_TOKENS = 14
SHIFT = 2.0
HELD_OUT, TRAIN = 300, 160


def tokenizer() -> PreTrainedTokenizerFast:
    """A token per word of the captions."""
    words = sorted({word for row in rows() for word in row["prompt"].split()})
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_TOKENS
    )


def pipeline() -> WanPipeline:
    tok = tokenizer()
    vae = AutoencoderKLWan(
        base_dim=12,
        z_dim=CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=0,
        temperal_downsample=[True],
        in_channels=48,
        out_channels=48,
        patch_size=4,
        is_residual=True,
        scale_factor_temporal=2,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=2,
        attention_head_dim=20,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=32,
        ffn_dim=80,
        num_layers=3,
        rope_max_seq_len=8,
    )
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(tok), d_model=WIDTH, d_ff=48, num_layers=1, num_heads=2, d_kv=16, dropout_rate=0.0)
    )
    return WanPipeline(tok, encoder, vae, FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=0.2), transformer)


def clips(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """([count, 9, 32, 32, 3] uint8, captions); without the held-out combinations."""
    rng = np.random.default_rng(seed)
    found = [sample_row(rng) for _ in range(count)]
    return np.stack([sample_clip(rng, row) for row in found]), [row["prompt"] for row in found]


def videos_of(pixels: np.ndarray) -> Tensor:
    """[B, 9, 32, 32, 3] uint8 -> [B, 3, 9, 32, 32] in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).float() / 127.5 - 1.0


def train_vae(vae: AutoencoderKLWan, pixels: np.ndarray, steps: int, rng: np.random.Generator) -> None:
    """As Wan's: on single frames first, which are cheap, then inflated and trained on clips. It begins with little noise."""
    nn.init.constant_(vae.quant_conv.bias[CHANNELS:], -6.0)
    frames = pixels.reshape(-1, 1, *pixels.shape[2:])
    reconstruct(vae, lambda: frames[rng.integers(0, len(frames), 16)], steps)
    inflate(vae)
    reconstruct(vae, lambda: pixels[rng.integers(0, len(pixels), 8)], steps // 4)


def reconstruct(vae: AutoencoderKLWan, draw_batch: Callable[[], np.ndarray], steps: int) -> None:
    """Absolute and squared error, mostly near objects, and a weak KL."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    begin = time.time()
    for step in range(steps):
        videos = videos_of(draw_batch())
        posterior = vae.encode(videos).latent_dist
        error = vae.decode(posterior.sample()).sample - videos
        weights = near_objects(videos.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, videos.shape[2])).transpose(1, 2)
        loss = (weights * (error.abs() + 2.0 * error.square())).mean() + 1e-6 * posterior.kl().mean()
        descend(optimizer, loss, learning_rate(step, steps, 3e-3))
        if step % 50 == 0:
            mse = error.square().mean().item()
            print(f"vae {step} loss {loss.item():.4f} mse {mse:.5f} {time.time() - begin:.0f} s", flush=True)


@torch.no_grad()
def inflate(vae: AutoencoderKLWan) -> None:
    """Each frame is coded like a single one, and a latent frame holds the later of its two."""
    for name, module in vae.named_modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] > 1:
            module.weight[:, :, :-1] = 0.0
        if name.endswith("time_conv"):
            module.weight[:, :, -1, 0, 0] = torch.eye(module.in_channels).repeat(module.out_channels // module.in_channels, 1)
            module.bias.zero_()


@torch.no_grad()
def encode(vae: AutoencoderKLWan, pixels: np.ndarray) -> Tensor:
    """[N, 8, 5, 4, 4], not yet normalised."""
    parts = np.array_split(pixels, max(1, len(pixels) // 128))
    return torch.cat([vae.encode(videos_of(part)).latent_dist.mode() for part in parts])


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Each channel to mean 0 and standard deviation 1, by numbers that the VAE keeps."""
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)


class Conditioned(nn.Module):
    """The transformer with its text encoder, trained together."""

    def __init__(self, pipe: WanPipeline) -> None:
        super().__init__()
        self.transformer, self.encoder = pipe.transformer, pipe.text_encoder

    def forward(self, latents: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Velocity [B, 8, 5, 4, 4]; `sigma` [B], `ids` and `mask` [B, T]. As in Wan, text beyond its end is zero."""
        text = self.encoder(ids, mask).last_hidden_state * mask.unsqueeze(-1)
        return self.transformer(latents, encoder_hidden_states=text, timestep=sigma * 1000.0).sample


def train_transformer(pipe: WanPipeline, latents: Tensor, captions: list[str], steps: int, batch: int, out: Path) -> None:
    """Rectified flow: velocity x1 - x0 at a logit-normal noise level; a tenth of the captions empty; EMA weights.

    After a third of the steps the noise is higher, for that is where a motion is decided.
    """
    model = Conditioned(pipe)
    average = copy.deepcopy(model)
    words = pipe.tokenizer(["", *captions], padding="max_length", return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)
    begin = time.time()
    for step in range(steps):
        rows = torch.randint(len(latents), (batch,))
        clean, noise = latents[rows], torch.randn(batch, *latents.shape[1:])
        u, shift = torch.sigmoid(torch.randn(batch)), SHIFT if step < steps // 3 else 3.0 * SHIFT
        sigma = shift * u / (1.0 + (shift - 1.0) * u)
        noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
        stated = torch.where(torch.rand(batch) < 0.1, 0, rows + 1)
        velocity = model(noisy, sigma, words.input_ids[stated], words.attention_mask[stated])
        loss = F.mse_loss(velocity, noise - clean)
        descend(optimizer, loss, learning_rate(step, steps, 3e-3))
        follow(average, model, step)
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} {time.time() - begin:.0f} s", flush=True)
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(pipe, average, out)


def save(pipe: WanPipeline, average: Conditioned, out: Path) -> None:
    """The pipeline with averaged weights."""
    save_half(WanPipeline, {**pipe.components, "transformer": average.transformer, "text_encoder": average.encoder}, out)


def evaluate(folder: Path) -> None:
    """A table of the strict judge's mean by task and guidance scale; prompt i is drawn with seed 1000 + i."""
    pipe = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    prompts = read_rows(folder / "prompts" / "held_out.jsonl.gz")
    tags = np.array([row["tag"] for row in prompts])
    print(f"| guidance | {' | '.join([*sorted(set(tags)), 'all'])} |\n|{'---|' * (len(set(tags)) + 2)}")
    for guidance_scale in (1.0, 2.0, 3.0):
        scores = []
        for i in range(0, len(prompts), 100):
            chunk = prompts[i : i + 100]
            texts = [row["prompt"] for row in chunk]
            made = pipe(
                texts,
                height=32,
                width=32,
                num_frames=9,
                num_inference_steps=4,
                guidance_scale=guidance_scale,
                max_sequence_length=TEXT_TOKENS,
                generator=[torch.Generator().manual_seed(1000 + i + j) for j in range(len(chunk))],
                output_type="pt",
            ).frames
            scores += strict(Samples(texts, chunk, list(range(len(chunk))), made))
        means = [np.mean(np.array(scores)[tags == tag]) for tag in sorted(set(tags))] + [np.mean(scores)]
        print(f"| {guidance_scale} | {' | '.join(f'{100 * mean:.0f} %' for mean in means)} |", flush=True)


def write_prompts(folder: Path) -> None:
    """`held_out.jsonl.gz` of held-out combinations only, `train.jsonl.gz` of the others."""
    rng = np.random.default_rng(7)
    every: dict[bool, list[Metadata]] = {True: [], False: []}
    for row in rows():
        every[is_held_out(row)].append(row)
    folder.mkdir(parents=True, exist_ok=True)
    for name, found, count in (("held_out", every[True], HELD_OUT), ("train", every[False], TRAIN)):
        chosen = [found[i] for i in sorted(rng.permutation(len(found))[:count])]
        write_rows(folder / f"{name}.jsonl.gz", chosen)


def main() -> None:
    given = arguments(__doc__, "mini-wan", autoencoder_steps=1200, steps=2000)
    if given.evaluate:
        evaluate(given.evaluate)
        return
    write_prompts(given.out / "prompts")
    pixels, captions = clips(given.scenes, given.seed)
    pipe = pipeline()
    train_vae(pipe.vae, pixels, given.autoencoder_steps, np.random.default_rng(given.seed))
    latents = normalise(pipe.vae, encode(pipe.vae, pixels))
    train_transformer(pipe, latents, captions, given.steps, given.batch, given.out)
    evaluate(given.out)


if __name__ == "__main__":
    main()
