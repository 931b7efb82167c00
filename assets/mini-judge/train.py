"""Make mini-judge: what the scene judge would say of a picture of mini-sd3, from its latents, finished or noisy.

    python assets/mini-judge/train.py --out DIR
    python assets/mini-judge/train.py --evaluate assets/mini-judge

B latents [B, 8, 8, 8] at noise level sigma: (1 - sigma) times the clean ones plus sigma times noise. Q questions.
"""

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowgrpo.assets.pretraining import descend, follow, images_of, learning_rate
from flowgrpo.assets.scenes import TAGS, caption, draw, is_held_out, sample_metadata, sample_scene, wrong_variants
from flowgrpo.core.keys import Noise
from flowgrpo.core.paths import assets
from flowgrpo.data.prompts import Prompt, load_prompts
from flowgrpo.policies.diffusers._policy import DiffusersPolicy
from flowgrpo.rewards._latent_judge import QUESTIONS, LatentJudge, asked, encoded
from flowgrpo.rewards._pixels import pixels as rounded
from flowgrpo.rewards.scene import holding, look
from flowgrpo.sampling.kernels import Kernel, Move
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode

CALL = {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 1}
SAMPLERS: tuple[tuple[int, Kernel], ...] = ((3, FlowSde(noise_level=0.9)), (3, FlowSde(noise_level=0.9)), (3, Ode()), (6, Ode()))
"""(steps, kernel of all but the last), as training makes samples and as held-out ones are made."""
BATCH = 144
QUERIES = 4
"""Rows that a sample is asked about: its own first, then rows that it fits less."""


@dataclass
class Examples:
    """N samples: states at rising levels [N, L, 8, 8, 8], the last one clean, their levels [N, L], and what is asked of them:
    rows [N, R, ...], answers [N, R, Q], of which those count that are stated."""

    states: Tensor
    sigmas: Tensor
    rows: Tensor
    answers: Tensor
    stated: Tensor

    @classmethod
    def join(cls, parts: Sequence["Examples"]) -> "Examples":
        return cls(*(torch.cat(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


def policy_of(steps: int) -> DiffusersPolicy:
    return DiffusersPolicy("asset:mini-sd3", device="cpu", steps=steps, spacing="uniform", call=CALL)


@torch.no_grad()
def trajectories(policy: DiffusersPolicy, kernel: Kernel, prompts: Sequence[Prompt], key: str) -> Tensor:
    """[B, S + 1, 8, 8, 8]: the last step is deterministic."""
    steps = policy.config.steps
    states = [policy.start(prompts, [(key, i, 0) for i in range(len(prompts))])]
    for step in range(steps):
        move = Move(kernel if step + 1 < steps else Ode(), step, step + 1)
        noises = [Noise((key, i, step + 1)) for i in range(len(prompts))]
        prediction = policy.predict(states[-1], prompts, step)
        states.append(policy.law([move] * len(prompts), prompts).sample(states[-1], prediction, noises, [None] * len(prompts)))
    return torch.stack(states, dim=1)


def of_model(prompts: Sequence[Prompt], count: int, seed: int) -> Examples:
    """Samples of mini-sd3 for its training prompts, and the states on their way."""
    rng, parts = np.random.default_rng(seed), []
    policies = {steps: policy_of(steps) for steps, _ in SAMPLERS}
    for number in range(count // BATCH):
        steps, kernel = SAMPLERS[number % len(SAMPLERS)]
        chosen = [prompts[i] for i in rng.integers(0, len(prompts), BATCH)]
        states = trajectories(policies[steps], kernel, chosen, f"judge {seed} {number}")
        pictures = policies[steps].decode(states[:, -1], chosen).images
        sigmas = torch.tensor(policies[steps].schedule(chosen).sigmas)
        kept = [0, steps // 3, 2 * steps // 3, steps]
        parts.append(asked_of(rng, states[:, kept], sigmas[kept].expand(BATCH, -1), pictures, [p.metadata for p in chosen]))
        if number % 10 == 0:
            print(f"samples {len(parts) * BATCH}", flush=True)
    return Examples.join(parts)


def of_scenes(count: int, seed: int, unseen: set[str]) -> Examples:
    """Drawn scenes, right ones and wrong ones, under new noise."""
    rng, policy, parts = np.random.default_rng(seed), policy_of(3), []
    vae = policy.pipe.vae
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count // BATCH):
        rows = list(_rows(rng, unseen))
        shown = [_shown(rng, row) for row in rows]
        images = images_of(np.stack([draw(sample_scene(rng, row)) for row in shown]))
        with torch.no_grad():
            clean = (vae.encode(2.0 * images - 1.0).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        sigmas = torch.cat([torch.rand(BATCH, 3, generator=generator), torch.zeros(BATCH, 1)], 1)
        noise = torch.randn(BATCH, 4, *clean.shape[1:], generator=generator)
        states = torch.lerp(clean[:, None], noise, sigmas[..., None, None, None])
        parts.append(asked_of(rng, states, sigmas, images, rows))
    return Examples.join(parts)


def _rows(rng: np.random.Generator, unseen: set[str]) -> Iterator[dict[str, Any]]:
    count = 0
    while count < BATCH:
        row = sample_metadata(rng, str(rng.choice(TAGS)))
        if caption(row) not in unseen and not is_held_out(row):
            count += 1
            yield row


def _shown(rng: np.random.Generator, row: dict[str, Any]) -> dict[str, Any]:
    """What is drawn where the row is asked for: half of the time something else."""
    variants = wrong_variants(rng, row)
    return row if rng.random() < 0.5 else variants[rng.integers(len(variants))]


def asked_of(
    rng: np.random.Generator, states: Tensor, sigmas: Tensor, pictures: Tensor, rows: Sequence[dict[str, Any]]
) -> Examples:
    """What the scene judge says of these pictures, of their own rows and of others."""
    encodings, answers, stated = [], [], []
    for picture, row in zip(rounded(pictures), rows, strict=True):
        found, variants = look(picture), wrong_variants(rng, row)
        wrong = [variants[rng.integers(len(variants))] for _ in range(2)]
        for query in (row, *wrong, rows[int(rng.integers(len(rows)))]):
            holds, places = holding(*found, query), asked(query)
            answer, known = torch.zeros(len(QUESTIONS)), torch.zeros(len(QUESTIONS))
            answer[places], known[places] = torch.tensor(holds, dtype=torch.float32), 1.0
            answer[-1], known[-1] = float(all(holds)), 1.0
            encodings.append(encoded(query))
            answers.append(answer)
            stated.append(known)
    columns = [torch.stack(column).unflatten(0, (len(rows), QUERIES)) for column in (encodings, answers, stated)]
    return Examples(states, sigmas, *columns)


def train(judge: LatentJudge, examples: Examples, steps: int, batch: int) -> LatentJudge:
    """Cross-entropy of every stated fact, and of all together. A third of the states are clean, a third those on the way to
    them, a third clean ones under new noise. Returns the average of the weights."""
    average = copy.deepcopy(judge)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.05)
    count, levels = examples.sigmas.shape
    for step in range(steps):
        rows = torch.randint(count, (batch,))
        query = torch.where(torch.rand(batch) < 0.6, 0, torch.randint(1, QUERIES, (batch,)))
        level = torch.where(torch.arange(batch) < batch // 3, torch.randint(levels - 1, (batch,)), levels - 1)
        states, sigma = examples.states[rows, level], examples.sigmas[rows, level]
        fresh = torch.where(torch.arange(batch) >= 2 * batch // 3, torch.rand(batch), 0.0)
        states = torch.lerp(states, torch.randn_like(states), fresh[:, None, None, None])
        logits = judge(states, sigma + fresh, examples.rows[rows, query])
        known = examples.stated[rows, query]
        each = F.binary_cross_entropy_with_logits(logits, examples.answers[rows, query], reduction="none") * known
        loss = (each.sum(1) / known.sum(1) + each[:, -1]).mean()
        descend(optimizer, loss, learning_rate(step, steps, 4e-3))
        follow(average, judge, step)
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f} all {each[:, -1].mean().item():.4f}", flush=True)
    return average


@torch.no_grad()
def print_agreement(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Correlations with the scene judge on 2,880 samples for held-out prompts and the states on their way; "within" is after the
    mean of each prompt's samples is taken off both, which is what an advantage sees."""
    judge = LatentJudge()
    judge.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    examples = of_model(prompts, 20 * BATCH, seed=77)
    rows, stated, answers = examples.rows[:, 0], examples.stated[:, 0, :-1], examples.answers[:, 0]
    _, prompt = torch.unique(rows, dim=0, return_inverse=True)
    stochastic = torch.arange(len(rows)) // BATCH % len(SAMPLERS) < 2
    print("| sampler | sigma | soft | soft, within | strict | strict, within |\n|---|---|---|---|---|---|")
    for name, chosen in (("stochastic", stochastic), ("deterministic", ~stochastic)):
        for level in range(examples.sigmas.shape[1]):
            sigma = examples.sigmas[:, level]
            chances = judge(examples.states[:, level], sigma, rows).sigmoid()
            pairs = [
                ((chances[:, :-1] * stated).sum(1) / stated.sum(1), (answers[:, :-1] * stated).sum(1) / stated.sum(1)),
                (chances[:, -1], answers[:, -1]),
            ]
            cells = [f"{value:.2f}" for a, b in pairs for value in _agreement(a[chosen], b[chosen], prompt[chosen])]
            print(f"| {name} | {sigma[chosen].mean():.2f} | {' | '.join(cells)} |", flush=True)


def _agreement(a: Tensor, b: Tensor, prompt: Tensor) -> tuple[float, float]:
    """Correlation, and that within prompts."""
    pair = torch.stack([a, b])
    count = torch.bincount(prompt).clamp(min=1)
    means = torch.stack([torch.bincount(prompt, column) / count for column in pair])
    return float(torch.corrcoef(pair)[0, 1]), float(torch.corrcoef(pair - means[:, prompt])[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("mini-judge"))
    parser.add_argument("--evaluate", type=Path, metavar="DIR", help="only print how far a finished judge agrees")
    parser.add_argument("--samples", type=int, default=28_800, help=f"in whole batches of {BATCH}")
    parser.add_argument("--scenes", type=int, default=20_000, help=f"in whole batches of {BATCH}")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--batch", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if min(given.samples, given.scenes) < BATCH:
        parser.error(f"--samples and --scenes must each be at least a batch, {BATCH}")
    torch.set_num_threads(given.threads)
    folder = assets() / "mini-sd3" / "prompts"
    if given.evaluate:
        print_agreement(given.evaluate, load_prompts(str(folder / "held_out.jsonl.gz")))
        return
    unseen = {caption(prompt.metadata) for prompt in load_prompts(str(folder / "held_out.jsonl.gz"))}
    model = of_model(load_prompts(str(folder / "train.jsonl.gz")), given.samples, given.seed)
    scenes = of_scenes(given.scenes, given.seed + 1, unseen)
    torch.manual_seed(given.seed)
    judge = train(LatentJudge(), Examples.join([model, scenes]), given.steps, given.batch)
    given.out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half() for name, value in judge.state_dict().items()}, given.out / "model.safetensors")


if __name__ == "__main__":
    main()
